//! Sends records to Kafka with bounded memory. After a producer's fatal error every capture starts
//! again from its partition's tail with a new one.
//!
//! All partitions share a producer that gives up everything when Kafka refuses one record: nothing
//! can follow that record. A partition that has refused one goes on apart from the others, one
//! record at a time (see docs/decisions/0020).

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rdkafka::error::KafkaError;
use shardline_common::kafka::{
    Group, Kafka, MAX_RECORD_BYTES, Outgoing, Producer, Reach, RenewedProducer, TopicError,
};
use shardline_common::record::{Body, Operation, Pack, Record, packs};
use shardline_common::standstill::Cause;
use shardline_common::types::{Offset, SeqNo, ShardId, TopicName};

use super::budget::{Budget, Partition};
use super::partition_log::{Appender, PartitionLog, Pending};
use super::quarantine::{Quarantine, is_bystander, is_too_large, usable};

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
    budget: Budget,
    quarantine: Quarantine,
    pack_bytes: usize,
}

impl PublishError {
    /// Whether the record failed because one of another partition did.
    pub fn is_of_others(&self) -> bool {
        matches!(self, Self::Kafka { source, .. } if is_bystander(source))
    }
}

impl Publisher {
    /// Operations go into one Kafka record as far as they take `pack_bytes` together.
    pub fn new(kafka: Kafka, pack_bytes: usize) -> Result<Self, KafkaError> {
        let producer = RenewedProducer::new(kafka.clone())?;
        Ok(Self {
            producer,
            budget: Budget::start(),
            quarantine: Quarantine::new(kafka.clone()),
            kafka,
            pack_bytes,
        })
    }
}

/// Sends with one producer, even when others have renewed it meanwhile: the renewed one would take
/// what follows records that the failed one has lost.
struct PinnedAppender {
    publisher: Publisher,
    producer: Producer,
    partition: Partition,
    /// Whether records were handed to the shared producer: then all others go there, too.
    is_shared: AtomicBool,
    /// Nothing may follow a record that has failed.
    has_failed: Mutex<Option<KafkaError>>,
}

impl PinnedAppender {
    async fn hand_over(
        &self,
        topic: &TopicName,
        shard: ShardId,
        records: &[Record],
    ) -> Result<Pending, PublishError> {
        let failed = self.has_failed.lock().clone();
        if let Some(error) = failed {
            return Err(kafka_error(topic, shard, error));
        }
        let packs: Vec<Pack<'_>> = packs(records, self.publisher.pack_bytes).collect();
        let mut weight = 0;
        for pack in &packs {
            weight += weigh_pack(topic, shard, pack)?;
        }
        if !self.is_shared.load(Relaxed) {
            let alone = self.publisher.quarantine.producer(topic, shard);
            match alone.map_err(|source| kafka_error(topic, shard, source))? {
                Some(producer) => return self.one_by_one(&producer, topic, shard, &packs).await,
                None => self.is_shared.store(true, Relaxed),
            }
        }
        let (group, delivery) = Group::new(Some(self.room_for(weight).await?));
        for pack in &packs {
            if let Err(source) = send(&self.producer, topic, shard, pack, &group).await {
                return Err(self.publisher.failed(&self.producer, topic, shard, source));
            }
        }
        let (publisher, producer, topic) =
            (self.publisher.clone(), self.producer.clone(), topic.clone());
        Ok(Box::pin(async move {
            let delivered = delivery.wait().await;
            delivered.map_err(|source| publisher.failed(&producer, &topic, shard, source))
        }))
    }

    /// Hands a record over only when the one before has arrived, so that nothing follows one that
    /// Kafka refuses.
    async fn one_by_one(
        &self,
        producer: &RenewedProducer,
        topic: &TopicName,
        shard: ShardId,
        packs: &[Pack<'_>],
    ) -> Result<Pending, PublishError> {
        let mut last = Offset(-1);
        for pack in packs {
            let sent = self.send_one(producer, topic, shard, pack).await;
            last = match sent {
                Err(PublishError::Kafka { source, .. })
                    if is_too_large(&source) && pack.records().len() > 1 =>
                {
                    // Some of it may be small enough.
                    let mut last = Offset(-1);
                    for single in shardline_common::record::packs(pack.records(), 0) {
                        last = self.send_one(producer, topic, shard, &single).await?;
                    }
                    last
                }
                sent => sent?,
            };
        }
        Ok(futures::future::ready(Ok(last)).boxed())
    }

    async fn send_one(
        &self,
        producer: &RenewedProducer,
        topic: &TopicName,
        shard: ShardId,
        pack: &Pack<'_>,
    ) -> Result<Offset, PublishError> {
        let room = self.room_for(weigh_pack(topic, shard, pack)?).await?;
        let (group, delivery) = Group::new(Some(room));
        let producer = usable(producer);
        let sent = match send(&producer, topic, shard, pack, &group).await {
            Ok(()) => {
                drop(group);
                delivery.wait().await
            }
            Err(error) => Err(error),
        };
        sent.map_err(|source| {
            if !(is_too_large(&source) && pack.records().len() > 1) {
                *self.has_failed.lock() = Some(source.clone());
            }
            self.publisher.quarantine.note(topic, shard, &source);
            kafka_error(topic, shard, source)
        })
    }

    /// What records weigh is taken from the budget at once and comes back when Kafka has them.
    async fn room_for(&self, bytes: usize) -> Result<Arc<dyn Any + Send + Sync>, PublishError> {
        let room = self.partition.room_for(bytes).await;
        Ok(room.map_err(|_| PublishError::Stopping)?)
    }
}

impl Publisher {
    /// To be told of each failure of the shared producer.
    fn failed(
        &self,
        producer: &Producer,
        topic: &TopicName,
        shard: ShardId,
        source: KafkaError,
    ) -> PublishError {
        self.producer.renew_if_fatal(producer);
        self.quarantine.note(topic, shard, &source);
        kafka_error(topic, shard, source)
    }
}

async fn send(
    producer: &Producer,
    topic: &TopicName,
    shard: ShardId,
    pack: &Pack<'_>,
    group: &Group,
) -> Result<(), KafkaError> {
    let encoded = pack.encode();
    let outgoing = Outgoing {
        key: encoded.key,
        value: Some(&encoded.value),
        headers: encoded.headers,
        timestamp_ms: pack.last().timestamp_ms,
    };
    producer.send(topic, shard, outgoing, group).await
}

/// What a pack weighs, in bytes, unless no Kafka takes it.
fn weigh_pack(topic: &TopicName, shard: ShardId, pack: &Pack<'_>) -> Result<usize, PublishError> {
    let bytes = pack.records().iter().map(weigh).sum::<usize>() + RECORD_OVERHEAD;
    if bytes <= MAX_RECORD_BYTES {
        return Ok(bytes);
    }
    Err(PublishError::TooLarge {
        topic: topic.clone(),
        shard,
        seq_no: pack.last().seq_no.0,
        bytes,
    })
}

fn kafka_error(topic: &TopicName, shard: ShardId, source: KafkaError) -> PublishError {
    PublishError::Kafka {
        topic: topic.clone(),
        shard,
        source: Box::new(source),
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

    fn is_late(&self) -> bool {
        self.partition.is_late()
    }

    fn is_doubted(&self) -> bool {
        self.partition.is_doubted()
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
            producer: usable(&self.producer),
            partition: self.budget.partition(),
            is_shared: AtomicBool::new(false),
            has_failed: Mutex::default(),
        })
    }

    fn why_stuck<'a>(&'a self, topic: &'a TopicName, shard: ShardId) -> BoxFuture<'a, Cause> {
        Box::pin(async move {
            match self.kafka.has_leader(topic, shard).await {
                Ok(Some(true)) => Cause::PartitionStuck,
                Ok(Some(false)) => Cause::NoLeader,
                Ok(None) => Cause::TopicMissing,
                Err(_) => Cause::KafkaAway,
            }
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
