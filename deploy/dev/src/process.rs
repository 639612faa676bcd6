//! One process of the stack: start, signal, kill, restart with the same ports and data.

use std::fs::{File, create_dir_all};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::launcher::{self, Lifetime};
use crate::process_id::{ProcessId, stop_all, wait_gone};
use crate::ready::{Ready, wait_until_ready};

const KILL_DEADLINE: Duration = Duration::from_secs(10);
const STOP_GRACE: Duration = Duration::from_secs(30);
const LOG_TAIL_LINES: usize = 30;

/// What a process is made of; enough to start it again.
#[derive(Clone, Debug)]
pub struct ProcessSpec {
    /// For example `leader-1`, `kafka-1`, `leader-agent-1`.
    pub name: String,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// On top of this process's own environment.
    pub environment: Vec<(String, String)>,
    /// Where its clients reach it: a URL, or `host:port` for Kafka.
    pub url: String,
    pub ready: Ready,
    pub data_dir: PathBuf,
    /// Standard output and error, appended.
    pub log_file: PathBuf,
}

/// A process that can be started, signalled and restarted. It is not stopped on drop: that is its
/// [`crate::Stack`]'s task.
#[derive(Debug)]
pub struct Process {
    spec: ProcessSpec,
    lifetime: Lifetime,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    id: ProcessId,
    /// The log's length when it was started.
    log_start: u64,
}

impl Process {
    pub fn new(spec: ProcessSpec, lifetime: Lifetime) -> Self {
        Self {
            spec,
            lifetime,
            running: Mutex::new(None),
        }
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    pub fn url(&self) -> &str {
        &self.spec.url
    }

    pub fn data_dir(&self) -> &Path {
        &self.spec.data_dir
    }

    pub fn log_file(&self) -> &Path {
        &self.spec.log_file
    }

    pub fn spec(&self) -> &ProcessSpec {
        &self.spec
    }

    /// The process that was started last, whether or not it still runs; `None` before the first
    /// start.
    pub fn id(&self) -> Option<ProcessId> {
        self.running().as_ref().map(|running| running.id)
    }

    pub fn pid(&self) -> Option<u32> {
        self.id().map(|id| id.pid)
    }

    pub fn is_running(&self) -> bool {
        self.running()
            .as_mut()
            .is_some_and(|running| matches!(running.child.try_wait(), Ok(None)))
    }

    /// How it ended, when it has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.running()
            .as_mut()
            .and_then(|running| running.child.try_wait().ok().flatten())
    }

    /// Starts it without waiting until it is up. Fails when it runs already.
    pub fn spawn(&self) -> Result<()> {
        self.spawn_as(&self.spec.program)
    }

    /// The same with another build of the program.
    pub fn spawn_as(&self, program: &Path) -> Result<()> {
        if self.is_running() {
            bail!("{} is running already", self.name());
        }
        let spec = &self.spec;
        for folder in [Some(spec.data_dir.as_path()), spec.log_file.parent()]
            .into_iter()
            .flatten()
        {
            create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(&spec.log_file)
            .with_context(|| format!("cannot write {}", spec.log_file.display()))?;
        let log_start = log.metadata()?.len();

        let mut command = Command::new(program);
        command
            .args(&spec.arguments)
            .envs(spec.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = launcher::spawn(command, self.lifetime)
            .with_context(|| format!("cannot start {}", spec.name))?;
        let id = ProcessId::of(child.id())?;
        *self.running() = Some(Running {
            child,
            id,
            log_start,
        });
        Ok(())
    }

    /// Starts it and waits until it is up.
    pub async fn start(&self, patience: Duration) -> Result<()> {
        self.spawn()?;
        wait_until_ready(&[self], patience).await
    }

    /// Sends any signal: SIGSTOP and SIGCONT to pause and resume it. Does not wait.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match self.id() {
            Some(id) => id
                .signal(signal)
                .with_context(|| format!("cannot signal {}", self.name())),
            None => bail!("{} was never started", self.name()),
        }
    }

    /// Kills it as a crash would (SIGKILL) and waits until it is gone.
    pub async fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        if !self.wait_exit(KILL_DEADLINE).await {
            bail!("{} does not end although killed", self.name());
        }
        Ok(())
    }

    /// Stops it cleanly (SIGTERM; SIGKILL after 30 s) and waits until it is gone.
    pub async fn terminate(&self) -> Result<()> {
        stop_all(&self.id().into_iter().collect::<Vec<_>>(), STOP_GRACE).await
    }

    /// Waits until it has ended by itself or by a signal; false when it has not within `patience`.
    pub async fn wait_exit(&self, patience: Duration) -> bool {
        wait_gone(&self.id().into_iter().collect::<Vec<_>>(), patience).await
    }

    /// Kills it if it still runs, and starts it again with the same ports and data.
    pub async fn restart(&self, patience: Duration) -> Result<()> {
        if self.is_running() {
            self.kill().await?;
        }
        self.start(patience).await
    }

    /// The last 30 lines of its log, below a line that says where the log is.
    pub fn log_tail(&self) -> String {
        let path = self.spec.log_file.display();
        match std::fs::read(&self.spec.log_file) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let lines: Vec<&str> = text.lines().collect();
                let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
                format!("the end of {path}:\n{}", tail.join("\n"))
            }
            Err(error) => format!("its log {path} cannot be read: {error}"),
        }
    }

    pub(crate) fn log_start(&self) -> u64 {
        self.running()
            .as_ref()
            .map_or(0, |running| running.log_start)
    }

    /// Kills it at once and reaps it; for drops, which cannot wait asynchronously.
    pub(crate) fn kill_now(&self) {
        if let Some(running) = self.running().as_mut() {
            // Both fail only when it has gone already.
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The folder of one process in the run folder, with one for its temporary files.
pub(crate) fn make_home(run_dir: &Path, name: &str) -> Result<PathBuf> {
    let home = run_dir.join(name);
    let temporary = home.join("tmp");
    create_dir_all(&temporary).with_context(|| format!("cannot create {}", temporary.display()))?;
    Ok(home)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(folder: &Path, script: &str) -> Process {
        let spec = ProcessSpec {
            name: "shell-1".into(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("GREETING".into(), "hello".into())],
            url: String::new(),
            ready: Ready::LogLine("hello".into()),
            data_dir: folder.join("data"),
            log_file: folder.join("shell-1.log"),
        };
        Process::new(spec, Lifetime::Owned)
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn starts_dies_and_starts_again() {
        let folder = tempfile::tempdir().unwrap();
        let process = shell(folder.path(), "echo $GREETING; exec sleep 100");
        process.start(PATIENCE).await.unwrap();
        let first = process.id().unwrap();
        assert!(
            process
                .spawn()
                .unwrap_err()
                .to_string()
                .contains("running already")
        );
        process.kill().await.unwrap();
        assert!(!process.is_running());
        process.restart(PATIENCE).await.unwrap();
        assert_ne!(process.id().unwrap(), first);
        process.kill_now();
        assert!(!process.is_running());
    }

    #[tokio::test]
    async fn a_process_that_ends_early_is_named_with_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let process = shell(
            folder.path(),
            "for i in $(seq 40); do echo line $i; done; exit 3",
        );
        let error = process.start(PATIENCE).await.unwrap_err().to_string();
        assert!(
            error.contains("shell-1 ended with exit status: 3"),
            "{error}"
        );
        assert!(
            error.contains("line 11") && error.contains("line 40") && !error.contains("line 10\n"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_process_that_never_comes_up_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let process = shell(folder.path(), "echo working; exec sleep 100");
        let error = process
            .start(Duration::from_millis(200))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("shell-1 is not up") && error.contains("working"),
            "{error}"
        );
        process.kill_now();
    }
}
