//! Command line of the leader agent.

use clap::Parser;
use leader_agent::{agent, config::LeaderConfig};
use shardline_common::launch::{LaunchArguments, launch};

/// Captures the operations of an OpenSearch node's shards into Kafka.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    launch: LaunchArguments,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    launch(Arguments::parse().launch, LeaderConfig::validate, agent::run).await
}
