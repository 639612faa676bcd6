//! A producer that reports the delivery of records in groups.
//!
//! rdkafka's own asynchronous producer makes a channel for every record, and its polling thread
//! spins for a millisecond ten times a second; both cost more than sending small records does.

use std::any::Any;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::RwLock;
use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use tokio::sync::oneshot;
use tracing::warn;

use super::{Kafka, memory};
use crate::words::types::{Offset, ShardId, TopicName};

/// How long the reporting thread waits for reports before it looks whether anybody still uses the
/// producer. Reports wake it at once.
const REPORT_WAIT: Duration = Duration::from_secs(10);
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(10);

/// An idempotent producer. Cheap to clone; it goes away some seconds after its last clone.
#[derive(Clone)]
pub struct Producer(Inner);

#[derive(Clone)]
enum Inner {
    Network(Arc<BaseProducer<Reports>>),
    Memory(memory::Sender),
}

/// A record to be sent.
pub struct Outgoing<'a> {
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: OwnedHeaders,
    /// Milliseconds since the Unix epoch; 0 stands for now.
    pub timestamp_ms: i64,
}

/// Records whose delivery is reported together, once the last one is delivered and the group itself
/// is dropped.
pub struct Group(Arc<InFlight>);

/// The report about a [`Group`].
pub struct Delivery(oneshot::Receiver<Result<Offset, KafkaError>>);

/// Every record on its way holds one reference; the last one to go tells how it went.
pub(super) struct InFlight {
    highest: AtomicI64,
    failure: OnceLock<KafkaError>,
    report: Option<oneshot::Sender<Result<Offset, KafkaError>>>,
    _kept: Option<Arc<dyn Any + Send + Sync>>,
}

impl InFlight {
    pub(super) fn deliver(&self, offset: Offset) {
        self.highest.fetch_max(offset.0, Relaxed);
    }

    pub(super) fn fail(&self, error: KafkaError) {
        // The first failure is the cause of the others.
        let _ = self.failure.set(error);
    }
}

struct Reports;

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = Arc<InFlight>;

    fn delivery(&self, result: &DeliveryResult<'_>, group: Arc<InFlight>) {
        match result {
            Ok(message) => group.deliver(Offset(message.offset())),
            Err((error, _)) => group.fail(error.clone()),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let outcome = match self.failure.take() {
            Some(error) => Err(error),
            None => Ok(Offset(*self.highest.get_mut())),
        };
        if let Some(report) = self.report.take() {
            // Nobody may want to know any more.
            let _ = report.send(outcome);
        }
    }
}

impl Group {
    /// `kept` is kept until every record of the group is delivered or given up.
    pub fn new(kept: Option<Arc<dyn Any + Send + Sync>>) -> (Self, Delivery) {
        let (report, delivery) = oneshot::channel();
        let in_flight = InFlight {
            highest: AtomicI64::new(-1),
            failure: OnceLock::new(),
            report: Some(report),
            _kept: kept,
        };
        (Self(Arc::new(in_flight)), Delivery(delivery))
    }
}

impl Delivery {
    /// The offset of the group's last record, once Kafka has them all.
    pub async fn wait(self) -> Result<Offset, KafkaError> {
        // The sender is there until it has told.
        self.0.await.unwrap_or(Err(KafkaError::Canceled))
    }
}

impl Producer {
    pub(super) fn new(config: &ClientConfig) -> Result<Self, KafkaError> {
        let inner = Arc::new(BaseProducer::from_config_and_context(config, Reports)?);
        let reporting = Arc::clone(&inner);
        let thread = std::thread::Builder::new().name("kafka-reports".to_owned());
        let started = thread.spawn(move || {
            while Arc::strong_count(&reporting) > 1 {
                reporting.poll(REPORT_WAIT);
            }
        });
        started.map_err(|error| {
            KafkaError::ClientCreation(format!("no thread for delivery reports: {error}"))
        })?;
        Ok(Self(Inner::Network(inner)))
    }

    /// Into a log in memory; see [`memory::Sender::new`].
    pub(super) fn in_memory(client: memory::Client, patience: Option<Duration>) -> Self {
        Self(Inner::Memory(memory::Sender::new(client, patience)))
    }

    /// Hands a record to librdkafka's queue, waiting while that is full. Records of one partition
    /// keep their order.
    pub async fn send(
        &self,
        topic: &TopicName,
        shard: ShardId,
        record: Outgoing<'_>,
        group: &Group,
    ) -> Result<(), KafkaError> {
        let producer = match &self.0 {
            Inner::Network(producer) => producer,
            Inner::Memory(sender) => {
                sender.send(topic, shard, record, Arc::clone(&group.0));
                return Ok(());
            }
        };
        let mut message =
            BaseRecord::<[u8], [u8], _>::with_opaque_to(topic.as_str(), Arc::clone(&group.0))
                .partition(shard.partition())
                .headers(record.headers)
                .timestamp(record.timestamp_ms);
        message.key = record.key;
        message.payload = record.value;
        loop {
            match producer.send(message) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) => {
                    message = returned
                }
                Err((error, _)) => return Err(error),
            }
            tokio::time::sleep(FULL_QUEUE_PAUSE).await;
        }
    }

    /// Why this producer cannot go on, if it cannot.
    pub fn fatal_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        match &self.0 {
            Inner::Network(producer) => producer.client().fatal_error(),
            Inner::Memory(_) => None,
        }
    }
}

/// The producer of the moment: one that has failed for good is replaced. Whoever needs to know that
/// all its records went through the same one keeps the one that it began with.
#[derive(Clone)]
pub struct RenewedProducer {
    kafka: Kafka,
    make: fn(&Kafka) -> Result<Producer, KafkaError>,
    current: Arc<RwLock<Producer>>,
}

impl RenewedProducer {
    /// For operations: see [`Kafka::producer`].
    pub fn new(kafka: Kafka) -> Result<Self, KafkaError> {
        Self::made_by(Kafka::producer, kafka)
    }

    /// See [`Kafka::producer_one_by_one`].
    pub fn one_by_one(kafka: Kafka) -> Result<Self, KafkaError> {
        Self::made_by(Kafka::producer_one_by_one, kafka)
    }

    pub(super) fn made_by(
        make: fn(&Kafka) -> Result<Producer, KafkaError>,
        kafka: Kafka,
    ) -> Result<Self, KafkaError> {
        let current = Arc::new(RwLock::new(make(&kafka)?));
        Ok(Self {
            kafka,
            make,
            current,
        })
    }

    pub fn current(&self) -> Producer {
        self.current.read().clone()
    }

    /// To be told after each error.
    pub fn renew_if_fatal(&self, failed: &Producer) {
        let Some((code, reason)) = failed.fatal_error() else {
            return;
        };
        let mut current = self.current.write();
        if current.fatal_error().is_none() {
            return; // somebody else has renewed it already
        }
        match (self.make)(&self.kafka) {
            Ok(renewed) => {
                warn!(%code, reason, "the Kafka producer failed for good; going on with a new one");
                *current = renewed;
            }
            Err(error) => {
                warn!(%error, "a new Kafka producer could not be made; trying again with the next record")
            }
        }
    }
}
