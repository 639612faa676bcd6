//! How an agent's `main` goes: read the configuration, or only check it, and run until told to
//! stop.

use std::backtrace::Backtrace;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use clap::Args;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::process::clock;
use crate::process::config::{ConfigError, load};
use crate::process::telemetry;

#[derive(Args)]
pub struct LaunchArguments {
    /// Configuration file (TOML). `SHARDLINE_<SECTION>__<KEY>` in the environment wins over it.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Check the configuration and exit.
    #[arg(long)]
    check_config: bool,
}

/// Why an agent is to begin anew, without what it knows.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartAgain(pub String);

/// Runs an agent until it ends or SIGTERM or SIGINT comes, which cancels its token. When the wall
/// clock is set back, the program begins anew in the same process, as after a crash.
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
    end_on_panic();
    let stop = CancellationToken::new();
    let on_signal = stop.clone();
    tokio::spawn(async move {
        if let Err(error) = telemetry::terminated().await {
            tracing::error!(%error, "signals cannot be received");
        }
        on_signal.cancel();
    });
    tokio::select! {
        ended = run(config, stop) => match ended {
            Err(error) if error.is::<StartAgain>() => {
                tracing::warn!(reason = %error, "the agent starts again");
                begin_anew()
            }
            ended => ended,
        },
        step = clock::set_back() => {
            tracing::warn!(seconds = step.as_secs(), "the wall clock was set back, for which the Kafka client's timers would wait: \
                            the agent starts again");
            begin_anew()
        }
    }
}

/// A panic is a bug. Rather than go on without one of its tasks the agent ends, to be started again
/// from what is durable.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        tracing::error!(%panic, %backtrace, "a bug in the agent ends it; please report it");
        std::process::abort();
    }));
}

/// Returns only if that is not possible.
fn begin_anew() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os();
    let mut program = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        program.arg0(name);
    }
    Err(program.args(arguments).exec()).context("the agent could not start itself again")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_panic_in_a_task_ends_the_process() {
        const IS_AGENT: &str = "SHARDLINE_TEST_PANICS";
        if std::env::var_os(IS_AGENT).is_some() {
            end_on_panic();
            let _ = std::thread::spawn(|| panic!("in a task")).join();
            return;
        }
        let mut agent = Command::new(std::env::current_exe().unwrap());
        agent
            .args([
                "--exact",
                "process::launch::tests::a_panic_in_a_task_ends_the_process",
            ])
            .env(IS_AGENT, "yes");
        let ended = agent.output().unwrap();
        assert_eq!(ended.status.signal(), Some(6), "{ended:?}");
    }
}
