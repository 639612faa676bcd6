//! The follower agent's configuration.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;
use shardline_common::config::{
    AdminConfig, AgentConfig, ConfigError, KafkaConfig, LogConfig, OpenSearchConfig, base_url,
    same_address,
};

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FollowerConfig {
    pub opensearch: OpenSearchConfig,
    pub kafka: KafkaConfig,
    pub admin: AdminConfig,
    #[serde(default)]
    pub log: LogConfig,
    pub gateway: GatewayConfig,
    pub storage: StorageConfig,
    #[serde(default)]
    pub bootstrap: BootstrapConfig,
    /// Connection alias to the name of a leader cluster. An alias that is not here is looked up
    /// among the follower cluster's `cluster.remote.<alias>` settings.
    #[serde(default)]
    pub aliases: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Where users reach the follower cluster and the replication API.
    pub listen: SocketAddr,
    /// Base URL at which the other follower agents of the cluster reach this gateway. Without it:
    /// `listen`, with the machine's name where that is an address of any interface.
    pub advertise: Option<String>,
}

impl GatewayConfig {
    /// At which this agent reaches its own gateway.
    pub fn own_address(&self) -> String {
        let mut address = self.listen;
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() {
                Ipv4Addr::LOCALHOST.into()
            } else {
                Ipv6Addr::LOCALHOST.into()
            });
        }
        format!("http://{address}")
    }

    /// See `advertise`.
    pub fn address(&self) -> String {
        if let Some(address) = &self.advertise {
            return address.trim_end_matches('/').to_owned();
        }
        if !self.listen.ip().is_unspecified() {
            return format!("http://{}", self.listen);
        }
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = if name.trim().is_empty() {
            "localhost"
        } else {
            name.trim()
        };
        format!("http://{name}:{}", self.listen.port())
    }
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// Where checkpoints are kept.
    pub data_dir: PathBuf,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BootstrapConfig {
    /// The snapshot repository, registered under this name on both clusters, through which indices
    /// are copied unless `_start` names another one. Without it: through Kafka.
    pub repository: Option<String>,
    /// How old a snapshot may be that followers in other clusters share.
    pub share_seconds: u64,
}

impl Default for BootstrapConfig {
    fn default() -> Self {
        Self {
            repository: None,
            share_seconds: 600,
        }
    }
}

impl AgentConfig for FollowerConfig {
    fn opensearch(&self) -> &OpenSearchConfig {
        &self.opensearch
    }

    fn kafka(&self) -> &KafkaConfig {
        &self.kafka
    }

    fn log(&self) -> &LogConfig {
        &self.log
    }

    fn problems(&self) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        problems.extend(self.opensearch.validate().err());
        problems.extend(self.kafka.validate().err());
        if let Some(address) = &self.gateway.advertise {
            problems.extend(base_url("gateway.advertise", address).err());
        }
        problems.extend(same_address(
            ("admin.listen", self.admin.listen),
            ("gateway.listen", self.gateway.listen),
        ));
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_that_is_shipped_is_that_of_the_code() {
        let shipped = include_str!("../../deploy/config/follower-agent.schema.json");
        let schema = serde_json::to_string_pretty(&FollowerConfig::schema()).unwrap() + "\n";
        assert!(
            shipped == schema,
            "follower-agent --config-schema > deploy/config/follower-agent.schema.json"
        );
    }
}
