//! Reads partitions, each as a stream of its own, over as few Kafka connections as possible.

mod memory;
mod partition;
mod records;
mod turns;

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::IntGauge;
use rdkafka::config::{ClientConfig, FromClientConfig};
use rdkafka::consumer::StreamConsumer;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use shardline_common::kafka::memory::Client;
use shardline_common::record::RecordError;
use shardline_common::types::{Offset, ShardId, TopicName};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::memory::MemoryRecords;
use self::partition::PartitionStream;
use self::turns::FetchTurns;

pub(crate) use self::memory::ShardRecords;
pub(crate) use self::records::before_more;
pub use self::records::{Positioned, Records, Unpacked};

#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("topic {topic} partition {shard} cannot be read: {source}")]
    Kafka {
        topic: TopicName,
        shard: ShardId,
        source: Box<KafkaError>,
    },
    #[error("topic {topic} partition {shard} no longer has the record at offset {offset}")]
    PositionLost {
        topic: TopicName,
        shard: ShardId,
        offset: Offset,
    },
    #[error(
        "topic {topic} partition {shard}: the record at offset {found} came where {expected} was \
         due"
    )]
    Skipped {
        topic: TopicName,
        shard: ShardId,
        expected: Offset,
        found: Offset,
    },
    #[error("topic {topic} partition {shard} offset {offset}: {source}")]
    Record {
        topic: TopicName,
        shard: ShardId,
        offset: Offset,
        source: RecordError,
    },
}

type Partition = (TopicName, ShardId);

/// A consumer and the partitions that it reads. Several subscriptions may read one partition; each
/// then has it from another consumer.
struct Member {
    consumer: Arc<StreamConsumer>,
    partitions: HashSet<Partition>,
}

#[derive(Clone)]
pub struct Streams {
    settings: ClientConfig,
    /// Instead of the network.
    memory: Option<Client>,
    members: Arc<Mutex<Vec<Member>>>,
    turns: Arc<FetchTurns>,
    stop: CancellationToken,
}

impl Streams {
    /// For partitions that are followed. A new one waits for the fetch of the others that is under
    /// way, so that is short; shorter ones would cost more while nothing comes.
    pub fn of_shards(settings: ClientConfig, waiting: IntGauge, stop: CancellationToken) -> Self {
        Self::new(settings, "200", waiting, stop)
    }

    /// For partitions that are read to their ends. The others always have news, and fetches that
    /// wait cost nothing.
    pub fn of_copies(settings: ClientConfig, waiting: IntGauge, stop: CancellationToken) -> Self {
        Self::new(settings, "5", waiting, stop)
    }

    /// `waiting` counts the partitions that wait for a turn.
    fn new(
        mut settings: ClientConfig,
        fetch_wait_ms: &str,
        waiting: IntGauge,
        stop: CancellationToken,
    ) -> Self {
        settings.set("fetch.wait.max.ms", fetch_wait_ms);
        Self {
            settings,
            memory: None,
            members: Arc::default(),
            turns: Arc::new(FetchTurns::new(waiting)),
            stop,
        }
    }

    /// The same, with the partitions of brokers in memory if there are any.
    pub fn over(self, memory: Option<&Client>) -> Self {
        Self {
            memory: memory.cloned(),
            ..self
        }
    }

    /// Reads a partition from where the records begin that are known to be there, until the stream
    /// is dropped.
    pub async fn open(
        &self,
        topic: &TopicName,
        shard: ShardId,
        known: Range<Offset>,
    ) -> Result<ShardRecords, StreamError> {
        if let Some(client) = &self.memory {
            let records = MemoryRecords::open(client, topic, shard, known.start);
            return Ok(ShardRecords::Memory(records));
        }
        let stream = self.open_on_network(topic, shard, known).await?;
        Ok(ShardRecords::Network(stream))
    }

    async fn open_on_network(
        &self,
        topic: &TopicName,
        shard: ShardId,
        known: Range<Offset>,
    ) -> Result<PartitionStream, StreamError> {
        let partition = (topic.clone(), shard);
        let failed = |source| StreamError::Kafka {
            topic: topic.clone(),
            shard,
            source: Box::new(source),
        };
        let (consumer, knows_topic) = self.member_without(&partition).map_err(failed)?;
        let mut stream = PartitionStream::new(self, consumer, partition, known);
        if !knows_topic {
            stream.know_leaders().await.map_err(failed)?;
        }
        Ok(stream)
    }

    /// A consumer that does not read the partition yet, and whether it reads others of the topic.
    fn member_without(
        &self,
        partition: &Partition,
    ) -> Result<(Arc<StreamConsumer>, bool), KafkaError> {
        let mut members = self.members.lock();
        if let Some(member) = members
            .iter_mut()
            .find(|member| !member.partitions.contains(partition))
        {
            let knows_topic = member
                .partitions
                .iter()
                .any(|(topic, _)| *topic == partition.0);
            member.partitions.insert(partition.clone());
            return Ok((Arc::clone(&member.consumer), knows_topic));
        }
        let consumer = Arc::new(StreamConsumer::from_config(&self.settings)?);
        tokio::spawn(serve_events(Arc::clone(&consumer), self.stop.clone()));
        let partitions = HashSet::from([partition.clone()]);
        members.push(Member {
            consumer: Arc::clone(&consumer),
            partitions,
        });
        Ok((consumer, false))
    }
}

/// librdkafka wants the common queue to be polled, for its events' sake.
async fn serve_events(consumer: Arc<StreamConsumer>, stop: CancellationToken) {
    loop {
        tokio::select! {
            event = consumer.recv() => match event {
                Ok(stray) => debug!(topic = stray.topic(), offset = stray.offset(), "a record of \
                    a stream just closed"),
                Err(error) => {
                    warn!(%error, "Kafka reports");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            () = stop.cancelled() => return,
        }
    }
}
