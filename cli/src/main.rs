//! The program `shardline`: what `follower-agent ctl` does, without an agent.

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    shardline::run(shardline::Program::parse()).await
}
