//! Several bulk requests of one shard under way at once, without ever letting two of them race for a document.
//!
//! An operation waits while an earlier one on the same document is under way. So documents change in order even when a
//! request is repeated much later, and nothing depends on how long the follower index remembers a deletion.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use shardline_common::opensearch::OpenSearch;
use shardline_common::types::{IndexName, Offset, SeqNo};

use super::batch::{Batch, Target};
use super::bulk::{ApplyError, Sink, Written};
use crate::metrics::Metrics;

/// What a pipeline writes to.
#[derive(Clone)]
pub struct Destination {
    pub opensearch: OpenSearch,
    pub index: IndexName,
    pub target: Target,
    pub metrics: Arc<Metrics>,
}

/// Everything up to here is in the follower index.
#[derive(Debug)]
pub struct Applied {
    pub seq_no: SeqNo,
    /// The next record to read.
    pub offset: Offset,
    pub operations: u64,
    pub written: Written,
}

pub struct Pipeline {
    destination: Destination,
    writers: usize,
    /// Finished in the order of their start, so what comes out is contiguous.
    under_way: FuturesOrdered<BoxFuture<'static, Result<Finished, ApplyError>>>,
    ids: HashSet<String>,
}

struct Finished {
    applied: Applied,
    ids: Vec<String>,
}

impl Pipeline {
    /// `writers` is how many requests may be under way at once.
    pub fn new(destination: Destination, writers: usize) -> Self {
        Self { destination, writers: writers.max(1), under_way: FuturesOrdered::new(), ids: HashSet::new() }
    }

    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Whether a batch can be started now.
    pub fn has_room_for(&self, batch: &Batch) -> bool {
        self.under_way.len() < self.writers && !batch.writes().iter().any(|write| self.ids.contains(&write.id))
    }

    /// Starts a batch for which there is room. `offset` is behind its last record, `highest` the highest sequence
    /// number that this replication can have written to the shard.
    pub fn start(&mut self, batch: Batch, seq_no: SeqNo, offset: Offset, highest: SeqNo) {
        debug_assert!(self.has_room_for(&batch));
        let operations = batch.operations();
        let ids: Vec<String> = batch.writes().iter().map(|write| write.id.clone()).collect();
        self.ids.extend(ids.iter().cloned());
        let destination = self.destination.clone();
        self.under_way.push_back(Box::pin(async move {
            let sink = Sink {
                opensearch: &destination.opensearch,
                index: &destination.index,
                target: destination.target,
                metrics: &destination.metrics,
            };
            let written = sink.write(batch.into_writes(), highest).await?;
            Ok(Finished { applied: Applied { seq_no, offset, operations, written }, ids })
        }));
    }

    /// Waits for the oldest batch under way; never resolves while there is none.
    pub async fn finish_one(&mut self) -> Result<Applied, ApplyError> {
        match self.under_way.next().await {
            Some(finished) => {
                let finished = finished?;
                for id in &finished.ids {
                    self.ids.remove(id);
                }
                Ok(finished.applied)
            }
            None => std::future::pending().await,
        }
    }
}
