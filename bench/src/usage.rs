//! CPU time and memory of processes, and on which cores they may run; from /proc.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::samples::Samples;

/// This process, which makes the load.
pub const WRITERS: &str = "load generator";

#[derive(Clone, Debug)]
pub struct Watched {
    pub name: String,
    pub pid: u32,
}

/// What a process used while a [`Meter`] ran.
#[derive(Clone, Debug)]
pub struct Usage {
    pub name: String,
    pub cpu_seconds: f64,
    pub peak_mb: f64,
}

/// Measures processes from its start to [`Meter::stop`].
pub struct Meter {
    since: Vec<(Watched, f64)>,
    started: Instant,
}

impl Meter {
    pub fn start(processes: Vec<Watched>) -> Result<Self> {
        let mut since = Vec::with_capacity(processes.len());
        for process in processes {
            // Sets the peak to what is resident now.
            fs::write(format!("/proc/{}/clear_refs", process.pid), "5")
                .with_context(|| format!("cannot reset the peak of {}", process.name))?;
            let cpu = cpu_seconds(process.pid)?;
            since.push((process, cpu));
        }
        Ok(Self {
            since,
            started: Instant::now(),
        })
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn stop(&self) -> Result<Vec<Usage>> {
        self.since
            .iter()
            .map(|(process, before)| {
                Ok(Usage {
                    name: process.name.clone(),
                    cpu_seconds: cpu_seconds(process.pid)? - before,
                    peak_mb: status_mb(process.pid, "VmHWM")?,
                })
            })
            .collect()
    }
}

/// CPU seconds of the processes whose name `wanted` takes.
pub fn cpu_of(usage: &[Usage], wanted: impl Fn(&str) -> bool) -> f64 {
    usage
        .iter()
        .filter(|usage| wanted(&usage.name))
        .map(|usage| usage.cpu_seconds)
        .sum()
}

/// The highest peak among the processes whose name `wanted` takes, in MB.
pub fn peak_of(usage: &[Usage], wanted: impl Fn(&str) -> bool) -> f64 {
    usage
        .iter()
        .filter(|usage| wanted(&usage.name))
        .map(|usage| usage.peak_mb)
        .fold(0.0, f64::max)
}

/// The processes that a pair of clusters and its replication are made of.
pub const PAIR: [&str; 5] = [
    "leader-1",
    "leader-agent-1",
    "kafka-1",
    "follower-agent-1",
    "follower-1",
];

/// The columns that [`cpu_columns`] fills.
pub const CPU_HEADER: [&str; 5] = [
    "leader node, CPU s per 100,000",
    "leader agent",
    "Kafka",
    "follower agent",
    "follower node",
];

/// What each process of [`PAIR`] used in each round, in CPU seconds.
pub fn cpu_of_pair(rounds: &[Vec<Usage>]) -> [Samples; 5] {
    PAIR.map(|process| {
        rounds
            .iter()
            .map(|usage| cpu_of(usage, |name| name == process))
            .collect()
    })
}

/// The same per 100,000 operations, as a table shows it.
pub fn cpu_columns(rounds: &[Vec<Usage>], operations: f64) -> [String; 5] {
    cpu_of_pair(rounds).map(|samples| samples.map(|seconds| seconds * 1e5 / operations).show(2))
}

pub fn is_agent(name: &str) -> bool {
    name.contains("-agent-")
}

pub fn is_server(name: &str) -> bool {
    !is_agent(name) && name != WRITERS
}

/// Resident memory in MB.
pub fn resident_mb(pid: u32) -> Result<f64> {
    status_mb(pid, "VmRSS")
}

/// Open file descriptors.
pub fn descriptors(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// User and system time of a process and its ended threads. Its unit is the kernel's clock tick of
/// 10 ms.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The name, in parentheses, may hold anything; utime and stime are the 12th and 13th fields
    // behind it.
    let fields = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace())
        .context("no process name in stat")?;
    let ticks: Vec<f64> = fields
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok(ticks.iter().sum::<f64>() / per_second as f64)
}

fn status_mb(pid: u32, field: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .with_context(|| format!("no {field} in {path}"))?;
    Ok(kib.parse::<f64>()? / 1024.0)
}

/// Lets all threads of a process run on these cores only. Threads that they start later inherit it.
pub fn pin(pid: u32, cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core)?;
    }
    let mut pinned = HashSet::new();
    loop {
        let mut found_more = false;
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread: i32 = entry?.file_name().to_string_lossy().parse()?;
            if pinned.insert(thread) {
                found_more = true;
                // It may have ended since.
                let _ = sched_setaffinity(Pid::from_raw(thread), &set);
            }
        }
        if !found_more {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_as_cpu_time_and_memory() {
        let own = Watched {
            name: "own".to_owned(),
            pid: std::process::id(),
        };
        let meter = Meter::start(vec![own]).unwrap();
        let mut memory = vec![0u8; 64 << 20];
        while meter.stop().unwrap()[0].cpu_seconds < 0.05 {
            memory
                .iter_mut()
                .for_each(|byte| *byte = byte.wrapping_add(1));
        }
        let used = meter.stop().unwrap();
        assert!(
            used[0].peak_mb > 64.0
                && used[0].cpu_seconds <= 2.0 * meter.elapsed().as_secs_f64() * 64.0
        );
        assert_eq!(memory.len(), 64 << 20);
    }
}
