//! `make bench`: Shardline on real servers beside the leader alone and beside a plain client, all
//! in one run.

mod arena;
mod compare;
mod lag;
mod phases;
mod plot;
mod report;
mod samples;
mod soak;
mod usage;
mod workload;
mod writers;

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use arena::Arena;
use clap::{Parser, ValueEnum};
use compare::Builds;
use phases::{
    Size, backlog, broker_away, catch_up, fan_out, idle_shards, lag as lag_phase, micro, speed,
    verify,
};
use report::{Report, Section};

#[derive(Parser)]
struct Arguments {
    /// Small loads and few rounds, for development.
    #[arg(long)]
    quick: bool,
    /// Rounds of each measurement; default 5, or 2 with --quick.
    #[arg(long)]
    rounds: Option<usize>,
    /// Only these phases.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Phase>,
    /// Instead: a mixed load for so long, with verification at intervals.
    #[arg(long, value_name = "MINUTES")]
    soak: Option<u64>,
    /// Another build's agents, in this folder, are measured in turns with these: the outcome is a
    /// table of ratios.
    #[arg(long, value_name = "FOLDER", conflicts_with = "soak")]
    compare: Option<PathBuf>,
    /// Where results.md, or soak.md, and its plots go.
    #[arg(long)]
    output: PathBuf,
    /// Where criterion has left the micro-benchmarks' results.
    #[arg(long)]
    criterion: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Phase {
    Lag,
    LoadLag,
    Speed,
    Split,
    Workloads,
    CatchUp,
    FanOut,
    BrokerAway,
    Backlog,
    IdleShards,
    Verify,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let size = Size {
        quick: arguments.quick,
        rounds: arguments
            .rounds
            .unwrap_or(if arguments.quick { 2 } else { 5 }),
    };
    let file = arguments.output.join(if arguments.soak.is_some() {
        "soak.md"
    } else {
        "results.md"
    });
    let mut report = Report {
        file,
        preface: preface(
            size,
            if arguments.soak.is_some() {
                "soak"
            } else {
                "bench"
            },
        )?,
        sections: Vec::new(),
    };
    tokio::select! {
        outcome = measure(&arguments, size, &mut report) => outcome?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    }
    if let Some(criterion) = &arguments.criterion {
        report.add(micro::read(criterion)?)?;
    }
    println!("{}", report.file.display());
    Ok(())
}

async fn measure(arguments: &Arguments, size: Size, report: &mut Report) -> Result<()> {
    let arena = Arena::start().await?;
    if let Some(minutes) = arguments.soak {
        report.add([soak::run(&arena, minutes).await?])?;
        return arena.stack.stop().await;
    }
    warm_up(&arena, size).await?;
    for &phase in Phase::value_variants() {
        if !arguments.only.is_empty() && !arguments.only.contains(&phase) {
            continue;
        }
        eprintln!("== {phase:?}");
        let section = match &arguments.compare {
            None => phase.run(&arena, size).await?,
            Some(theirs) => {
                let builds = Builds::beside(&arena, theirs)?;
                let once = Size { rounds: 1, ..size };
                let run = async || phase.run(&arena, once).await;
                compare::in_turns(&arena, &builds, size.rounds, run).await?
            }
        };
        report.add([section])?;
    }
    arena.stack.stop().await
}

impl Phase {
    async fn run(self, arena: &Arena, size: Size) -> Result<Section> {
        match self {
            Self::Lag => lag_phase::idle(arena, size).await,
            Self::LoadLag => lag_phase::under_load(arena, size).await,
            Self::Speed => speed::shared_cores(arena, size).await,
            Self::Split => speed::split_cores(arena, size).await,
            Self::Workloads => speed::workloads(arena, size).await,
            Self::CatchUp => catch_up::run(arena, size).await,
            Self::FanOut => fan_out::run(arena, size).await,
            Self::BrokerAway => broker_away::run(arena, size).await,
            Self::Backlog => backlog::run(arena, size).await,
            Self::IdleShards => idle_shards::run(arena, size).await,
            Self::Verify => verify::run(arena, size).await,
        }
    }
}

/// Lets the servers compile their code before anything is measured. Kafka needs thousands of
/// requests for that: its compiler takes half of its CPU otherwise.
async fn warm_up(arena: &Arena, size: Size) -> Result<()> {
    speed::small_bulks("warm-up-small-bulks", size.pick(200_000, 20_000), 1)
        .run(arena)
        .await?;
    let documents = size.pick(300_000, 100_000);
    speed::beside_plain_clients("warm-up", documents, size.pick(4, 1))
        .run(arena)
        .await?;
    Ok(())
}

fn preface(size: Size, command: &str) -> Result<String> {
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        output
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
            .unwrap_or_default()
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("", |(_, name)| name.trim());
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let kib = memory.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?
            .split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()
    });
    let load = std::fs::read_to_string("/proc/loadavg")?;
    Ok(format!(
        "Written by `make {command}`{}. See [benchmarks](../benchmarks.md) for what is measured and how to read it. Numbers are medians \
         of {} rounds, with the lowest and the highest in parentheses.\n\n\
         - {} cores, {model}, {} GiB, Linux {}\n\
         - OpenSearch 3.8.0 with {} MB of heap a node, Kafka 4.1.0, one node each, no replicas\n\
         - {}, commit {}\n\
         - load average before the run: {}\n",
        if size.quick {
            " with `QUICK=1`: too short to be relied on"
        } else {
            ""
        },
        size.rounds,
        std::thread::available_parallelism()?,
        kib.unwrap_or_default() / 1024 / 1024,
        said("uname", &["-r"]),
        arena::HEAP_MB,
        said("date", &["-u", "+%Y-%m-%d"]),
        said("git", &["describe", "--always", "--dirty"]),
        load.split_whitespace().next().unwrap_or_default(),
    ))
}
