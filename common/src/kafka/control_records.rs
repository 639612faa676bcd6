//! The records of a control topic, from Kafka or from memory.

use std::collections::HashMap;

use bytes::Bytes;
use rdkafka::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{Consumer, ConsumerContext, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use tracing::warn;

use super::control_table::Stamp;
use super::control_topic::SHARD;
use super::memory::{self, Readout};
use super::{Kafka, assignment};
use crate::words::types::{Offset, TopicName};

/// Headers of an entry: they say which of two is newer, and who wrote it. Earlier builds ignore
/// them.
const VERSION: &str = "version";
const WRITER: &str = "writer";
const AGAIN: &str = "again";

pub(super) fn stamp_headers(stamp: Stamp, writer: &str) -> OwnedHeaders {
    let version = stamp.version.to_string();
    let mut headers = OwnedHeaders::new()
        .insert(Header {
            key: VERSION,
            value: Some(&version),
        })
        .insert(Header {
            key: WRITER,
            value: Some(writer),
        });
    if stamp.is_again {
        headers = headers.insert(Header {
            key: AGAIN,
            value: Some("true"),
        });
    }
    headers
}

/// What a record's headers say of it.
fn stamp_of<'a>(headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>) -> Option<Stamp> {
    let (mut version, mut is_again) = (None, false);
    for (name, value) in headers {
        let text = value.and_then(|value| std::str::from_utf8(value).ok());
        match name {
            VERSION => version = text.and_then(|text| text.parse().ok()),
            AGAIN => is_again = true,
            _ => {}
        }
    }
    version.map(|version| Stamp { version, is_again })
}

/// The records of a control topic, wherever they are.
pub(super) enum Records {
    Network(StreamConsumer<Quiet>),
    Memory(memory::Reader),
}

/// A record of a control topic.
pub(super) struct Record {
    pub(super) offset: Offset,
    pub(super) key: Option<String>,
    pub(super) value: Option<Bytes>,
    pub(super) stamp: Option<Stamp>,
}

/// What comes next: a record, or for now nothing.
pub(super) enum Next {
    Record(Record),
    End,
}

impl Records {
    pub(super) fn open(kafka: &Kafka, topic: &TopicName, low: Offset) -> Result<Self, KafkaError> {
        if let Some(client) = kafka.memory() {
            return Ok(Self::Memory(memory::Reader::new(
                client.clone(),
                topic.clone(),
                SHARD,
                low,
            )));
        }
        let mut settings = kafka.consumer(&format!("{}.control", kafka.topic_prefix()));
        // The end is an event of its own: compaction may have removed the records just before it.
        settings
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "true");
        let consumer = StreamConsumer::from_config_and_context(&settings, Quiet)?;
        let mut records = Self::Network(consumer);
        records.begin_at(topic, low)?;
        Ok(records)
    }

    /// Goes on, or back, to an offset.
    pub(super) fn begin_at(&mut self, topic: &TopicName, from: Offset) -> Result<(), KafkaError> {
        match self {
            Self::Network(consumer) => {
                let start = HashMap::from([((topic.clone(), SHARD), from)]);
                consumer.assign(&assignment(&start)?)
            }
            Self::Memory(reader) => {
                reader.begin_at(from);
                Ok(())
            }
        }
    }

    /// Nothing is lost when the future is dropped before it resolves.
    pub(super) async fn next(&mut self) -> Result<Next, KafkaError> {
        match self {
            Self::Network(consumer) => match consumer.recv().await {
                Ok(message) => Ok(Next::Record(Record {
                    offset: Offset(message.offset()),
                    key: text(message.key()),
                    value: message.payload().map(Bytes::copy_from_slice),
                    stamp: message.headers().and_then(|headers| {
                        stamp_of(headers.iter().map(|header| (header.key, header.value)))
                    }),
                })),
                Err(KafkaError::PartitionEOF(_)) => Ok(Next::End),
                Err(error) => Err(error),
            },
            Self::Memory(reader) => match reader.next().await {
                Readout::Record(offset, stored) => {
                    let headers = stored.headers.iter();
                    let stamp =
                        stamp_of(headers.map(|(name, value)| (name.as_str(), value.as_deref())));
                    Ok(Next::Record(Record {
                        offset,
                        key: text(stored.key.as_deref()),
                        value: stored.value,
                        stamp,
                    }))
                }
                Readout::End => Ok(Next::End),
                Readout::Lost => Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::AutoOffsetReset,
                )),
            },
        }
    }
}

fn text(key: Option<&[u8]>) -> Option<String> {
    String::from_utf8(key?.to_vec()).ok()
}

/// The end of a partition is no error here.
pub(super) struct Quiet;

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
