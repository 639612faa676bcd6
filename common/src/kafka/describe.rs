//! Questions about brokers, topics and rights whose answers change nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{FromClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::connect::Reasons;
use super::topics::in_time;
use super::{CALL_TIMEOUT, Kafka};
use crate::words::types::TopicName;

/// The settings of a broker or a topic.
pub type Settings = BTreeMap<String, String>;

impl Kafka {
    /// What brokers are set to, or why a broker does not say.
    pub async fn broker_settings(&self, id: i32) -> Result<Settings, RDKafkaErrorCode> {
        let found = self.settings(&[ResourceSpecifier::Broker(id)]).await?;
        found.into_values().next().unwrap_or(Ok(Settings::new()))
    }

    /// What topics are set to, or why Kafka does not say.
    pub async fn topic_settings(
        &self,
        topics: &[&str],
    ) -> Result<BTreeMap<String, Result<Settings, RDKafkaErrorCode>>, RDKafkaErrorCode> {
        let asked: Vec<_> = topics
            .iter()
            .map(|topic| ResourceSpecifier::Topic(topic))
            .collect();
        self.settings(&asked).await
    }

    async fn settings(
        &self,
        asked: &[ResourceSpecifier<'_>],
    ) -> Result<BTreeMap<String, Result<Settings, RDKafkaErrorCode>>, RDKafkaErrorCode> {
        let admin = self.admin_client().map_err(|error| code(&error))?;
        let answers = admin.describe_configs(asked, &in_time()).await;
        let answers = answers.map_err(|error| code(&error))?;
        let mut found = BTreeMap::new();
        for (resource, answer) in asked.iter().zip(answers) {
            let name = match resource {
                ResourceSpecifier::Topic(name) | ResourceSpecifier::Group(name) => {
                    (*name).to_owned()
                }
                ResourceSpecifier::Broker(id) => id.to_string(),
            };
            match answer {
                Ok(resource) => {
                    let name = named(&resource).unwrap_or(name);
                    found.insert(name, Ok(settings_of(resource)));
                }
                Err(code) => {
                    found.insert(name, Err(code));
                }
            }
        }
        Ok(found)
    }

    /// Whether a topic could be made; it is not.
    pub async fn may_create(
        &self,
        topic: &TopicName,
        options: &[(&str, &str)],
    ) -> Result<(), RDKafkaErrorCode> {
        let admin = self.admin_client().map_err(|error| code(&error))?;
        let copies = TopicReplication::Fixed(self.config.replication_factor);
        let mut new = NewTopic::new(topic.as_str(), 1, copies);
        for (key, value) in options {
            new = new.set(key, value);
        }
        let only_asked: AdminOptions = in_time().validate_only(true);
        let answers = admin.create_topics([&new], &only_asked).await;
        let answers = answers.map_err(|error| code(&error))?;
        answers
            .into_iter()
            .try_for_each(|answer| answer.map(drop).map_err(|(_, code)| code))
    }

    /// Whether records can be written to a topic with `cleanup.policy=compact`: the one that is
    /// sent has no key, which such a topic refuses after the right to write was looked at.
    pub async fn may_write(&self, topic: &TopicName) -> Result<(), RDKafkaErrorCode> {
        let mut settings = self.client();
        settings
            .set("message.timeout.ms", CALL_TIMEOUT.as_millis().to_string())
            .set("retries", "0");
        let producer: FutureProducer =
            FutureProducer::from_config(&settings).map_err(|error| code(&error))?;
        let keyless: FutureRecord<'_, [u8], [u8]> =
            FutureRecord::to(topic.as_str()).partition(0).payload(b"");
        match producer.send(keyless, Timeout::After(CALL_TIMEOUT)).await {
            Ok(_) => Ok(()),
            Err((error, _)) => match code(&error) {
                RDKafkaErrorCode::InvalidRecord => Ok(()),
                code => Err(code),
            },
        }
    }

    /// All entries of a compacted topic with one partition, as they are now.
    pub async fn read_compacted(
        &self,
        topic: &TopicName,
    ) -> Result<BTreeMap<String, Bytes>, RDKafkaErrorCode> {
        let (kafka, topic) = (self.clone(), topic.clone());
        let reading = tokio::task::spawn_blocking(move || kafka.read_compacted_blocking(&topic));
        reading.await.unwrap_or(Err(RDKafkaErrorCode::Fail))
    }

    fn read_compacted_blocking(
        &self,
        topic: &TopicName,
    ) -> Result<BTreeMap<String, Bytes>, RDKafkaErrorCode> {
        let failed = |error: KafkaError| code(&error);
        let mut settings = self.reader_settings();
        settings.set("enable.partition.eof", "true");
        let reader = BaseConsumer::from_config_and_context(&settings, Reasons::default());
        let reader = reader.map_err(failed)?;
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(topic.as_str(), 0, KafkaOffset::Beginning)
            .map_err(failed)?;
        reader.assign(&from).map_err(failed)?;
        let (mut entries, since) = (BTreeMap::new(), Instant::now());
        while since.elapsed() < CALL_TIMEOUT * 6 {
            let message = match reader.poll(Duration::from_millis(200)) {
                None => continue,
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(entries),
                Some(Err(error)) => return Err(code(&error)),
                Some(Ok(message)) => message,
            };
            let Some(Ok(key)) = message.key().map(|key| String::from_utf8(key.to_vec())) else {
                continue;
            };
            match message.payload() {
                Some(value) => drop(entries.insert(key, Bytes::copy_from_slice(value))),
                None => drop(entries.remove(&key)),
            }
        }
        Err(RDKafkaErrorCode::OperationTimedOut)
    }

    fn admin_client(&self) -> Result<AdminClient<DefaultClientContext>, KafkaError> {
        AdminClient::from_config(&self.client())
    }
}

fn named(resource: &ConfigResource) -> Option<String> {
    match &resource.specifier {
        OwnedResourceSpecifier::Topic(name) => Some(name.clone()),
        _ => None,
    }
}

fn settings_of(resource: ConfigResource) -> Settings {
    let entries = resource.entries.into_iter();
    entries
        .filter_map(|entry| Some((entry.name, entry.value?)))
        .collect()
}

fn code(error: &KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)
}
