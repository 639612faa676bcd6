//! Lag of single documents: on an idle pair, at several rates, after a long silence, and under
//! load.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::Size;
use crate::arena::{Arena, remove};
use crate::lag::{Lag, Probes, Question, Schedule, measure, milliseconds};
use crate::plot::Plot;
use crate::report::Section;
use crate::usage::Meter;
use crate::workload::{Ids, Workload};

const INDEX: &str = "lag";
const PROBES_A_SECOND: f64 = 20.0;

pub async fn idle(arena: &Arena, size: Size) -> Result<Section> {
    arena.create(&arena.leader, INDEX, 2).await?;
    arena.follow(INDEX, INDEX).await?;
    let one_by_one = |pause| Schedule::OneByOne {
        pause: Duration::from_millis(pause),
    };
    let lag = async |name: &str, schedule, number| {
        let on = &arena.follower;
        measure(
            arena,
            Probes {
                on,
                index: INDEX,
                name,
                question: Question::Read,
                schedule,
                number,
            },
        )
        .await
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
    let silence = format!(
        "the first one after {}",
        size.pick("five silent minutes", "five silent seconds")
    );
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
    section.plots.push(plot(
        "lag-idle",
        "Lag of single documents on an idle pair",
        plotted,
    ));
    section.at_most(
        "lag on an idle pair, p50",
        15.0,
        lags[0].milliseconds(0.5),
        " ms",
    );
    section.at_most(
        "lag on an idle pair, p99",
        50.0,
        lags[0].milliseconds(0.99),
        " ms",
    );
    Ok(section)
}

pub async fn under_load(arena: &Arena, size: Size) -> Result<Section> {
    let number = size.pick(400_000, 100_000);
    let probes = size.pick(1_200, 200);
    let (follower, leader) = (&arena.follower, &arena.leader);
    let mut first = 0;
    // Ids that no earlier load has.
    let mut new_documents = |number: u64| {
        let load = Workload::logs(number, Ids::NewFrom(first));
        first += number;
        load
    };
    arena.create(&arena.leader, INDEX, 2).await?;
    // As for an index that is searched: one that is not has no regular refresh, and then writes all
    // that it has buffered at once, tens of megabytes.
    refresh_every(arena, json!("1s")).await?;
    arena.follow(INDEX, INDEX).await?;
    let speed = Speed::of([new_documents(number), new_documents(number)], arena).await?;
    let (half, leaders_half) = (speed.pair / 2.0, speed.leader / 2.0);
    let mut beside_new = async |name: &str, rate: f64, on, question, number: u64| {
        let load = new_documents((rate * number as f64 / PROBES_A_SECOND * 1.5) as u64);
        let schedule = Schedule::PerSecond(PROBES_A_SECOND);
        beside(
            &load,
            rate,
            arena,
            Probes {
                on,
                index: INDEX,
                name,
                question,
                schedule,
                number,
            },
        )
        .await
    };
    // The first documents find cold code.
    beside_new(
        "warm up",
        half,
        follower,
        Question::Condition,
        size.pick(400, 100),
    )
    .await?;
    let mut lags = Vec::new();
    for (name, rate, on, question) in [
        (
            "half of the pair's speed",
            half,
            follower,
            Question::Condition,
        ),
        (
            "half of the leader's speed",
            leaders_half,
            follower,
            Question::Condition,
        ),
        (
            "half of the pair's speed, read by id",
            half,
            follower,
            Question::Read,
        ),
        (
            "the same reads of the leader itself",
            half,
            leader,
            Question::Read,
        ),
    ] {
        lags.push(beside_new(name, rate, on, question, probes).await?);
    }
    let updates = Workload::logs(number, Ids::OneOf(number));
    let half_of_updates = Speed::of([updates.clone(), updates.clone()], arena)
        .await?
        .pair
        / 2.0;
    let schedule = Schedule::PerSecond(PROBES_A_SECOND);
    let (name, question) = ("half of the pair's speed at updates", Question::Condition);
    let of_updates = Probes {
        on: follower,
        index: INDEX,
        name,
        question,
        schedule,
        number: probes,
    };
    lags.push(beside(&updates, half_of_updates, arena, of_updates).await?);
    refresh_every(arena, Value::Null).await?;
    let (name, question) = (
        "half of the pair's speed, an index that nobody searches",
        Question::Condition,
    );
    lags.push(beside_new(name, half, follower, question, probes).await?);
    arena.unfollow(INDEX).await?;
    remove(&arena.leader, INDEX).await?;
    let mut section = Section::new(
        "Lag of one document under load",
        &format!(
            "Twenty single documents a second beside a steady load of bulks of 1,000 new documents on the same index, everything
            on the same two cores: at half of the speed at which the pair writes and follows ({half:.0} documents/s), and at
            half of the speed that the leader reaches while it is followed ({leaders_half:.0} documents/s). The index is
            refreshed every second, as one that is searched; but for the last line. Another line has a
            load that writes {number} documents again and again, at half of the speed at which the pair does that
            ({half_of_updates:.0} a second). Whether a document is there is asked by a deletion under a condition that never holds, whose
            refusal says so: a read by id makes OpenSearch refresh the shard, and such reads wait for each other. What they
            add is in two lines: the same with reads by id, and what these take on the leader, where the document is already.
            The last two columns are the leader's own answers to the load's bulks, from when each was due: a load that was held up
            makes up for it as fast as the leader takes it, and is no half-speed load until then.",
        ),
    );
    let header = [
        &HEADER[..],
        &["bulks answered by the leader, p99, ms", "highest, ms"],
    ]
    .concat();
    section.table(&header, lags.iter().map(BesideLoad::row).collect());
    let plotted = lags.iter().map(|beside| &beside.lag);
    section.plots.push(plot(
        "lag-load",
        "Lag of single documents under load",
        plotted,
    ));
    if let Some(BesideLoad { lag: half, .. }) = lags.first() {
        section.at_most(
            "lag under a half-speed load, p99",
            250.0,
            half.milliseconds(0.99),
            " ms",
        );
    }
    Ok(section)
}

async fn refresh_every(arena: &Arena, interval: Value) -> Result<()> {
    let settings = json!({"index.refresh_interval": interval});
    arena
        .leader
        .ok("PUT", &format!("/{INDEX}/_settings"), Some(&settings))
        .await?;
    Ok(())
}

/// Lag beside a load, and after how many microseconds the leader answered that load's bulks.
struct BesideLoad {
    lag: Lag,
    answered: Histogram<u64>,
}

impl BesideLoad {
    fn row(&self) -> Vec<String> {
        let at = |quantile| milliseconds(&self.answered, quantile);
        let answered = [at(0.99), at(1.0)].map(|milliseconds| format!("{milliseconds:.1}"));
        [row(&self.lag), answered.to_vec()].concat()
    }
}

/// Probes beside a load of so many operations a second.
async fn beside(
    load: &Workload,
    rate: f64,
    arena: &Arena,
    probes: Probes<'_>,
) -> Result<BesideLoad> {
    // Merges of what was written at full speed are not what a steady load brings.
    arena.settle().await?;
    let answered = RefCell::new(Histogram::new(3)?);
    let lag = tokio::select! {
        lag = measure(arena, probes) => lag?,
        failed = arena.to_leader.keep_writing(INDEX, load, rate, &answered) => {
            failed?;
            bail!("the load ended before the probes");
        }
    };
    let measured = BesideLoad {
        lag,
        answered: answered.into_inner(),
    };
    eprintln!("lag: {}", measured.row().join(" | "));
    arena.caught_up(INDEX, INDEX).await?;
    Ok(measured)
}

/// Operations a second.
struct Speed {
    /// Until the follower has them.
    pair: f64,
    /// Until the leader, which is followed, has answered.
    leader: f64,
}

impl Speed {
    /// The best of some loads.
    async fn of(loads: [Workload; 2], arena: &Arena) -> Result<Self> {
        let mut best = Self {
            pair: 0.0,
            leader: 0.0,
        };
        for load in loads {
            arena.settle().await?;
            let meter = Meter::start(arena.processes())?;
            let written = arena.to_leader.write(&[INDEX.to_owned()], &load).await?;
            arena.caught_up(INDEX, INDEX).await?;
            best.pair = best
                .pair
                .max(load.operations as f64 / meter.elapsed().as_secs_f64());
            best.leader = best
                .leader
                .max(load.operations as f64 / written.as_secs_f64());
        }
        Ok(best)
    }
}

const HEADER: [&str; 6] = [
    "single documents",
    "number",
    "p50, ms",
    "p90, ms",
    "p99, ms",
    "highest, ms",
];

fn row(lag: &Lag) -> Vec<String> {
    let at = |quantile| format!("{:.1}", lag.milliseconds(quantile));
    vec![
        lag.name.clone(),
        lag.histogram.len().to_string(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0),
    ]
}

fn plot<'a>(file: &str, title: &str, lags: impl Iterator<Item = &'a Lag>) -> Plot {
    let series = lags.map(|lag| {
        let most = (lag.histogram.len() as f64).log10();
        let points = (0..=100).map(|step| most * f64::from(step) / 100.0);
        let points = points.map(|nines| (nines, lag.milliseconds(1.0 - 10f64.powf(-nines))));
        (lag.name.clone(), points.collect())
    });
    Plot::Quantiles {
        file: file.to_owned(),
        title: title.to_owned(),
        series: series.collect(),
    }
}
