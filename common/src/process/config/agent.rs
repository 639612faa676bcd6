//! What every agent's configuration has, whatever the agent does.

use std::net::SocketAddr;

use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{ConfigError, KafkaConfig, OpenSearchConfig};

/// The configuration of one of the agents.
pub trait AgentConfig: Clone + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    fn opensearch(&self) -> &OpenSearchConfig;
    fn kafka(&self) -> &KafkaConfig;
    fn log(&self) -> &LogConfig;

    /// Finds what is wrong with the values themselves: all of it, not only the first.
    fn problems(&self) -> Vec<ConfigError>;

    /// The JSON schema of the file.
    fn schema() -> Schema {
        schemars::schema_for!(Self)
    }
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// `ip:port` where `/metrics`, `/health` and `/ready` are served.
    pub listen: SocketAddr,
}

/// Logs go to standard error.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Which events are logged, such as `info,librdkafka=error` (the default); read again on
    /// SIGHUP. `RUST_LOG` in the environment wins.
    pub filter: Option<String>,
    /// `text` (the default) or `json`. `SHARDLINE_LOG` in the environment wins.
    pub format: Option<LogFormat>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Two listeners cannot have one address; any interface has every address.
pub fn same_address(
    first: (&'static str, SocketAddr),
    second: (&'static str, SocketAddr),
) -> Option<ConfigError> {
    let (a, b) = (first.1, second.1);
    let overlaps = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    (a.port() == b.port() && a.port() != 0 && overlaps).then_some(ConfigError::SameAddress {
        first: first.0,
        second: second.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_on_the_same_port_clash_where_their_addresses_overlap() {
        let clash = |a: &str, b: &str| {
            same_address(("a", a.parse().unwrap()), ("b", b.parse().unwrap())).is_some()
        };
        assert!(clash("127.0.0.1:9200", "127.0.0.1:9200"));
        assert!(clash("0.0.0.0:9200", "127.0.0.1:9200"));
        assert!(clash("127.0.0.1:9200", "[::]:9200"));
        assert!(!clash("127.0.0.1:9200", "127.0.0.2:9200"));
        assert!(!clash("127.0.0.1:9200", "127.0.0.1:9201"));
        assert!(!clash("127.0.0.1:0", "127.0.0.1:0"));
    }
}
