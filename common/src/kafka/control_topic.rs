//! A compacted control topic as a table that every agent keeps in memory.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rdkafka::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{Consumer, ConsumerContext, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::message::OwnedHeaders;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::memory::{self, Readout};
use super::{Group, Kafka, Outgoing, RenewedProducer, TopicError, assignment};
use crate::control::Entry;
use crate::process::backoff::until_available;
use crate::words::types::{Offset, ShardId, TopicName};

const SHARD: ShardId = ShardId(0);
/// After this nobody waits for a write any more.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
const READ_RETRY: Duration = Duration::from_millis(250);

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error("control topic {topic}: {source}")]
    Kafka {
        topic: TopicName,
        source: KafkaError,
    },
    #[error("control topic {topic}: an entry could not be written as JSON: {source}")]
    Json {
        topic: TopicName,
        source: serde_json::Error,
    },
    #[error("control topic {topic}: Kafka did not take a write within {}s", WRITE_TIMEOUT.as_secs())]
    Timeout { topic: TopicName },
    #[error("control topic {topic}: a write was not seen to come back; the agent is stopping")]
    Stopped { topic: TopicName },
}

/// One control topic: reads go to memory, writes return once this agent's own table shows them.
#[derive(Clone)]
pub struct ControlTopic {
    topic: TopicName,
    producer: RenewedProducer,
    table: Arc<RwLock<Table>>,
    /// The offset behind the last record in the table.
    position: watch::Receiver<Offset>,
}

#[derive(Default)]
struct Table {
    entries: BTreeMap<String, Bytes>,
    /// The offset behind the last record of each kind.
    newest: HashMap<String, Offset>,
}

impl Table {
    fn take(&mut self, key: String, value: Option<Bytes>, next: Offset) {
        let kind = key.split_once('/').map_or(&*key, |(kind, _)| kind);
        match self.newest.get_mut(kind) {
            Some(newest) => *newest = next,
            None => drop(self.newest.insert(kind.to_owned(), next)),
        }
        match value {
            Some(value) => self.entries.insert(key, value),
            None => self.entries.remove(&key),
        };
    }

    fn below(&self, prefix: &str) -> impl Iterator<Item = (&String, &Bytes)> {
        self.entries
            .range(prefix.to_owned()..)
            .take_while(move |(key, _)| key.starts_with(prefix))
    }
}

impl ControlTopic {
    /// Makes the topic if need be and reads it to its end. Kafka being away is waited out, with a
    /// warning for each attempt.
    pub async fn open(
        kafka: &Kafka,
        topic: TopicName,
        stop: &CancellationToken,
    ) -> Result<Self, ControlError> {
        let opened = until_available(
            "control topic",
            || Self::try_open(kafka, topic.clone(), stop),
            stop,
        )
        .await;
        opened.ok_or(ControlError::Stopped { topic })
    }

    async fn try_open(
        kafka: &Kafka,
        topic: TopicName,
        stop: &CancellationToken,
    ) -> Result<Self, ControlError> {
        let options = [
            ("cleanup.policy", "compact".to_owned()),
            ("min.cleanable.dirty.ratio", "0.1".to_owned()),
        ];
        kafka.create_topic(&topic, 1, &options).await?;
        let marks = kafka.watermarks(&topic, SHARD).await?;
        let failed = |source| ControlError::Kafka {
            topic: topic.clone(),
            source,
        };
        let records = Records::open(kafka, &topic, marks.low).map_err(failed)?;

        let table = Arc::new(RwLock::new(Table::default()));
        let (progress, position) = watch::channel(marks.low);
        let producer =
            RenewedProducer::made_by(Kafka::control_producer, kafka.clone()).map_err(failed)?;
        tokio::spawn(follow(
            records,
            Arc::clone(&table),
            progress,
            marks.high,
            stop.clone(),
        ));
        let mut opened = Self {
            topic,
            producer,
            table,
            position,
        };
        opened.reached(marks.high).await?;
        info!(topic = %opened.topic, entries = opened.table.read().entries.len(), "control topic read");
        Ok(opened)
    }

    async fn reached(&mut self, offset: Offset) -> Result<(), ControlError> {
        let seen = self
            .position
            .wait_for(|position| *position >= offset)
            .await
            .map(|_| ());
        seen.map_err(|_| ControlError::Stopped {
            topic: self.topic.clone(),
        })
    }

    /// Resolves after the next change; see [`watch::Receiver`].
    pub fn changes(&self) -> watch::Receiver<Offset> {
        self.position.clone()
    }

    /// The entry under a key. One that this build cannot read is reported and treated as absent.
    pub fn get<T: Entry>(&self, key: &str) -> Option<T> {
        self.part(key)
    }

    /// A part of an entry, without making anything of the rest.
    pub fn part<P: DeserializeOwned>(&self, key: &str) -> Option<P> {
        let bytes = self.table.read().entries.get(key).cloned()?;
        self.parse(key, &bytes)
    }

    /// All entries of a kind, in the order of their keys.
    pub fn all<T: Entry>(&self) -> Vec<T> {
        self.below(&format!("{}/", T::KIND))
    }

    /// All entries whose keys begin like this, in the order of their keys.
    pub fn below<T: Entry>(&self, prefix: &str) -> Vec<T> {
        // Whoever writes to the table does not wait for what is parsed.
        let below = |(key, bytes): (&String, &Bytes)| (key.clone(), bytes.clone());
        let entries: Vec<_> = self.table.read().below(prefix).map(below).collect();
        entries
            .iter()
            .filter_map(|(key, bytes)| self.parse(key, bytes))
            .collect()
    }

    /// The offset behind the last record of a kind: what is made of all its entries holds as long
    /// as this stays.
    pub fn newest<T: Entry>(&self) -> Option<Offset> {
        self.table.read().newest.get(T::KIND).copied()
    }

    pub fn count_below(&self, prefix: &str) -> usize {
        self.table.read().below(prefix).count()
    }

    fn parse<T: DeserializeOwned>(&self, key: &str, bytes: &Bytes) -> Option<T> {
        match serde_json::from_slice(bytes) {
            Ok(entry) => Some(entry),
            Err(error) => {
                warn!(topic = %self.topic, key, %error, "an entry of the control topic is not of this build's form");
                None
            }
        }
    }

    /// Writes an entry and returns once it shows in the table.
    pub async fn publish<T: Entry>(&self, entry: &T) -> Result<(), ControlError> {
        let json = serde_json::to_vec(entry).map_err(|source| ControlError::Json {
            topic: self.topic.clone(),
            source,
        })?;
        self.write(&entry.key(), Some(json)).await
    }

    /// Removes an entry and returns once the table shows it gone.
    pub async fn remove(&self, key: &str) -> Result<(), ControlError> {
        self.write(key, None).await
    }

    async fn write(&self, key: &str, value: Option<Vec<u8>>) -> Result<(), ControlError> {
        let record = Outgoing {
            key: Some(key.as_bytes()),
            value: value.as_deref(),
            headers: OwnedHeaders::new(),
            timestamp_ms: 0,
        };
        let written = async {
            let (group, delivery) = Group::new(None);
            let producer = self.producer.current();
            let failed = |source| {
                self.producer.renew_if_fatal(&producer);
                ControlError::Kafka {
                    topic: self.topic.clone(),
                    source,
                }
            };
            producer
                .send(&self.topic, SHARD, record, &group)
                .await
                .map_err(failed)?;
            drop(group);
            let offset = delivery.wait().await.map_err(failed)?;
            self.clone().reached(Offset(offset.0 + 1)).await
        };
        let in_time = tokio::time::timeout(WRITE_TIMEOUT, written).await;
        in_time.unwrap_or_else(|_| {
            Err(ControlError::Timeout {
                topic: self.topic.clone(),
            })
        })
    }
}

/// What is made of all entries of a kind: made anew when one of them has changed.
pub struct Derived<V>(Mutex<(Option<Offset>, Arc<V>)>);

impl<V: Default> Default for Derived<V> {
    /// The value that is derived from no entries.
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<V> Derived<V> {
    pub fn get<T: Entry>(&self, table: &ControlTopic, make: impl FnOnce(Vec<T>) -> V) -> Arc<V> {
        let now = table.newest::<T>();
        let mut known = self.0.lock();
        if known.0 != now {
            *known = (now, Arc::new(make(table.all())));
        }
        Arc::clone(&known.1)
    }
}

/// The end of a partition is no error here.
struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        if !matches!(error, KafkaError::PartitionEOF(_))
            && !matches!(error, KafkaError::Global(RDKafkaErrorCode::PartitionEOF))
        {
            warn!(%error, reason, "Kafka reports");
        }
    }
}

impl ConsumerContext for Quiet {}

/// A control topic's records, from wherever they come.
enum Records {
    Network(StreamConsumer<Quiet>),
    Memory(memory::Reader),
}

/// What comes next: a record, or for now nothing.
enum Next {
    Record {
        next: Offset,
        key: Option<Bytes>,
        value: Option<Bytes>,
    },
    End,
}

impl Records {
    fn open(kafka: &Kafka, topic: &TopicName, low: Offset) -> Result<Self, KafkaError> {
        if let Some(client) = kafka.memory() {
            let reader = memory::Reader::new(client.clone(), topic.clone(), SHARD, low);
            return Ok(Self::Memory(reader));
        }
        let mut settings = kafka.consumer("shardline-control");
        // The end is an event of its own: compaction may have removed the records just before it.
        settings
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "true");
        let consumer = StreamConsumer::from_config_and_context(&settings, Quiet)?;
        let start = HashMap::from([((topic.clone(), SHARD), low)]);
        consumer.assign(&assignment(&start)?)?;
        Ok(Self::Network(consumer))
    }

    async fn next(&mut self) -> Result<Next, KafkaError> {
        match self {
            Self::Network(consumer) => match consumer.recv().await {
                Ok(message) => Ok(Next::Record {
                    next: Offset(message.offset() + 1),
                    key: message.key().map(Bytes::copy_from_slice),
                    value: message.payload().map(Bytes::copy_from_slice),
                }),
                Err(KafkaError::PartitionEOF(_)) => Ok(Next::End),
                Err(error) => Err(error),
            },
            Self::Memory(reader) => match reader.next().await {
                Readout::Record(offset, record) => Ok(Next::Record {
                    next: Offset(offset.0 + 1),
                    key: record.key,
                    value: record.value,
                }),
                Readout::End => Ok(Next::End),
                Readout::Lost => Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::AutoOffsetReset,
                )),
            },
        }
    }
}

/// Keeps the table up to date until the agent stops.
async fn follow(
    mut records: Records,
    table: Arc<RwLock<Table>>,
    progress: watch::Sender<Offset>,
    end_at_start: Offset,
    stop: CancellationToken,
) {
    loop {
        let next = tokio::select! {
            next = records.next() => next,
            () = stop.cancelled() => return,
        };
        match next {
            Ok(Next::Record { next, key, value }) => {
                if let Some(Ok(key)) = key.map(|key| String::from_utf8(key.to_vec())) {
                    table.write().take(key, value, next);
                }
                progress.send_replace(next);
            }
            Ok(Next::End) => {
                progress.send_if_modified(|position| {
                    let behind = *position < end_at_start;
                    *position = (*position).max(end_at_start);
                    behind
                });
            }
            Err(error) => {
                warn!(%error, "control topic cannot be read for now");
                tokio::time::sleep(READ_RETRY).await;
            }
        }
    }
}
