//! Loads a snapshot: asks the leader's agents for one, writes its documents into the follower index, and sets the
//! checkpoints from which the stream goes on.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use shardline_common::metadata::IndexMetadata;
use shardline_common::record::{Body, SnapshotBegin};
use shardline_common::types::{Offset, SeqNo, ShardId, TopicName};
use tracing::info;

use crate::apply::batch::Batch;
use crate::apply::pipeline::{Destination, Pipeline};
use crate::checkpoint::Checkpoint;
use crate::shard::{BATCH_BYTES, BATCH_OPERATIONS, Index, ShardError, WRITERS};
use crate::stream::{PartitionStream, StreamError};

/// How often a bootstrap topic that is not there yet is looked for.
const TOPIC_POLL: Duration = Duration::from_millis(200);
const STREAM_RETRY: Duration = Duration::from_millis(500);

/// Loads one shard's snapshot and saves the checkpoint behind it. Starts again from the partition's beginning after
/// errors that may pass: every write of a snapshot may be repeated.
pub async fn load(index: Arc<Index>, destination: Destination, topic: TopicName) -> Result<(), ShardError> {
    loop {
        match load_once(&index, &destination, &topic).await {
            Err(error) if error.retryable() => {
                info!(index = %index.follower.name, shard = %destination.target.shard, %error, "snapshot not readable yet");
                tokio::time::sleep(STREAM_RETRY).await;
            }
            outcome => return outcome,
        }
    }
}

async fn load_once(index: &Index, destination: &Destination, topic: &TopicName) -> Result<(), ShardError> {
    let shard = destination.target.shard;
    wait_for_topic(index, topic, shard).await;
    let mut loader = Loader {
        index,
        shard,
        stream: index.streams.open(topic, shard, Offset(0))?,
        pipeline: Pipeline::new(destination.clone(), WRITERS),
        begin: None,
        highest: SeqNo::NONE,
        documents: 0,
    };
    let checkpoint = loader.run().await?;
    index.checkpoints.save(&index.subscription, shard, &checkpoint)?;
    index.progress.shards[shard.0 as usize].loaded.store(true, Relaxed);
    info!(index = %index.follower.name, %shard, documents = loader.documents, after = %checkpoint.seq_no, "snapshot loaded");
    Ok(())
}

async fn wait_for_topic(index: &Index, topic: &TopicName, shard: ShardId) {
    while index.kafka.watermarks(topic, shard).await.is_err() {
        tokio::time::sleep(TOPIC_POLL).await;
    }
}

/// What a record means for the load.
enum Taken {
    /// It is in the batch, or needs nothing.
    More,
    /// To be applied before any later document.
    Metadata(Box<IndexMetadata>),
    /// It was the last.
    End(Checkpoint),
}

struct Loader<'a> {
    index: &'a Index,
    shard: ShardId,
    stream: PartitionStream,
    pipeline: Pipeline,
    /// The first one: see [`SnapshotBegin`].
    begin: Option<SnapshotBegin>,
    highest: SeqNo,
    documents: u64,
}

impl Loader<'_> {
    async fn run(&mut self) -> Result<Checkpoint, ShardError> {
        let mut batch = Batch::default();
        loop {
            let (_, record) = tokio::select! {
                biased;
                applied = self.pipeline.finish_one() => {
                    self.done(applied?.operations);
                    continue;
                }
                next = self.stream.next() => next?,
            };
            let mut taken = self.take(&mut batch, record.seq_no, record.body)?;
            while matches!(taken, Taken::More) && batch.bytes() < BATCH_BYTES && batch.operations() < BATCH_OPERATIONS {
                let Some(ready) = self.stream.ready() else { break };
                let (_, record) = ready?;
                taken = self.take(&mut batch, record.seq_no, record.body)?;
            }
            if !batch.is_empty() {
                while !self.pipeline.has_room_for(&batch) {
                    let applied = self.pipeline.finish_one().await?;
                    self.done(applied.operations);
                }
                let progress = &self.index.progress.shards[self.shard.0 as usize];
                progress.bytes_done.fetch_add(batch.bytes() as u64, Relaxed);
                self.pipeline.start(std::mem::take(&mut batch), self.highest, Offset(0), self.highest);
            }
            match taken {
                Taken::More => {}
                Taken::Metadata(metadata) => self.index.apply_metadata(&metadata).await?,
                Taken::End(checkpoint) => {
                    while !self.pipeline.is_idle() {
                        let applied = self.pipeline.finish_one().await?;
                        self.done(applied.operations);
                    }
                    return Ok(checkpoint);
                }
            }
        }
    }

    fn take(&mut self, batch: &mut Batch, seq_no: SeqNo, body: Body) -> Result<Taken, ShardError> {
        let progress = &self.index.progress.shards[self.shard.0 as usize];
        match body {
            Body::SnapshotBegin(begin) => {
                progress.documents_total.store(begin.documents, Relaxed);
                self.begin.get_or_insert(begin);
            }
            Body::Operation(operation) => {
                self.highest = self.highest.max(seq_no);
                let added = batch.add(seq_no, operation.kind);
                added.map_err(|(id, source)| ShardError::Source { id, seq_no, source })?;
            }
            Body::SnapshotEnd(end) => {
                let begin = self.begin.as_ref().ok_or(StreamError::Record {
                    topic: self.index.topic.clone(),
                    shard: self.shard,
                    offset: Offset(0),
                    source: shardline_common::record::RecordError::BadBody {
                        op: "snapshot_end".to_owned(),
                        what: "beginning",
                        reason: "no snapshot_begin stands before it".to_owned(),
                    },
                })?;
                let highest = self.highest.max(end.max_seq_no).max(begin.seq_no);
                return Ok(Taken::End(Checkpoint { seq_no: begin.seq_no, offset: begin.offset, highest }));
            }
            Body::Metadata(metadata) => return Ok(Taken::Metadata(metadata)),
            Body::Heartbeat { .. } | Body::Gap { .. } => {}
        }
        Ok(Taken::More)
    }

    fn done(&mut self, documents: u64) {
        self.documents += documents;
        let progress = &self.index.progress.shards[self.shard.0 as usize];
        progress.documents_done.fetch_add(documents, Relaxed);
    }
}
