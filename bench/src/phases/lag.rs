//! Lag of single documents: on an idle pair, at several rates, after a long silence, and under load.

use std::time::Duration;

use anyhow::Result;

use super::Size;
use crate::arena::{Arena, remove};
use crate::lag::{Lag, Probes, Question, Schedule, measure};
use crate::plot::Plot;
use crate::report::Section;
use crate::usage::Meter;
use crate::workload::{Ids, Workload};

const INDEX: &str = "lag";

pub async fn idle(arena: &Arena, size: Size) -> Result<Section> {
    arena.create(&arena.leader, INDEX, 2).await?;
    arena.follow(INDEX, INDEX).await?;
    let one_by_one = |pause| Schedule::OneByOne { pause: Duration::from_millis(pause) };
    let lag = async |name: &str, schedule, number| {
        let on = &arena.follower;
        measure(arena, Probes { on, index: INDEX, name, question: Question::Read, schedule, number }).await
    };
    // The first documents find cold code.
    lag("warm up", one_by_one(10), size.pick(500, 200)).await?;
    arena.settle().await?;
    let mut lags = vec![lag("idle pair", one_by_one(200), size.pick(1_000, 100)).await?];
    for (name, rate, probes) in [
        ("1 a second", 1.0, size.pick(60, 5)),
        ("10 a second", 10.0, size.pick(600, 50)),
        ("60 a second", 60.0, size.pick(3_600, 200)),
    ] {
        lags.push(lag(name, Schedule::PerSecond(rate), probes).await?);
    }
    tokio::time::sleep(Duration::from_secs(size.pick(300, 5))).await;
    let silence = format!("the first one after {}", size.pick("five silent minutes", "five silent seconds"));
    lags.push(lag(&silence, one_by_one(0), 1).await?);
    arena.unfollow(INDEX).await?;
    remove(&arena.leader, INDEX).await?;
    let mut section = Section::new(
        "Lag of one document on an idle pair",
        "From the leader's answer to the follower's first answer that has the document (a read by id, repeated every half
        millisecond, or after a twentieth of the time waited so far, whichever is longer; its own time is included). Two shards, one document at a time.",
    );
    section.table(&HEADER, lags.iter().map(row).collect());
    let plotted = lags.iter().filter(|lag| lag.histogram.len() > 1);
    section.plots.push(plot("lag-idle", "Lag of single documents on an idle pair", plotted));
    section.at_most("lag on an idle pair, p50", 15.0, lags[0].milliseconds(0.5), " ms");
    section.at_most("lag on an idle pair, p99", 50.0, lags[0].milliseconds(0.99), " ms");
    Ok(section)
}

pub async fn under_load(arena: &Arena, size: Size) -> Result<Section> {
    arena.create(&arena.leader, INDEX, 2).await?;
    arena.follow(INDEX, INDEX).await?;
    let load = Workload::logs(size.pick(400_000, 100_000), Ids::New);
    let indices = [INDEX.to_owned()];
    let (mut alone, mut pair) = (0.0f64, 0.0f64);
    for _ in 0..2 {
        arena.settle().await?;
        let meter = Meter::start(arena.processes())?;
        let written = arena.to_leader.write(&indices, &load).await?;
        arena.caught_up(INDEX, INDEX).await?;
        pair = pair.max(load.operations as f64 / meter.elapsed().as_secs_f64());
        alone = alone.max(load.operations as f64 / written.as_secs_f64());
    }
    let mut lags = Vec::new();
    for (name, rate, on, question) in [
        ("half of the pair's speed", pair / 2.0, &arena.follower, Question::Condition),
        ("half of the leader's speed", alone / 2.0, &arena.follower, Question::Condition),
        ("half of the pair's speed, read by id", pair / 2.0, &arena.follower, Question::Read),
        ("the same reads of the leader itself", pair / 2.0, &arena.leader, Question::Read),
    ] {
        // Merges of what was written at full speed are not what a steady load brings.
        arena.settle().await?;
        let (schedule, number) = (Schedule::PerSecond(20.0), size.pick(1_200, 200));
        let probes = measure(arena, Probes { on, index: INDEX, name, question, schedule, number });
        let lag = tokio::select! {
            lag = probes => lag?,
            failed = arena.to_leader.keep_writing(INDEX, &load, rate) => { failed?; continue }
        };
        lags.push(lag);
        arena.caught_up(INDEX, INDEX).await?;
    }
    arena.unfollow(INDEX).await?;
    remove(&arena.leader, INDEX).await?;
    let mut section = Section::new(
        "Lag of one document under load",
        &format!(
            "Twenty single documents a second beside a steady load of bulks of 1,000 on the same index, everything on the same
            two cores: at half of the speed at which the pair writes and follows ({:.0} documents/s), and at half of the speed
            that the leader reaches while it is followed ({:.0} documents/s), which together with following is about all that
            the two cores can do. Whether a document is there is asked by a deletion under a condition that never holds, whose
            refusal says so: a read by id makes OpenSearch refresh the shard, and such reads wait for each other. What they
            add is in the last two lines: the same with reads by id, and what these take on the leader, where the
            document is already.",
            pair / 2.0,
            alone / 2.0
        ),
    );
    section.table(&HEADER, lags.iter().map(row).collect());
    section.plots.push(plot("lag-load", "Lag of single documents under load", lags.iter()));
    if let Some(half) = lags.first() {
        section.at_most("lag under a half-speed load, p99", 250.0, half.milliseconds(0.99), " ms");
    }
    Ok(section)
}

const HEADER: [&str; 6] = ["single documents", "number", "p50, ms", "p90, ms", "p99, ms", "highest, ms"];

fn row(lag: &Lag) -> Vec<String> {
    let at = |quantile| format!("{:.1}", lag.milliseconds(quantile));
    vec![lag.name.clone(), lag.histogram.len().to_string(), at(0.5), at(0.9), at(0.99), at(1.0)]
}

fn plot<'a>(file: &str, title: &str, lags: impl Iterator<Item = &'a Lag>) -> Plot {
    let series = lags.map(|lag| {
        let most = (lag.histogram.len() as f64).log10();
        let points = (0..=100).map(|step| most * f64::from(step) / 100.0);
        let points = points.map(|nines| (nines, lag.milliseconds(1.0 - 10f64.powf(-nines))));
        (lag.name.clone(), points.collect())
    });
    Plot::Quantiles { file: file.to_owned(), title: title.to_owned(), series: series.collect() }
}
