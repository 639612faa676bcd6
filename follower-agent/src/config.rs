//! The follower agent's configuration.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;
use shardline_common::config::{
    AgentConfig, ConfigError, KafkaConfig, LogConfig, OpenSearchConfig, base_url, same_address,
};

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FollowerConfig {
    pub opensearch: OpenSearchConfig,
    pub kafka: KafkaConfig,
    pub admin: PageConfig,
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

/// The admin port, with the page on it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PageConfig {
    /// `ip:port` where the page, `/metrics`, `/health` and `/ready` are served.
    pub listen: SocketAddr,
    /// Whether the page may change anything: start, pause, stop and so on. Whoever reaches the port
    /// may then.
    #[serde(default)]
    pub actions: bool,
    /// Names by which browsers reach the page to change anything, beside addresses, `localhost` and
    /// the machine's own name.
    #[serde(default)]
    pub hosts: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Where users reach the follower cluster and the replication API.
    pub listen: SocketAddr,
    /// Base URL at which the other follower agents of the cluster reach this gateway. Without it:
    /// `listen`, with the machine's name where that is an address of any interface.
    pub advertise: Option<String>,
    /// Largest request body that the gateway reads, in MiB, unpacked: OpenSearch's
    /// `http.max_content_length`.
    #[serde(default = "max_content_mib")]
    pub max_content_mib: usize,
    /// Most that the gateway holds of all bodies that it reads, in MiB. Above it, callers get 429.
    #[serde(default = "max_inspected_mib")]
    pub max_inspected_mib: usize,
    /// Most connections at a time; further ones wait.
    #[serde(default = "max_connections")]
    pub max_connections: usize,
    #[serde(default)]
    pub security: SecurityConfig,
}

/// Who is asked who calls, and what callers may.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SecurityConfig {
    /// Who is asked who calls. Without it nobody is, and an agent does not start where the follower
    /// cluster has the security plugin.
    pub mode: Option<SecurityMode>,
    /// Roles of the follower cluster, beside those that come with the plugin, and what they may do
    /// at the gateway.
    pub roles: BTreeMap<String, RoleConfig>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SecurityMode {
    /// The follower cluster's security plugin.
    Plugin,
    /// Nobody: whoever reaches the gateway may do everything.
    Off,
}

/// What a role of the follower cluster may do at the gateway.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleConfig {
    /// Names or patterns of the replication plugin's actions.
    pub operations: Vec<String>,
    /// Names or patterns of follower indices.
    pub indices: Vec<String>,
}

/// OpenSearch's default of `http.max_content_length`.
fn max_content_mib() -> usize {
    100
}

fn max_inspected_mib() -> usize {
    256
}

fn max_connections() -> usize {
    4096
}

impl GatewayConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        let refused = |key, expected| Err(ConfigError::BadValue { key, expected });
        if !(1..=2047).contains(&self.max_content_mib) {
            let expected = "MiB, from 1 to 2047";
            return refused("gateway.max_content_mib", expected);
        }
        if self.max_inspected_mib < self.max_content_mib {
            let expected = "at least gateway.max_content_mib";
            return refused("gateway.max_inspected_mib", expected);
        }
        if self.max_inspected_mib > 1 << 20 {
            let expected = "MiB, at most 1048576";
            return refused("gateway.max_inspected_mib", expected);
        }
        if !(1..=1 << 20).contains(&self.max_connections) {
            let expected = "from 1 to 1048576";
            return refused("gateway.max_connections", expected);
        }
        Ok(())
    }

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
        format!("http://{}:{}", machine_name(), self.listen.port())
    }
}

/// The machine's own name.
fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

impl PageConfig {
    /// All names by which the page may be reached to change anything.
    pub(crate) fn known_hosts(&self) -> Vec<String> {
        let mut hosts = self.hosts.clone();
        hosts.push(machine_name());
        hosts
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
        problems.extend(self.gateway.validate().err());
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

    fn gateway(text: &str) -> Result<(), String> {
        let text = format!(r#"{{"listen": "127.0.0.1:9200"{text}}}"#);
        let config: GatewayConfig = serde_json::from_str(&text).unwrap();
        config.validate().map_err(|error| error.to_string())
    }

    #[test]
    fn limits_of_the_gateway_fit_each_other() {
        assert_eq!(gateway(""), Ok(()));
        assert_eq!(
            gateway(r#", "max_content_mib": 200, "max_inspected_mib": 200"#),
            Ok(())
        );
        for (limits, key) in [
            (r#", "max_content_mib": 300"#, "gateway.max_inspected_mib"),
            (r#", "max_content_mib": 0"#, "gateway.max_content_mib"),
            (r#", "max_connections": 0"#, "gateway.max_connections"),
        ] {
            assert!(gateway(limits).unwrap_err().contains(key), "{limits}");
        }
    }
}
