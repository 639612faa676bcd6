//! Which captures stand still, and why, as the agent's statistics announce it.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use shardline_common::kafka::TopicError;
use shardline_common::opensearch::OpenSearchError;
use shardline_common::scan::ScanError;
use shardline_common::standstill::{Cause, Standstill};
use shardline_common::types::{IndexUuid, ShardId};

use crate::capture::{CaptureError, Shard, now_ms};
use crate::publish::PublishError;
use crate::quarantine;

/// After this, what waits for Kafka stands still.
pub const LONG: Duration = Duration::from_secs(5);

/// The captures of an agent that stand still.
#[derive(Default)]
pub struct Standing(Mutex<BTreeMap<(IndexUuid, ShardId), Standstill>>);

impl Standing {
    /// A capture stands still. One that stood still before does so since then.
    pub fn note(&self, shard: &Shard, cause: Cause, detail: String) {
        let mut standing = self.0.lock();
        let key = (shard.uuid.clone(), shard.shard);
        let since_ms = match standing.get(&key) {
            Some(known) if known.cause == cause => known.since_ms,
            _ => now_ms(),
        };
        let standstill = Standstill {
            index: shard.index.clone(),
            index_uuid: shard.uuid.clone(),
            shard: shard.shard,
            cause,
            detail,
            since_ms,
        };
        standing.insert(key, standstill);
    }

    /// A capture goes on, or has ended.
    pub fn clear(&self, shard: &Shard) {
        let mut standing = self.0.lock();
        if !standing.is_empty() {
            standing.remove(&(shard.uuid.clone(), shard.shard));
        }
    }

    pub fn all(&self) -> Vec<Standstill> {
        self.0.lock().values().cloned().collect()
    }
}

impl CaptureError {
    /// The cause, as a status shows it.
    pub fn cause(&self) -> Cause {
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
            Self::Translog(_) => Cause::Disk,
            Self::Control(_) => Cause::KafkaAway,
            Self::IndexGone | Self::Reader(_) | Self::Rewound { .. } | Self::Interrupted => {
                Cause::Other
            }
        }
    }

    /// Whether the capture ended because that of another shard did.
    pub fn is_of_others(&self) -> bool {
        matches!(self, Self::Publish(error) if error.is_of_others())
    }
}

fn of_publishing(error: &PublishError) -> Cause {
    match error {
        PublishError::TooLarge { .. } => Cause::RecordTooLarge,
        PublishError::Kafka { source, .. } => quarantine::cause(source),
        PublishError::Stopping => Cause::Other,
    }
}

fn of_topic(error: &TopicError) -> Cause {
    match error {
        error if error.is_missing() => Cause::TopicMissing,
        TopicError::Failed { source, .. } => match quarantine::cause(source) {
            Cause::RecordRefused => Cause::KafkaAway,
            cause => cause,
        },
        TopicError::Refused { .. } => Cause::NoPermission,
        TopicError::Record { .. } | TopicError::Cancelled => Cause::Other,
    }
}

fn of_opensearch(error: &OpenSearchError) -> Cause {
    match error.status() {
        Some(401 | 403) => Cause::ScanRefused,
        _ => Cause::ClusterAway,
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
            (TopicAuthorizationFailed, Cause::NoPermission),
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
        let since_ms = standing.all()[0].since_ms;
        standing.note(&shard(), Cause::NoLeader, "two".to_owned());
        let told = &standing.all()[0];
        assert_eq!((told.since_ms, told.detail.as_str()), (since_ms, "two"));
        standing.clear(&shard());
        assert!(standing.all().is_empty());
    }
}
