//! The leader agent's configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use shardline_common::config::{AdminConfig, ConfigError, KafkaConfig, OpenSearchConfig};

/// The largest `capture.pack_bytes`.
const PACK_BYTES_MAX: usize = 1024 * 1024;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaderConfig {
    pub opensearch: OpenSearchConfig,
    pub kafka: KafkaConfig,
    pub(crate) admin: AdminConfig,
    #[serde(default)]
    pub capture: CaptureConfig,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaptureConfig {
    /// Where changes come from. All agents of a cluster use the same.
    pub source: Source,
    /// `poll` only: how often the shards' checkpoints are asked for, in seconds.
    pub(crate) poll_seconds: u64,
    /// `poll` only: how often deletions are looked for in a shard that changes, in seconds.
    pub(crate) poll_sweep_seconds: u64,
    /// Roles of the leader cluster under which indices may be followed. Without any, every
    /// follower may follow everything. All agents of a cluster use the same.
    pub(crate) roles: BTreeMap<String, CaptureRole>,
    /// Names or patterns (`logs-*`) of indices that are captured whether anybody follows them or
    /// not.
    pub(crate) always: Vec<String>,
    /// Where the node's data folders are mounted for the agent, if not where the node itself has
    /// them (`path.data`).
    pub(crate) data_paths: Vec<PathBuf>,
    /// How much disk the spool may take, in MiB, per data folder: generations that OpenSearch has
    /// deleted and Kafka does not have yet. Past it the oldest are let go, and followers that
    /// needed them copy the index anew.
    pub(crate) spool_limit_mib: u64,
    /// How often an idle partition gets a heartbeat, in seconds.
    pub(crate) heartbeat_seconds: u64,
    /// Operations that are captured together go into one Kafka record as far as they take so many
    /// bytes. 0: each into one of its own, as other tools can read them.
    pub pack_bytes: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
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
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaptureRole {
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

impl LeaderConfig {
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.opensearch.validate()?;
        self.kafka.validate()?;
        let intervals = [
            ("capture.heartbeat_seconds", self.capture.heartbeat_seconds),
            ("capture.poll_seconds", self.capture.poll_seconds),
            (
                "capture.poll_sweep_seconds",
                self.capture.poll_sweep_seconds,
            ),
        ];
        if let Some((key, _)) = intervals.into_iter().find(|(_, seconds)| *seconds == 0) {
            let expected = "a number of seconds from 1 on";
            return Err(ConfigError::BadValue {
                key,
                value: "0".to_owned(),
                expected,
            });
        }
        if self.capture.pack_bytes > PACK_BYTES_MAX {
            let (key, value) = ("capture.pack_bytes", self.capture.pack_bytes.to_string());
            return Err(ConfigError::BadValue {
                key,
                value,
                expected: "at most 1048576",
            });
        }
        Ok(())
    }
}
