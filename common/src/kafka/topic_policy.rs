//! Whether the control topics are kept as they have to be: compacted, and never deleted from.

use rdkafka::admin::{AlterConfig, ConfigResource, ConfigSource, ResourceSpecifier};
use tracing::{debug, error, info};

use super::Kafka;
use super::topics::in_time;
use crate::words::types::TopicName;

const POLICY: &str = "cleanup.policy";
const COMPACT: &str = "compact";

impl Kafka {
    /// Gives a topic that is there the policy that it has to have, where Kafka allows it. What is
    /// wrong with it otherwise, in words.
    pub(super) async fn keep_compacted(&self, topic: &TopicName) -> Option<String> {
        if self.memory.is_some() {
            return None; // there, they are compacted as whoever holds them says
        }
        let configured = self.configured(topic).await?;
        let policy = configured
            .entries
            .iter()
            .find(|entry| entry.name == POLICY)
            .and_then(|entry| entry.value.clone())?;
        if policy == COMPACT {
            return None;
        }
        let refused = self.make_compacted(topic, &configured).await.err();
        let Some(reason) = refused else {
            info!(
                %topic,
                policy,
                "the control topic is compacted from now on: entries older than its retention may \
                 be gone"
            );
            return None;
        };
        let fault = format!(
            "control topic {topic} has {POLICY}={policy}, so that Kafka deletes entries that are \
             still needed; it could not be changed to {COMPACT} ({reason}): change it"
        );
        error!(
            %topic,
            policy,
            reason,
            "Kafka deletes entries of the control topic that are still needed: change its \
             cleanup.policy to compact"
        );
        Some(fault)
    }

    /// None where Kafka does not tell.
    async fn configured(&self, topic: &TopicName) -> Option<ConfigResource> {
        let admin = self.admin("describe", topic).ok()?;
        let specifier = ResourceSpecifier::Topic(topic.as_str());
        let described = admin.describe_configs([&specifier], &in_time()).await;
        match described.map(|mut found| found.pop()) {
            Ok(Some(Ok(found))) => Some(found),
            Ok(Some(Err(code))) => {
                debug!(%topic, %code, "the topic's configuration is not known");
                None
            }
            Ok(None) => None,
            Err(error) => {
                let error = self.admin_failed("describe", topic, error);
                debug!(%topic, %error, "the topic's configuration is not known");
                None
            }
        }
    }

    /// All that was set for the topic stays: what is not named here is set back.
    async fn make_compacted(
        &self,
        topic: &TopicName,
        configured: &ConfigResource,
    ) -> Result<(), String> {
        let admin = self
            .admin("configure", topic)
            .map_err(|error| error.to_string())?;
        let mut wanted = AlterConfig::new(ResourceSpecifier::Topic(topic.as_str()));
        for entry in &configured.entries {
            if let (ConfigSource::DynamicTopic, Some(value)) = (&entry.source, &entry.value) {
                wanted = wanted.set(&entry.name, value);
            }
        }
        let wanted = wanted.set(POLICY, COMPACT);
        let altered = admin.alter_configs([&wanted], &in_time()).await;
        match altered.map(|mut done| done.pop()) {
            Ok(Some(Err((_, code)))) => Err(code.to_string()),
            Ok(_) => Ok(()),
            Err(error) => Err(self.admin_failed("configure", topic, error).to_string()),
        }
    }
}
