//! Brings a partition up to the global checkpoint from a scan of the shard, where its operations
//! are not to be had: the translog no longer reaches back, or the agent has no access to the node's
//! files.
//!
//! The scan finds the documents that were last changed in the missing stretch. Deletions leave no
//! trace that a scan could find, so a *complete* frame also names every other document that exists:
//! a follower deletes what it has and the frame does not name.

use std::collections::VecDeque;

use shardline_common::record::{Body, FrameId, Record, ResyncBegin, ResyncEnd};
use shardline_common::scan::{Hit, Pages, ShardScan, Stretch};
use shardline_common::types::SeqNo;
use tokio::time::Instant;
use tracing::{info, warn};
use uuid::Uuid;

use super::{Capture, CaptureError};
use crate::publish::Pending;
use crate::scan::{document, open_settled};
use crate::source::{Missing, Reason};

/// Ids of a record, in bytes.
const IDS_RECORD_BYTES: usize = 256 * 1024;
/// Pages, or records of ids, on their way to Kafka before the oldest is waited for.
const SENDS_IN_FLIGHT_MAX: usize = 2;

impl Capture<'_> {
    /// Ships everything behind the partition's last operation up to `missing.to`, which the shard's
    /// global checkpoint has reached.
    pub(crate) async fn resync(&mut self, missing: Missing) -> Result<(), CaptureError> {
        if let Reason::Lost = missing.reason {
            self.context
                .metrics
                .resyncs
                .with_label_values(&self.labels())
                .inc();
            warn!(index = %self.shard.index, shard = %self.shard.shard, from = %self.sent.next(), to = %missing.to,
                  "resync: neither translog nor spool has these operations any more");
        }
        let scan = open_settled(&self.context.opensearch, self.shard, missing.to).await?;
        let resyncing = self
            .context
            .metrics
            .resyncing
            .with_label_values(&self.labels());
        resyncing.set(1);
        let outcome = self.ship_missing(&scan, &missing).await;
        resyncing.set(0);
        scan.close().await;
        outcome
    }

    async fn ship_missing(
        &mut self,
        scan: &ShardScan<'_>,
        missing: &Missing,
    ) -> Result<(), CaptureError> {
        let (from, to) = (self.sent.next(), missing.to);
        let frame = FrameId((Uuid::new_v4().as_u128() >> 65) as i64);
        let (complete, cause) = match missing.reason {
            Reason::Lost => (
                true,
                format!("neither translog nor spool had operation {from} any more"),
            ),
            Reason::Poll { complete } => (complete, "poll".to_owned()),
        };
        let documents = if complete { scan.count().await? } else { 0 };
        let begin = ResyncBegin {
            frame,
            from,
            to,
            cause,
            documents,
        };
        self.ship_frame(
            scan,
            begin,
            scan.documents(Stretch { from, to: Some(to) }),
            complete,
        )
        .await
    }

    /// Ships the documents that `pages` has; for a complete frame, the ids of all others, too.
    pub(super) async fn ship_frame(
        &mut self,
        scan: &ShardScan<'_>,
        begin: ResyncBegin,
        mut pages: Pages<'_>,
        complete: bool,
    ) -> Result<(), CaptureError> {
        self.in_frame = true;
        let (frame, from, to) = (begin.frame, begin.from, begin.to);
        self.send_and_wait(Body::ResyncBegin(begin)).await?;
        // Asked for after the point in time was opened, so that it covers every document in it.
        self.ship_metadata().await?;

        let counter = self
            .context
            .metrics
            .resync_documents
            .with_label_values(&self.labels());
        let context = self.context;
        let mut in_flight: VecDeque<Pending> = VecDeque::new();
        let mut documents = 0;
        let scanning = self
            .context
            .metrics
            .scan_seconds
            .with_label_values(&self.labels());
        loop {
            let mut turn = context.turns.page().await;
            let asked = Instant::now();
            let page = pages.next().await?;
            scanning.inc_by(asked.elapsed().as_secs_f64());
            if page.is_empty() {
                break;
            }
            documents += page.len() as u64;
            counter.inc_by(page.len() as u64);
            let mut records = Vec::with_capacity(page.len());
            for hit in page {
                let (seq_no, operation) = (hit.seq_no, document(hit)?);
                records.push(self.record(Body::ResyncDocument {
                    frame,
                    seq_no,
                    operation,
                }));
            }
            turn.through(self.send(&records, &mut in_flight)).await?;
        }
        if complete {
            let before = Stretch {
                from: SeqNo(0),
                to: Some(SeqNo(from.0 - 1)),
            };
            let after = Stretch {
                from: to.next(),
                to: None,
            };
            for stretch in [before, after] {
                self.ship_ids(scan, stretch, frame, &mut in_flight).await?;
            }
        }
        while let Some(pending) = in_flight.pop_front() {
            pending.await?;
        }
        (self.sent, self.in_frame) = (to, false);
        self.send_and_wait(Body::ResyncEnd(ResyncEnd {
            frame,
            documents,
            complete,
        }))
        .await?;
        if complete {
            info!(index = %self.shard.index, shard = %self.shard.shard, %from, %to, documents, "resync complete");
        }
        Ok(())
    }

    async fn ship_ids(
        &mut self,
        scan: &ShardScan<'_>,
        stretch: Stretch,
        frame: FrameId,
        in_flight: &mut VecDeque<Pending>,
    ) -> Result<(), CaptureError> {
        if stretch.to.is_some_and(|to| to < stretch.from) {
            return Ok(());
        }
        let context = self.context;
        let mut pages = scan.ids(stretch);
        let (mut ids, mut bytes) = (Vec::new(), 0);
        loop {
            let mut turn = context.turns.page().await;
            let page = pages.next().await?;
            let last = page.is_empty();
            for Hit { id, .. } in page {
                bytes += id.len();
                ids.push(id);
            }
            if !ids.is_empty() && (last || bytes >= IDS_RECORD_BYTES) {
                bytes = 0;
                let record = self.record(Body::ResyncIds {
                    frame,
                    ids: std::mem::take(&mut ids),
                });
                turn.through(self.send(&[record], in_flight)).await?;
            }
            if last {
                return Ok(());
            }
        }
    }

    async fn send(
        &mut self,
        records: &[Record],
        in_flight: &mut VecDeque<Pending>,
    ) -> Result<(), CaptureError> {
        in_flight.push_back(
            self.appender
                .send(&self.shard.topic, self.shard.shard, records)
                .await?,
        );
        while in_flight.len() > SENDS_IN_FLIGHT_MAX {
            let Some(oldest) = in_flight.pop_front() else {
                break;
            };
            oldest.await?;
        }
        Ok(())
    }
}
