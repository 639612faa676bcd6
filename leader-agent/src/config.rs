//! The leader agent's configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;
use shardline_common::config::{
    AdminConfig, AgentConfig, ConfigError, KafkaConfig, LogConfig, OpenSearchConfig,
};

/// The largest `capture.pack_bytes`.
const PACK_BYTES_MAX: usize = 1024 * 1024;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaderConfig {
    pub opensearch: OpenSearchConfig,
    pub kafka: KafkaConfig,
    pub(crate) admin: AdminConfig,
    #[serde(default)]
    pub log: LogConfig,
    #[serde(default)]
    pub capture: CaptureConfig,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CaptureConfig {
    /// Where changes come from. All agents of a cluster use the same.
    pub source: Source,
    /// `poll` only: how often the shards' checkpoints are asked for, in seconds.
    pub poll_seconds: u64,
    /// `poll` only: how often deletions are looked for in a shard that changes, in seconds.
    pub poll_sweep_seconds: u64,
    /// Roles of the leader cluster under which indices may be followed. Without any, every
    /// follower may follow everything. All agents of a cluster use the same.
    pub roles: BTreeMap<String, CaptureRole>,
    /// Names or patterns (`logs-*`) of indices that are captured whether anybody follows them or
    /// not.
    pub always: Vec<String>,
    /// Where the node's data folders are mounted for the agent, if not where the node itself has
    /// them (`path.data`).
    pub data_paths: Vec<PathBuf>,
    /// How much disk the spool may take, in MiB, per data folder: generations that OpenSearch has
    /// deleted and Kafka does not have yet. Past it the oldest are let go, and followers that
    /// needed them copy the index anew.
    pub spool_limit_mib: u64,
    /// How often an idle partition gets a heartbeat, in seconds.
    pub heartbeat_seconds: u64,
    /// Operations that are captured together go into one Kafka record as far as they take so many
    /// bytes. 0: each into one of its own, as other tools can read them.
    pub pack_bytes: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The translogs on the disk of the node beside the agent: one agent beside each data node.
    #[default]
    Translog,
    /// Scans through the REST API, for clusters whose files cannot be read: one agent for the whole
    /// cluster.
    Poll,
}

/// What a role may follow, and who has it: names or patterns with `*`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CaptureRole {
    pub(crate) indices: Vec<String>,
    pub(crate) users: Vec<String>,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self {
            source: Source::Translog,
            poll_seconds: 1,
            poll_sweep_seconds: 300,
            roles: BTreeMap::new(),
            always: Vec::new(),
            data_paths: Vec::new(),
            spool_limit_mib: 4096,
            heartbeat_seconds: 5,
            pack_bytes: 32 * 1024,
        }
    }
}

impl CaptureConfig {
    fn problems(&self) -> Vec<ConfigError> {
        let intervals = [
            ("capture.heartbeat_seconds", self.heartbeat_seconds),
            ("capture.poll_seconds", self.poll_seconds),
            ("capture.poll_sweep_seconds", self.poll_sweep_seconds),
        ];
        let zero = intervals.into_iter().filter(|(_, seconds)| *seconds == 0);
        let mut problems: Vec<ConfigError> = zero
            .map(|(key, _)| ConfigError::BadValue {
                key,
                expected: "a number of seconds from 1 on",
            })
            .collect();
        if self.pack_bytes > PACK_BYTES_MAX {
            problems.push(ConfigError::BadValue {
                key: "capture.pack_bytes",
                expected: "at most 1048576",
            });
        }
        problems
    }
}

impl AgentConfig for LeaderConfig {
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
        problems.extend(self.capture.problems());
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_that_is_shipped_is_that_of_the_code() {
        let shipped = include_str!("../../deploy/config/leader-agent.schema.json");
        let schema = serde_json::to_string_pretty(&LeaderConfig::schema()).unwrap() + "\n";
        assert!(
            shipped == schema,
            "leader-agent --config-schema > deploy/config/leader-agent.schema.json"
        );
    }
}
