//! Sends records to Kafka with bounded memory, and starts over with a new producer after a fatal error.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::future_producer::OwnedDeliveryResult;
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer};
use shardline_common::kafka::{Kafka, MAX_RECORD_BYTES};
use shardline_common::record::Record;
use shardline_common::types::{Offset, ShardId, TopicName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

/// What all shards together may have on its way to Kafka, in KiB. One larger record takes all of it.
const IN_FLIGHT_KIB: u32 = 24 * 1024;
/// What a record weighs beside its key and value.
const RECORD_OVERHEAD: usize = 512;
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("topic {topic} partition {shard}: Kafka did not take a record: {source}")]
    Kafka { topic: TopicName, shard: ShardId, source: Box<KafkaError> },
    #[error(
        "topic {topic} partition {shard}: the record at seq_no {seq_no} has {bytes} bytes, more than Kafka takes \
         ({MAX_RECORD_BYTES}): the shard cannot be shipped past it"
    )]
    TooLarge { topic: TopicName, shard: ShardId, seq_no: i64, bytes: usize },
    #[error("the agent is stopping")]
    Stopping,
}

#[derive(Clone)]
pub struct Publisher {
    kafka: Kafka,
    producer: Arc<RwLock<FutureProducer>>,
    budget: Arc<Semaphore>,
}

/// A record on its way.
pub struct Pending {
    topic: TopicName,
    shard: ShardId,
    delivery: DeliveryFuture,
    producer: FutureProducer,
    _budget: OwnedSemaphorePermit,
}

impl Publisher {
    pub fn new(kafka: Kafka) -> Result<Self, KafkaError> {
        let producer = Arc::new(RwLock::new(kafka.producer()?));
        Ok(Self { kafka, producer, budget: Arc::new(Semaphore::new(IN_FLIGHT_KIB as usize)) })
    }

    /// Hands a record to Kafka's queue, waiting while too much is on its way. Records of one partition keep the order
    /// in which they were handed over.
    pub async fn send(&self, topic: &TopicName, shard: ShardId, record: &Record) -> Result<Pending, PublishError> {
        let encoded = record.encode();
        let bytes = encoded.value.len() + encoded.key.as_ref().map_or(0, Vec::len) + RECORD_OVERHEAD;
        if bytes > MAX_RECORD_BYTES {
            let seq_no = record.seq_no.0;
            return Err(PublishError::TooLarge { topic: topic.clone(), shard, seq_no, bytes });
        }
        let weight = u32::try_from(bytes.div_ceil(1024)).unwrap_or(IN_FLIGHT_KIB).min(IN_FLIGHT_KIB);
        let budget = Arc::clone(&self.budget).acquire_many_owned(weight).await.map_err(|_| PublishError::Stopping)?;
        let producer = self.producer.read().clone();
        let mut message = FutureRecord::<Vec<u8>, [u8]>::to(topic.as_str())
            .partition(shard.partition())
            .payload(&encoded.value)
            .headers(encoded.headers)
            .timestamp(record.timestamp_ms);
        if let Some(key) = &encoded.key {
            message = message.key(key);
        }
        loop {
            match producer.send_result(message) {
                Ok(delivery) => {
                    return Ok(Pending { topic: topic.clone(), shard, delivery, producer, _budget: budget });
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) => {
                    message = returned;
                    tokio::time::sleep(FULL_QUEUE_PAUSE).await;
                }
                Err((source, _)) => {
                    self.renew_if_fatal(&producer);
                    return Err(PublishError::Kafka { topic: topic.clone(), shard, source: Box::new(source) });
                }
            }
        }
    }

    /// Waits until Kafka has a record; says where.
    pub async fn delivered(&self, pending: Pending) -> Result<Offset, PublishError> {
        let failed = |source| PublishError::Kafka {
            topic: pending.topic.clone(),
            shard: pending.shard,
            source: Box::new(source),
        };
        let outcome: OwnedDeliveryResult = pending.delivery.await.map_err(|_| PublishError::Stopping)?;
        match outcome {
            Ok(delivery) => Ok(Offset(delivery.offset)),
            Err((source, _)) => {
                self.renew_if_fatal(&pending.producer);
                Err(failed(source))
            }
        }
    }

    /// Sends one record and waits until Kafka has it.
    pub async fn send_and_wait(
        &self,
        topic: &TopicName,
        shard: ShardId,
        record: &Record,
    ) -> Result<Offset, PublishError> {
        let pending = self.send(topic, shard, record).await?;
        self.delivered(pending).await
    }

    /// An idempotent producer that has failed for good is of no use any more; every capture starts again from its
    /// partition's tail with a new one.
    fn renew_if_fatal(&self, failed: &FutureProducer) {
        let Some((code, reason)) = failed.client().fatal_error() else { return };
        let mut current = self.producer.write();
        if current.client().fatal_error().is_none() {
            return; // another shard has renewed it already
        }
        match self.kafka.producer() {
            Ok(renewed) => {
                warn!(%code, reason, "the Kafka producer failed for good; going on with a new one");
                *current = renewed;
            }
            Err(error) => warn!(%error, "a new Kafka producer could not be made; trying again with the next record"),
        }
    }
}
