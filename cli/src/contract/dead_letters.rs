//! What `_dead_letters` answers.

use serde::{Deserialize, Serialize};
use shardline_common::types::{IndexName, TopicName};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterList {
    pub follower_index: IndexName,
    pub dead_letters: Vec<Letter>,
    /// What the leader's agents could not deliver again when they were asked to last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_replays: Vec<FailedReplay>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedReplay {
    pub shard_id: u32,
    pub reason: String,
}

/// The last refused operation on a document, and where it stands in Kafka: the partition is
/// `shard_id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    pub id: String,
    pub shard_id: u32,
    pub seq_no: i64,
    pub topic: TopicName,
    /// Of the follower cluster's answer.
    pub error_type: String,
    pub reason: String,
    /// When it was refused, in milliseconds since the epoch.
    pub refused_at: i64,
}
