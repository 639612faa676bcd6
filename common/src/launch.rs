//! How an agent's `main` goes: read the configuration, or only check it, and run until told to stop.

use std::path::PathBuf;

use clap::Args;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::config::{ConfigError, load};
use crate::telemetry;

#[derive(Args)]
pub struct LaunchArguments {
    /// Configuration file (TOML). `SHARDLINE_<SECTION>__<KEY>` in the environment wins over it.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Check the configuration and exit.
    #[arg(long)]
    check_config: bool,
}

/// Runs an agent until it ends or SIGTERM or SIGINT comes, which cancels its token.
pub async fn launch<C, F>(
    arguments: LaunchArguments,
    validate: fn(&C) -> Result<(), ConfigError>,
    run: fn(C, CancellationToken) -> F,
) -> anyhow::Result<()>
where
    C: DeserializeOwned,
    F: Future<Output = anyhow::Result<()>>,
{
    let config: C = load(arguments.config.as_deref())?;
    validate(&config)?;
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
    run(config, stop).await
}
