//! Catching up after a pause, and copying an index, beside a plain client that writes the same
//! documents directly.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;

use super::Size;
use crate::arena::{Arena, REPOSITORY, remove};
use crate::report::Section;
use crate::samples::Samples;
use crate::usage::{CPU_HEADER, Meter, Usage, cpu_columns};
use crate::workload::{BULK, Ids, Workload};

pub async fn run(arena: &Arena, size: Size) -> Result<Section> {
    let (small, large) = (size.pick(100_000, 50_000), size.pick(500_000, 100_000));
    let (mut rows, mut cpu_rows) = (Vec::new(), Vec::new());
    let mut cpu_row = |name: &str, usage: &[Vec<Usage>]| {
        cpu_rows.push(
            [name.to_owned()]
                .into_iter()
                .chain(cpu_columns(usage, large as f64))
                .collect(),
        );
    };
    let mut section = Section::new(
        "Catching up and bootstrap",
        "A follower is paused, documents of 266 bytes are written to the leader and shipped to Kafka; the clock runs from
        `_resume` until all are applied. Beside it, in turns, a plain client with two writers sends the same documents with
        external versions straight into an index of the follower cluster. A bootstrap copies an index whose translog is gone,
        from `_start` on until it is followed. The ratio is to the plain client with bulks of 1,000.",
    );
    let mut direct = Samples::default();
    for documents in [small, large] {
        let written = Workload::logs(documents, Ids::New);
        let plain = Workload::external(documents, BULK, 1);
        let plain_large = Workload::external(documents, 5 * BULK, 1);
        let per_second = |seconds: f64| written.operations as f64 / seconds;
        let (mut by_client, mut by_large_bulks, mut caught_up) =
            (Samples::default(), Samples::default(), Samples::default());
        let (mut client_usage, mut catch_up_usage) = (Vec::new(), Vec::new());
        for round in 0..size.rounds {
            eprintln!(
                "catch-up of {documents}: round {} of {}",
                round + 1,
                size.rounds
            );
            let (seconds, usage) = directly(arena, &plain).await?;
            by_client.push(per_second(seconds));
            client_usage.push(usage);
            let (seconds, usage) = after_pause(arena, &written).await?;
            caught_up.push(per_second(seconds));
            catch_up_usage.push(usage);
            let (seconds, _) = directly(arena, &plain_large).await?;
            by_large_bulks.push(per_second(seconds));
            eprintln!(
                "  client {} and {}, caught up {}",
                by_client.show(0),
                by_large_bulks.show(0),
                caught_up.show(0)
            );
        }
        let ratio = caught_up.ratio_to(&by_client);
        let row = |name: &str, samples: &Samples| {
            vec![
                name.to_owned(),
                documents.to_string(),
                samples.show(0),
                samples.ratio_to(&by_client).show(2),
            ]
        };
        rows.push(row("plain client, bulks of 1,000", &by_client));
        rows.push(row("plain client, bulks of 5,000", &by_large_bulks));
        rows.push(row("catch-up after a pause", &caught_up));
        if documents == large {
            section.at_least(
                "catch-up, of a plain client's speed",
                90.0,
                ratio.median() * 100.0,
                "%",
            );
            direct = by_client;
            cpu_row("plain client, bulks of 1,000", &client_usage);
            cpu_row("catch-up after a pause", &catch_up_usage);
        }
    }
    arena.register_repository().await?;
    let ways = [
        ("bootstrap through Kafka", Way::Documents),
        ("bootstrap through a snapshot repository", Way::Files),
        ("snapshot and restore by hand", Way::ByHand),
    ];
    for (name, way) in ways {
        for documents in [size.pick(200_000, 50_000), large] {
            let copied = Workload::logs(documents, Ids::New);
            let (mut copies, mut usages) = (Samples::default(), Vec::new());
            for round in 0..size.rounds {
                eprintln!(
                    "{name}, {documents}: round {} of {}",
                    round + 1,
                    size.rounds
                );
                let (seconds, usage) = copy(arena, &copied, way).await?;
                copies.push(copied.operations as f64 / seconds);
                usages.push(usage);
            }
            eprintln!("  {}", copies.show(0));
            let ratio = copies.map(|speed| speed / direct.median());
            // As many as the plain client wrote.
            if way == Way::Documents && documents == large {
                section.at_least(
                    "bootstrap, of a plain client's speed",
                    70.0,
                    ratio.median() * 100.0,
                    "%",
                );
            }
            rows.push(vec![
                name.to_owned(),
                documents.to_string(),
                copies.show(0),
                ratio.show(2),
            ]);
            if documents == large {
                cpu_row(name, &usages);
            }
        }
    }
    section.table(&["", "documents", "documents/s", "ratio"], rows);
    section.table(&[&[""], &CPU_HEADER[..]].concat(), cpu_rows);
    Ok(section)
}

/// Seconds, and what each process used meanwhile.
type Measured = (f64, Vec<Usage>);

async fn directly(arena: &Arena, load: &Workload) -> Result<Measured> {
    let index = "direct";
    arena.create(&arena.follower, index, 2).await?;
    arena.settle().await?;
    let meter = Meter::start(arena.processes())?;
    let took = arena.to_follower.write(&[index.to_owned()], load).await?;
    let usage = meter.stop()?;
    remove(&arena.follower, index).await?;
    Ok((took.as_secs_f64(), usage))
}

/// From `_resume` on.
async fn after_pause(arena: &Arena, load: &Workload) -> Result<Measured> {
    let index = "paused";
    arena.create(&arena.leader, index, 2).await?;
    arena.follow(index, index).await?;
    arena.pause(index).await?;
    arena.to_leader.write(&[index.to_owned()], load).await?;
    arena.shipped(index).await?;
    arena.settle().await?;
    let meter = Meter::start(arena.processes())?;
    arena.resume(index).await?;
    arena.caught_up(index, index).await?;
    let took = meter.elapsed().as_secs_f64();
    let usage = meter.stop()?;
    arena.same_count(index, index).await?;
    arena.unfollow(index).await?;
    remove(&arena.leader, index).await?;
    Ok((took, usage))
}

/// How an index is copied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Documents,
    Files,
    /// Without agents, by the APIs of the two clusters.
    ByHand,
}

async fn copy(arena: &Arena, load: &Workload, way: Way) -> Result<Measured> {
    let index = "copied";
    arena.create(&arena.leader, index, 2).await?;
    arena.to_leader.write(&[index.to_owned()], load).await?;
    // After it the translog is empty.
    arena
        .leader
        .ok(
            "POST",
            &format!("/{index}/_flush?force=true&wait_if_ongoing=true"),
            None,
        )
        .await?;
    arena.settle().await?;
    let meter = Meter::start(arena.processes())?;
    match way {
        Way::Documents => arena.follow(index, index).await?,
        Way::Files => arena.follow_from_repository(index, index).await?,
        Way::ByHand => by_hand(arena, index).await?,
    }
    let is_followed = way != Way::ByHand;
    if is_followed {
        arena.caught_up(index, index).await?;
    }
    let took = meter.elapsed().as_secs_f64();
    let usage = meter.stop()?;
    arena.same_count(index, index).await?;
    if is_followed {
        arena.unfollow(index).await?;
    } else {
        remove(&arena.follower, index).await?;
    }
    remove(&arena.leader, index).await?;
    Ok((took, usage))
}

async fn by_hand(arena: &Arena, index: &str) -> Result<()> {
    let snapshot = format!("/_snapshot/{REPOSITORY}/by-hand");
    let only = json!({"indices": index, "include_global_state": false});
    arena
        .leader
        .ok(
            "PUT",
            &format!("{snapshot}?wait_for_completion=true"),
            Some(&only),
        )
        .await?;
    let restore = format!("{snapshot}/_restore?wait_for_completion=true");
    loop {
        match arena.follower.call("POST", &restore, Some(&only)).await? {
            (200, _) => break,
            // The heap holds what the index before it left behind.
            (429, _) => tokio::time::sleep(Duration::from_millis(100)).await,
            (status, answer) => bail!("the restore was answered with {status}: {answer}"),
        }
    }
    arena.leader.ok("DELETE", &snapshot, None).await?;
    Ok(())
}
