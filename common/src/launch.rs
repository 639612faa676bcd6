//! How an agent's `main` goes: read the configuration, or only check it, and run until told to
//! stop.

use std::backtrace::Backtrace;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context;
use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::preflight::{self, Preflight};
use crate::process::config::load;
use crate::process::reload::Reloader;
use crate::process::{clock, telemetry};

#[derive(Args)]
pub struct LaunchArguments {
    /// Configuration file (TOML). `SHARDLINE_<SECTION>__<KEY>` in the environment wins over it.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Check the configuration and this machine, print what was found, and exit; `=connect` also
    /// asks OpenSearch and Kafka for all that the agent needs of them, and changes nothing there.
    #[arg(
        long,
        value_name = "MODE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "local"
    )]
    check_config: Option<CheckMode>,
    /// With `--check-config=connect`: the name of an index that is to be replicated, for roles that
    /// allow some names only. May be given several times.
    #[arg(long, value_name = "INDEX", requires = "check_config")]
    check_index: Vec<String>,
    /// Print the JSON schema of the configuration file and exit.
    #[arg(long, conflicts_with = "check_config")]
    config_schema: bool,
    /// Print the manual page and exit.
    #[arg(long)]
    manual: bool,
    /// Print what completes this program's arguments in a shell, and exit.
    #[arg(long, value_name = "SHELL")]
    completions: Option<Shell>,
}

impl LaunchArguments {
    /// Prints what the arguments ask about the program `P` itself, and says whether they did.
    pub fn describe<P: CommandFactory>(&self) -> std::io::Result<bool> {
        let mut program = P::command();
        if self.manual {
            Man::new(program).render(&mut std::io::stdout())?;
        } else if let Some(shell) = self.completions {
            let name = program.get_name().to_owned();
            generate(shell, &mut program, name, &mut std::io::stdout());
        }
        Ok(self.manual || self.completions.is_some())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CheckMode {
    /// What can be seen without a network.
    Local,
    /// All of it.
    Connect,
}

/// Why an agent is to begin anew, without what it knows.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartAgain(pub String);

/// Runs an agent until it ends or SIGTERM or SIGINT comes, which cancels its token. SIGHUP reloads
/// the configuration. When the wall clock is set back, the program begins anew in the same process,
/// as after a crash.
pub async fn launch<C, F>(
    arguments: LaunchArguments,
    run: fn(C, CancellationToken) -> F,
) -> anyhow::Result<ExitCode>
where
    C: Preflight,
    F: Future<Output = anyhow::Result<()>>,
{
    if arguments.config_schema {
        println!("{}", serde_json::to_string_pretty(&C::schema())?);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(mode) = arguments.check_config {
        return Ok(check::<C>(&arguments, mode).await);
    }
    // From the first moment on it is no reason to end.
    let hangups = signal(SignalKind::hangup())?;
    let loaded = load::<C>(arguments.config.as_deref())?;
    let config = loaded.config.clone();
    if let Some(problem) = config.problems().into_iter().next() {
        return Err(problem.into());
    }
    let logs = telemetry::init_logs(config.log())?;
    end_on_panic();
    let reloader = Reloader::new(arguments.config, loaded, logs)?;
    tokio::spawn(reloader.run(hangups));
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
            ended => ended.map(|()| ExitCode::SUCCESS),
        },
        step = clock::set_back() => {
            tracing::warn!(
                seconds = step.as_secs(),
                "the wall clock was set back, for which the Kafka client's timers would wait: the \
                 agent starts again"
            );
            begin_anew()
        }
    }
}

/// Prints what was found, and fails if anything is wrong.
async fn check<C: Preflight>(arguments: &LaunchArguments, mode: CheckMode) -> ExitCode {
    let (file, indices) = (arguments.config.as_deref(), &arguments.check_index);
    let connects = mode == CheckMode::Connect;
    let report = preflight::check::<C>(file, connects.then_some(indices)).await;
    print!("{report}");
    let failures = report.failures();
    if failures.is_empty() {
        println!("the configuration is valid");
        return ExitCode::SUCCESS;
    }
    let (failed, all) = (failures.len(), report.len());
    eprintln!(
        "Error: {failed} of {all} checks failed: {}",
        failures.join("; ")
    );
    ExitCode::FAILURE
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
fn begin_anew() -> anyhow::Result<ExitCode> {
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
                "launch::tests::a_panic_in_a_task_ends_the_process",
            ])
            .env(IS_AGENT, "yes");
        let ended = agent.output().unwrap();
        assert_eq!(ended.status.signal(), Some(6), "{ended:?}");
    }
}
