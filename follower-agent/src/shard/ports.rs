//! What following or loading a shard needs of the rest of the agent. In production that is
//! an index's copy; the simulation puts a log and a follower index in memory in
//! its place.

use std::collections::HashMap;
use std::ops::Range;

use shardline_common::kafka::{Reach, TopicError, Watermarks};
use shardline_common::metadata::IndexMetadata;
use shardline_common::record::{FrameId, Record};
use shardline_common::types::{IndexName, Offset, SeqNo, ShardId, TopicName};
use tokio::sync::watch;

use super::ShardError;
use super::own_history::Observed;
use crate::progress::{Checkpoint, CheckpointError, CheckpointStore, ShardProgress};
use crate::read::{Records, StreamError};
use crate::write::Limits;

/// One copy of a leader index in a follower index, as its shards see it.
pub trait ShardPorts: Send + Sync {
    type Records: Records;

    /// The follower index's.
    fn name(&self) -> &IndexName;

    /// The replication topic.
    fn topic(&self) -> &TopicName;

    fn progress(&self, shard: ShardId) -> &ShardProgress;

    /// What the follower shards say of themselves, each time that they are asked.
    fn observations(&self) -> watch::Receiver<HashMap<ShardId, Observed>>;

    /// What a follower shard's primary says of itself now, by the cluster's manager; nothing while
    /// it is away. `acknowledged` is what it is known to have acknowledged.
    fn own_history(
        &self,
        shard: ShardId,
        acknowledged: SeqNo,
    ) -> impl Future<Output = Result<Option<Observed>, ShardError>> + Send;

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
