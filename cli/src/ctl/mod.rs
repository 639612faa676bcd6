//! `shardline`, and `follower-agent ctl`: the control API on the command line. It talks HTTP to the
//! gateway of any agent.

mod arguments;
mod bundle;
mod client;
mod commands;
mod confirm;
mod contexts;
mod documents;
mod grid;
mod options;
mod output;
mod redact;
mod refusal;
mod statuses;
mod tables;
mod target;
mod text;
mod wait;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use shardline_common::config::ConfigError;

pub use arguments::CtlArguments;
use client::Sent;
use refusal::Refusal;

/// Asks a running follower agent how its indices are, or tells it what to follow.
#[derive(Parser)]
#[command(name = "shardline", version)]
pub struct Program {
    #[command(flatten)]
    arguments: CtlArguments,
}

impl From<Program> for CtlArguments {
    fn from(program: Program) -> Self {
        program.arguments
    }
}

#[derive(Debug, thiserror::Error)]
enum CtlError {
    #[error("{0}")]
    Refused(Refusal),
    /// Nothing was sent, as was asked for.
    #[error("nothing is sent")]
    Dry(Box<Sent>),
    #[error("{url} does not answer: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("{path} was answered with something unexpected: {reason}")]
    Unexpected { path: String, reason: String },
    #[error("the gateway's address cannot be used: {0}")]
    Address(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{option}: {} cannot be used: {reason}", .file.display())]
    Secret {
        option: &'static str,
        file: PathBuf,
        reason: String,
    },
    #[error("the file of contexts {} cannot be used: {reason}", .file.display())]
    Contexts { file: PathBuf, reason: String },
    #[error("contexts are kept in a file: there is no request for --dry-run to show")]
    NoRequest,
    #[error("there is no folder for the file of contexts: set HOME, or SHARDLINE_CONTEXTS")]
    NoContextFile,
    #[error("there is no context {0}: `shardline context list` has those there are")]
    NoContext(String),
    #[error("context {0} needs an address: --url")]
    NoAddress(String),
    #[error(
        "SHARDLINE_CONTEXT and SHARDLINE_URL are both set: take one away, or say --context or --url"
    )]
    ContextAndAddress,
    #[error("SHARDLINE_USER and SHARDLINE_TOKEN_FILE are both set: only one of them logs in")]
    TwoLogins,
    #[error("a user's name has no colon: a password is in --password-file or SHARDLINE_PASSWORD")]
    PasswordInName,
    #[error("nobody can be asked for the password of {0}: --password-file or SHARDLINE_PASSWORD")]
    NoPassword(String),
    #[error("the login does not fit into an HTTP header")]
    NoHeader,
    #[error("--client-certificate and --client-key go together")]
    HalfIdentity,
    #[error("{0}\nNothing was done: nobody can be asked here, so say --yes")]
    NotConfirmed(String),
    #[error("nothing was done")]
    Declined,
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
    #[error("{} cannot be written: {reason}", .file.display())]
    Bundle { file: PathBuf, reason: String },
    #[error("the answer cannot be written: {0}")]
    Output(#[from] std::io::Error),
}

/// Carries out one command. Says on standard error what went wrong.
pub async fn run(arguments: impl Into<CtlArguments>) -> ExitCode {
    match commands::run(arguments.into()).await {
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
