//! Command line of the follower agent.

use std::path::PathBuf;

use clap::Parser;
use follower_agent::config::FollowerConfig;
use shardline_common::{config, telemetry};
use tokio_util::sync::CancellationToken;

/// Follows indices of leader clusters from Kafka, and serves the replication API in front of the follower cluster.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file (TOML). `SHARDLINE_<SECTION>__<KEY>` in the environment wins over it.
    #[arg(long, env = "SHARDLINE_CONFIG_FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and exit.
    #[arg(long)]
    check_config: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config: FollowerConfig = config::load(arguments.config.as_deref())?;
    config.validate()?;
    if arguments.check_config {
        println!("the configuration is valid");
        return Ok(());
    }
    telemetry::init_logs();
    let stop = CancellationToken::new();
    let on_signal = stop.clone();
    tokio::spawn(async move {
        if let Err(error) = telemetry::terminated().await {
            tracing::error!(%error, "signals cannot be received");
        }
        on_signal.cancel();
    });
    follower_agent::agent::run(config, stop).await
}
