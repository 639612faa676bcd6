//! What `_dead_letters` answers.

use serde::{Deserialize, Serialize};
use shardline_common::types::{IndexName, TopicName};

use crate::dead_letters::DeadLetter;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterList {
    pub follower_index: IndexName,
    pub dead_letters: Vec<Letter>,
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

impl DeadLetterList {
    pub fn new(follower_index: IndexName, letters: Vec<DeadLetter>) -> Self {
        let letter = |letter: DeadLetter| Letter {
            id: letter.id,
            shard_id: letter.shard.0,
            seq_no: letter.seq_no.0,
            topic: letter.topic,
            error_type: letter.error_type,
            reason: letter.reason,
            refused_at: letter.timestamp_ms,
        };
        Self {
            follower_index,
            dead_letters: letters.into_iter().map(letter).collect(),
        }
    }
}
