//! What following or loading a shard needs of the rest of the agent. In production that is
//! [`crate::copy::Index`]; the simulation puts a log and a follower index in memory in its place.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use shardline_common::kafka::{Reach, TopicError, Watermarks};
use shardline_common::late::noticing;
use shardline_common::metadata::IndexMetadata;
use shardline_common::record::{FrameId, Record};
use shardline_common::types::{IndexName, Offset, SeqNo, ShardId, TopicName};
use tokio::sync::watch;

use crate::apply::pipeline::Limits;
use crate::checkpoint::{Checkpoint, CheckpointError, CheckpointStore};
use crate::progress::ShardProgress;
use crate::shard::ShardError;
use crate::stream::StreamError;

/// The records of a partition, one after the other; of operations that are packed together each
/// counts as one.
pub trait Records: Send {
    /// Nothing is lost when the future is dropped before it resolves.
    fn next(&mut self) -> impl Future<Output = Result<Positioned, StreamError>> + Send;

    /// The next record if one has arrived already.
    fn ready(&mut self) -> Option<Result<Positioned, StreamError>>;

    /// Keeps nothing in memory that can be fetched again, until the next record is asked for.
    fn put_down(&mut self);
}

/// Does what records have to wait for. They are put down if that takes long, as when the follower
/// cluster is away.
pub async fn before_more<T>(records: &mut impl Records, work: impl Future<Output = T>) -> T {
    noticing(work, || records.put_down()).await
}

/// A record, and where it stands.
#[derive(Debug)]
pub struct Positioned {
    pub offset: Offset,
    /// Where reading goes on once this record is dealt with: behind it, or at its own offset while
    /// others are packed together with it.
    pub next: Offset,
    pub record: Record,
}

/// What is left of a Kafka record.
#[derive(Debug)]
pub struct Unpacked {
    offset: Offset,
    records: VecDeque<Record>,
}

impl Unpacked {
    pub fn new(offset: Offset, records: Vec<Record>) -> Self {
        Self {
            offset,
            records: records.into(),
        }
    }
}

impl Iterator for Unpacked {
    type Item = Positioned;

    fn next(&mut self) -> Option<Positioned> {
        let record = self.records.pop_front()?;
        let next = if self.records.is_empty() {
            Offset(self.offset.0 + 1)
        } else {
            self.offset
        };
        Some(Positioned {
            offset: self.offset,
            next,
            record,
        })
    }
}

/// One copy of a leader index in a follower index, as its shards see it.
pub trait FollowedIndex: Send + Sync {
    type Records: Records;

    /// The follower index's.
    fn name(&self) -> &IndexName;

    /// The replication topic.
    fn topic(&self) -> &TopicName;

    fn progress(&self, shard: ShardId) -> &ShardProgress;

    /// The follower shards' highest sequence numbers, each time that they are asked for them.
    fn given_away(&self) -> watch::Receiver<HashMap<ShardId, SeqNo>>;

    /// What a shard may send at once.
    fn limits(&self) -> Limits;

    fn checkpoints(&self) -> &CheckpointStore;

    /// Under which positions of this copy are kept.
    fn key(&self) -> &str;

    /// Where a shard goes on.
    fn recover(
        &self,
        shard: ShardId,
    ) -> impl Future<Output = Result<Option<Checkpoint>, ShardError>> + Send;

    fn save(&self, shard: ShardId, checkpoint: &Checkpoint) -> Result<(), CheckpointError>;

    /// What the leader agents last said of the index beside the stream.
    fn announced_metadata(&self) -> Option<IndexMetadata>;

    /// Brings metadata over that the follower index does not have yet.
    fn apply_metadata(
        &self,
        shard: ShardId,
        metadata: &IndexMetadata,
    ) -> impl Future<Output = Result<(), ShardError>> + Send;

    fn watermarks(
        &self,
        topic: &TopicName,
        shard: ShardId,
    ) -> impl Future<Output = Result<Watermarks, TopicError>> + Send;

    /// How far a partition reaches.
    fn reach(
        &self,
        topic: &TopicName,
        shard: ShardId,
    ) -> impl Future<Output = Result<Option<Reach>, TopicError>> + Send;

    /// The first few records of the replication topic's partition that are still there.
    fn first_records(
        &self,
        shard: ShardId,
    ) -> impl Future<Output = Result<Vec<(Offset, Record)>, TopicError>> + Send;

    /// A resync has been applied: it may have brought documents that were asked for, as of the
    /// operation `up_to`.
    fn redelivered(
        &self,
        shard: ShardId,
        frame: FrameId,
        up_to: SeqNo,
    ) -> impl Future<Output = Result<(), ShardError>> + Send;

    /// Reads a partition from where the records begin that are known to be there, until what comes
    /// back is dropped.
    fn open(
        &self,
        topic: &TopicName,
        shard: ShardId,
        known: Range<Offset>,
    ) -> impl Future<Output = Result<Self::Records, StreamError>> + Send;
}
