//! Bulk tasks in `control.follower`: one operation on many indices, and how far it has come.

use serde::{Deserialize, Serialize};

use super::ReplicationRoles;
use crate::words::Entry;
use crate::words::types::{ClusterUuid, IndexName};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BulkOperation {
    #[serde(rename = "bulk_start_replication")]
    Start,
    #[serde(rename = "bulk_stop_replication")]
    Stop,
    #[serde(rename = "bulk_pause_replication")]
    Pause,
    #[serde(rename = "bulk_resume_replication")]
    Resume,
}

/// One task; it is done when nothing is pending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkTask {
    pub follower_cluster: ClusterUuid,
    /// The task's id as `node:number`, like the ids of OpenSearch's own tasks.
    pub id: String,
    pub operation: BulkOperation,
    pub pattern: String,
    /// The leader of a start; the other operations have none.
    pub leader_alias: Option<String>,
    /// Milliseconds since the epoch.
    pub start_time: i64,
    pub pending: Vec<IndexName>,
    pub num_success: u64,
    pub num_cancelled: u64,
    pub failed: Vec<FailedIndex>,
    /// Under which roles a start was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<ReplicationRoles>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedIndex {
    pub index: IndexName,
    pub failure_reason: String,
}

/// The wish that a task does not go on; under a key of its own, for the task is written by who
/// carries it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkCancellation {
    pub follower_cluster: ClusterUuid,
    pub id: String,
}

impl BulkTask {
    pub fn key_of(cluster: &ClusterUuid, id: &str) -> String {
        format!("{}/{cluster}/{id}", Self::KIND)
    }

    pub fn is_done(&self) -> bool {
        self.pending.is_empty()
    }
}

impl Entry for BulkTask {
    const KIND: &'static str = "bulk";
    fn key(&self) -> String {
        Self::key_of(&self.follower_cluster, &self.id)
    }
}

impl BulkCancellation {
    pub fn key_of(cluster: &ClusterUuid, id: &str) -> String {
        format!("{}/{cluster}/{id}", Self::KIND)
    }
}

impl Entry for BulkCancellation {
    const KIND: &'static str = "bulk-cancellation";
    fn key(&self) -> String {
        Self::key_of(&self.follower_cluster, &self.id)
    }
}
