//! Making and deleting topics. Only what Kafka does not have is made, so topics that somebody else
//! has made need no permission to create.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

use super::{Admin, CALL_TIMEOUT, Kafka, MAX_RECORD_BYTES, TopicError};
use crate::words::types::TopicName;

/// Up to so many topics are looked up one by one, more of them among all that Kafka has.
const FEW: usize = 4;

pub(super) fn in_time() -> AdminOptions {
    AdminOptions::new()
        .operation_timeout(Some(CALL_TIMEOUT))
        .request_timeout(Some(CALL_TIMEOUT))
}

impl Kafka {
    /// Makes a topic unless it exists.
    pub async fn create_topic(
        &self,
        topic: &TopicName,
        partitions: u32,
        options: &[(&str, String)],
    ) -> Result<(), TopicError> {
        if let Some(client) = &self.memory {
            let made = client.create_topic(topic, partitions).await;
            return made.map_err(|source| self.failed("create", topic, source));
        }
        let topics = BTreeMap::from([(topic.clone(), partitions)]);
        match self.create_topics(&topics, options).await?.remove(topic) {
            Some(code) => Err(self.refused("create", topic, code)),
            None => Ok(()),
        }
    }

    /// Makes the topic of one index incarnation, with the configured retention.
    pub async fn create_replication_topic(
        &self,
        topic: &TopicName,
        shards: u32,
    ) -> Result<(), TopicError> {
        self.create_topic(topic, shards, &self.retention()).await
    }

    /// Makes the topics of index incarnations, each with so many shards, in one go. Gives those
    /// that Kafka refused.
    pub async fn create_replication_topics(
        &self,
        topics: &BTreeMap<TopicName, u32>,
    ) -> Result<HashMap<TopicName, TopicError>, TopicError> {
        if self.memory.is_some() {
            for (topic, shards) in topics {
                self.create_replication_topic(topic, *shards).await?;
            }
            return Ok(HashMap::new());
        }
        let refused = self.create_topics(topics, &self.retention()).await?;
        let error = |(topic, code): (TopicName, _)| {
            let error = self.refused("create", &topic, code);
            (topic, error)
        };
        Ok(refused.into_iter().map(error).collect())
    }

    fn retention(&self) -> [(&'static str, String); 3] {
        let retention_ms = self
            .config
            .retention_hours
            .saturating_mul(3_600_000)
            .min(i64::MAX as u64);
        [
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", retention_ms.to_string()),
            ("retention.bytes", "-1".to_owned()),
        ]
    }

    /// Makes the topics that Kafka does not have. Gives those that it refused.
    async fn create_topics(
        &self,
        topics: &BTreeMap<TopicName, u32>,
        options: &[(&str, String)],
    ) -> Result<HashMap<TopicName, RDKafkaErrorCode>, TopicError> {
        let missing = self.missing(topics.keys().cloned().collect()).await?;
        let Some(first) = missing.first() else {
            return Ok(HashMap::new());
        };
        let max_bytes = MAX_RECORD_BYTES.to_string();
        let new: Vec<NewTopic<'_>> = missing
            .iter()
            .map(|topic| {
                let partitions = i32::try_from(topics[topic]).unwrap_or(i32::MAX);
                let copies = TopicReplication::Fixed(self.config.replication_factor);
                let mut new = NewTopic::new(topic.as_str(), partitions, copies)
                    .set("max.message.bytes", &max_bytes);
                for (key, value) in options {
                    new = new.set(key, value);
                }
                new
            })
            .collect();
        let admin = self.admin("create", first)?;
        let results = admin.create_topics(&new, &in_time()).await;
        let results = match results {
            Ok(results) => results,
            Err(source) => {
                self.drop_admin();
                return Err(self.failed_at_start("create", first, source).await);
            }
        };
        let refused = results.into_iter().filter_map(|result| match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => None,
            Err((topic, code)) => Some((TopicName(topic), code)),
        });
        Ok(refused.collect())
    }

    /// Those among some topics that Kafka does not have, or does not show.
    async fn missing(&self, topics: Vec<TopicName>) -> Result<Vec<TopicName>, TopicError> {
        let Some(first) = topics.first().cloned() else {
            return Ok(Vec::new());
        };
        self.with_reader(&first, move |kafka, reader, first| {
            let mut there = HashSet::new();
            let mut look = |topic: Option<&str>| {
                let metadata = reader
                    .fetch_metadata(topic, CALL_TIMEOUT)
                    .map_err(|source| kafka.failed_with(reader, "look up", first, source))?;
                let is_there = |error: Option<RDKafkaRespErr>| {
                    use RDKafkaRespErr::{
                        RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE as NO_LEADER,
                        RD_KAFKA_RESP_ERR_NO_ERROR as NO_ERROR,
                    };
                    error.is_none_or(|error| matches!(error, NO_ERROR | NO_LEADER))
                };
                let found = metadata.topics().iter();
                let found = found.filter(|found| is_there(found.error()));
                there.extend(found.map(|found| found.name().to_owned()));
                Ok::<_, TopicError>(())
            };
            if topics.len() > FEW {
                look(None)?;
            } else {
                topics
                    .iter()
                    .try_for_each(|topic| look(Some(topic.as_str())))?;
            }
            let mut missing = topics;
            missing.retain(|topic| !there.contains(topic.as_str()));
            Ok(missing)
        })
        .await
    }

    /// Deletes a topic unless it is gone.
    pub async fn delete_topic(&self, topic: &TopicName) -> Result<(), TopicError> {
        if let Some(client) = &self.memory {
            let deleted = client.delete_topic(topic).await;
            return deleted.map_err(|source| self.failed("delete", topic, source));
        }
        let admin = self.admin("delete", topic)?;
        let results = admin.delete_topics(&[topic.as_str()], &in_time()).await;
        let results = results.map_err(|source| self.admin_failed("delete", topic, source))?;
        for result in results {
            match result {
                Ok(_)
                | Err((
                    _,
                    RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic,
                )) => {}
                Err((_, code)) => return Err(self.refused("delete", topic, code)),
            }
        }
        Ok(())
    }

    /// Kept: making one takes a connection, and its end the tenth of a second in which its thread
    /// looks up.
    pub(super) fn admin(
        &self,
        action: &'static str,
        topic: &TopicName,
    ) -> Result<Arc<Admin>, TopicError> {
        let mut kept = self.admin.lock();
        let admin = match kept.take() {
            Some(admin) => admin,
            None => Arc::new(
                AdminClient::from_config(&self.client())
                    .map_err(|source| self.failed(action, topic, source))?,
            ),
        };
        Ok(Arc::clone(kept.insert(admin)))
    }

    pub(super) fn admin_failed(
        &self,
        action: &'static str,
        topic: &TopicName,
        source: KafkaError,
    ) -> TopicError {
        self.drop_admin();
        self.failed(action, topic, source)
    }

    fn drop_admin(&self) {
        let failed = self.admin.lock().take();
        // Its end waits for a thread.
        tokio::task::spawn_blocking(move || drop(failed));
    }
}
