//! Reaching Kafka at all: which brokers and topics there are, or why there is no answer. Only a
//! client whose events are polled learns why, so a failed call asks here.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::Kafka;

/// How long one question for the brokers may take; its errors are looked at afterwards.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How long a reason is waited for after each.
const REPORTS: Duration = Duration::from_millis(500);
/// After this Kafka counts as away.
const PATIENCE: Duration = Duration::from_secs(8);

/// The brokers and topics that Kafka tells this agent of.
#[derive(Debug, Default)]
pub struct KafkaCluster {
    pub brokers: Vec<BrokerAddress>,
    pub topics: Vec<TopicSummary>,
}

/// Where a broker says that it is (`advertised.listeners`).
#[derive(Debug)]
pub struct BrokerAddress {
    pub id: i32,
    pub host: String,
    pub port: i32,
}

#[derive(Debug)]
pub struct TopicSummary {
    pub name: String,
    pub partitions: usize,
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct NoBroker {
    pub code: Option<RDKafkaErrorCode>,
    pub reason: String,
}

/// Keeps what librdkafka reports of its connections.
#[derive(Default)]
pub(super) struct Reasons(Mutex<Option<(Option<RDKafkaErrorCode>, String)>>);

impl ClientContext for Reasons {
    /// What is logged is reported as an error, too.
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        // It follows each failure of the last broker and says less.
        if code != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.0.lock() = Some((code, reason.to_owned()));
        }
    }
}

impl ConsumerContext for Reasons {}

impl Kafka {
    /// Asks for the brokers and topics.
    pub async fn connect(&self) -> Result<KafkaCluster, NoBroker> {
        let kafka = self.clone();
        let asked = tokio::task::spawn_blocking(move || kafka.connect_blocking());
        asked.await.unwrap_or_else(|error| {
            Err(NoBroker {
                code: None,
                reason: error.to_string(),
            })
        })
    }

    fn connect_blocking(&self) -> Result<KafkaCluster, NoBroker> {
        let no_broker = |error: &KafkaError| NoBroker {
            code: error.rdkafka_error_code(),
            reason: error.to_string(),
        };
        // Without a group: none is needed to ask, and there may be no right to one.
        let asking = BaseConsumer::from_config_and_context(&self.client(), Reasons::default())
            .map_err(|error| no_broker(&error))?;
        let since = Instant::now();
        loop {
            match asking.fetch_metadata(None, ATTEMPT) {
                Ok(metadata) => return Ok(KafkaCluster::of(&metadata)),
                Err(error) => {
                    let reason = reported(&asking);
                    if let Some((code, reason)) = reason {
                        return Err(NoBroker { code, reason });
                    }
                    if since.elapsed() > PATIENCE {
                        return Err(no_broker(&error));
                    }
                }
            }
        }
    }
}

/// What librdkafka has to say of its connections. A call to poll may handle an event and give
/// nothing.
fn reported(asking: &BaseConsumer<Reasons>) -> Option<(Option<RDKafkaErrorCode>, String)> {
    let since = Instant::now();
    while since.elapsed() < REPORTS {
        let _ = asking.poll(REPORTS / 10);
        let reason = asking.context().0.lock().take();
        if reason.is_some() {
            return reason;
        }
    }
    None
}

impl KafkaCluster {
    fn of(metadata: &rdkafka::metadata::Metadata) -> Self {
        let brokers = metadata.brokers().iter().map(|broker| BrokerAddress {
            id: broker.id(),
            host: broker.host().to_owned(),
            port: broker.port(),
        });
        let topics = metadata.topics().iter().map(|topic| TopicSummary {
            name: topic.name().to_owned(),
            partitions: topic.partitions().len(),
        });
        Self {
            brokers: brokers.collect(),
            topics: topics.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::config::KafkaConfig;

    #[tokio::test]
    async fn nobody_at_the_address_is_said() {
        let config: KafkaConfig =
            serde_json::from_value(serde_json::json!({"bootstrap_servers": "127.0.0.1:1"}))
                .unwrap();
        let error = Kafka::new(config).unwrap().connect().await.unwrap_err();
        assert!(error.reason.contains("Connection refused"), "{error:?}");
        assert_eq!(error.code, Some(RDKafkaErrorCode::BrokerTransportFailure));
    }
}
