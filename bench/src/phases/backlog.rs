//! What the agents take while many shards catch up at the same time.

use anyhow::{Context, Result};

use super::Size;
use crate::arena::{Arena, remove};
use crate::report::Section;
use crate::usage::{Meter, Watched};
use crate::workload::Workload;

const SHARDS: u32 = 20;

pub async fn run(arena: &Arena, size: Size) -> Result<Section> {
    let indices: Vec<String> = (0..size.pick(5, 2))
        .map(|n| format!("backlog-{n}"))
        .collect();
    let load = Workload::large(size.pick(20_000, 4_000));
    for index in &indices {
        arena.create(&arena.leader, index, SHARDS).await?;
        arena.follow(index, index).await?;
    }
    arena.settle().await?;
    for agent in ["follower-agent-1", "leader-agent-1"] {
        arena.stack.process(agent)?.kill().await?;
    }
    arena.to_leader.write(&indices, &load).await?;
    let shards = indices.len() * SHARDS as usize;
    let mut section = Section::new(
        "Many shards behind at once",
        &format!(
            "{} indices of {SHARDS} shards are followed. Both agents are killed, and {} documents of 100 KB written. Then the
            leader agent is started again until Kafka has all of them, and after it the follower agent.",
            indices.len(),
            load.operations
        ),
    );
    let mut rows = Vec::new();
    let mut peaks = Vec::new();
    for agent in ["leader-agent-1", "follower-agent-1"] {
        arena.stack.restart(agent).await?;
        let pid = arena
            .stack
            .process(agent)?
            .pid()
            .context("an agent is gone")?;
        let meter = Meter::start(vec![Watched {
            name: agent.to_owned(),
            pid,
        }])?;
        for index in &indices {
            match agent {
                "leader-agent-1" => arena.shipped(index).await?,
                _ => arena.caught_up(index, index).await?,
            }
        }
        let seconds = meter.elapsed().as_secs_f64();
        for used in meter.stop()? {
            eprintln!(
                "{shards} shards behind: {agent} {seconds:.1} s, at most {:.0} MB",
                used.peak_mb
            );
            let values = [
                format!("{seconds:.1}"),
                format!("{:.1}", used.cpu_seconds),
                format!("{:.0}", used.peak_mb),
            ];
            rows.push([agent.to_owned()].into_iter().chain(values).collect());
            peaks.push(used.peak_mb);
        }
    }
    for index in &indices {
        arena.same_count(index, index).await?;
        arena.unfollow(index).await?;
        remove(&arena.leader, index).await?;
    }
    section.table(
        &[
            "process",
            "seconds until caught up",
            "CPU s",
            "peak RSS, MB",
        ],
        rows,
    );
    for (agent, limit, peak) in [("leader", 160.0, peaks[0]), ("follower", 256.0, peaks[1])] {
        section.at_most(
            &format!("{agent} agent with {shards} shards behind: peak RSS"),
            limit,
            peak,
            " MB",
        );
    }
    Ok(section)
}
