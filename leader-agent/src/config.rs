//! The leader agent's configuration.

use std::path::PathBuf;

use serde::Deserialize;
use shardline_common::config::{AdminConfig, ConfigError, KafkaConfig, OpenSearchConfig};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaderConfig {
    pub opensearch: OpenSearchConfig,
    pub kafka: KafkaConfig,
    pub admin: AdminConfig,
    #[serde(default)]
    pub capture: CaptureConfig,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaptureConfig {
    /// Names or patterns (`logs-*`) of indices that are captured whether anybody follows them or not.
    pub always: Vec<String>,
    /// Where the node's data folders are mounted for the agent, if not where the node itself has them (`path.data`).
    pub data_paths: Vec<PathBuf>,
    /// How much disk the spool may take, in MiB, per data folder: generations that OpenSearch has deleted and Kafka
    /// does not have yet. Past it the oldest are let go, and followers that needed them copy the index anew.
    pub spool_limit_mib: u64,
    /// How often an idle partition gets a heartbeat, in seconds.
    pub heartbeat_seconds: u64,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self { always: Vec::new(), data_paths: Vec::new(), spool_limit_mib: 4096, heartbeat_seconds: 5 }
    }
}

impl LeaderConfig {
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.opensearch.validate()?;
        self.kafka.validate()?;
        if self.capture.heartbeat_seconds == 0 {
            return Err(ConfigError::BadValue {
                key: "capture.heartbeat_seconds",
                value: "0".to_owned(),
                expected: "a number of seconds from 1 on",
            });
        }
        Ok(())
    }
}
