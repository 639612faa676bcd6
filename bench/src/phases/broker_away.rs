//! The leader agent's memory while Kafka is away for a whole load, and the way back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Size;
use crate::arena::{Arena, remove};
use crate::plot::Plot;
use crate::report::Section;
use crate::usage::resident_mb;
use crate::workload::{Ids, Workload};

const EVERY: Duration = Duration::from_millis(100);

pub async fn run(arena: &Arena, size: Size) -> Result<Section> {
    let index = "broker-away";
    let load = Workload::logs(size.pick(1_000_000, 100_000), Ids::New);
    arena.create(&arena.leader, index, 2).await?;
    arena.follow(index, index).await?;
    arena.settle().await?;
    let started = Instant::now();
    let agents = ["leader-agent-1", "follower-agent-1"];
    let pids = agents.map(|name| {
        arena
            .stack
            .process(name)
            .ok()
            .and_then(shardline_dev::Process::pid)
    });
    let mut memory: [Vec<(f64, f64)>; 2] = Default::default();
    let (mut written, mut restarted, mut followed) = (0.0, 0.0, 0.0);
    {
        let story = async {
            arena.stack.process("kafka-1")?.kill().await?;
            arena.to_leader.write(&[index.to_owned()], &load).await?;
            written = started.elapsed().as_secs_f64();
            tokio::time::sleep(Duration::from_secs(size.pick(20, 3))).await;
            arena.stack.restart("kafka-1").await?;
            restarted = started.elapsed().as_secs_f64();
            arena.caught_up(index, index).await?;
            followed = started.elapsed().as_secs_f64();
            Ok::<_, anyhow::Error>(())
        };
        let sampling = async {
            let mut ticks = tokio::time::interval(EVERY);
            loop {
                ticks.tick().await;
                for (pid, samples) in pids.iter().zip(&mut memory) {
                    let pid = pid.context("an agent is gone")?;
                    samples.push((started.elapsed().as_secs_f64(), resident_mb(pid)?));
                }
            }
        };
        tokio::select! {
            told = story => told?,
            failed = sampling => return failed,
        }
    }
    arena.same_count(index, index).await?;
    arena.unfollow(index).await?;
    remove(&arena.leader, index).await?;
    let peak = |samples: &[(f64, f64)], until: f64| {
        samples
            .iter()
            .filter(|(at, _)| *at <= until)
            .map(|sample| sample.1)
            .fold(0.0, f64::max)
    };
    let mut section = Section::new(
        "Kafka away for a whole load",
        &format!(
            "Kafka is killed, then {} documents of 266 bytes are written ({written:.1} s); it is up again {restarted:.1} s after it
            was killed, and the follower has everything after {followed:.1} s. Resident memory of the agents, every {} ms.",
            load.operations,
            EVERY.as_millis()
        ),
    );
    let rows = agents.iter().zip(&memory).map(|(name, samples)| {
        let start = samples.first().map_or(0.0, |sample| sample.1);
        let values = [start, peak(samples, restarted), peak(samples, followed)];
        [(*name).to_owned()]
            .into_iter()
            .chain(values.map(|mb| format!("{mb:.0}")))
            .collect()
    });
    let header = [
        "process",
        "RSS before, MB",
        "highest while Kafka was away, MB",
        "highest in all, MB",
    ];
    section.table(&header, rows.collect());
    section.at_most(
        "leader agent's RSS, Kafka away and back",
        64.0,
        peak(&memory[0], followed),
        " MB",
    );
    eprintln!(
        "Kafka away: leader agent at most {:.0} MB, followed after {followed:.1} s",
        peak(&memory[0], followed)
    );
    let series = agents
        .iter()
        .zip(memory)
        .map(|(name, samples)| ((*name).to_owned(), samples));
    section.plots.push(Plot::Lines {
        file: "kafka-away".to_owned(),
        title: format!(
            "Agents' memory: Kafka away until {restarted:.0} s, all followed at {followed:.0} s"
        ),
        x: "seconds".to_owned(),
        y: "RSS, MB".to_owned(),
        series: series.collect(),
    });
    Ok(section)
}
