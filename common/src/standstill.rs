//! Why the capture of a shard stands still, and what ends that. Leader agents announce it with
//! their statistics in `control.leader`, so that a follower's status can show it.

use serde::{Deserialize, Serialize};

use crate::control::Entry;
use crate::kafka::ControlTopic;
use crate::leader_stats::NodeReads;
use crate::types::{ClusterUuid, IndexName, IndexUuid, ShardId};

/// The kind of a cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The topic, or the broker, takes no record as large as the next one.
    RecordTooLarge,
    /// The topic refuses the next record for another reason.
    RecordRefused,
    /// The topic does not exist and cannot be made.
    TopicMissing,
    /// The partition has no leader.
    NoLeader,
    /// The partition has a leader that does not take records, as with too few in-sync replicas.
    PartitionStuck,
    /// The agent may not write to the topic, or not read it.
    NoPermission,
    /// No broker answers.
    KafkaAway,
    /// The cluster refuses to have the shard scanned.
    ScanRefused,
    /// The leader cluster, or the node beside the agent, does not answer.
    ClusterAway,
    /// The shard has no primary.
    PrimaryAway,
    /// The translog cannot be read, or not be held.
    Disk,
    /// Something else, or a cause that a later build knows.
    #[serde(other)]
    Other,
}

impl Cause {
    /// What ends the standstill.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::RecordTooLarge => {
                "raise max.message.bytes of the topic, or message.max.bytes of the brokers"
            }
            Self::RecordRefused => "change what the topic refuses records for",
            Self::TopicMissing => "let the agent create the topic, or create it",
            Self::NoLeader => "bring a broker back that has the partition",
            Self::PartitionStuck => {
                "bring back brokers that have the partition, until min.insync.replicas are in sync"
            }
            Self::NoPermission => "give the leader agents' user its permissions on the topic",
            Self::KafkaAway => "bring Kafka back, or the way to it",
            Self::ScanRefused => {
                "give the leader agents' user its permissions on the index, or the cluster room \
                 for points in time"
            }
            Self::ClusterAway => "bring the leader cluster's node back, or the way to it",
            Self::PrimaryAway => "bring a copy of the shard back",
            Self::Disk => "let the agent read the node's data folder and write beside it",
            Self::Other => "see the leader agent's log",
        }
    }
}

/// Why a shard's capture stands still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standstill {
    pub index: IndexName,
    pub index_uuid: IndexUuid,
    pub shard: ShardId,
    pub cause: Cause,
    /// What the agent met, in the words of whoever refused it.
    pub detail: String,
    /// Since when, in milliseconds since the epoch.
    pub since_ms: i64,
}

impl Standstill {
    /// What a status shows: what is the matter, and what ends it.
    pub fn text(&self) -> String {
        format!("{}: {}", self.detail, self.cause.remedy())
    }

    /// Why shards of an index stand still, as the agents of its cluster tell.
    pub fn of_index(
        leader_table: &ControlTopic,
        cluster: &ClusterUuid,
        index: &IndexUuid,
    ) -> Vec<Self> {
        let prefix = format!("{}/{cluster}/", NodeReads::KIND);
        let nodes: Vec<NodeReads> = leader_table.below(&prefix);
        let told = nodes.into_iter().flat_map(|node| node.standstills);
        told.filter(|told| told.index_uuid == *index).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_of_a_later_build_is_another_one() {
        let told = r#"{"index": "i", "index_uuid": "u", "shard": 0, "cause": "sunspots",
                       "detail": "the sun has spots", "since_ms": 1, "more": true}"#;
        let told: Standstill = serde_json::from_str(told).unwrap();
        assert_eq!(told.cause, Cause::Other);
        assert_eq!(told.text(), "the sun has spots: see the leader agent's log");
        let json = serde_json::to_value(Cause::NoLeader).unwrap();
        assert_eq!(json, "no_leader");
    }
}
