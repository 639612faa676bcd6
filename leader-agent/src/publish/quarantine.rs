//! Partitions that have refused a record. They get a producer of their own, and one record at a
//! time, until they have taken all for a while: see docs/decisions/0020.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use shardline_common::kafka::{Kafka, Producer, RenewedProducer};
use shardline_common::standstill::Cause;
use shardline_common::types::{ShardId, TopicName};
use tokio::time::Instant;
use tracing::info;

/// How long a partition has to take all records before it shares the producer of the others again;
/// twice as long after each time that it did not.
const FIRST_STAY: Duration = Duration::from_secs(60);
const LONGEST_STAY: Duration = Duration::from_secs(3600);

/// The partitions that have refused a record, and their producer.
#[derive(Clone)]
pub(super) struct Quarantine {
    kafka: Kafka,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    partitions: HashMap<(TopicName, ShardId), Stay>,
    /// Made when it is needed.
    producer: Option<RenewedProducer>,
}

/// One partition's stay.
struct Stay {
    refused: Instant,
    length: Duration,
}

impl Stay {
    fn is_over(&self) -> bool {
        self.refused.elapsed() >= self.length
    }
}

impl Quarantine {
    pub(super) fn new(kafka: Kafka) -> Self {
        Self {
            kafka,
            shared: Arc::default(),
        }
    }

    /// The producer for a partition that is in quarantine; `None` for others.
    pub(super) fn producer(
        &self,
        topic: &TopicName,
        shard: ShardId,
    ) -> Result<Option<RenewedProducer>, KafkaError> {
        let mut shared = self.shared.lock();
        // Most agents have none.
        if shared.partitions.is_empty() {
            return Ok(None);
        }
        let stay = shared.partitions.get(&(topic.clone(), shard));
        if stay.is_none_or(Stay::is_over) {
            return Ok(None);
        }
        let producer = match shared.producer.take() {
            Some(producer) => producer,
            None => RenewedProducer::one_by_one(self.kafka.clone())?,
        };
        Ok(Some(shared.producer.insert(producer).clone()))
    }

    /// To be told after each failure of a record. Whether the partition itself refused it: then it
    /// is in quarantine from now on.
    pub(super) fn note(&self, topic: &TopicName, shard: ShardId, error: &KafkaError) -> bool {
        if is_bystander(error) || is_of_producer(error) {
            return false;
        }
        let mut shared = self.shared.lock();
        let is_long_over =
            |stay: &Stay| stay.is_over() && stay.refused.elapsed() > stay.length + LONGEST_STAY;
        shared.partitions.retain(|_, stay| !is_long_over(stay));
        let key = (topic.clone(), shard);
        match shared.partitions.get_mut(&key) {
            Some(stay) => {
                if stay.is_over() {
                    stay.length = (stay.length * 2).min(LONGEST_STAY);
                }
                stay.refused = Instant::now();
            }
            None => {
                info!(
                    %topic, %shard, %error,
                    "the partition refused a record: its records go one by one, with a producer of \
                     their own"
                );
                let stay = Stay {
                    refused: Instant::now(),
                    length: FIRST_STAY,
                };
                shared.partitions.insert(key, stay);
            }
        }
        true
    }
}

/// Whether a record failed because another one did: a producer that fails for good gives up
/// whatever it has on its way.
pub(super) fn is_bystander(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{Fatal, GaplessGuarantee, PurgeInflight, PurgeQueue};
    let is_others = |code| matches!(code, Fatal | GaplessGuarantee | PurgeInflight | PurgeQueue);
    matches!(error, KafkaError::Canceled) || error.rdkafka_error_code().is_some_and(is_others)
}

/// Whether a record failed for reasons that its partition has nothing to do with.
fn is_of_producer(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        AllBrokersDown, BrokerTransportFailure, ClusterAuthorizationFailed, InvalidProducerEpoch,
        MessageTimedOut, OperationTimedOut, OutOfOrderSequenceNumber, ProducerFenced,
        UnknownProducerId,
    };
    let is_of_producer = |code| {
        matches!(
            code,
            AllBrokersDown
                | BrokerTransportFailure
                | ClusterAuthorizationFailed
                | InvalidProducerEpoch
                | MessageTimedOut
                | OperationTimedOut
                | OutOfOrderSequenceNumber
                | ProducerFenced
                | UnknownProducerId
        )
    };
    error.rdkafka_error_code().is_some_and(is_of_producer)
}

/// Why Kafka did not take a record, or answer a question.
pub(crate) fn cause(error: &KafkaError) -> Cause {
    use RDKafkaErrorCode::{
        ClusterAuthorizationFailed, GroupAuthorizationFailed, LeaderNotAvailable,
        MessageSizeTooLarge, TopicAuthorizationFailed, UnknownPartition, UnknownTopic,
        UnknownTopicOrPartition,
    };
    match error.rdkafka_error_code() {
        Some(MessageSizeTooLarge) => Cause::RecordTooLarge,
        Some(UnknownPartition | UnknownTopic | UnknownTopicOrPartition) => Cause::TopicMissing,
        Some(LeaderNotAvailable) => Cause::NoLeader,
        Some(TopicAuthorizationFailed | ClusterAuthorizationFailed | GroupAuthorizationFailed) => {
            Cause::KafkaDenied
        }
        _ if is_bystander(error) || is_of_producer(error) => Cause::KafkaAway,
        _ => Cause::RecordRefused,
    }
}

/// Whether a record may be refused for those that travel with it.
pub(super) fn is_too_large(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge)
}

/// The producer of the moment, unless it has failed for good.
pub(super) fn usable(producer: &RenewedProducer) -> Producer {
    let current = producer.current();
    producer.renew_if_fatal(&current);
    producer.current()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quarantine() -> Quarantine {
        let config = serde_json::json!({"bootstrap_servers": "127.0.0.1:1"});
        Quarantine::new(Kafka::new(serde_json::from_value(config).unwrap()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_stays_longer_each_time_that_it_comes_back() {
        let (quarantine, topic) = (quarantine(), TopicName::from("t"));
        let is_in = || quarantine.producer(&topic, ShardId(0)).unwrap().is_some();
        let refused = KafkaError::MessageProduction(RDKafkaErrorCode::PolicyViolation);
        let mut length = FIRST_STAY;
        for _ in 0..8 {
            assert!(!is_in());
            assert!(quarantine.note(&topic, ShardId(0), &refused));
            tokio::time::advance(length - Duration::from_secs(1)).await;
            assert!(is_in());
            tokio::time::advance(Duration::from_secs(1)).await;
            length = (length * 2).min(LONGEST_STAY);
        }
    }

    #[test]
    fn who_fails_with_another_is_not_in_quarantine() {
        let (quarantine, topic) = (quarantine(), TopicName::from("t"));
        for code in [
            RDKafkaErrorCode::Fatal,
            RDKafkaErrorCode::PurgeQueue,
            RDKafkaErrorCode::PurgeInflight,
        ] {
            let error = KafkaError::MessageProduction(code);
            assert!(!quarantine.note(&topic, ShardId(0), &error));
        }
        assert!(quarantine.producer(&topic, ShardId(0)).unwrap().is_none());
    }
}
