//! Copies the live documents of one shard into a bootstrap topic: a point in time on the primary, scanned in `seq_no`
//! order.
//!
//! The scan begins with where the stream takes over: everything up to that sequence number is in the point in time,
//! which is opened later. A scan that was broken off goes on behind its last document with a new point in time: what
//! has changed since has a higher sequence number, and what was deleted since is in the stream.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use shardline_common::kafka::TopicError;
use shardline_common::opensearch::{OpenSearchError, path_segment};
use shardline_common::record::{Body, Operation, OperationKind, Record, SnapshotBegin, SnapshotEnd};
use shardline_common::types::{PrimaryTerm, SeqNo, TopicName};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::capture::{Context, Shard, Shipped, now_ms};
use crate::cluster;
use crate::publish::{Pending, PublishError};

/// What a page is meant to weigh, in bytes; the number of documents asked for follows from the last page's.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
const FIRST_PAGE_DOCUMENTS: usize = 100;
const MOST_PAGE_DOCUMENTS: usize = 5_000;
const KEEP_ALIVE: &str = "10m";
const PAGE_TIMEOUT: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    OpenSearch(#[from] OpenSearchError),
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("the scan's answer is not as expected: {0}")]
    Answer(#[from] serde_json::Error),
    #[error("document {id} has no _source: an index with _source disabled cannot be copied")]
    NoSource { id: String },
    #[error("the shard's capture has ended")]
    NoCapture,
}

/// Scans until the snapshot is complete in `topic`, starting again after errors.
pub async fn run(
    shard: Shard,
    topic: TopicName,
    context: Arc<Context>,
    shipped: watch::Receiver<Option<Shipped>>,
    stop: CancellationToken,
) {
    loop {
        let scan = Scan { shard: &shard, topic: &topic, context: &context };
        let outcome = tokio::select! {
            outcome = scan.run(shipped.clone()) => outcome,
            () = stop.cancelled() => return,
        };
        match outcome {
            Ok(()) => return,
            Err(error) => warn!(index = %shard.index, shard = %shard.shard, %topic, %error, "snapshot broken off"),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return,
        }
    }
}

struct Scan<'a> {
    shard: &'a Shard,
    topic: &'a TopicName,
    context: &'a Context,
}

impl Scan<'_> {
    async fn run(&self, mut shipped: watch::Receiver<Option<Shipped>>) -> Result<(), SnapshotError> {
        let last = self.context.kafka.last_record(self.topic, self.shard.shard).await?;
        let mut position = match last.map(|(_, record)| record) {
            Some(Record { body: Body::SnapshotEnd(_), .. }) => return Ok(()),
            Some(record) => record.seq_no,
            None => {
                let start = shipped.wait_for(Option::is_some).await.ok().and_then(|shipped| *shipped);
                self.begin(start.ok_or(SnapshotError::NoCapture)?).await?;
                SeqNo::NONE
            }
        };
        let index = path_segment(self.shard.index.as_str());
        let _: Value = self.context.opensearch.post(&format!("/{index}/_refresh"), &json!({})).await?;
        let path = format!(
            "/{index}/_search/point_in_time?keep_alive={KEEP_ALIVE}&preference=_shards:{}%7C_primary",
            self.shard.shard
        );
        let PointInTime { pit_id } = self.context.opensearch.post(&path, &json!({})).await?;
        let scanned = async {
            self.metadata(position).await?;
            self.pages(&pit_id, &mut position).await
        };
        let scanned = scanned.await;
        let closed: Result<Value, _> =
            self.context.opensearch.delete("/_search/point_in_time", Some(&json!({"pit_id": [pit_id]}))).await;
        if let Err(error) = closed {
            warn!(%error, "a point in time could not be closed; it expires by itself");
        }
        let documents = scanned?;
        let end = Body::SnapshotEnd(SnapshotEnd { documents, max_seq_no: position });
        self.send(position, end).await?;
        info!(index = %self.shard.index, shard = %self.shard.shard, topic = %self.topic, documents,
              "snapshot complete");
        Ok(())
    }

    async fn begin(&self, start: Shipped) -> Result<(), SnapshotError> {
        let index = path_segment(self.shard.index.as_str());
        let path = format!("/{index}/_count?preference=_shards:{}%7C_primary", self.shard.shard);
        let Count { count } = self.context.opensearch.get(&path).await?;
        let begin = SnapshotBegin { seq_no: start.seq_no, offset: start.offset, documents: count };
        self.send(SeqNo::NONE, Body::SnapshotBegin(begin)).await
    }

    /// Ships the index's metadata, asked for after the point in time was opened: so it covers every document in it.
    async fn metadata(&self, position: SeqNo) -> Result<(), SnapshotError> {
        let (opensearch, index, uuid) = (&self.context.opensearch, &self.shard.index, &self.shard.uuid);
        let state = cluster::local_state(opensearch, index, uuid).await?.ok_or(SnapshotError::NoCapture)?;
        let metadata = cluster::fetch_metadata(opensearch, index, uuid, &state).await?;
        self.send(position, Body::Metadata(Box::new(metadata))).await
    }

    /// Ships every document above `position`; returns how many.
    async fn pages(&self, pit_id: &str, position: &mut SeqNo) -> Result<u64, SnapshotError> {
        let mut size = FIRST_PAGE_DOCUMENTS;
        let mut documents = 0;
        let mut in_flight: VecDeque<Pending> = VecDeque::new();
        loop {
            let request = json!({
                "size": size,
                "pit": {"id": pit_id, "keep_alive": KEEP_ALIVE},
                "query": {"range": {"_seq_no": {"gt": position.0}}},
                "sort": [{"_seq_no": "asc"}],
                "seq_no_primary_term": true,
                "version": true,
                "track_total_hits": false,
            });
            let body = Some(("application/json", Bytes::from(request.to_string())));
            let answer = self.context.opensearch.send(Method::POST, "/_search", body, PAGE_TIMEOUT).await?;
            let page: Page<'_> = serde_json::from_slice(&answer)?;
            let found = page.hits.hits.len();
            if found == 0 {
                break;
            }
            // The page before is acknowledged while the server worked on this one.
            self.drain(&mut in_flight).await?;
            for hit in page.hits.hits {
                let record = hit.into_record()?;
                *position = record.seq_no;
                in_flight.push_back(self.context.publisher.send(self.topic, self.shard.shard, &record).await?);
            }
            documents += found as u64;
            let labels = [self.shard.index.to_string(), self.shard.shard.to_string()];
            self.context.metrics.snapshot_documents.with_label_values(&labels).inc_by(found as u64);
            size = (PAGE_BYTES / (answer.len() / found).max(1)).clamp(1, MOST_PAGE_DOCUMENTS);
        }
        self.drain(&mut in_flight).await?;
        Ok(documents)
    }

    async fn drain(&self, in_flight: &mut VecDeque<Pending>) -> Result<(), SnapshotError> {
        while let Some(pending) = in_flight.pop_front() {
            self.context.publisher.delivered(pending).await?;
        }
        Ok(())
    }

    async fn send(&self, seq_no: SeqNo, body: Body) -> Result<(), SnapshotError> {
        let record = Record { seq_no, timestamp_ms: now_ms(), body };
        self.context.publisher.send_and_wait(self.topic, self.shard.shard, &record).await?;
        Ok(())
    }
}

#[derive(Deserialize)]
struct PointInTime {
    pit_id: String,
}

#[derive(Deserialize)]
struct Count {
    count: u64,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    hits: Hits<'a>,
}

#[derive(Deserialize)]
struct Hits<'a> {
    #[serde(borrow)]
    hits: Vec<Hit<'a>>,
}

#[derive(Deserialize)]
struct Hit<'a> {
    _id: String,
    _seq_no: i64,
    _primary_term: i64,
    _version: i64,
    _routing: Option<String>,
    #[serde(borrow)]
    _source: Option<&'a RawValue>,
}

impl Hit<'_> {
    fn into_record(self) -> Result<Record, SnapshotError> {
        let Some(source) = self._source else { return Err(SnapshotError::NoSource { id: self._id }) };
        let kind = OperationKind::Index {
            id: self._id,
            source: Bytes::copy_from_slice(source.get().as_bytes()),
            routing: self._routing,
            version: self._version,
        };
        Ok(Record {
            seq_no: SeqNo(self._seq_no),
            timestamp_ms: now_ms(),
            body: Body::Operation(Operation { primary_term: PrimaryTerm(self._primary_term), kind }),
        })
    }
}
