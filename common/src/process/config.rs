//! Configuration that both agents have, and how it is read: a TOML file, then the environment.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Toml};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Reads `T` from a file and from `SHARDLINE_<SECTION>__<KEY>` variables, which win. Unknown keys
/// are errors.
pub fn load<T: DeserializeOwned>(file: Option<&Path>) -> Result<T, ConfigError> {
    let mut figment = Figment::new();
    if let Some(file) = file {
        if !file.is_file() {
            return Err(ConfigError::NoFile(file.to_owned()));
        }
        figment = figment.merge(Toml::file_exact(file));
    }
    figment
        // A variable without a section, such as SHARDLINE_LOG, is no configuration key.
        .merge(
            Env::prefixed("SHARDLINE_")
                .filter(|key| key.as_str().contains("__"))
                .split("__"),
        )
        .extract()
        .map_err(|error| ConfigError::Invalid(Box::new(error)))
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("configuration file {0} does not exist or is no file: pass another with --config")]
    NoFile(PathBuf),
    #[error("configuration: {0}")]
    Invalid(Box<figment::Error>),
    #[error("configuration key {key} is {value:?}: expected {expected}")]
    BadValue {
        key: &'static str,
        value: String,
        expected: &'static str,
    },
}

/// A password or token; never printed.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenSearchConfig {
    /// REST address of the node beside the agent, such as `http://127.0.0.1:9200`.
    pub url: String,
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// PEM file of the authority that signed the cluster's certificate, beside the system's own.
    pub ca_certificate: Option<PathBuf>,
}

impl OpenSearchConfig {
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.url.starts_with("http://") || self.url.starts_with("https://") {
            return Ok(());
        }
        Err(ConfigError::BadValue {
            key: "opensearch.url",
            value: self.url.clone(),
            expected: "an address that starts with http:// or https://",
        })
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port` of one or more brokers, separated by commas.
    pub bootstrap_servers: String,
    /// First segment of every topic's name; the same on both sides.
    #[serde(default = "default_prefix")]
    pub topic_prefix: String,
    /// Copies of each topic that the agent makes.
    #[serde(default = "default_replication_factor")]
    pub replication_factor: i32,
    /// How long replication topics keep records, in hours: the longest pause after which a follower
    /// resumes without a new bootstrap.
    #[serde(default = "default_retention_hours")]
    pub retention_hours: u64,
    /// Further librdkafka properties, for TLS and SASL among others.
    #[serde(default)]
    pub properties: BTreeMap<String, Secret>,
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
                value: self.topic_prefix.clone(),
                expected: "1 to 64 letters, digits, dots, hyphens or underscores",
            });
        }
        if self.replication_factor < 1 {
            return Err(ConfigError::BadValue {
                key: "kafka.replication_factor",
                value: self.replication_factor.to_string(),
                expected: "a number from 1 on, at most the number of brokers",
            });
        }
        Ok(())
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// Where `/metrics`, `/health` and `/ready` are served.
    pub listen: SocketAddr,
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

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        kafka: KafkaConfig,
    }

    fn parse(text: &str) -> Result<Sample, Box<figment::Error>> {
        Figment::new()
            .merge(Toml::string(text))
            .extract()
            .map_err(Box::new)
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = parse("[kafka]\nbootstrap_servers = 'a:1'\nbootstrap = 1")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("unknown field") && error.contains("bootstrap"),
            "{error}"
        );
    }

    #[test]
    fn secrets_are_not_printed() {
        let sample = parse(
            "[kafka]\nbootstrap_servers = 'a:1'\nproperties = { 'sasl.password' = 'hunter2' }",
        )
        .unwrap();
        assert!(!format!("{sample:?}").contains("hunter2"));
        assert_eq!(sample.kafka.properties["sasl.password"].reveal(), "hunter2");
    }

    #[test]
    fn an_illegal_prefix_is_refused() {
        let sample = parse("[kafka]\nbootstrap_servers = 'a:1'\ntopic_prefix = 'a b'").unwrap();
        assert!(
            sample
                .kafka
                .validate()
                .unwrap_err()
                .to_string()
                .contains("kafka.topic_prefix")
        );
    }
}
