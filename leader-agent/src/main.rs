//! Command line of the leader agent.

use clap::Parser;
use leader_agent::{agent, config::LeaderConfig};
use shardline_common::launch::{LaunchArguments, launch};

/// Records are made by one thread and freed by librdkafka's, and glibc keeps what each thread has freed to itself.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
