//! How an agent reaches Kafka.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ConfigError, Secret};

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port` of one or more brokers, separated by commas.
    pub bootstrap_servers: String,
    /// First segment of every topic's name; the same on both sides.
    #[serde(default = "default_prefix")]
    pub topic_prefix: String,
    /// Copies of each topic that the agent makes; at most the number of brokers.
    #[serde(default = "default_replication_factor")]
    pub replication_factor: i32,
    /// How long replication topics keep records, in hours: the longest pause after which a follower
    /// resumes without a new bootstrap.
    #[serde(default = "default_retention_hours")]
    pub retention_hours: u64,
    /// Further librdkafka properties, for TLS and SASL among others.
    #[serde(default)]
    pub properties: BTreeMap<String, Secret>,
    /// Properties of librdkafka whose values are read from files, such as `sasl.password`. A path
    /// that begins with `$CREDENTIALS_DIRECTORY/` is a systemd credential.
    #[serde(default)]
    pub properties_files: BTreeMap<String, PathBuf>,
}

impl KafkaConfig {
    pub fn validate(&self) -> Result<(), ConfigError> {
        let legal = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        if self.topic_prefix.is_empty()
            || self.topic_prefix.len() > 64
            || !self.topic_prefix.chars().all(legal)
        {
            return Err(ConfigError::BadValue {
                key: "kafka.topic_prefix",
                expected: "1 to 64 letters, digits, dots, hyphens or underscores",
            });
        }
        if self.replication_factor < 1 {
            return Err(ConfigError::BadValue {
                key: "kafka.replication_factor",
                expected: "a number from 1 on, at most the number of brokers",
            });
        }
        if !self.bootstrap_servers.split(',').all(is_server) {
            return Err(ConfigError::BadValue {
                key: "kafka.bootstrap_servers",
                expected: "host:port of one or more brokers, separated by commas",
            });
        }
        let mut both = self
            .properties
            .keys()
            .filter(|key| self.properties_files.contains_key(*key));
        match both.next() {
            Some(property) => Err(ConfigError::Twice {
                first: format!("kafka.properties.{property}"),
                second: format!("kafka.properties_files.{property}"),
            }),
            None => Ok(()),
        }
    }

    /// All properties, those of files as the files are now.
    pub fn all_properties(&self) -> Result<BTreeMap<String, Secret>, ConfigError> {
        let mut all = self.properties.clone();
        for (property, file) in &self.properties_files {
            let secret = Secret::from_file("kafka.properties_files", file)?;
            all.insert(property.clone(), secret);
        }
        Ok(all)
    }
}

/// `host:port`, an IPv6 address in brackets; librdkafka also takes a protocol before it.
fn is_server(text: &str) -> bool {
    let text = text.trim();
    let address = text.split_once("://").map_or(text, |(_, address)| address);
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let is_host = match host.strip_prefix('[') {
        Some(ipv6) => ipv6.ends_with(']'),
        None => !host.is_empty() && !host.contains([':', '/', ' ', '@']),
    };
    is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn default_prefix() -> String {
    "shardline".to_owned()
}

fn default_replication_factor() -> i32 {
    3
}

fn default_retention_hours() -> u64 {
    7 * 24
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: serde_json::Value) -> KafkaConfig {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn secrets_are_not_printed() {
        let config = config(serde_json::json!({
            "bootstrap_servers": "a:1", "properties": {"sasl.password": "hunter2"}
        }));
        assert!(!format!("{config:?}").contains("hunter2"));
        assert_eq!(config.properties["sasl.password"].reveal(), "hunter2");
    }

    #[test]
    fn an_illegal_prefix_is_refused() {
        let config = config(serde_json::json!({
            "bootstrap_servers": "a:1", "topic_prefix": "a b"
        }));
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("kafka.topic_prefix"), "{error}");
    }

    #[test]
    fn servers_have_a_host_and_a_port() {
        for good in [
            "a:1",
            "a:9092, b:9093",
            "[::1]:9092",
            "SASL_SSL://a:9092",
            "10.0.0.1:1",
        ] {
            assert!(good.split(',').all(is_server), "{good}");
        }
        for bad in [
            "nonsense", "", "a:", ":1", "a:b", "a:1,", "a:70000", "::1:9092", "u@h:1",
        ] {
            assert!(!bad.split(',').all(is_server), "{bad}");
        }
    }

    #[test]
    fn a_property_has_one_source() {
        let config = config(serde_json::json!({
            "bootstrap_servers": "a:1",
            "properties": {"sasl.password": "hunter2"},
            "properties_files": {"sasl.password": "/p"}
        }));
        let error = config.validate().unwrap_err().to_string();
        assert!(
            error.contains("sasl.password") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
