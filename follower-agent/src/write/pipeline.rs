//! Several bulk requests of one shard under way at once, without ever letting two of them race for
//! a document.
//!
//! An operation waits while an earlier one on the same document is under way. So documents change
//! in order even when a request is repeated much later, and nothing depends on how long the
//! follower index remembers a deletion.

use std::collections::HashSet;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use shardline_common::types::{Offset, SeqNo};

use super::batch::Batch;
use super::outcome::{ApplyError, Written};
use super::pace::Pace;
use super::request::Destination;

/// Everything up to here is in the follower index.
#[derive(Debug)]
pub(crate) struct Applied {
    pub seq_no: SeqNo,
    /// The next record to read.
    pub offset: Offset,
    pub operations: u64,
    pub written: Written,
}

pub(crate) struct Pipeline {
    destination: Destination,
    limits: Limits,
    pace: Pace,
    /// Finished in the order of their start, so what comes out is contiguous.
    under_way: FuturesOrdered<BoxFuture<'static, Result<Finished, ApplyError>>>,
    ids: HashSet<String>,
}

struct Finished {
    applied: Applied,
    ids: Vec<String>,
}

/// How much a shard may send while the follower cluster takes it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests that may be under way at once.
    pub requests: usize,
    /// Of a request.
    pub operations: u64,
}

impl Pipeline {
    pub(crate) fn new(destination: Destination, limits: Limits) -> Self {
        let (under_way, ids) = (FuturesOrdered::new(), HashSet::new());
        Self {
            destination,
            limits,
            pace: Pace::default(),
            under_way,
            ids,
        }
    }

    /// Whether a batch is as large as a request may be now.
    pub(crate) fn is_full(&self, batch: &Batch) -> bool {
        let operations = self
            .pace
            .operations(self.limits.operations, self.limits.requests);
        let bytes = self.destination.memory.of_a_batch(self.limits.requests);
        batch.bytes() >= bytes || batch.operations() >= operations
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Whether a batch can be started now.
    pub(crate) fn has_room_for(&self, batch: &Batch) -> bool {
        self.under_way.len() < self.pace.requests(self.limits.requests)
            && !batch
                .writes()
                .iter()
                .any(|write| self.ids.contains(&write.id))
    }

    /// Starts a batch for which there is room. `offset` is behind its last record, `highest` the
    /// highest sequence number that this replication can have written to the shard.
    pub(crate) fn start(&mut self, batch: Batch, seq_no: SeqNo, offset: Offset, highest: SeqNo) {
        debug_assert!(self.has_room_for(&batch));
        let operations = batch.operations();
        let ids: Vec<String> = batch
            .writes()
            .iter()
            .map(|write| write.id.clone())
            .collect();
        self.ids.extend(ids.iter().cloned());
        let destination = self.destination.clone();
        if self.is_idle() {
            destination.memory.begin_requests();
        }
        self.under_way.push_back(Box::pin(async move {
            let (writes, unreadable) = batch.into_parts();
            if !unreadable.is_empty() {
                destination
                    .dead_letters
                    .keep(destination.target.shard, unreadable)
                    .await?;
            }
            let written = destination.write(writes, highest).await?;
            Ok(Finished {
                applied: Applied {
                    seq_no,
                    offset,
                    operations,
                    written,
                },
                ids,
            })
        }));
    }

    /// Waits for the oldest batch under way; never resolves while there is none.
    pub(crate) async fn finish_one(&mut self) -> Result<Applied, ApplyError> {
        match self.under_way.next().await {
            Some(finished) => {
                if self.is_idle() {
                    self.destination.memory.end_requests();
                }
                let finished = finished?;
                for id in &finished.ids {
                    self.ids.remove(id);
                }
                if finished.applied.written.throttled {
                    self.pace.overloaded();
                } else {
                    self.pace.went_through();
                }
                let (index, shard) = (
                    self.destination.index.as_str(),
                    self.destination.target.shard.to_string(),
                );
                self.destination
                    .metrics
                    .pace
                    .with_label_values(&[index, &shard])
                    .set(self.pace.share());
                Ok(finished.applied)
            }
            None => std::future::pending().await,
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        if !self.is_idle() {
            self.destination.memory.end_requests();
        }
    }
}
