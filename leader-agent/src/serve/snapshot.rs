//! Copies the live documents of one shard into a bootstrap topic: a point in time on the primary,
//! scanned stretch by stretch of sequence numbers.
//!
//! The scan begins with where the stream takes over: everything up to that sequence number is in
//! the point in time, which is opened later. A scan that was broken off goes on from its last
//! document's stretch with a new point in time: what has changed since has a higher sequence
//! number, and what was deleted since is in the stream.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use shardline_common::backoff::Restarts;
use shardline_common::clock::now_ms;
use shardline_common::control::ScanStandstill;
use shardline_common::kafka::TopicError;
use shardline_common::opensearch::OpenSearchError;
use shardline_common::record::{Body, Record, SnapshotBegin, SnapshotEnd};
use shardline_common::scan::{ScanError, ShardScan};
use shardline_common::standstill::{Cause, StandstillReason};
use shardline_common::types::{SeqNo, TopicName};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::capture::{Context, Shipped};
use crate::node::{self, Shard};
use crate::publish::{Appender, Pending, PublishError};
use crate::scan::{NoSource, Stretches, document, open_settled};

/// Between attempts: at first, and at most where trying again may help.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Between attempts where somebody has to change something first. Each may bring a stretch of
/// documents again.
const REFUSED_RETRY: Duration = Duration::from_secs(300);

#[derive(Debug, thiserror::Error)]
enum SnapshotError {
    #[error(transparent)]
    OpenSearch(#[from] OpenSearchError),
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error(transparent)]
    NoSource(#[from] NoSource),
    #[error("the shard's capture has ended")]
    NoCapture,
}

impl SnapshotError {
    /// Whether another attempt may succeed without anybody changing anything.
    fn retryable(&self) -> bool {
        match self {
            Self::OpenSearch(error) | Self::Scan(ScanError::OpenSearch(error))
                if matches!(error.status(), Some(401 | 403)) =>
            {
                true
            }
            Self::OpenSearch(error) => error.retryable(),
            Self::Scan(error) => error.retryable(),
            Self::Topic(_) | Self::Publish(_) | Self::NoCapture => true,
            Self::NoSource(_) => false,
        }
    }

    fn cause(&self) -> Cause {
        match self {
            Self::Topic(error) if error.is_missing() => Cause::TopicMissing,
            Self::Topic(_) | Self::Publish(_) => Cause::KafkaAway,
            _ => Cause::LeaderUnreadable,
        }
    }
}

/// Scans until the snapshot is complete in `topic`, starting again after errors, of which whoever
/// waits for it is told.
pub async fn copy_shard(
    shard: Shard,
    topic: TopicName,
    context: Arc<Context>,
    shipped: watch::Receiver<Option<Shipped>>,
    stop: CancellationToken,
) {
    let mut delays = Restarts::new(FIRST_RETRY, LAST_RETRY);
    let (mut told, mut is_complete) = (None, false);
    loop {
        let scan = Scan {
            shard: &shard,
            topic: &topic,
            context: &context,
            appender: context.log.appender(),
        };
        let outcome = tokio::select! {
            outcome = scan.run(shipped.clone()) => outcome,
            () = stop.cancelled() => break,
        };
        let Err(error) = outcome else {
            is_complete = true;
            break;
        };
        let mut delay = delays.next_delay();
        if !error.retryable() {
            delay = REFUSED_RETRY;
        }
        warn!(
            index = %shard.index, shard = %shard.shard, %topic, %error,
            retry_in_s = delay.as_secs(), "snapshot broken off"
        );
        tokio::select! {
            () = tell(&shard, &topic, &context, &error, &mut told) => {}
            () = stop.cancelled() => break,
        }
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => break,
        }
    }
    // An agent that is gone may have told of another standstill.
    if told.is_some() || is_complete {
        let key = ScanStandstill::key_of(&context.cluster, &topic, shard.shard);
        if let Err(error) = context.board.take_down(&key).await {
            warn!(
                index = %shard.index, shard = %shard.shard, %error,
                "a standstill that is over is still shown"
            );
        }
    }
}

/// Says why the scan does not get on, unless that was said already.
async fn tell(
    shard: &Shard,
    topic: &TopicName,
    context: &Context,
    error: &SnapshotError,
    told: &mut Option<StandstillReason>,
) {
    let detail = format!("the leader's documents cannot be read: {error}");
    if told.as_ref().is_some_and(|told| told.detail == detail) {
        return;
    }
    let why = StandstillReason::new(error.cause(), now_ms(), detail).following(told.as_ref());
    let standstill = ScanStandstill {
        cluster_uuid: context.cluster.clone(),
        topic: topic.clone(),
        shard: shard.shard,
        why,
    };
    match context.board.tell(&standstill).await {
        Ok(()) => *told = Some(standstill.why),
        Err(error) => {
            warn!(
                index = %shard.index, shard = %shard.shard, %error,
                "followers are not told of it"
            );
        }
    }
}

struct Scan<'a> {
    shard: &'a Shard,
    topic: &'a TopicName,
    context: &'a Context,
    appender: Arc<dyn Appender>,
}

impl Scan<'_> {
    async fn run(
        &self,
        mut shipped: watch::Receiver<Option<Shipped>>,
    ) -> Result<(), SnapshotError> {
        let last = self
            .context
            .log
            .last_record(self.topic, self.shard.shard)
            .await?;
        let (mut position, start) = match last.map(|(_, record)| record) {
            Some(Record {
                body: Body::SnapshotEnd(_),
                ..
            }) => return Ok(()),
            Some(record) => (record.seq_no, None),
            None => {
                let shipped = shipped
                    .wait_for(Option::is_some)
                    .await
                    .ok()
                    .and_then(|shipped| *shipped);
                (SeqNo::NONE, Some(shipped.ok_or(SnapshotError::NoCapture)?))
            }
        };
        let at_least = start.as_ref().map_or(position, |start| start.seq_no);
        let scan = open_settled(&self.context.opensearch, self.shard, at_least).await?;
        let scanned = self.ship(&scan, start, &mut position).await;
        scan.close().await;
        let documents = scanned?;
        let end = Body::SnapshotEnd(SnapshotEnd {
            documents,
            max_seq_no: position,
        });
        self.send(position, end).await?;
        info!(index = %self.shard.index, shard = %self.shard.shard, topic = %self.topic, documents,
              "snapshot complete");
        Ok(())
    }

    /// `start` is where the stream takes over, for a snapshot that has not begun yet.
    async fn ship(
        &self,
        scan: &ShardScan<'_>,
        start: Option<Shipped>,
        position: &mut SeqNo,
    ) -> Result<u64, SnapshotError> {
        if let Some(Shipped { seq_no, offset }) = start {
            let begin = SnapshotBegin {
                seq_no,
                offset,
                documents: scan.count().await?,
            };
            self.send(SeqNo::NONE, Body::SnapshotBegin(begin)).await?;
        }
        self.metadata(*position).await?;
        self.documents(scan, position).await
    }

    /// Ships the index's metadata, asked for after the point in time was opened: so it covers every
    /// document in it.
    async fn metadata(&self, position: SeqNo) -> Result<(), SnapshotError> {
        let (opensearch, index, uuid) = (
            &self.context.opensearch,
            &self.shard.index,
            &self.shard.uuid,
        );
        let state = node::local_state(opensearch, index, uuid)
            .await?
            .ok_or(SnapshotError::NoCapture)?;
        let metadata = node::fetch_metadata(opensearch, index, uuid, &state).await?;
        self.send(position, Body::Metadata(Box::new(metadata)))
            .await
    }

    /// Ships every document from `position`'s stretch on, and leaves the highest one's there;
    /// returns how many.
    async fn documents(
        &self,
        scan: &ShardScan<'_>,
        position: &mut SeqNo,
    ) -> Result<u64, SnapshotError> {
        let mut documents = 0;
        let mut in_flight: VecDeque<Pending> = VecDeque::new();
        let mut pages = Stretches::after(scan, *position, self.context.stretch);
        let labels = [self.shard.index.to_string(), self.shard.shard.to_string()];
        let scanning = self.context.metrics.scan_seconds.with_label_values(&labels);
        loop {
            let mut turn = self.context.turns.page().await;
            let asked = Instant::now();
            let page = pages.next().await?;
            scanning.inc_by(asked.elapsed().as_secs_f64());
            if page.is_empty() {
                break;
            }
            // The page before is acknowledged while the server worked on this one.
            turn.through(self.drain(&mut in_flight)).await?;
            documents += page.len() as u64;
            self.context
                .metrics
                .snapshot_documents
                .with_label_values(&labels)
                .inc_by(page.len() as u64);
            let timestamp_ms = now_ms();
            let mut records = Vec::with_capacity(page.len());
            for hit in page {
                *position = hit.seq_no.max(*position);
                records.push(Record {
                    seq_no: hit.seq_no,
                    timestamp_ms,
                    body: Body::Operation(document(hit)?),
                });
            }
            in_flight.push_back(
                turn.through(self.appender.send(self.topic, self.shard.shard, &records))
                    .await?,
            );
        }
        self.drain(&mut in_flight).await?;
        Ok(documents)
    }

    async fn drain(&self, in_flight: &mut VecDeque<Pending>) -> Result<(), SnapshotError> {
        while let Some(pending) = in_flight.pop_front() {
            pending.await?;
        }
        Ok(())
    }

    async fn send(&self, seq_no: SeqNo, body: Body) -> Result<(), SnapshotError> {
        let record = Record {
            seq_no,
            timestamp_ms: now_ms(),
            body,
        };
        let sent = self
            .appender
            .send(self.topic, self.shard.shard, std::slice::from_ref(&record))
            .await?;
        sent.await?;
        Ok(())
    }
}
