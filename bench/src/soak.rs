//! `make soak`: a mixed load for as long as asked, proved equal at intervals, with the agents'
//! memory and descriptors plotted.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use shardline_tests::load::{Load, by_query, index_body};

use crate::arena::Arena;
use crate::plot::Plot;
use crate::report::Section;
use crate::usage::{descriptors, resident_mb};

const INDEX: &str = "soak";
const BULK: u64 = 500;
const BETWEEN_BULKS: Duration = Duration::from_millis(250);
/// Between two flushes of the leader index, and between two changes by query.
const EVERY: Duration = Duration::from_secs(20);
const VERIFY_EVERY: Duration = Duration::from_secs(60);
const SAMPLING: Duration = Duration::from_secs(2);
/// Memory may grow by this share from the first third of the run to the last.
const GROWTH: f64 = 1.3;

/// What an agent took at a moment, `seconds` after the start.
struct Sample {
    seconds: f64,
    mb: f64,
    descriptors: f64,
}

pub async fn run(arena: &Arena, minutes: u64) -> Result<Section> {
    arena
        .leader
        .ok("PUT", &format!("/{INDEX}"), Some(&index_body(2)))
        .await?;
    arena.follow(INDEX, INDEX).await?;
    let (started, is_over) = (Instant::now(), AtomicBool::new(false));
    let until = started + Duration::from_secs(60 * minutes);
    let agents = ["leader-agent-1", "follower-agent-1"];
    let mut samples: [Vec<Sample>; 2] = Default::default();
    let (mut verified, mut operations) = (Vec::new(), 0);
    let writing = async {
        let (mut load, mut last) = (Load::new(7, "s"), Instant::now());
        while !is_over.load(Relaxed) {
            arena
                .leader
                .bulk(&format!("/{INDEX}/_bulk"), load.bulk(BULK))
                .await?;
            operations += BULK;
            if last.elapsed() >= EVERY {
                by_query(&arena.leader, INDEX).await?;
                arena
                    .leader
                    .ok("POST", &format!("/{INDEX}/_flush?force=true"), None)
                    .await?;
                last = Instant::now();
            }
            tokio::time::sleep(BETWEEN_BULKS).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    let verifying = async {
        while Instant::now() < until {
            tokio::time::sleep(VERIFY_EVERY.min(until - Instant::now())).await;
            let documents = verify(arena).await?;
            let at = started.elapsed().as_secs_f64();
            eprintln!("{:.1} min: {documents} documents, all equal", at / 60.0);
            verified.push(vec![
                format!("{:.1}", at / 60.0),
                documents.to_string(),
                "equal".to_owned(),
            ]);
        }
        is_over.store(true, Relaxed);
        Ok(())
    };
    let sampling = async {
        while !is_over.load(Relaxed) {
            for (agent, samples) in agents.iter().zip(&mut samples) {
                let pid = arena
                    .stack
                    .process(agent)?
                    .pid()
                    .context("an agent is gone")?;
                let seconds = started.elapsed().as_secs_f64();
                samples.push(Sample {
                    seconds,
                    mb: resident_mb(pid)?,
                    descriptors: descriptors(pid)? as f64,
                });
            }
            tokio::time::sleep(SAMPLING).await;
        }
        Ok(())
    };
    tokio::try_join!(writing, verifying, sampling)?;
    arena.caught_up(INDEX, INDEX).await?;
    let documents = verify(arena).await?;
    verified.push(vec![
        "end".to_owned(),
        documents.to_string(),
        "equal".to_owned(),
    ]);

    let text = format!(
        "{minutes} minutes, {operations} operations beside changes by query: new documents, updates and deletes in a steady \
         load of bulks of {BULK}, with a forced flush every {} s. Every verification compared all documents while both sides \
         were in use.",
        EVERY.as_secs()
    );
    let mut section = Section::new("Soak", &text);
    section.table(&["minutes", "documents", "verified"], verified);
    for (agent, samples) in agents.iter().zip(&samples) {
        let (early, late) = (
            median(samples, 0, |sample| sample.mb),
            median(samples, 2, |sample| sample.mb),
        );
        section.at_most(
            &format!("{agent}: memory of the last third, × the first's"),
            GROWTH,
            late / early,
            "",
        );
        let (early, late) = (
            median(samples, 0, |sample| sample.descriptors),
            median(samples, 2, |sample| sample.descriptors),
        );
        section.at_most(
            &format!("{agent}: descriptors more in the last third than in the first"),
            10.0,
            late - early,
            "",
        );
    }
    let series = |of: fn(&Sample) -> f64| {
        let points = |samples: &[Sample]| {
            samples
                .iter()
                .map(|sample| (sample.seconds / 60.0, of(sample)))
                .collect()
        };
        agents
            .iter()
            .zip(&samples)
            .map(|(agent, samples)| ((*agent).to_owned(), points(samples)))
            .collect()
    };
    let plot = |file: &str, y: &str, series| Plot::Lines {
        file: file.to_owned(),
        title: format!("Soak: {y} of the agents"),
        x: "minutes".to_owned(),
        y: y.to_owned(),
        series,
    };
    section
        .plots
        .push(plot("soak-memory", "RSS, MB", series(|sample| sample.mb)));
    section.plots.push(plot(
        "soak-descriptors",
        "open descriptors",
        series(|sample| sample.descriptors),
    ));
    Ok(section)
}

/// Of one of the thirds of a run.
fn median(samples: &[Sample], third: usize, of: fn(&Sample) -> f64) -> f64 {
    let size = samples.len() / 3;
    let mut values: Vec<f64> = samples
        .iter()
        .skip(third * size)
        .take(size.max(1))
        .map(of)
        .collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Proves both sides equal; how many documents there are.
async fn verify(arena: &Arena) -> Result<u64> {
    let found = arena.verified(INDEX, &json!({"content": true})).await?;
    ensure!(found["state"] == "equal", "not equal: {found}");
    found["documents"].as_u64().context("no count")
}
