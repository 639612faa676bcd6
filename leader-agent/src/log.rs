//! What a capture needs of Kafka, and of the control topic. In production these are clients of
//! Kafka; the simulation puts a log in memory in their place.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use shardline_common::control::{FailedRedelivery, FillRequest, ShardHistory};
use shardline_common::kafka::{ControlError, ControlTopic, Reach, TopicError};
use shardline_common::record::{Operation, Record};
use shardline_common::standstill::Cause;
use shardline_common::types::{Offset, SeqNo, ShardId, TopicName};
use tokio::sync::watch;

use crate::publish::PublishError;

/// Partitions to which records are appended.
pub trait Log: Send + Sync {
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
    fn session(&self) -> Arc<dyn Session>;

    /// Why a partition takes no records, when it has not for a while.
    fn why_stuck<'a>(&'a self, _: &'a TopicName, _: ShardId) -> BoxFuture<'a, Cause> {
        Box::pin(std::future::ready(Cause::PartitionStuck))
    }
}

/// Records that are sent one after the other. Those of one partition keep the order in which they
/// were handed over, and what follows a record that is lost is lost too: so whoever has records on
/// their way goes on in the same session, and after an error begins another one behind what the
/// partition has.
pub trait Session: Send + Sync {
    /// Hands records over, waiting while too much is on its way.
    fn send<'a>(
        &'a self,
        topic: &'a TopicName,
        shard: ShardId,
        records: &'a [Record],
    ) -> BoxFuture<'a, Result<Pending, PublishError>>;

    /// Whether records of this session have been on their way for a while.
    fn is_late(&self) -> bool {
        false
    }

    /// Whether records of other sessions have been, and nothing of this one has arrived of late:
    /// its partition may be as stuck as theirs. A small record shows.
    fn is_doubted(&self) -> bool {
        false
    }
}

/// Records on their way: resolves to the offset of the last one once the log has them all. They are
/// on their way whether or not anybody waits for it.
pub type Pending = BoxFuture<'static, Result<Offset, PublishError>>;

/// What the agents beside a shard's copies tell each other: operations that they ask each other
/// for, and the history that the partition holds.
pub trait Board: Send + Sync {
    fn post<'a>(&'a self, request: &'a FillRequest) -> BoxFuture<'a, Result<(), ControlError>>;

    fn take_down<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), ControlError>>;

    fn posted(&self, key: &str) -> Option<FillRequest>;

    fn history(&self, key: &str) -> Option<ShardHistory>;

    fn note_history<'a>(
        &'a self,
        history: &'a ShardHistory,
    ) -> BoxFuture<'a, Result<(), ControlError>>;

    /// Tells a follower that documents cannot be shipped again.
    fn tell_failed<'a>(
        &'a self,
        failed: &'a FailedRedelivery,
    ) -> BoxFuture<'a, Result<(), ControlError>>;

    /// Resolves after the next change.
    fn changes(&self) -> watch::Receiver<Offset>;
}

impl Board for ControlTopic {
    fn post<'a>(&'a self, request: &'a FillRequest) -> BoxFuture<'a, Result<(), ControlError>> {
        Box::pin(self.publish(request))
    }

    fn take_down<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), ControlError>> {
        Box::pin(self.remove(key))
    }

    fn posted(&self, key: &str) -> Option<FillRequest> {
        self.get(key)
    }

    fn history(&self, key: &str) -> Option<ShardHistory> {
        self.get(key)
    }

    fn note_history<'a>(
        &'a self,
        history: &'a ShardHistory,
    ) -> BoxFuture<'a, Result<(), ControlError>> {
        Box::pin(self.publish(history))
    }

    fn tell_failed<'a>(
        &'a self,
        failed: &'a FailedRedelivery,
    ) -> BoxFuture<'a, Result<(), ControlError>> {
        Box::pin(self.publish(failed))
    }

    fn changes(&self) -> watch::Receiver<Offset> {
        Self::changes(self)
    }
}
