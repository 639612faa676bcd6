//! Auto-follow in `control.follower`: the rules, and what came of each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ReplicationRoles;
use crate::words::Entry;
use crate::words::types::{ClusterUuid, IndexName};

/// What stands for the leader index's name in a rule's `follower_index_pattern`.
pub const LEADER_INDEX: &str = "{{leader_index}}";

/// Follows the leader's indices that match, those that exist and those to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutoFollowRule {
    pub follower_cluster: ClusterUuid,
    pub leader_alias: String,
    pub name: String,
    /// A pattern of index names or aliases; `*` stands for any run of characters.
    pub pattern: String,
    /// How the follower indices are called; like the leader's if there is none.
    pub follower_index_pattern: Option<String>,
    /// Index settings that win over the leader's, flat.
    pub settings: Map<String, Value>,
    /// Under which roles it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<ReplicationRoles>,
}

impl AutoFollowRule {
    pub fn key_of(cluster: &ClusterUuid, alias: &str, name: &str) -> String {
        format!("{}/{cluster}/{alias}/{name}", Self::KIND)
    }

    pub fn follower_index(&self, leader: &IndexName) -> IndexName {
        match &self.follower_index_pattern {
            Some(pattern) => IndexName(pattern.replace(LEADER_INDEX, leader.as_str())),
            None => leader.clone(),
        }
    }
}

impl Entry for AutoFollowRule {
    const KIND: &'static str = "autofollow";
    fn key(&self) -> String {
        Self::key_of(&self.follower_cluster, &self.leader_alias, &self.name)
    }
}

/// What came of a rule so far; in the words of `autofollow_stats`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleProgress {
    pub num_success_start_replication: u64,
    /// Indices that wait for another attempt; the other numbers only grow.
    pub num_failed_start_replication: u64,
    pub num_failed_leader_calls: u64,
    /// Leader indices whose start failed.
    pub failed_indices: Vec<IndexName>,
    /// Milliseconds since the epoch; 0 before the first look at the leader's indices.
    pub last_execution_time: i64,
    /// Not in the plugin: why each of them failed, and when it is tried again; and those whose
    /// followers' names are taken, which count as no failures.
    pub failures: BTreeMap<IndexName, StartFailure>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartFailure {
    pub reason: String,
    /// None where the follower's name is taken.
    pub attempts: u32,
    /// Milliseconds since the epoch.
    pub next_attempt: i64,
}

/// The progress of one rule, kept for every agent to show and for the next one to go on with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredProgress {
    /// The rule's key.
    pub key: String,
    pub progress: RuleProgress,
}

impl StoredProgress {
    pub fn key_of(rule: &str) -> String {
        format!("{}/{rule}", Self::KIND)
    }
}

impl Entry for StoredProgress {
    const KIND: &'static str = "autofollow-progress";
    fn key(&self) -> String {
        Self::key_of(&self.key)
    }
}
