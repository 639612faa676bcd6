//! What proving that a million documents are equal costs, and that one that is not is found.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Size;
use crate::arena::{Arena, remove};
use crate::report::Section;
use crate::usage::{Meter, Usage, cpu_of};
use crate::workload::{Ids, Workload};

const INDEX: &str = "verified";

pub async fn run(arena: &Arena, size: Size) -> Result<Section> {
    let load = Workload::logs(size.pick(1_000_000, 100_000), Ids::New);
    arena.create(&arena.leader, INDEX, 2).await?;
    arena.follow(INDEX, INDEX).await?;
    arena.to_leader.write(&[INDEX.to_owned()], &load).await?;
    arena.caught_up(INDEX, INDEX).await?;
    arena.settle().await?;
    let mut rows = Vec::new();
    let mut sides = (0.0f64, 0.0f64);
    for (what, body) in [
        (
            "ids, routing and versions",
            json!({"documents_per_second": 0}),
        ),
        (
            "sources too",
            json!({"documents_per_second": 0, "content": true}),
        ),
    ] {
        let (took, usage, found) = verified(arena, &body).await?;
        ensure!(
            found["state"] == "equal" && found["documents"] == load.operations,
            "{found}"
        );
        let of = |names: [&'static str; 2]| cpu_of(&usage, |name| names.contains(&name));
        let (leader, follower) = (
            of(["leader-1", "leader-agent-1"]),
            of(["follower-1", "follower-agent-1"]),
        );
        if rows.is_empty() {
            sides = (leader, follower);
        }
        let cells = [took.as_secs_f64(), leader, follower].map(|value| format!("{value:.1}"));
        rows.push([what.to_owned()].into_iter().chain(cells).collect());
    }
    // One document of them, behind everybody's back and under its own version.
    let path = format!("/{INDEX}/_doc/w1-77");
    let version = arena.follower.get(&path).await?["_version"]
        .as_i64()
        .context("no version")?;
    let path = format!("{path}?version={}&version_type=external_gte", version + 1);
    arena
        .follower
        .ok("PUT", &path, Some(&json!({"status": 1})))
        .await?;
    let (_, _, found) = verified(arena, &json!({"documents_per_second": 0})).await?;
    let is_named = found["different"] == json!({"count": 1, "ids": ["w1-77"]});
    ensure!(
        is_named && found["missing"]["count"] == 0 && found["extra"]["count"] == 0,
        "{found}"
    );
    arena.unfollow(INDEX).await?;
    remove(&arena.leader, INDEX).await?;
    let mut section = Section::new(
        "Verification",
        &format!(
            "{} documents of 266 bytes in two shards, both sides at rest, without a limit on what is read. CPU seconds of node and
            agent together. Then one document was changed in the follower index past the gateway, and the next verification
            named it and no other.",
            load.operations
        ),
    );
    section.table(
        &[
            "compared",
            "seconds",
            "leader's side, CPU s",
            "follower's side, CPU s",
        ],
        rows,
    );
    section.at_most(
        "verification of a million documents: leader's side, CPU s",
        30.0,
        sides.0,
        " s",
    );
    section.at_most(
        "verification of a million documents: follower's side, CPU s",
        30.0,
        sides.1,
        " s",
    );
    eprintln!("verification: {:.1} s and {:.1} s of CPU", sides.0, sides.1);
    Ok(section)
}

/// A verification from its call to its end.
async fn verified(arena: &Arena, body: &Value) -> Result<(Duration, Vec<Usage>, Value)> {
    let meter = Meter::start(arena.processes())?;
    let found = arena.verified(INDEX, body).await?;
    Ok((meter.elapsed(), meter.stop()?, found))
}
