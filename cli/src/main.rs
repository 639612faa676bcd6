//! The program `shardline`: what `follower-agent ctl` does, without an agent.

use std::process::ExitCode;

use clap::Parser;
use shardline::CtlArguments;

/// Asks a running follower agent how its indices are, or tells it what to follow.
#[derive(Parser)]
#[command(name = "shardline", version)]
struct Arguments {
    #[command(flatten)]
    arguments: CtlArguments,
}

#[tokio::main]
async fn main() -> ExitCode {
    shardline::run(Arguments::parse().arguments).await
}
