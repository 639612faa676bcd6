//! What a thousand captured shards cost the leader agent while nothing is written.

use std::time::Duration;

use anyhow::Result;
use shardline_tests::client::Client;
use shardline_tests::wait;

use super::Size;
use crate::arena::{Arena, CAPTURED, PATIENCE, remove};
use crate::report::Section;
use crate::usage::{Meter, Usage};
use crate::workload::{Ids, Workload};

const SHARDS: u32 = 10;

pub async fn run(arena: &Arena, size: Size) -> Result<Section> {
    let window = Duration::from_secs(size.pick(60, 10));
    arena.settle().await?;
    let before = watch(arena, window).await?;
    let indices: Vec<String> = (0..size.pick(100, 20))
        .map(|n| format!("{CAPTURED}{n}"))
        .collect();
    for index in &indices {
        arena.create(&arena.leader, index, SHARDS).await?;
    }
    // A few documents in each, as idle shards have.
    let load = Workload::logs(indices.len() as u64 * 2_000, Ids::New);
    arena.to_leader.write(&indices, &load).await?;
    for index in &indices {
        arena.shipped(index).await?;
    }
    let shards = indices.len() * SHARDS as usize;
    let admin = Client::new(format!(
        "http://127.0.0.1:{}",
        arena.stack.ports().leader_agents[0]
    ))?;
    wait::until(
        &format!("{shards} shards to be captured"),
        PATIENCE,
        async || {
            let text = admin.get("/metrics").await?;
            let line = format!("shardline_leader_captured_shards {shards}\n");
            Ok(if text.as_str().is_some_and(|text| text.contains(&line)) {
                Ok(())
            } else {
                Err("fewer".to_owned())
            })
        },
    )
    .await?;
    arena.settle().await?;
    let after = watch(arena, window).await?;
    for index in &indices {
        remove(&arena.leader, index).await?;
    }
    let mut section = Section::new(
        &format!("{shards} idle shards"),
        &format!(
            "{} indices of {SHARDS} shards are captured, a few documents in each; then nothing is written for {} s. CPU in
            hundredths of a core.",
            indices.len(),
            window.as_secs()
        ),
    );
    let cores = |usage: &Usage| usage.cpu_seconds / window.as_secs_f64() * 100.0;
    let rows = before.iter().zip(&after).map(|(before, after)| {
        let cpu = |usage| format!("{:.2}%", cores(usage));
        vec![
            after.name.clone(),
            cpu(before),
            cpu(after),
            format!("{:.0}", after.peak_mb),
        ]
    });
    section.table(
        &[
            "process",
            "CPU without these shards",
            "CPU with them",
            "RSS with them, MB",
        ],
        rows.collect(),
    );
    if let Some(agent) = after.iter().find(|usage| usage.name == "leader-agent-1") {
        eprintln!(
            "{shards} idle shards: {:.2}% of a core, {:.0} MB",
            cores(agent),
            agent.peak_mb
        );
        let base = before
            .iter()
            .find(|usage| usage.name == agent.name)
            .map_or(0.0, cores);
        section.at_most(
            &format!("leader agent: CPU for {shards} idle shards"),
            1.0,
            cores(agent) - base,
            "%",
        );
        section.at_most(
            &format!("leader agent with {shards} idle shards: RSS"),
            100.0,
            agent.peak_mb,
            " MB",
        );
    }
    Ok(section)
}

async fn watch(arena: &Arena, window: Duration) -> Result<Vec<Usage>> {
    let meter = Meter::start(arena.processes())?;
    tokio::time::sleep(window).await;
    meter.stop()
}
