//! Loads a snapshot: writes its documents into the follower index, and sets the checkpoints from
//! which the stream goes on. A load that was broken off goes on where it was.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use shardline_common::metadata::IndexMetadata;
use shardline_common::record::{Body, OperationKind, RecordError};
use shardline_common::types::{Offset, SeqNo, ShardId, TopicName};
use tracing::info;

use super::follow::look_back;
use super::own_history::Witness;
use super::standstill::failed;
use super::sweep::sweep;
use super::{ShardError, ShardPorts};
use crate::metrics::Metrics;
use crate::progress::{Checkpoint, Retries, ShardLoad, Source};
use crate::read::{Positioned, Records, StreamError, before_more};
use crate::write::{Applied, Batch, Destination, Pipeline};

/// How often a bootstrap topic that is not there yet is looked for.
const TOPIC_POLL: Duration = Duration::from_millis(200);
/// How long it may take the leader agents to make it before that is worth a word.
const TOPIC_PATIENCE: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Loads one shard's snapshot and saves the checkpoint behind it. `in_place` says that the shard
/// held documents before: those that the snapshot does not have are deleted.
pub async fn load<I: ShardPorts>(
    index: Arc<I>,
    destination: Destination,
    topic: TopicName,
    in_place: bool,
) -> Result<(), ShardError> {
    let shard = destination.target.shard;
    let mut retries = Retries::new(FIRST_RETRY, LAST_RETRY);
    destination.metrics.begin(index.name().as_str(), shard);
    loop {
        match load_once(&*index, &destination, &topic, in_place).await {
            Err(error) if error.retryable() => {
                let retry = failed(&*index, shard, &mut retries, &error);
                if retry.is_news {
                    info!(index = %index.name(), %shard, %error, "snapshot not readable yet");
                }
                tokio::time::sleep(retry.delay).await;
            }
            outcome => return outcome,
        }
    }
}

async fn load_once(
    index: &impl ShardPorts,
    destination: &Destination,
    topic: &TopicName,
    in_place: bool,
) -> Result<(), ShardError> {
    let shard = destination.target.shard;
    let progress = index.progress(shard);
    if index.checkpoints().load(index.key(), shard)?.is_some() {
        progress.loaded.store(true, Relaxed);
        return Ok(());
    }
    wait_for_topic(index, topic, shard).await;
    let copy = index.checkpoints().load_shard_copy(index.key(), shard)?;
    let saved = copy.as_ref().and_then(|copy| copy.own.clone());
    let witness = look_back(index, shard, saved).await?;
    if let Some(copy) = &copy {
        progress
            .documents_total
            .store(copy.begin.documents, Relaxed);
        progress.documents_done.store(copy.documents, Relaxed);
        progress.bytes_done.store(copy.bytes, Relaxed);
    }
    // Another agent, or this one with other checkpoints, may have loaded all of it before.
    let reach = index.reach(topic, shard).await?;
    let known = reach.as_ref().map_or(SeqNo::NONE, |reach| reach.seq_no);
    let offset = copy.as_ref().map_or(Offset(0), |copy| copy.offset);
    let mut stream = index
        .open(
            topic,
            shard,
            offset..reach.map_or(offset, |reach| reach.end),
        )
        .await?;
    let mut loader = Loader {
        index,
        shard,
        pipeline: Pipeline::new(destination.clone(), index.limits()),
        highest: copy.as_ref().map_or(known, |copy| copy.highest.max(known)),
        copy,
        witness,
        in_place,
        metrics: Arc::clone(&destination.metrics),
    };
    let checkpoint = loader.run(&mut stream).await?;
    drop(stream);
    if in_place {
        sweep(index, destination, checkpoint.seq_no, checkpoint.highest).await?;
    }
    index.save(shard, &checkpoint)?;
    index.checkpoints().forget_named(index.key(), shard)?;
    progress.loaded.store(true, Relaxed);
    let documents = progress.documents_done.load(Relaxed);
    info!(index = %index.name(), %shard, documents, after = %checkpoint.seq_no, "snapshot loaded");
    Ok(())
}

async fn wait_for_topic(index: &impl ShardPorts, topic: &TopicName, shard: ShardId) {
    let mut retries = Retries::new(TOPIC_POLL, TOPIC_POLL);
    let since = tokio::time::Instant::now();
    while let Err(error) = index.watermarks(topic, shard).await {
        let error = ShardError::from(error);
        // Leader agents make it within a moment.
        if since.elapsed() >= TOPIC_PATIENCE {
            let reason = error.standstill();
            index
                .progress(shard)
                .set_standing(Source::Reading, Some(reason));
            if retries.failed(&error).is_news {
                info!(index = %index.name(), %shard, %error, "waiting for the copy's topic");
            }
        }
        tokio::time::sleep(TOPIC_POLL).await;
    }
    index.progress(shard).set_standing(Source::Reading, None);
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

struct Loader<'a, I: ShardPorts> {
    index: &'a I,
    shard: ShardId,
    pipeline: Pipeline,
    /// What is acknowledged. Its beginning is the first that was read: see [`SnapshotBegin`].
    copy: Option<ShardLoad>,
    /// The highest sequence number that may stand in the follower index.
    highest: SeqNo,
    /// Whether the follower shard still has what was loaded.
    witness: Witness,
    in_place: bool,
    metrics: Arc<Metrics>,
}

impl<I: ShardPorts> Loader<'_, I> {
    async fn run(&mut self, stream: &mut I::Records) -> Result<Checkpoint, ShardError> {
        let (mut batch, mut behind) = (Batch::default(), Offset(0));
        loop {
            // As in following, requests are as large as the follower cluster leaves time for.
            if !batch.is_empty() && (self.pipeline.is_idle() || self.pipeline.is_full(&batch)) {
                before_more(stream, self.start(std::mem::take(&mut batch), behind)).await?;
            }
            let Positioned {
                mut offset,
                mut next,
                record,
            } = tokio::select! {
                biased;
                applied = self.pipeline.finish_one() => {
                    self.done(applied?)?;
                    continue;
                }
                read = stream.next() => read?,
            };
            let mut taken = self.take(&mut batch, record.seq_no, record.body)?;
            while matches!(taken, Taken::More) && !self.pipeline.is_full(&batch) {
                let Some(ready) = stream.ready() else { break };
                let record;
                Positioned {
                    offset,
                    next,
                    record,
                } = ready?;
                taken = self.take(&mut batch, record.seq_no, record.body)?;
            }
            // A record that is no document is read again after a crash.
            behind = if matches!(taken, Taken::More) {
                next
            } else {
                offset
            };
            if !matches!(taken, Taken::More) && !batch.is_empty() {
                before_more(stream, self.start(std::mem::take(&mut batch), behind)).await?;
            }
            match taken {
                Taken::More => {}
                Taken::Metadata(metadata) => {
                    before_more(stream, self.index.apply_metadata(self.shard, &metadata)).await?;
                }
                Taken::End(checkpoint) => {
                    while !self.pipeline.is_idle() {
                        let applied = self.pipeline.finish_one().await?;
                        self.done(applied)?;
                    }
                    let own = self.witness.own();
                    return Ok(Checkpoint { own, ..checkpoint });
                }
            }
        }
    }

    /// `offset` is that of the next record to read once the batch is acknowledged.
    async fn start(&mut self, batch: Batch, offset: Offset) -> Result<(), ShardError> {
        if self.in_place {
            let ids = batch.writes().iter().map(|write| &*write.id);
            self.index
                .checkpoints()
                .name(self.index.key(), self.shard, ids)?;
        }
        while !self.pipeline.has_room_for(&batch) {
            let applied = self.pipeline.finish_one().await?;
            self.done(applied)?;
        }
        let progress = self.index.progress(self.shard);
        progress.bytes_done.fetch_add(batch.bytes() as u64, Relaxed);
        self.witness.request_started();
        self.pipeline
            .start(batch, self.highest, offset, self.highest);
        Ok(())
    }

    fn take(&mut self, batch: &mut Batch, seq_no: SeqNo, body: Body) -> Result<Taken, ShardError> {
        let progress = self.index.progress(self.shard);
        progress.set_standing(Source::Reading, None);
        match body {
            Body::SnapshotBegin(begin) => {
                progress.documents_total.store(begin.documents, Relaxed);
                self.copy.get_or_insert(ShardLoad {
                    offset: Offset(0),
                    begin,
                    highest: SeqNo::NONE,
                    documents: 0,
                    bytes: 0,
                    own: None,
                });
            }
            Body::Operation(operation) => {
                self.highest = self.highest.max(seq_no);
                if let OperationKind::Index { id, version, .. } = &operation.kind {
                    progress.external_versions.note(id, *version, seq_no);
                }
                batch.add(seq_no, operation.kind);
            }
            Body::SnapshotEnd(end) => {
                let ShardLoad { begin, .. } =
                    self.copy.as_ref().ok_or_else(|| self.no_beginning())?;
                let highest = self.highest.max(end.max_seq_no).max(begin.seq_no);
                let (seq_no, offset) = (begin.seq_no, begin.offset);
                return Ok(Taken::End(Checkpoint {
                    seq_no,
                    offset,
                    highest,
                    foreign_writes: 0,
                    own: None,
                }));
            }
            Body::Metadata(metadata) => return Ok(Taken::Metadata(metadata)),
            // Of data topics.
            Body::Heartbeat { .. }
            | Body::Gap { .. }
            | Body::Rewound { .. }
            | Body::ResyncBegin(_)
            | Body::ResyncDocument { .. }
            | Body::ResyncIds { .. }
            | Body::ResyncEnd(_) => {}
        }
        Ok(Taken::More)
    }

    fn no_beginning(&self) -> StreamError {
        StreamError::Record {
            topic: self.index.topic().clone(),
            shard: self.shard,
            offset: Offset(0),
            source: RecordError::BadBody {
                op: "snapshot_end".to_owned(),
                what: "beginning",
                reason: "no snapshot_begin stands before it".to_owned(),
            },
        }
    }

    fn done(&mut self, applied: Applied) -> Result<(), ShardError> {
        self.witness.request_finished(&applied.written.seq_nos)?;
        let progress = self.index.progress(self.shard);
        // What a scan that was broken off brings again is there already.
        let new = if self.in_place {
            applied.operations
        } else {
            applied.written.created
        };
        let documents = progress.documents_done.fetch_add(new, Relaxed) + new;
        let labels = [self.index.name().as_str(), &self.shard.to_string()];
        self.metrics
            .bootstrap_documents
            .with_label_values(&labels)
            .inc_by(applied.operations);
        let Some(copy) = &mut self.copy else {
            return Ok(());
        };
        copy.offset = applied.offset;
        copy.highest = copy.highest.max(applied.seq_no);
        copy.documents = documents;
        copy.bytes = progress.bytes_done.load(Relaxed);
        copy.own = self.witness.own();
        Ok(self
            .index
            .checkpoints()
            .save_shard_copy(self.index.key(), self.shard, copy)?)
    }
}
