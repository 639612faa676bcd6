//! Why something that should be followed stands still or waits: one type, wherever it is shown.

use serde::{Deserialize, Serialize};

/// What kind of thing is in the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Kafka does not answer.
    KafkaAway,
    /// The partition has no leader.
    NoLeader,
    /// The partition has a leader that takes no records, as with too few in-sync replicas.
    PartitionStuck,
    /// The topic, or the broker, takes no record as large as the next one.
    RecordTooLarge,
    /// The topic refuses the next record for another reason, such as a policy.
    RecordRefused,
    /// Kafka refuses the agent's user.
    KafkaDenied,
    /// The topic, or the partition, is not there.
    TopicMissing,
    /// The partition is there and cannot be read on.
    Stream,
    /// A newer build wrote what this one cannot read.
    NewerBuild,
    /// The follower cluster does not answer, or not for this shard.
    FollowerClusterAway,
    /// The follower cluster refuses the agent's user (401 or 403).
    FollowerClusterDenied,
    /// A block of the follower cluster or index is in the way of writes, such as of a full disk.
    FollowerClusterBlocked,
    /// The follower cluster refuses work for now (429).
    FollowerClusterOverloaded,
    /// The answer is not the follower cluster's, such as a proxy's page.
    UnexpectedAnswer,
    FollowerIndexClosed,
    FollowerIndexGone,
    /// Another index has the follower index's name.
    FollowerIndexOther,
    /// Partitions that are far behind are read a few at a time.
    Turn,
    /// No leader agent has been heard of for longer than it announced.
    LeaderAgentSilent,
    /// The leader's catalogue does not say what has become of the leader index.
    LeaderIndexUnknown,
    /// The leader cluster does not let its documents be read for a copy.
    LeaderUnreadable,
    /// The control topic lacks the subscription, or has it in a form that cannot be read.
    SubscriptionUnknown,
    /// A control topic is not as it has to be, such as not compacted.
    ControlTopic,
    /// The leader cluster, or the node beside the leader agent, does not answer.
    LeaderClusterAway,
    /// The leader cluster refuses to have the shard scanned.
    ScanRefused,
    /// The leader's shard has no primary.
    PrimaryAway,
    /// The leader's translog cannot be read, or not be held.
    Translog,
    /// RocksDB cannot be read or written, such as on a full disk.
    CheckpointStore,
    /// Another follower agent has to act first, or this one has lost its consumer group.
    OtherAgent,
    #[default]
    #[serde(other)]
    Other,
}

impl Cause {
    /// As in a status: `kafka_away`.
    pub fn name(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(name)) => name,
            _ => "other".to_owned(),
        }
    }

    /// What ends it, in words for whoever operates the agents.
    pub fn ends_when(self) -> &'static str {
        match self {
            Self::KafkaAway => "Kafka answers again",
            Self::NoLeader => "a broker that has the partition is back",
            Self::PartitionStuck => "min.insync.replicas of the partition's replicas are in sync",
            Self::RecordTooLarge => {
                "max.message.bytes of the topic, or message.max.bytes of the brokers, is raised"
            }
            Self::RecordRefused => "the topic no longer refuses what the reason names",
            Self::KafkaDenied => "Kafka lets the agent's user read and write (ACLs, credentials)",
            Self::TopicMissing => "the topic is there: leader agents make it, mirrors copy it",
            Self::Stream => "the partition can be read on; _resume after a mend of the topic",
            Self::NewerBuild => "this agent is of the build that wrote it, or a newer one",
            Self::FollowerClusterAway => "the follower cluster answers for the shard again",
            Self::FollowerClusterDenied => {
                "the agent's user may write again (opensearch.username, roles)"
            }
            Self::FollowerClusterBlocked => "the block is taken off",
            Self::FollowerClusterOverloaded => "the follower cluster has room again",
            Self::UnexpectedAnswer => "the follower cluster itself answers at opensearch.url",
            Self::FollowerIndexClosed => "the follower index is opened",
            Self::FollowerIndexGone => "_stop, and _start for a new copy",
            Self::FollowerIndexOther => "the other index is deleted; then _stop and _start",
            Self::Turn => "partitions before it are read",
            Self::LeaderAgentSilent => "a leader agent beside the index runs and reaches Kafka",
            Self::LeaderIndexUnknown => "leader agents announce the index, or its deletion",
            Self::LeaderUnreadable => "the leader index can be read: see the reason",
            Self::SubscriptionUnknown => "_resume to follow on, or _stop to give it up",
            Self::ControlTopic => "the topic has cleanup.policy=compact (kafka-configs --alter)",
            Self::LeaderClusterAway => "the node beside the leader agent answers again",
            Self::ScanRefused => {
                "the leader agents' user may read the index, or there is room for points in time"
            }
            Self::PrimaryAway => "a copy of the leader's shard is back",
            Self::Translog => {
                "the leader agent can read the node's data folder and write beside it"
            }
            Self::CheckpointStore => "storage.data_dir can be written (a full disk, as a rule)",
            Self::OtherAgent => "the follower agents reach Kafka and each other's slots",
            Self::Other => "what the reason names is mended",
        }
    }

    /// What a status with an error's type says, of a request or an item of it.
    pub fn of_answer(status: u16, error_type: &str) -> Self {
        match (status, error_type) {
            (_, "cluster_block_exception") => Self::FollowerClusterBlocked,
            (_, "index_closed_exception") => Self::FollowerIndexClosed,
            (404, "index_not_found_exception") => Self::FollowerIndexGone,
            (401 | 403, _) => Self::FollowerClusterDenied,
            (429, _) => Self::FollowerClusterOverloaded,
            (500.., "unknown") => Self::UnexpectedAnswer,
            (500.., _) => Self::FollowerClusterAway,
            _ => Self::UnexpectedAnswer,
        }
    }
}

/// Why a shard or an index does not get on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandstillReason {
    pub cause: Cause,
    /// Milliseconds since the epoch.
    pub since_ms: i64,
    /// The words of whoever refused, or what was seen.
    pub detail: String,
}

impl StandstillReason {
    pub fn new(cause: Cause, since_ms: i64, detail: impl Into<String>) -> Self {
        Self {
            cause,
            since_ms,
            detail: detail.into(),
        }
    }

    /// The same standstill, as it is told now: it began when it was first told.
    pub fn following(self, earlier: Option<&Self>) -> Self {
        match earlier {
            Some(earlier) if earlier.cause == self.cause => Self {
                since_ms: earlier.since_ms,
                ..self
            },
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_of_a_newer_build_is_read() {
        let reason = r#"{"cause": "moon_phase", "since_ms": 7, "detail": "d"}"#;
        let reason: StandstillReason = serde_json::from_str(reason).unwrap();
        assert_eq!(reason, StandstillReason::new(Cause::Other, 7, "d"));
        assert_eq!(Cause::KafkaAway.name(), "kafka_away");
    }

    #[test]
    fn a_standstill_begins_when_its_cause_was_first_told() {
        let first = StandstillReason::new(Cause::KafkaAway, 5, "one");
        let later = StandstillReason::new(Cause::KafkaAway, 9, "two").following(Some(&first));
        assert_eq!((later.since_ms, later.detail.as_str()), (5, "two"));
        let other = StandstillReason::new(Cause::TopicMissing, 9, "two").following(Some(&first));
        assert_eq!(other.since_ms, 9);
    }

    #[test]
    fn what_the_follower_cluster_says_has_a_cause() {
        for (status, error_type, cause) in [
            (401, "unknown", Cause::FollowerClusterDenied),
            (403, "security_exception", Cause::FollowerClusterDenied),
            (
                403,
                "cluster_block_exception",
                Cause::FollowerClusterBlocked,
            ),
            (
                429,
                "cluster_block_exception",
                Cause::FollowerClusterBlocked,
            ),
            (
                429,
                "rejected_execution_exception",
                Cause::FollowerClusterOverloaded,
            ),
            (400, "index_closed_exception", Cause::FollowerIndexClosed),
            (404, "unknown", Cause::UnexpectedAnswer),
            (
                503,
                "unavailable_shards_exception",
                Cause::FollowerClusterAway,
            ),
        ] {
            assert_eq!(
                Cause::of_answer(status, error_type),
                cause,
                "{status} {error_type}"
            );
        }
    }
}
