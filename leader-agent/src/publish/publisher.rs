//! Sends records to Kafka with bounded memory. After a producer's fatal error every capture starts
//! again from its partition's tail with a new one.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use rdkafka::error::KafkaError;
use shardline_common::kafka::{
    Group, Kafka, MAX_RECORD_BYTES, Outgoing, Producer, Reach, RenewedProducer, TopicError,
};
use shardline_common::record::{Body, Operation, Pack, Record, packs};
use shardline_common::types::{Offset, SeqNo, ShardId, TopicName};
use tokio::sync::Semaphore;

use super::partition_log::{Appender, PartitionLog, Pending};

/// What all shards together may have on its way to Kafka, in KiB. One larger record takes all of
/// it.
const IN_FLIGHT_KIB: u32 = 12 * 1024;
/// What a Kafka record weighs beside its key and value.
const RECORD_OVERHEAD: usize = 512;

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("topic {topic} partition {shard}: Kafka did not take a record: {source}")]
    Kafka {
        topic: TopicName,
        shard: ShardId,
        source: Box<KafkaError>,
    },
    #[error(
        "topic {topic} partition {shard}: the record at seq_no {seq_no} has {bytes} bytes, more than Kafka takes \
         ({MAX_RECORD_BYTES}): the shard cannot be shipped past it"
    )]
    TooLarge {
        topic: TopicName,
        shard: ShardId,
        seq_no: i64,
        bytes: usize,
    },
    #[error("the agent is stopping")]
    Stopping,
}

#[derive(Clone)]
pub struct Publisher {
    kafka: Kafka,
    producer: RenewedProducer,
    budget: Arc<Semaphore>,
    pack_bytes: usize,
}

impl Publisher {
    /// Operations go into one Kafka record as far as they take `pack_bytes` together.
    pub fn new(kafka: Kafka, pack_bytes: usize) -> Result<Self, KafkaError> {
        let producer = RenewedProducer::new(kafka.clone())?;
        Ok(Self {
            kafka,
            producer,
            budget: Arc::new(Semaphore::new(IN_FLIGHT_KIB as usize)),
            pack_bytes,
        })
    }
}

/// Sends with one producer, even when others have renewed it meanwhile: the renewed one would take
/// what follows records that the failed one has lost.
struct PinnedAppender {
    publisher: Publisher,
    producer: Producer,
}

impl PinnedAppender {
    /// What records weigh is taken from the budget at once and comes back when Kafka has them,
    /// whether or not anybody waits for that. So shards that hold parts of the budget never wait
    /// for each other.
    async fn hand_over(
        &self,
        topic: &TopicName,
        shard: ShardId,
        records: &[Record],
    ) -> Result<Pending, PublishError> {
        let packs: Vec<Pack<'_>> = packs(records, self.publisher.pack_bytes).collect();
        let mut weight = 0;
        for pack in &packs {
            let bytes = pack.records().iter().map(weigh).sum::<usize>() + RECORD_OVERHEAD;
            if bytes > MAX_RECORD_BYTES {
                let seq_no = pack.last().seq_no.0;
                return Err(PublishError::TooLarge {
                    topic: topic.clone(),
                    shard,
                    seq_no,
                    bytes,
                });
            }
            weight += bytes;
        }
        let kib = u32::try_from(weight.div_ceil(1024))
            .unwrap_or(IN_FLIGHT_KIB)
            .min(IN_FLIGHT_KIB);
        let budget = Arc::clone(&self.publisher.budget)
            .acquire_many_owned(kib)
            .await
            .map_err(|_| PublishError::Stopping)?;
        let (group, delivery) = Group::new(Some(budget));
        for pack in packs {
            let encoded = pack.encode();
            let outgoing = Outgoing {
                key: encoded.key,
                value: Some(&encoded.value),
                headers: encoded.headers,
                timestamp_ms: pack.last().timestamp_ms,
            };
            if let Err(source) = self.producer.send(topic, shard, outgoing, &group).await {
                self.publisher.producer.renew_if_fatal(&self.producer);
                return Err(PublishError::Kafka {
                    topic: topic.clone(),
                    shard,
                    source: Box::new(source),
                });
            }
        }
        let (publisher, producer, topic) =
            (self.publisher.clone(), self.producer.clone(), topic.clone());
        Ok(Box::pin(async move {
            delivery.wait().await.map_err(|source| {
                publisher.producer.renew_if_fatal(&producer);
                PublishError::Kafka {
                    topic,
                    shard,
                    source: Box::new(source),
                }
            })
        }))
    }
}

impl Appender for PinnedAppender {
    fn send<'a>(
        &'a self,
        topic: &'a TopicName,
        shard: ShardId,
        records: &'a [Record],
    ) -> BoxFuture<'a, Result<Pending, PublishError>> {
        Box::pin(self.hand_over(topic, shard, records))
    }
}

impl PartitionLog for Publisher {
    fn reach<'a>(
        &'a self,
        topic: &'a TopicName,
        shard: ShardId,
    ) -> BoxFuture<'a, Result<Option<Reach>, TopicError>> {
        Box::pin(self.kafka.reach(topic, shard))
    }

    fn last_operation<'a>(
        &'a self,
        topic: &'a TopicName,
        shard: ShardId,
        reach: &'a Reach,
    ) -> BoxFuture<'a, Result<Option<Operation>, TopicError>> {
        Box::pin(self.kafka.last_operation(topic, shard, reach))
    }

    fn last_operations<'a>(
        &'a self,
        topic: &'a TopicName,
        shard: ShardId,
        reach: &'a Reach,
    ) -> BoxFuture<'a, Result<BTreeMap<SeqNo, Operation>, TopicError>> {
        Box::pin(self.kafka.last_operations(topic, shard, reach))
    }

    fn last_record<'a>(
        &'a self,
        topic: &'a TopicName,
        shard: ShardId,
    ) -> BoxFuture<'a, Result<Option<(Offset, Record)>, TopicError>> {
        Box::pin(self.kafka.last_record(topic, shard))
    }

    fn create_replication_topic<'a>(
        &'a self,
        topic: &'a TopicName,
        shards: u32,
    ) -> BoxFuture<'a, Result<(), TopicError>> {
        Box::pin(self.kafka.create_replication_topic(topic, shards))
    }

    fn appender(&self) -> Arc<dyn Appender> {
        Arc::new(PinnedAppender {
            publisher: self.clone(),
            producer: self.producer.current(),
        })
    }
}

/// What a record says, in bytes.
fn weigh(record: &Record) -> usize {
    match &record.body {
        Body::Operation(operation) | Body::ResyncDocument { operation, .. } => {
            operation.kind.bytes()
        }
        Body::ResyncIds { ids, .. } => ids.iter().map(|id| id.len() + 3).sum(),
        _ => 0,
    }
}
