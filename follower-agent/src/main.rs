//! Command line of the follower agent.

use clap::Parser;
use follower_agent::{agent, config::FollowerConfig};
use shardline_common::launch::{LaunchArguments, launch};

/// Follows indices of leader clusters from Kafka, and serves the replication API in front of the follower cluster.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    launch: LaunchArguments,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    launch(Arguments::parse().launch, FollowerConfig::validate, agent::run).await
}
