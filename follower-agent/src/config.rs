//! The follower agent's configuration.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use shardline_common::config::{AdminConfig, ConfigError, KafkaConfig, OpenSearchConfig};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FollowerConfig {
    pub opensearch: OpenSearchConfig,
    pub kafka: KafkaConfig,
    pub admin: AdminConfig,
    pub gateway: GatewayConfig,
    pub storage: StorageConfig,
    /// Connection alias to the name of a leader cluster. An alias that is not here is looked up among the follower
    /// cluster's `cluster.remote.<alias>` settings.
    #[serde(default)]
    pub aliases: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Where users reach the follower cluster and the replication API.
    pub listen: SocketAddr,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// Where checkpoints are kept.
    pub data_dir: PathBuf,
}

impl FollowerConfig {
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.opensearch.validate()?;
        self.kafka.validate()
    }
}
