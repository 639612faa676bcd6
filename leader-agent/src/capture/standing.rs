//! Which captures stand still, and why, as the agent's statistics announce it.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use shardline_common::clock::now_ms;
use shardline_common::kafka::TopicError;
use shardline_common::leader_stats::CaptureStandstill;
use shardline_common::opensearch::OpenSearchError;
use shardline_common::scan::ScanError;
use shardline_common::standstill::{Cause, StandstillReason};
use shardline_common::types::{IndexUuid, ShardId};

use super::CaptureError;
use crate::node::Shard;
use crate::publish::{self, PublishError};
use crate::source::SourceError;

/// After this, what waits for Kafka stands still.
pub(super) const STANDSTILL_AFTER: Duration = Duration::from_secs(5);

/// The captures of an agent that stand still.
#[derive(Default)]
pub struct Standing(Mutex<BTreeMap<(IndexUuid, ShardId), CaptureStandstill>>);

impl Standing {
    /// A capture stands still. One that stood still before does so since then.
    pub(super) fn note(&self, shard: &Shard, cause: Cause, detail: String) {
        let mut standing = self.0.lock();
        let key = (shard.uuid.clone(), shard.shard);
        let earlier = standing.get(&key).map(|told| &told.reason);
        let reason = StandstillReason::new(cause, now_ms(), detail).following(earlier);
        let told = CaptureStandstill {
            index: shard.index.clone(),
            index_uuid: shard.uuid.clone(),
            shard: shard.shard,
            reason,
        };
        standing.insert(key, told);
    }

    /// A capture goes on, or has ended.
    pub(super) fn clear(&self, shard: &Shard) {
        let mut standing = self.0.lock();
        if !standing.is_empty() {
            standing.remove(&(shard.uuid.clone(), shard.shard));
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<CaptureStandstill> {
        self.0.lock().values().cloned().collect()
    }

    /// At most `most` of them.
    pub(crate) fn some(&self, most: usize) -> Vec<CaptureStandstill> {
        self.0.lock().values().take(most).cloned().collect()
    }
}

impl CaptureError {
    /// The cause, as a status shows it.
    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::Publish(error) => of_publishing(error),
            Self::Topic(error) => of_topic(error),
            Self::OpenSearch(error) => of_opensearch(error),
            Self::StateId(error) => of_opensearch(error),
            Self::Scan(ScanError::OpenSearch(error @ OpenSearchError::Unreachable { .. })) => {
                of_opensearch(error)
            }
            Self::Scan(_) | Self::NoSource(_) => Cause::ScanRefused,
            Self::NoPrimary => Cause::PrimaryAway,
            Self::Source(error) => of_source(error),
            Self::Control(_) => Cause::KafkaAway,
            Self::IndexGone | Self::Rewound { .. } => Cause::Other,
        }
    }

    /// Whether the capture ended because that of another shard did.
    pub(super) fn is_of_others(&self) -> bool {
        matches!(self, Self::Publish(error) if error.is_of_others())
    }
}

fn of_source(error: &SourceError) -> Cause {
    match error {
        SourceError::Translog(_) => Cause::Translog,
        SourceError::Topic(error) => of_topic(error),
        SourceError::Reader(_) | SourceError::Interrupted => Cause::Other,
    }
}

fn of_publishing(error: &PublishError) -> Cause {
    match error {
        PublishError::TooLarge { .. } => Cause::RecordTooLarge,
        PublishError::Kafka { source, .. } => publish::cause(source),
        PublishError::Stopping => Cause::Other,
    }
}

fn of_topic(error: &TopicError) -> Cause {
    match error {
        error if error.is_missing() => Cause::TopicMissing,
        TopicError::Failed { source, .. } => match publish::cause(source) {
            Cause::RecordRefused => Cause::KafkaAway,
            cause => cause,
        },
        TopicError::NoBroker { .. } => Cause::KafkaAway,
        TopicError::Refused { .. } => Cause::KafkaDenied,
        TopicError::Record { .. } | TopicError::Cancelled => Cause::Other,
    }
}

fn of_opensearch(error: &OpenSearchError) -> Cause {
    match error.status() {
        Some(401 | 403) => Cause::ScanRefused,
        _ => Cause::LeaderClusterAway,
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::error::{KafkaError, RDKafkaErrorCode};

    use super::*;

    fn shard() -> Shard {
        Shard {
            index: "books".into(),
            uuid: "u".into(),
            shard: ShardId(0),
            number_of_shards: 1,
            has_replicas: false,
            topic: "t".into(),
        }
    }

    fn refused(code: RDKafkaErrorCode) -> CaptureError {
        CaptureError::Publish(PublishError::Kafka {
            topic: "t".into(),
            shard: ShardId(0),
            source: Box::new(KafkaError::MessageProduction(code)),
        })
    }

    #[test]
    fn what_kafka_refuses_has_its_cause() {
        use RDKafkaErrorCode::*;
        for (code, cause) in [
            (MessageSizeTooLarge, Cause::RecordTooLarge),
            (TopicAuthorizationFailed, Cause::KafkaDenied),
            (PolicyViolation, Cause::RecordRefused),
            (UnknownTopicOrPartition, Cause::TopicMissing),
        ] {
            assert_eq!(refused(code).cause(), cause);
            assert!(!refused(code).is_of_others());
        }
        assert!(refused(PurgeQueue).is_of_others());
    }

    #[test]
    fn a_capture_stands_still_since_it_began_to() {
        let standing = Standing::default();
        standing.note(&shard(), Cause::NoLeader, "one".to_owned());
        let since_ms = standing.some(9)[0].reason.since_ms;
        standing.note(&shard(), Cause::NoLeader, "two".to_owned());
        let told = &standing.some(9)[0];
        assert_eq!(
            (told.reason.since_ms, told.reason.detail.as_str()),
            (since_ms, "two")
        );
        standing.clear(&shard());
        assert!(standing.some(9).is_empty());
    }
}
