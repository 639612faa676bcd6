//! Kafka as both agents use it: client settings, topics, and reading single records.

mod client_check;
mod connect;
mod control_reader;
mod control_records;
mod control_table;
mod control_topic;
mod describe;
mod leader_reads;
pub mod memory;
mod producer;
mod readers;
mod tail;
mod topic_policy;
mod topics;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

pub(crate) use client_check::property_problems;
pub use connect::{BrokerAddress, KafkaCluster, NoBroker, TopicSummary};
pub use control_topic::{ControlError, ControlTopic, Derived};
pub use describe::Settings;
pub use leader_reads::followed_indices;
pub use producer::{Delivery, Group, Outgoing, Producer, RenewedProducer};
use readers::{Reader, Readers};
use tail::run_begins;
pub use tail::{LastOperations, REACH_RECORDS, Reach};

use crate::process::config::{ConfigError, KafkaConfig};
use crate::record::{Operation, Record, RecordError};
use crate::words::types::{Offset, SeqNo, ShardId, TopicName};

/// The largest record, in bytes: OpenSearch takes documents of up to `http.max_content_length` (100
/// MB by default), and a broker takes requests of up to `socket.request.max.bytes` (100 MiB by
/// default).
pub const MAX_RECORD_BYTES: usize = 100 * 1024 * 1024 - 64 * 1024;

/// How far back the last operation of a partition is looked for: three days of heartbeats every
/// five seconds, which take a second to read.
const LAST_OPERATION_RECORDS: i64 = 65_536;
/// Enough for the metadata and the gap with which the partition of an index begins whose translog
/// was gone.
const FIRST_RECORDS: i64 = 4;
/// How long one call to a broker may take before it is tried again or reported.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a write to a control topic may wait for Kafka. An agent whose slots are given away
/// meanwhile wrote it at most a lease (4.5 s) after it was heard of last, and its successor has
/// them after 6 s.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    #[error("Kafka at {servers}: {action} topic {topic}: {source}{heard}")]
    Failed {
        servers: String,
        action: &'static str,
        topic: TopicName,
        source: Box<KafkaError>,
        /// What librdkafka has said of the cause, in parentheses, or nothing.
        heard: String,
    },
    #[error("Kafka at {servers} cannot be used: {source}")]
    NoBroker { servers: String, source: NoBroker },
    #[error("Kafka at {servers} refused to {action} topic {topic}: {code}")]
    Refused {
        servers: String,
        action: &'static str,
        topic: TopicName,
        code: RDKafkaErrorCode,
    },
    #[error("the record of {topic} partition {shard} at offset {offset} cannot be read: {source}")]
    Record {
        topic: TopicName,
        shard: ShardId,
        offset: i64,
        source: RecordError,
    },
    #[error("a background task that talks to Kafka was cancelled")]
    Cancelled,
}

impl TopicError {
    /// Whether the topic, or the partition, does not exist.
    pub fn is_missing(&self) -> bool {
        use RDKafkaErrorCode::{UnknownPartition, UnknownTopic, UnknownTopicOrPartition};
        match self {
            Self::Failed { source, .. } => {
                matches!(
                    source.rdkafka_error_code(),
                    Some(UnknownPartition | UnknownTopic | UnknownTopicOrPartition)
                )
            }
            _ => false,
        }
    }
}

/// First and end offset of a partition; empty when both are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    pub low: Offset,
    pub high: Offset,
}

/// The settings from which every Kafka client of an agent is made.
#[derive(Clone)]
pub struct Kafka {
    config: KafkaConfig,
    readers: Arc<Readers>,
    /// Made when it is needed, and anew after an error.
    admin: Arc<Mutex<Option<Arc<Admin>>>>,
    /// Instead of the network.
    memory: Option<memory::Client>,
}

type Admin = AdminClient<DefaultClientContext>;

impl Kafka {
    pub fn new(config: KafkaConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let properties = config.all_properties()?;
        let kafka = Self {
            config: KafkaConfig {
                properties,
                ..config
            },
            readers: Arc::default(),
            admin: Arc::default(),
            memory: None,
        };
        client_check::check(&kafka.client())?;
        Ok(kafka)
    }

    /// The same clients over brokers in memory.
    pub fn in_memory(client: memory::Client, config: KafkaConfig) -> Result<Self, ConfigError> {
        Ok(Self {
            memory: Some(client),
            ..Self::new(config)?
        })
    }

    /// The brokers in memory, if these are the ones that are asked.
    pub fn memory(&self) -> Option<&memory::Client> {
        self.memory.as_ref()
    }

    pub fn servers(&self) -> &str {
        &self.config.bootstrap_servers
    }

    pub fn topic_prefix(&self) -> &str {
        &self.config.topic_prefix
    }

    pub fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.config.bootstrap_servers)
            .set("client.id", "shardline")
            // Histograms for each topic, which a broker would collect.
            .set("enable.metrics.push", "false")
            .set("socket.nagle.disable", "true")
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "2000")
            .set("topic.metadata.refresh.fast.interval.ms", "50");
        for (key, value) in &self.config.properties {
            client.set(key, value.reveal());
        }
        client
    }

    /// Idempotent and `acks=all`; a record is never given up for its age, so a partition gets no
    /// hole by a slow broker. Memory is bounded by `queue.buffering.max.kbytes` (128 MiB), and by
    /// what an agent lets be in flight.
    pub fn producer(&self) -> Result<Producer, KafkaError> {
        if let Some(client) = &self.memory {
            return Ok(Producer::in_memory(client.clone(), None));
        }
        let mut client = self.producing();
        client.set("enable.gapless.guarantee", "true");
        Self::patient(client)
    }

    /// For whoever sends a record to a partition only when the one before is there: a record that
    /// is refused fails alone, and nothing of its partition can follow it.
    pub fn producer_one_by_one(&self) -> Result<Producer, KafkaError> {
        if let Some(client) = &self.memory {
            return Ok(Producer::in_memory(client.clone(), None));
        }
        let mut client = self.producing();
        // A topic that was refused is asked for only so often.
        client.set("topic.metadata.refresh.interval.ms", "5000");
        Self::patient(client)
    }

    fn patient(mut client: ClientConfig) -> Result<Producer, KafkaError> {
        client
            .set("message.timeout.ms", "0")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.messages", "200000")
            .set("queue.buffering.max.kbytes", "131072");
        Producer::new(&client)
    }

    /// For control topics: a write that Kafka has not taken in time is never made. It was for the
    /// moment that it was sent in; later, another agent may have written what it would undo.
    pub(crate) fn control_producer(&self) -> Result<Producer, KafkaError> {
        if let Some(client) = &self.memory {
            return Ok(Producer::in_memory(client.clone(), Some(CONTROL_TIMEOUT)));
        }
        let mut client = self.producing();
        client.set(
            "message.timeout.ms",
            CONTROL_TIMEOUT.as_millis().to_string(),
        );
        Producer::new(&client)
    }

    fn producing(&self) -> ClientConfig {
        let mut client = self.client();
        client
            .set("enable.idempotence", "true")
            .set("compression.type", "lz4")
            .set("linger.ms", "0")
            .set("message.max.bytes", MAX_RECORD_BYTES.to_string());
        client
    }

    /// Settings of a consumer whose position is ours to keep: no automatic commits, and a position
    /// that is gone is an error rather than a jump.
    pub fn consumer(&self, group: &str) -> ClientConfig {
        let mut client = self.client();
        client
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "false")
            .set("fetch.queue.backoff.ms", "10")
            .set("fetch.error.backoff.ms", "100")
            .set("fetch.message.max.bytes", "1048576")
            .set("fetch.max.bytes", "52428800")
            .set(
                "receive.message.max.bytes",
                (MAX_RECORD_BYTES * 2).to_string(),
            )
            .set("queued.min.messages", "10000")
            .set("queued.max.messages.kbytes", "4096");
        client
    }

    pub async fn watermarks(
        &self,
        topic: &TopicName,
        shard: ShardId,
    ) -> Result<Watermarks, TopicError> {
        self.ask(topic, shard, |_, _, _, marks| Ok(marks)).await
    }

    /// How far a partition reaches; `None` when it is empty. Every record tells, but of two agents
    /// that overlap for a moment one may be behind: so it is the furthest of the last records that
    /// counts.
    pub async fn reach(
        &self,
        topic: &TopicName,
        shard: ShardId,
    ) -> Result<Option<Reach>, TopicError> {
        self.ask(topic, shard, move |kafka, reader, topic, marks| {
            if marks.high <= marks.low {
                return Ok(None);
            }
            let from = Offset(marks.low.0.max(marks.high.0 - REACH_RECORDS));
            let mut reach = Reach::of([], marks.high);
            kafka.read(reader, topic, shard, from, marks.high, |_, record| {
                reach.extend(record)
            })?;
            Ok(Some(reach))
        })
        .await
    }

    /// The operation that a partition reaches, where it is not among the last records: behind it
    /// are heartbeats, mostly. `None` when it is too far back, or not there.
    pub async fn last_operation(
        &self,
        topic: &TopicName,
        shard: ShardId,
        reach: &Reach,
    ) -> Result<Option<Operation>, TopicError> {
        let (seq_no, end) = (reach.seq_no, reach.end);
        let found = self
            .read_tail(topic, shard, reach, Reach::of([], end), Reach::extend)
            .await?;
        Ok(found
            .filter(|found| found.seq_no == seq_no)
            .and_then(|found| found.last))
    }

    /// The operations among the last records of a partition, without their sources; none of a
    /// history that the shard lost.
    pub async fn last_operations(
        &self,
        topic: &TopicName,
        shard: ShardId,
        reach: &Reach,
    ) -> Result<BTreeMap<SeqNo, Operation>, TopicError> {
        let found = self
            .read_tail(
                topic,
                shard,
                reach,
                LastOperations::default(),
                LastOperations::note,
            )
            .await?;
        Ok(found.unwrap_or_default().known)
    }

    /// Takes in the last records that are no heartbeats, and all behind them; `None` when they are
    /// too far back, or not there.
    async fn read_tail<T: Send + 'static>(
        &self,
        topic: &TopicName,
        shard: ShardId,
        reach: &Reach,
        mut found: T,
        take: fn(&mut T, Record),
    ) -> Result<Option<T>, TopicError> {
        let (seq_no, end) = (reach.seq_no, reach.end);
        self.ask(topic, shard, move |kafka, reader, topic, marks| {
            let first = marks.low.0;
            let lowest = first.max(end.0 - LAST_OPERATION_RECORDS);
            if lowest >= end.0 {
                return Ok(None);
            }
            let begins = run_begins(seq_no, Offset(lowest), end, |offset| {
                let mut said = SeqNo::NONE;
                kafka.read(
                    reader,
                    topic,
                    shard,
                    offset,
                    Offset(offset.0 + 1),
                    |_, record| said = record.seq_no,
                )?;
                Ok(said)
            })?;
            if begins.0 == lowest && lowest > first {
                return Ok(None);
            }
            // All records behind the operation are read, too: it counts for nothing if the shard
            // was rewound since. Those before it hold the documents of a scan.
            let from = Offset(first.max(begins.0 - REACH_RECORDS));
            kafka.read(reader, topic, shard, from, end, |_, record| {
                take(&mut found, record)
            })?;
            Ok(Some(found))
        })
        .await
    }

    /// The last record of a partition; `None` when it is empty.
    pub async fn last_record(
        &self,
        topic: &TopicName,
        shard: ShardId,
    ) -> Result<Option<(Offset, Record)>, TopicError> {
        Ok(self
            .records_of(topic, shard, |marks| Offset(marks.high.0 - 1)..marks.high)
            .await?
            .pop())
    }

    /// The first few records of a partition that are still there.
    pub async fn first_records(
        &self,
        topic: &TopicName,
        shard: ShardId,
    ) -> Result<Vec<(Offset, Record)>, TopicError> {
        let first =
            |marks: Watermarks| marks.low..Offset(marks.high.0.min(marks.low.0 + FIRST_RECORDS));
        self.records_of(topic, shard, first).await
    }

    /// What the records at some offsets hold; nothing when the partition is empty.
    async fn records_of(
        &self,
        topic: &TopicName,
        shard: ShardId,
        offsets: fn(Watermarks) -> Range<Offset>,
    ) -> Result<Vec<(Offset, Record)>, TopicError> {
        self.ask(topic, shard, move |kafka, reader, topic, marks| {
            if marks.high <= marks.low {
                return Ok(Vec::new());
            }
            let (Range { start, end }, mut found) = (offsets(marks), Vec::new());
            kafka.read(reader, topic, shard, start, end, |offset, record| {
                found.push((offset, record))
            })?;
            Ok(found)
        })
        .await
    }

    /// Reads the records from `from` on, up to the one before `end`.
    fn read(
        &self,
        reader: &Reader<'_>,
        topic: &TopicName,
        shard: ShardId,
        from: Offset,
        end: Offset,
        mut take: impl FnMut(Offset, Record),
    ) -> Result<(), TopicError> {
        let failed = |source| self.failed("read", topic, source);
        let unreadable = |offset: Offset| {
            move |source| TopicError::Record {
                topic: topic.clone(),
                shard,
                offset: offset.0,
                source,
            }
        };
        let consumer = match reader {
            Reader::Network(consumer) => consumer,
            Reader::Memory(client) => {
                let found = client.records(topic, shard, from, end).map_err(failed)?;
                for (offset, record) in found {
                    let records = record.decode().map_err(unreadable(offset))?;
                    records.into_iter().for_each(|record| take(offset, record));
                }
                return Ok(());
            }
        };
        let mut position = TopicPartitionList::new();
        position
            .add_partition_offset(
                topic.as_str(),
                shard.partition(),
                KafkaOffset::Offset(from.0),
            )
            .map_err(failed)?;
        consumer.assign(&position).map_err(failed)?;
        loop {
            let message = consumer
                .poll(CALL_TIMEOUT)
                .unwrap_or(Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::OperationTimedOut,
                )))
                .map_err(failed)?;
            let offset = Offset(message.offset());
            let records = Record::decode(&message).map_err(unreadable(offset))?;
            records.into_iter().for_each(|record| take(offset, record));
            if offset.0 + 1 >= end.0 {
                break;
            }
        }
        // The reader is kept, and is not to fetch on.
        consumer.unassign().map_err(failed)
    }

    fn failed(&self, action: &'static str, topic: &TopicName, source: KafkaError) -> TopicError {
        TopicError::Failed {
            servers: self.config.bootstrap_servers.clone(),
            action,
            topic: topic.clone(),
            source: Box::new(source),
            heard: String::new(),
        }
    }

    /// As [`Self::failed`], with what librdkafka says of the brokers: an administrative call that
    /// timed out does not know it.
    async fn failed_at_start(
        &self,
        action: &'static str,
        topic: &TopicName,
        source: KafkaError,
    ) -> TopicError {
        if source.rdkafka_error_code() != Some(RDKafkaErrorCode::OperationTimedOut) {
            return self.failed(action, topic, source);
        }
        match self.connect().await {
            Err(source) => TopicError::NoBroker {
                servers: self.config.bootstrap_servers.clone(),
                source,
            },
            Ok(_) => self.failed(action, topic, source),
        }
    }

    fn refused(
        &self,
        action: &'static str,
        topic: &TopicName,
        code: RDKafkaErrorCode,
    ) -> TopicError {
        TopicError::Refused {
            servers: self.config.bootstrap_servers.clone(),
            action,
            topic: topic.clone(),
            code,
        }
    }
}

/// Offsets of partitions as librdkafka takes them for an assignment.
pub fn assignment(
    partitions: &HashMap<(TopicName, ShardId), Offset>,
) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for ((topic, shard), offset) in partitions {
        list.add_partition_offset(
            topic.as_str(),
            shard.partition(),
            KafkaOffset::Offset(offset.0),
        )?;
    }
    Ok(list)
}
