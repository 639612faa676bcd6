//! Bootstraps through a snapshot repository that both clusters reach: what their agents tell each
//! other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Checkpoint;
use crate::words::Entry;
use crate::words::types::{
    ClusterUuid, IndexUuid, Offset, PrimaryTerm, SeqNo, ShardId, SnapshotId,
};

/// `control.follower`: asks for a snapshot of an index in a repository; withdrawn when it is
/// restored, or no longer wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRequest {
    pub id: String,
    pub leader_cluster: ClusterUuid,
    pub leader_uuid: IndexUuid,
    pub follower_cluster: ClusterUuid,
    /// Registered under this name on both clusters.
    pub repository: String,
    /// When it was asked, in milliseconds since the epoch.
    pub asked_ms: i64,
    /// Whether the follower index is what the restore has made of it.
    pub is_restoring: bool,
}

/// `control.leader`: how far a shard's partition was before the snapshot was begun: from there it
/// has everything that the snapshot does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPosition {
    pub id: SnapshotId,
    pub leader_cluster: ClusterUuid,
    pub shard: ShardId,
    pub seq_no: SeqNo,
    /// The offset behind the record of that operation.
    pub offset: Offset,
}

/// `control.leader`: a snapshot that was begun for a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub id: SnapshotId,
    pub leader_cluster: ClusterUuid,
    pub leader_uuid: IndexUuid,
    pub repository: String,
    /// Before it was begun.
    pub primary_terms: BTreeMap<ShardId, PrimaryTerm>,
    /// None while it is made.
    pub outcome: Option<Outcome>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Shard by shard, from where the stream goes on.
    Complete {
        from: Vec<Checkpoint>,
    },
    Failed {
        reason: String,
    },
}

/// The name of the snapshot that is made for a request.
pub fn snapshot_name(id: &str) -> String {
    format!("shardline-{id}")
}

impl Entry for SnapshotRequest {
    const KIND: &'static str = "snapshot-request";
    fn key(&self) -> String {
        Self::key_of(&self.leader_cluster, &self.id)
    }
}

impl SnapshotRequest {
    pub fn key_of(leader: &ClusterUuid, id: &str) -> String {
        format!("{}/{leader}/{id}", Self::KIND)
    }
}

impl Entry for SnapshotPosition {
    const KIND: &'static str = "snapshot-position";
    fn key(&self) -> String {
        format!(
            "{}{}",
            Self::prefix_of(&self.leader_cluster, self.id.as_str()),
            self.shard
        )
    }
}

impl SnapshotPosition {
    /// How the keys of all shards' positions begin.
    pub fn prefix_of(leader: &ClusterUuid, id: &str) -> String {
        format!("{}/{leader}/{id}/", Self::KIND)
    }
}

impl Entry for Snapshot {
    const KIND: &'static str = "snapshot";
    fn key(&self) -> String {
        Self::key_of(&self.leader_cluster, self.id.as_str())
    }
}

impl Snapshot {
    pub fn key_of(leader: &ClusterUuid, id: &str) -> String {
        format!("{}/{leader}/{id}", Self::KIND)
    }
}
