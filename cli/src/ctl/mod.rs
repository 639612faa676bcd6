//! `follower-agent ctl`: the control API on the command line. It talks HTTP to the gateway of any
//! agent.

mod arguments;
mod client;
mod commands;
mod output;
mod tables;
mod text;
mod wait;

use std::process::ExitCode;

use serde_json::Value;
use shardline_common::config::ConfigError;

pub use arguments::CtlArguments;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CtlError {
    #[error("{reason} ({error_type}, status {status})")]
    Refused {
        status: u16,
        error_type: String,
        reason: String,
        body: Box<Value>,
    },
    #[error("{url} does not answer: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("{path} was answered with something unexpected: {reason}")]
    Unexpected { path: String, reason: String },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{index} is {status}: {reason}")]
    NotFollowed {
        index: String,
        status: String,
        reason: String,
    },
    #[error("of {total} indices {failed} failed and {cancelled} were cancelled")]
    Task {
        total: u64,
        failed: u64,
        cancelled: u64,
    },
    #[error("{index} is not equal to its leader's")]
    Different { index: String },
    #[error("{index} could not be verified: {reason}")]
    NotVerified { index: String, reason: String },
    #[error("the answer cannot be written: {0}")]
    Output(#[from] std::io::Error),
}

/// Carries out one command. Says on standard error what went wrong.
pub async fn run(arguments: CtlArguments) -> ExitCode {
    match commands::run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the answer has seen enough.
        Err(CtlError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
