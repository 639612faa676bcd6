//! A process named so that a reused pid is never mistaken for it, and stopping several of them.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

const POLL: Duration = Duration::from_millis(20);
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// A pid together with when that process started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: u32,
    /// In clock ticks since boot: field 22 of `/proc/<pid>/stat`.
    pub start_time: u64,
}

impl ProcessId {
    /// The running process of this pid.
    pub fn of(pid: u32) -> Result<Self> {
        let stat = Stat::read(pid).with_context(|| format!("no process {pid}"))?;
        Ok(Self {
            pid,
            start_time: stat.start_time,
        })
    }

    /// Whether it still runs, or at least still holds ports and files.
    pub fn is_alive(self) -> bool {
        Stat::read(self.pid)
            .is_some_and(|stat| stat.start_time == self.start_time && !stat.is_dead())
    }

    /// Sends a signal; does nothing when the process has gone.
    pub fn signal(self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let pid = i32::try_from(self.pid).context("pid out of range")?;
        match kill(Pid::from_raw(pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => bail!("cannot send {signal} to process {pid}: {error}"),
        }
    }
}

/// Asks all to stop, waits for up to `grace`, kills what is left, and returns once all are gone.
pub async fn stop_all(processes: &[ProcessId], grace: Duration) -> Result<()> {
    for process in processes {
        process.signal(Signal::SIGTERM)?;
        // A stopped process (SIGSTOP) would not see the request.
        process.signal(Signal::SIGCONT)?;
    }
    if wait_gone(processes, grace).await {
        return Ok(());
    }
    for process in processes {
        process.signal(Signal::SIGKILL)?;
    }
    if !wait_gone(processes, KILL_DEADLINE).await {
        bail!("processes do not end although killed: {processes:?}");
    }
    Ok(())
}

pub(crate) async fn wait_gone(processes: &[ProcessId], patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while processes.iter().any(|process| process.is_alive()) {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(POLL).await;
    }
    true
}

/// What `/proc/<pid>/stat` says.
struct Stat {
    state: char,
    threads: u64,
    start_time: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses and may hold anything, so count
        // from its end.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            threads: fields.get(17)?.parse().ok()?,
            start_time: fields.get(19)?.parse().ok()?,
        })
    }

    /// A killed JVM is a zombie at once, but its other threads take a while to end and hold ports
    /// and files until then.
    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X') && self.threads <= 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_pid_is_another_process() {
        let own = ProcessId::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(
            !ProcessId {
                start_time: own.start_time + 1,
                ..own
            }
            .is_alive()
        );
    }

    #[tokio::test]
    async fn stops_even_a_process_that_was_paused() {
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let process = ProcessId::of(child.id()).unwrap();
        process.signal(Signal::SIGSTOP).unwrap();
        stop_all(&[process], Duration::from_secs(10)).await.unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
