//! Plain clients that send a load as fast as the cluster takes it, or at a given pace.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use tokio::time::sleep_until;

use crate::workload::Workload;

/// Sends bulk requests to one cluster.
#[derive(Clone)]
pub struct Writer {
    base: Arc<str>,
    http: reqwest::Client,
}

impl Writer {
    pub fn new(base: &str) -> Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(120))
            .tcp_nodelay(true)
            .build()?;
        Ok(Self {
            base: base.into(),
            http,
        })
    }

    /// Sends a load; bulk by bulk, its writers take the indices in turn. Gives the time from the
    /// first request to the last answer.
    pub async fn write(&self, indices: &[String], load: &Workload) -> Result<Duration> {
        let started = Instant::now();
        try_join_all(load.writers.iter().map(|bulks| async {
            for (bulk, index) in bulks.iter().zip(indices.iter().cycle()) {
                self.bulk(index, bulk).await?;
            }
            Ok::<_, anyhow::Error>(())
        }))
        .await?;
        Ok(started.elapsed())
    }

    /// Sends a load at so many operations a second, again and again, until dropped. Notes how many
    /// microseconds after it was due each bulk was answered: a writer that is held up sends the
    /// rest as fast as it can.
    pub async fn keep_writing(
        &self,
        index: &str,
        load: &Workload,
        per_second: f64,
        answered: &RefCell<Histogram<u64>>,
    ) -> Result<()> {
        let bulks: usize = load.writers.iter().map(Vec::len).sum();
        let interval = Duration::from_secs_f64(
            load.operations as f64 / bulks as f64 * load.writers.len() as f64 / per_second,
        );
        try_join_all(load.writers.iter().map(|bulks| async {
            let mut due = Instant::now();
            for bulk in bulks.iter().cycle() {
                sleep_until(due.into()).await;
                self.bulk(index, bulk).await?;
                answered
                    .borrow_mut()
                    .record(u64::try_from(due.elapsed().as_micros())?)?;
                due += interval;
            }
            Ok::<_, anyhow::Error>(())
        }))
        .await?;
        Ok(())
    }

    async fn bulk(&self, index: &str, body: &Bytes) -> Result<()> {
        let answer = loop {
            let request = self
                .http
                .post(format!("{}/{index}/_bulk", self.base))
                .header("content-type", "application/x-ndjson");
            let response = request
                .body(body.clone())
                .send()
                .await
                .context("bulk request")?;
            // A client waits when the node's memory is full.
            if response.status() != reqwest::StatusCode::TOO_MANY_REQUESTS {
                break response.bytes().await?;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        // Read no further than this flag: a client's own work is not what is measured.
        let head = String::from_utf8_lossy(&answer[..answer.len().min(200)]);
        ensure!(head.contains("\"errors\":false"), "bulk request: {head}");
        Ok(())
    }
}
