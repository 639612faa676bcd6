//! How long a single document takes from the leader's answer until a cluster has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use serde_json::json;
use shardline_tests::client::Client;
use shardline_tests::load::Random;

use crate::arena::Arena;

const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_micros(500);
/// The longer a document takes the rarer it is asked for, or questions would be what late ones wait
/// for.
const OF_WAITED: u32 = 20;
/// A sequence number that no document has.
const NEVER: i64 = 1 << 53;

/// Lags in microseconds.
pub struct Lag {
    pub name: String,
    pub histogram: Histogram<u64>,
}

impl Lag {
    pub fn milliseconds(&self, quantile: f64) -> f64 {
        milliseconds(&self.histogram, quantile)
    }
}

pub fn milliseconds(of_microseconds: &Histogram<u64>, quantile: f64) -> f64 {
    of_microseconds.value_at_quantile(quantile) as f64 / 1000.0
}

/// When probes are sent.
pub enum Schedule {
    /// Each a random pause of up to so long after the last one has arrived.
    OneByOne { pause: Duration },
    /// So many a second, whether or not earlier ones have arrived.
    PerSecond(f64),
}

/// What asks whether a document is there.
#[derive(Clone, Copy)]
pub enum Question {
    /// A read by id. OpenSearch refreshes the shard for it while the document is not in a segment.
    Read,
    /// A deletion under a condition that never holds: the refusal says whether the document is
    /// there. Nothing is refreshed.
    Condition,
}

/// One measurement: `on` is asked for documents that were written to the leader.
pub struct Probes<'a> {
    pub on: &'a Client,
    pub index: &'a str,
    pub name: &'a str,
    pub question: Question,
    pub schedule: Schedule,
    pub number: u64,
}

pub async fn measure(arena: &Arena, probes: Probes<'_>) -> Result<Lag> {
    let Probes {
        on,
        index,
        name,
        question,
        schedule,
        number: probes,
    } = probes;
    let mut histogram = Histogram::new(3)?;
    let mut random = Random::seeded(5);
    let prober = Prober {
        leader: arena.leader.clone(),
        on: on.clone(),
        index: index.to_owned(),
        question,
    };
    let prober = Arc::new(prober);
    match schedule {
        Schedule::OneByOne { pause } => {
            for number in 0..probes {
                histogram.record(prober.probe(&format!("{name}-{number}")).await?)?;
                tokio::time::sleep(pause.mul_f64(random.below(1000) as f64 / 1000.0)).await;
            }
        }
        Schedule::PerSecond(rate) => {
            let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
            let mut under_way = FuturesUnordered::new();
            let mut sent = 0;
            while sent < probes || !under_way.is_empty() {
                tokio::select! {
                    _ = ticks.tick(), if sent < probes => {
                        let (prober, id) = (Arc::clone(&prober), format!("{name}-{sent}"));
                        under_way.push(tokio::spawn(async move { prober.probe(&id).await }));
                        sent += 1;
                    }
                    Some(arrived) = under_way.next() => histogram.record(arrived??)?,
                }
            }
        }
    }
    Ok(Lag {
        name: name.to_owned(),
        histogram,
    })
}

struct Prober {
    leader: Client,
    on: Client,
    index: String,
    question: Question,
}

impl Prober {
    /// Microseconds from the leader's answer to the first answer that has the document, which
    /// includes the time that this question takes.
    async fn probe(&self, id: &str) -> Result<u64> {
        let id = id.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let path = format!("/{}/_doc/{id}", self.index);
        let document = json!({"message": "a single document", "level": "INFO"});
        self.leader.ok("PUT", &path, Some(&document)).await?;
        let written = Instant::now();
        while !self.has(&path).await? {
            ensure!(written.elapsed() < PATIENCE, "document {id} did not arrive");
            tokio::time::sleep(POLL.max(written.elapsed() / OF_WAITED)).await;
        }
        Ok(u64::try_from(written.elapsed().as_micros())?)
    }

    async fn has(&self, path: &str) -> Result<bool> {
        match self.question {
            Question::Read => Ok(self
                .on
                .call("GET", &format!("{path}?_source=false"), None)
                .await?
                .0
                == 200),
            Question::Condition => {
                let path = format!("{path}?if_seq_no={NEVER}&if_primary_term=1");
                let (status, answer) = self.on.call("DELETE", &path, None).await?;
                let reason = answer["error"]["reason"].as_str().unwrap_or_default();
                ensure!(status == 409, "DELETE {path}: {status} {answer}");
                Ok(reason.contains("current document has seqNo"))
            }
        }
    }
}
