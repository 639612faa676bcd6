//! Command line of the follower agent.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shardline::CtlArguments;
use shardline_common::launch::{LaunchArguments, launch};

/// Batches are made by some threads and freed by others, and glibc keeps what each thread has freed
/// to itself.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Follows indices of leader clusters from Kafka, and serves the replication API in front of the
/// follower cluster.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    launch: LaunchArguments,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Ask a running agent, or tell it what to follow
    Ctl(CtlArguments),
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Ctl(arguments)) => Ok(shardline::run(arguments).await),
        None if arguments.launch.describe::<Arguments>()? => Ok(ExitCode::SUCCESS),
        None => launch(arguments.launch, follower_agent::run).await,
    }
}
