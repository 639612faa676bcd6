//! Reads partitions, each as a stream of its own, over as few Kafka connections as possible.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use rdkafka::config::{ClientConfig, FromClientConfig};
use rdkafka::consumer::stream_consumer::StreamPartitionQueue;
use rdkafka::consumer::{Consumer, DefaultConsumerContext, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use shardline_common::kafka::assignment;
use shardline_common::record::{Record, RecordError};
use shardline_common::types::{Offset, ShardId, TopicName};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::ports::{Positioned, Records, Unpacked};

#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("topic {topic} partition {shard} cannot be read: {source}")]
    Kafka { topic: TopicName, shard: ShardId, source: Box<KafkaError> },
    #[error("topic {topic} partition {shard} no longer has the record at offset {offset}")]
    PositionLost { topic: TopicName, shard: ShardId, offset: Offset },
    #[error("topic {topic} partition {shard}: the record at offset {found} came where {expected} was due")]
    Skipped { topic: TopicName, shard: ShardId, expected: Offset, found: Offset },
    #[error("topic {topic} partition {shard} offset {offset}: {source}")]
    Record { topic: TopicName, shard: ShardId, offset: Offset, source: RecordError },
}

/// How long Kafka may take to tell who leads a topic's partitions.
const LEADERS_TIMEOUT: Duration = Duration::from_secs(10);

type Partition = (TopicName, ShardId);

/// A consumer and the partitions that it reads. Several subscriptions may read one partition; each then has it from
/// another consumer.
struct Member {
    consumer: Arc<StreamConsumer>,
    partitions: HashSet<Partition>,
}

#[derive(Clone)]
pub struct Streams {
    settings: ClientConfig,
    members: Arc<Mutex<Vec<Member>>>,
    stop: CancellationToken,
}

impl Streams {
    /// For partitions that are followed. A new one waits for the fetch of the others that is under way, so that is short; shorter
    /// ones would cost more while nothing comes.
    pub fn of_shards(settings: ClientConfig, stop: CancellationToken) -> Self {
        Self::new(settings, "200", stop)
    }

    /// For partitions that are read to their ends. The others always have news, and fetches that wait cost nothing.
    pub fn of_copies(settings: ClientConfig, stop: CancellationToken) -> Self {
        Self::new(settings, "5", stop)
    }

    fn new(mut settings: ClientConfig, fetch_wait_ms: &str, stop: CancellationToken) -> Self {
        settings.set("fetch.wait.max.ms", fetch_wait_ms);
        Self { settings, members: Arc::default(), stop }
    }

    /// Reads a partition from an offset on, until the stream is dropped.
    pub async fn open(
        &self,
        topic: &TopicName,
        shard: ShardId,
        offset: Offset,
    ) -> Result<PartitionStream, StreamError> {
        let failed = |source| StreamError::Kafka { topic: topic.clone(), shard, source: Box::new(source) };
        let partition = (topic.clone(), shard);
        let (consumer, knows_topic) = self.member_without(&partition).map_err(failed)?;
        let (unpacked, members) = (Unpacked::new(offset, Vec::new()), Arc::clone(&self.members));
        let mut stream = PartitionStream { queue: None, consumer, partition, position: offset, unpacked, members };
        if !knows_topic {
            stream.know_leaders().await.map_err(failed)?;
        }
        // Split off before it is assigned, so that none of its records goes to the consumer's common queue.
        stream.queue = stream.consumer.split_partition_queue(topic.as_str(), shard.partition());
        let start = HashMap::from([(stream.partition.clone(), offset)]);
        assignment(&start).and_then(|list| stream.consumer.incremental_assign(&list)).map_err(failed)?;
        Ok(stream)
    }

    /// A consumer that does not read the partition yet, and whether it reads others of the topic.
    fn member_without(&self, partition: &Partition) -> Result<(Arc<StreamConsumer>, bool), KafkaError> {
        let mut members = self.members.lock();
        if let Some(member) = members.iter_mut().find(|member| !member.partitions.contains(partition)) {
            let knows_topic = member.partitions.iter().any(|(topic, _)| *topic == partition.0);
            member.partitions.insert(partition.clone());
            return Ok((Arc::clone(&member.consumer), knows_topic));
        }
        let consumer = Arc::new(StreamConsumer::from_config(&self.settings)?);
        tokio::spawn(serve_events(Arc::clone(&consumer), self.stop.clone()));
        let partitions = HashSet::from([partition.clone()]);
        members.push(Member { consumer: Arc::clone(&consumer), partitions });
        Ok((consumer, false))
    }
}

/// librdkafka wants the common queue to be polled, for its events' sake.
async fn serve_events(consumer: Arc<StreamConsumer>, stop: CancellationToken) {
    loop {
        tokio::select! {
            event = consumer.recv() => match event {
                Ok(stray) => debug!(topic = stray.topic(), offset = stray.offset(), "a record of a stream just closed"),
                Err(error) => {
                    warn!(%error, "Kafka reports");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            () = stop.cancelled() => return,
        }
    }
}

pub struct PartitionStream {
    queue: Option<StreamPartitionQueue<DefaultConsumerContext>>,
    consumer: Arc<StreamConsumer>,
    partition: Partition,
    /// Of the next Kafka record.
    position: Offset,
    /// What is left of the one before.
    unpacked: Unpacked,
    members: Arc<Mutex<Vec<Member>>>,
}

impl Records for PartitionStream {
    async fn next(&mut self) -> Result<Positioned, StreamError> {
        loop {
            if let Some(record) = self.unpacked.next() {
                return Ok(record);
            }
            self.receive().await?;
        }
    }

    fn ready(&mut self) -> Option<Result<Positioned, StreamError>> {
        self.next().now_or_never()
    }
}

impl PartitionStream {
    /// Who leads the partitions of an assigned topic that it does not know yet, librdkafka asks once a second only. The
    /// question waits behind a fetch under way.
    async fn know_leaders(&self) -> Result<(), KafkaError> {
        let (consumer, topic) = (Arc::clone(&self.consumer), self.partition.0.clone());
        let asked = spawn_blocking(move || consumer.fetch_metadata(Some(topic.as_str()), LEADERS_TIMEOUT).map(|_| ()));
        asked.await.unwrap_or(Err(KafkaError::Canceled))
    }

    async fn receive(&mut self) -> Result<(), StreamError> {
        let received = match &self.queue {
            Some(queue) => match queue.recv().await {
                Ok(message) => Ok(read(&self.partition, &message)),
                Err(error) => Err(error),
            },
            None => Err(KafkaError::MessageConsumption(RDKafkaErrorCode::UnknownPartition)),
        };
        let (topic, shard) = (self.partition.0.clone(), self.partition.1);
        match received {
            // Nothing is ever taken out of the middle of these topics.
            Ok(Ok((found, _))) if found != self.position => {
                Err(StreamError::Skipped { topic, shard, expected: self.position, found })
            }
            Ok(Ok((offset, records))) => {
                self.position = Offset(offset.0 + 1);
                self.unpacked = Unpacked::new(offset, records);
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(error) => match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                    Err(StreamError::PositionLost { topic, shard, offset: self.position })
                }
                _ => Err(StreamError::Kafka { topic, shard, source: Box::new(error) }),
            },
        }
    }
}

fn read((topic, shard): &Partition, message: &BorrowedMessage<'_>) -> Result<(Offset, Vec<Record>), StreamError> {
    let offset = Offset(message.offset());
    let records = Record::decode(message).map_err(|source| StreamError::Record {
        topic: topic.clone(),
        shard: *shard,
        offset,
        source,
    })?;
    Ok((offset, records))
}

impl Drop for PartitionStream {
    fn drop(&mut self) {
        let whole = HashMap::from([(self.partition.clone(), Offset(0))]);
        if self.queue.take().is_some()
            && let Err(error) = assignment(&whole).and_then(|list| self.consumer.incremental_unassign(&list))
        {
            warn!(topic = %self.partition.0, shard = %self.partition.1, %error, "a partition could not be let go");
        }
        let mut members = self.members.lock();
        if let Some(member) = members.iter_mut().find(|member| Arc::ptr_eq(&member.consumer, &self.consumer)) {
            member.partitions.remove(&self.partition);
        }
    }
}
