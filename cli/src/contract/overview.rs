//! What the page of an agent shows beyond the answers of the control API.

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shardline_common::types::IndexName;

use super::bulk::TaskStatus;
use super::error::ApiError;
use super::service::{FollowedStatus, ResyncDetails, StandstillDetails};

/// Tells what is followed, who works on it and what is there to be followed.
pub trait Overview: Send + Sync + 'static {
    /// The status of every followed index, without its shards, sorted by name.
    fn every_status(&self) -> Vec<(IndexName, FollowedStatus)>;

    /// One index with its shards; `None` if it is not followed.
    fn index(&self, follower: &IndexName) -> Option<IndexOverview>;

    /// Bulk tasks, the newest first.
    fn tasks(&self) -> Vec<TaskOverview>;

    /// The leader's indices that a pattern finds, as a rule or a bulk start would.
    fn preview(
        &self,
        leader_alias: String,
        pattern: String,
    ) -> BoxFuture<'_, Result<Vec<PreviewedIndex>, ApiError>>;

    /// The follower agents of the cluster, as they hold its slots.
    fn agents(&self) -> BoxFuture<'_, Result<Vec<AgentOverview>, ApiError>>;

    /// The leader clusters whose agents have announced themselves.
    fn leaders(&self) -> Vec<LeaderOverview>;
}

/// A followed index, with what is known of each shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IndexOverview {
    #[serde(flatten)]
    pub status: FollowedStatus,
    /// The overrides of `_start` and `_update`.
    pub settings: Map<String, Value>,
    /// Where the operations come from, once the leader's agents have made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    pub shards: Vec<ShardOverview>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardOverview {
    pub shard_id: u32,
    pub follower_checkpoint: i64,
    pub leader_checkpoint: i64,
    pub lag_millis: i64,
    pub foreign_writes: u64,
    /// Documents of the copy that is being loaded: done, and in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copied: Option<(u64, u64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standstill: Option<StandstillDetails>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resync: Option<ResyncDetails>,
    /// Whether the agent that answers follows it itself.
    pub is_here: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskOverview {
    pub task_id: String,
    pub is_done: bool,
    #[serde(flatten)]
    pub status: TaskStatus,
}

/// An index of a leader cluster, and what would become of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewedIndex {
    pub index: IndexName,
    pub shards: u32,
    /// The follower index that follows it already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub followed_as: Option<IndexName>,
    /// Why it cannot be followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

/// A follower agent of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentOverview {
    /// Base URL of its gateway.
    pub address: String,
    /// How many of the cluster's slots it holds.
    pub slots: usize,
    /// Whether it is the one that answers.
    pub is_this: bool,
    /// Whether it looks after rules, tasks and settings.
    pub has_cluster_slot: bool,
}

/// A leader cluster as its agents have announced it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderOverview {
    pub cluster_name: String,
    pub cluster_uuid: String,
    /// Connection aliases under which it is followed.
    pub aliases: Vec<String>,
    pub nodes: Vec<LeaderNode>,
    pub indices: usize,
    pub captured: usize,
    pub followed: usize,
    /// Operations that its agents have read for followers since they were started.
    pub operations_read: u64,
    pub translog_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderNode {
    pub node_name: String,
    pub transport_address: String,
    pub agent_version: String,
    /// Milliseconds since the epoch; 0 from builds that do not say.
    pub announced_ms: i64,
}
