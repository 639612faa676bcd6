//! How long a single document takes from the leader's answer until it can be read on the follower.

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

/// Lags in microseconds.
pub struct Lag {
    pub name: String,
    pub histogram: Histogram<u64>,
}

impl Lag {
    pub fn milliseconds(&self, quantile: f64) -> f64 {
        self.histogram.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// When probes are sent.
pub enum Schedule {
    /// Each a random pause of up to so long after the last one has arrived.
    OneByOne { pause: Duration },
    /// So many a second, whether or not earlier ones have arrived.
    PerSecond(f64),
}

pub async fn measure(arena: &Arena, index: &str, name: &str, schedule: &Schedule, probes: u64) -> Result<Lag> {
    let mut histogram = Histogram::new(3)?;
    let mut random = Random::seeded(5);
    let prober =
        Arc::new(Prober { leader: arena.leader.clone(), follower: arena.follower.clone(), index: index.to_owned() });
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
    Ok(Lag { name: name.to_owned(), histogram })
}

struct Prober {
    leader: Client,
    follower: Client,
    index: String,
}

impl Prober {
    /// Microseconds from the leader's answer to the follower's first answer that has the document, which includes the
    /// time that this read takes.
    async fn probe(&self, id: &str) -> Result<u64> {
        let id = id.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let document = json!({"message": "a single document", "level": "INFO"});
        self.leader.ok("PUT", &format!("/{}/_doc/{id}", self.index), Some(&document)).await?;
        let written = Instant::now();
        let path = format!("/{}/_doc/{id}?_source=false", self.index);
        while self.follower.call("GET", &path, None).await?.0 != 200 {
            ensure!(written.elapsed() < PATIENCE, "document {id} did not arrive on the follower");
            tokio::time::sleep(POLL).await;
        }
        Ok(u64::try_from(written.elapsed().as_micros())?)
    }
}
