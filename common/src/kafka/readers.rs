//! The consumers that an agent's questions about partitions share. A partition that does not
//! answer soon is asked again apart from the others, so that these do not wait behind it.

use std::collections::HashSet;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, ClientContext};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::debug;

use super::{CALL_TIMEOUT, Kafka, TopicError, Watermarks, memory};
use crate::words::types::{Offset, ShardId, TopicName};

/// Questions at once. An agent that takes over many shards has several for each.
const READERS: usize = 4;
/// Questions at once about partitions that did not answer soon.
const PATIENT_READERS: usize = 4;
/// How long a partition may take before it is asked again apart from the others.
const SOON: Duration = Duration::from_secs(1);

/// How many of librdkafka's reports are looked at after an error.
const REPORTS: usize = 16;

pub(super) type NetworkReader = BaseConsumer<Complaints>;

/// What answers a question about a partition.
pub(super) enum Reader<'a> {
    Network(&'a NetworkReader),
    Memory(&'a memory::Client),
}

/// Made when they are needed, and anew after an error.
pub(super) struct Readers {
    idle: Mutex<Vec<NetworkReader>>,
    at_once: Semaphore,
    patient: Semaphore,
    /// Partitions that did not answer soon when they were asked last.
    suspects: Mutex<HashSet<(TopicName, ShardId)>>,
}

/// What librdkafka says of a connection: a call that times out says nothing of the cause.
#[derive(Default)]
pub(super) struct Complaints(Mutex<Option<String>>);

impl ClientContext for Complaints {
    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "Kafka reports");
        *self.0.lock() = Some(reason.to_owned());
    }
}

impl ConsumerContext for Complaints {}

impl Default for Readers {
    fn default() -> Self {
        Self {
            idle: Mutex::default(),
            at_once: Semaphore::new(READERS),
            patient: Semaphore::new(PATIENT_READERS),
            suspects: Mutex::default(),
        }
    }
}

impl Kafka {
    /// Asks about a partition of which the offsets are known.
    pub(super) async fn ask<T, Q>(
        &self,
        topic: &TopicName,
        shard: ShardId,
        question: Q,
    ) -> Result<T, TopicError>
    where
        T: Send + 'static,
        Q: FnOnce(&Self, &Reader<'_>, &TopicName, Watermarks) -> Result<T, TopicError>
            + Send
            + 'static,
    {
        if let Some(client) = &self.memory {
            let failed = |source| self.failed("ask for the offsets of", topic, source);
            client.question().await.map_err(failed)?;
            let marks = client.marks(topic, shard).map_err(failed)?;
            return question(self, &Reader::Memory(client), topic, marks);
        }
        let key = (topic.clone(), shard);
        let readers = &self.readers;
        let mut question = question;
        if !readers.suspects.lock().contains(&key) {
            let _permit = permit(&readers.at_once).await?;
            match self.ask_once(&key, Some(SOON), question).await? {
                Ok(answer) => return Ok(answer),
                Err(returned) => question = returned,
            }
            readers.suspects.lock().insert(key.clone());
        }
        let _permit = permit(&readers.patient).await?;
        let asked = self.ask_once(&key, None, question).await;
        let has_answered = match &asked {
            Ok(_) => true,
            Err(error) => error.is_missing(),
        };
        if has_answered {
            readers.suspects.lock().remove(&key);
        }
        asked?.map_err(|_| TopicError::Cancelled)
    }

    /// Gives the question back if the partition does not answer `soon`.
    async fn ask_once<T, Q>(
        &self,
        (topic, shard): &(TopicName, ShardId),
        soon: Option<Duration>,
        question: Q,
    ) -> Result<Result<T, Q>, TopicError>
    where
        T: Send + 'static,
        Q: FnOnce(&Self, &Reader<'_>, &TopicName, Watermarks) -> Result<T, TopicError>
            + Send
            + 'static,
    {
        let shard = *shard;
        self.with_reader(topic, move |kafka, reader, topic| {
            let patience = soon.unwrap_or(CALL_TIMEOUT);
            match kafka.marks(reader, topic, shard, patience) {
                Ok(marks) => {
                    let reader = Reader::Network(reader);
                    question(kafka, &reader, topic, marks).map(Ok)
                }
                Err(error) if soon.is_some() && !error.is_missing() => Ok(Err(question)),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Works with one of the readers. After an error it is not used again.
    pub(super) async fn with_reader<T, W>(
        &self,
        topic: &TopicName,
        work: W,
    ) -> Result<T, TopicError>
    where
        T: Send + 'static,
        W: FnOnce(&Self, &NetworkReader, &TopicName) -> Result<T, TopicError> + Send + 'static,
    {
        let (kafka, topic) = (self.clone(), topic.clone());
        let worked = tokio::task::spawn_blocking(move || {
            let idle = kafka.readers.idle.lock().pop();
            let reader = match idle {
                Some(reader) => reader,
                None => kafka
                    .reader()
                    .map_err(|source| kafka.failed("open a reader of", &topic, source))?,
            };
            let answer = work(&kafka, &reader, &topic)?;
            kafka.readers.idle.lock().push(reader);
            Ok(answer)
        });
        worked.await.map_err(|_| TopicError::Cancelled)?
    }

    /// The broker answers a connection's requests one after the other, and a reader has always
    /// asked for more than it was told to read: the next question would wait for half a second
    /// behind that.
    fn reader(&self) -> Result<NetworkReader, KafkaError> {
        BaseConsumer::from_config_and_context(&self.reader_settings(), Complaints::default())
    }

    pub(super) fn reader_settings(&self) -> ClientConfig {
        let mut settings = self.consumer(&format!("{}.reader", self.config.topic_prefix));
        settings.set("fetch.wait.max.ms", "5");
        settings
    }

    fn marks(
        &self,
        reader: &NetworkReader,
        topic: &TopicName,
        shard: ShardId,
        patience: Duration,
    ) -> Result<Watermarks, TopicError> {
        let (low, high) = reader
            .fetch_watermarks(topic.as_str(), shard.partition(), patience)
            .map_err(|source| self.failed_with(reader, "ask for the offsets of", topic, source))?;
        Ok(Watermarks {
            low: Offset(low),
            high: Offset(high),
        })
    }

    /// Whether a partition has a leader; `None` when it does not exist.
    pub async fn has_leader(
        &self,
        topic: &TopicName,
        shard: ShardId,
    ) -> Result<Option<bool>, TopicError> {
        if let Some(client) = &self.memory {
            let partitions = client.brokers().partitions(topic);
            return Ok((shard.0 < partitions).then_some(true));
        }
        let _permit = permit(&self.readers.patient).await?;
        self.with_reader(topic, move |kafka, reader, topic| {
            let metadata = reader
                .fetch_metadata(Some(topic.as_str()), CALL_TIMEOUT)
                .map_err(|source| kafka.failed_with(reader, "look up", topic, source))?;
            let found = metadata
                .topics()
                .iter()
                .find(|found| found.name() == topic.as_str());
            let mut partitions = found.iter().flat_map(|found| found.partitions());
            let partition = partitions.find(|partition| partition.id() == shard.partition());
            Ok(partition.map(|partition| partition.leader() >= 0))
        })
        .await
    }

    /// An error of a reader, with what it has heard of the cause.
    pub(super) fn failed_with(
        &self,
        reader: &NetworkReader,
        action: &'static str,
        topic: &TopicName,
        source: KafkaError,
    ) -> TopicError {
        // What librdkafka has to say waits in a queue, which nobody looks at otherwise.
        for _ in 0..REPORTS {
            let _ = reader.poll(Duration::ZERO);
        }
        let heard = reader.context().0.lock().take();
        match self.failed(action, topic, source) {
            TopicError::Failed {
                servers,
                action,
                topic,
                source,
                ..
            } => TopicError::Failed {
                servers,
                action,
                topic,
                source,
                heard: heard.map_or_else(String::new, |heard| format!(" ({heard})")),
            },
            other => other,
        }
    }
}

async fn permit(semaphore: &Semaphore) -> Result<SemaphorePermit<'_>, TopicError> {
    semaphore.acquire().await.map_err(|_| TopicError::Cancelled)
}
