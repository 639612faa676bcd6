//! What a capture needs of Kafka. In production this is a client of Kafka; the simulation puts a log
//! in memory in its place.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use shardline_common::kafka::{Reach, TopicError};
use shardline_common::record::{Operation, Record};
use shardline_common::standstill::Cause;
use shardline_common::types::{Offset, SeqNo, ShardId, TopicName};

use super::PublishError;

/// Partitions to which records are appended.
pub trait PartitionLog: Send + Sync {
    /// See [`shardline_common::kafka::Kafka::reach`].
    fn reach<'a>(
        &'a self,
        topic: &'a TopicName,
        shard: ShardId,
    ) -> BoxFuture<'a, Result<Option<Reach>, TopicError>>;

    /// See [`shardline_common::kafka::Kafka::last_operation`].
    fn last_operation<'a>(
        &'a self,
        topic: &'a TopicName,
        shard: ShardId,
        reach: &'a Reach,
    ) -> BoxFuture<'a, Result<Option<Operation>, TopicError>>;

    /// See [`shardline_common::kafka::Kafka::last_operations`].
    fn last_operations<'a>(
        &'a self,
        topic: &'a TopicName,
        shard: ShardId,
        reach: &'a Reach,
    ) -> BoxFuture<'a, Result<BTreeMap<SeqNo, Operation>, TopicError>>;

    /// The last record of a partition; `None` when it is empty.
    fn last_record<'a>(
        &'a self,
        topic: &'a TopicName,
        shard: ShardId,
    ) -> BoxFuture<'a, Result<Option<(Offset, Record)>, TopicError>>;

    /// Makes the topic of an index unless it exists.
    fn create_replication_topic<'a>(
        &'a self,
        topic: &'a TopicName,
        shards: u32,
    ) -> BoxFuture<'a, Result<(), TopicError>>;

    /// Begins to send.
    fn appender(&self) -> Arc<dyn Appender>;

    /// Why a partition takes no records, when it has not for a while.
    fn why_stuck<'a>(&'a self, _: &'a TopicName, _: ShardId) -> BoxFuture<'a, Cause> {
        Box::pin(std::future::ready(Cause::PartitionStuck))
    }
}

/// Records that are sent one after the other. Those of one partition keep the order in which they
/// were handed over, and what follows a record that is lost is lost too: so whoever has records on
/// their way goes on with the same appender, and after an error begins another one behind what the
/// partition has.
pub trait Appender: Send + Sync {
    /// Hands records over, waiting while too much is on its way.
    fn send<'a>(
        &'a self,
        topic: &'a TopicName,
        shard: ShardId,
        records: &'a [Record],
    ) -> BoxFuture<'a, Result<Pending, PublishError>>;

    /// Whether records of this appender have been on their way for a while.
    fn is_late(&self) -> bool {
        false
    }

    /// Whether records of other appenders have been, and nothing of this one has arrived of late:
    /// its partition may be as stuck as theirs. A small record shows.
    fn is_doubted(&self) -> bool {
        false
    }
}

/// Records on their way: resolves to the offset of the last one once the log has them all. They are
/// on their way whether or not anybody waits for it.
pub type Pending = BoxFuture<'static, Result<Offset, PublishError>>;
