//! Takes records out of Kafka, as retention does; changes topics.

use std::time::Duration;

use anyhow::{Context, Result};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::wait;

const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);

/// The partitions of a leader index's topic.
pub struct Topic {
    bootstrap_servers: String,
    name: String,
    partitions: i32,
}

impl Topic {
    /// The topic whose name has this beginning; an index's is `shardline.<cluster>.<index>.`.
    pub async fn find(bootstrap_servers: &str, beginning: &str) -> Result<Self> {
        let (bootstrap_servers, beginning) = (bootstrap_servers.to_owned(), beginning.to_owned());
        blocking(move || {
            let metadata = consumer(&bootstrap_servers)?.fetch_metadata(None, CALL_TIMEOUT)?;
            let is_it = |name: &str| name.starts_with(&beginning) && !name.contains(".bootstrap.");
            let found = metadata.topics().iter().find(|topic| is_it(topic.name()));
            let found = found.with_context(|| format!("no topic {beginning}*"))?;
            let (name, partitions) = (
                found.name().to_owned(),
                i32::try_from(found.partitions().len())?,
            );
            Ok(Self {
                bootstrap_servers,
                name,
                partitions,
            })
        })
        .await
    }

    /// Of all topics that are wanted.
    pub async fn names(
        bootstrap_servers: &str,
        is_wanted: fn(&str) -> bool,
    ) -> Result<Vec<String>> {
        let bootstrap_servers = bootstrap_servers.to_owned();
        blocking(move || {
            let metadata = consumer(&bootstrap_servers)?.fetch_metadata(None, CALL_TIMEOUT)?;
            let names = metadata
                .topics()
                .iter()
                .map(|topic| topic.name().to_owned());
            Ok(names.filter(|name| is_wanted(name)).collect())
        })
        .await
    }

    /// Offsets behind the last record of each partition.
    pub async fn ends(&self) -> Result<Vec<i64>> {
        let (servers, name, partitions) = (
            self.bootstrap_servers.clone(),
            self.name.clone(),
            self.partitions,
        );
        blocking(move || {
            let consumer = consumer(&servers)?;
            let end = |partition| Ok(consumer.fetch_watermarks(&name, partition, CALL_TIMEOUT)?.1);
            (0..partitions).map(end).collect()
        })
        .await
    }

    /// Waits until every partition has more than `ends`, and removes what is there then.
    pub async fn trim_behind(&self, ends: &[i64]) -> Result<()> {
        wait::until("more records in each partition", PATIENCE, async || {
            let now = self.ends().await?;
            Ok(if now.iter().zip(ends).all(|(now, before)| now > before) {
                Ok(())
            } else {
                Err(format!("{now:?}"))
            })
        })
        .await?;
        let admin: AdminClient<DefaultClientContext> = config(&self.bootstrap_servers).create()?;
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions {
            list.add_partition_offset(&self.name, partition, Offset::End)?;
        }
        let removed = admin
            .delete_records(
                &list,
                &AdminOptions::new().operation_timeout(Some(CALL_TIMEOUT)),
            )
            .await?;
        removed
            .elements()
            .iter()
            .try_for_each(|partition| Ok(partition.error()?))
    }
}

/// Deletes a topic, and makes it anew with one partition that is not compacted: as a broker does
/// that makes topics by itself. An agent may be faster.
pub async fn lose(bootstrap_servers: &str, topic: &str) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = config(bootstrap_servers).create()?;
    let options = AdminOptions::new().operation_timeout(Some(CALL_TIMEOUT));
    for outcome in admin.delete_topics(&[topic], &options).await? {
        outcome.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
    }
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1)).set("cleanup.policy", "delete");
    wait::until("the topic to be made anew", PATIENCE, async || {
        let made = admin.create_topics([&new], &options).await?;
        let code = made.into_iter().find_map(|made| made.err());
        Ok(match code {
            None | Some((_, RDKafkaErrorCode::TopicAlreadyExists)) => Ok(()),
            Some((topic, code)) => Err(format!("{topic}: {code}")),
        })
    })
    .await
}

/// The value of a topic's setting.
pub async fn setting(bootstrap_servers: &str, topic: &str, name: &str) -> Result<String> {
    let admin: AdminClient<DefaultClientContext> = config(bootstrap_servers).create()?;
    let specifier = ResourceSpecifier::Topic(topic);
    let described = admin
        .describe_configs([&specifier], &AdminOptions::new())
        .await?;
    let found = described.into_iter().next().context("no answer")?;
    let found = found.map_err(|code| anyhow::anyhow!("{topic}: {code}"))?;
    let entry = found.entries.into_iter().find(|entry| entry.name == name);
    entry.and_then(|entry| entry.value).context("not set")
}

/// Writes a record by hand.
pub async fn write(bootstrap_servers: &str, topic: &str, key: &str, value: &str) -> Result<()> {
    let producer: FutureProducer = config(bootstrap_servers).create()?;
    let record = FutureRecord::to(topic).key(key).payload(value);
    let sent = producer.send(record, CALL_TIMEOUT).await;
    sent.map_err(|(error, _)| error)?;
    Ok(())
}

/// Sets what a topic is configured by, and nothing else.
pub async fn configure(
    bootstrap_servers: &str,
    topic: &str,
    settings: &[(&str, &str)],
) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = config(bootstrap_servers).create()?;
    let mut wanted = AlterConfig::new(ResourceSpecifier::Topic(topic));
    for (key, value) in settings {
        wanted = wanted.set(key, value);
    }
    for outcome in admin.alter_configs(&[wanted], &AdminOptions::new()).await? {
        outcome.map_err(|(topic, code)| anyhow::anyhow!("{topic:?}: {code}"))?;
    }
    Ok(())
}

fn config(bootstrap_servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap_servers);
    config
}

fn consumer(bootstrap_servers: &str) -> Result<BaseConsumer> {
    Ok(config(bootstrap_servers).create()?)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}
