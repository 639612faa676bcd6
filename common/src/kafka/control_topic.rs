//! A compacted control topic as a table that every agent keeps in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rdkafka::error::KafkaError;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::control_reader::{Reader, make};
use super::control_records::{Records, stamp_headers};
use super::control_table::{Lost, Stamp, Table};
use super::{Group, Kafka, Outgoing, RenewedProducer, TopicError};
use crate::control::Entry;
use crate::process::backoff::until_available;
use crate::process::clock::now_ms;
use crate::words::types::{Offset, ShardId, TopicName};

pub(super) const SHARD: ShardId = ShardId(0);
/// After this nobody waits for a write any more.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error("control topic {topic}: {source}")]
    Kafka {
        topic: TopicName,
        source: KafkaError,
    },
    #[error("control topic {topic}: Kafka does not let the agent write: {reason}")]
    Refused { topic: TopicName, reason: String },
    #[error("control topic {topic}: an entry could not be written as JSON: {source}")]
    Json {
        topic: TopicName,
        source: serde_json::Error,
    },
    #[error("control topic {topic}: Kafka did not take a write within {}s", WRITE_TIMEOUT.as_secs())]
    Timeout { topic: TopicName },
    #[error("control topic {topic}: another agent has changed {key} meanwhile; try again")]
    Overtaken { topic: TopicName, key: String },
    #[error(
        "control topic {topic}: the topic lost records, a write of {key} among them; try again"
    )]
    Lost { topic: TopicName, key: String },
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
    /// What is wrong with the topic, in words.
    fault: Arc<RwLock<Option<String>>>,
    /// Names this agent in what it writes.
    writer: Arc<str>,
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
        make(kafka, &topic).await?;
        let fault = Arc::new(RwLock::new(kafka.keep_compacted(&topic).await));
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
        let reader = Reader {
            kafka: kafka.clone(),
            topic: topic.clone(),
            records,
            table: Arc::clone(&table),
            progress,
            fault: Arc::clone(&fault),
            is_short: false,
            low: marks.low,
            end: marks.high,
        };
        tokio::spawn(reader.follow(stop.clone()));
        let mut opened = Self {
            topic,
            producer,
            table,
            position,
            fault,
            writer: format!("{}-{}", host_name(), std::process::id()).into(),
        };
        opened.reached(marks.high).await?;
        info!(topic = %opened.topic, entries = opened.table.read().len(), "control topic read");
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
        let bytes = self.table.read().get(key)?;
        self.parse(key, &bytes)
    }

    /// Whether there is an entry under a key, in whatever form.
    pub fn has(&self, key: &str) -> bool {
        self.table.read().get(key).is_some()
    }

    /// Whether a record was read that removed the entry under a key, of a subscription or the
    /// catalogue. That an entry is missing says less: the topic may have lost it.
    pub fn was_removed(&self, key: &str) -> bool {
        self.table.read().was_removed(key)
    }

    /// All keys that begin like this, in their order, whether their entries can be read or not.
    pub fn keys_below(&self, prefix: &str) -> Vec<String> {
        let table = self.table.read();
        table.below(prefix).map(|(key, _)| key.clone()).collect()
    }

    /// What is wrong with the topic itself, in words.
    pub fn fault(&self) -> Option<String> {
        self.fault.read().clone()
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

    /// Changes with each record of a kind: what is made of all its entries holds as long as this
    /// stays.
    pub fn newest<T: Entry>(&self) -> Option<Offset> {
        self.table.read().newest(T::KIND)
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
        self.write(&entry.key(), Some(json), None).await
    }

    /// Removes an entry and returns once the table shows it gone.
    pub async fn remove(&self, key: &str) -> Result<(), ControlError> {
        self.write(key, None, None).await
    }

    /// Announces what the topic has lost and this agent remembers, of the keys that are its own to
    /// announce. Others do it with theirs; where one remembers less, the newer counts. How many
    /// there were.
    pub async fn announce_again(
        &self,
        is_own: impl Fn(&str, Instant) -> bool,
    ) -> Result<usize, ControlError> {
        let Some((since, lost)) = self.table.read().lost() else {
            return Ok(0);
        };
        if lost.is_empty() {
            self.table.write().is_whole_again();
            return Ok(0);
        }
        let mut announced = 0;
        for Lost {
            key,
            value,
            version,
        } in lost
        {
            if is_own(&key, since) {
                let stamp = Stamp {
                    version,
                    is_again: true,
                };
                let value = value.map(|value| value.to_vec());
                self.write(&key, value, Some(stamp)).await?;
                announced += 1;
            }
        }
        if announced > 0 {
            warn!(
                topic = %self.topic,
                entries = announced,
                "entries that the control topic had lost were announced again"
            );
        }
        Ok(announced)
    }

    async fn write(
        &self,
        key: &str,
        value: Option<Vec<u8>>,
        again: Option<Stamp>,
    ) -> Result<(), ControlError> {
        let stamp = again.unwrap_or_else(|| Stamp {
            version: self.table.read().next_version(key, now_ms().unsigned_abs()),
            is_again: false,
        });
        let is_removal = value.is_none();
        let record = Outgoing {
            key: Some(key.as_bytes()),
            value: value.as_deref(),
            headers: stamp_headers(stamp, &self.writer),
            timestamp_ms: 0,
        };
        let written = async {
            let (group, delivery) = Group::new(None);
            let producer = self.producer.current();
            let failed = |source| {
                let topic = self.topic.clone();
                // What became of a record of a producer that has failed for good says nothing.
                let refused = producer.fatal_error();
                self.producer.renew_if_fatal(&producer);
                match refused {
                    Some((_, reason)) => ControlError::Refused { topic, reason },
                    None => ControlError::Kafka { topic, source },
                }
            };
            producer
                .send(&self.topic, SHARD, record, &group)
                .await
                .map_err(failed)?;
            drop(group);
            let offset = delivery.wait().await.map_err(failed)?;
            self.clone().reached(Offset(offset.0 + 1)).await?;
            let table = self.table.read();
            let (topic, key) = (self.topic.clone(), key.to_owned());
            if table.is_overtaken(&key, stamp.version) {
                return Err(ControlError::Overtaken { topic, key });
            }
            if !table.has_read(&key, offset, is_removal) {
                return Err(ControlError::Lost { topic, key });
            }
            Ok(())
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

/// Of this machine, as far as it says.
fn host_name() -> String {
    std::env::var("HOSTNAME").unwrap_or_else(|_| "agent".to_owned())
}
