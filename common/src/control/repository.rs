//! Bootstraps through a snapshot repository that both clusters reach: what their agents tell each
//! other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::control::{Checkpoint, Entry};
use crate::opensearch::{OpenSearchError, path_segment};
use crate::types::{ClusterUuid, IndexUuid, Offset, PrimaryTerm, SeqNo, ShardId};

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
    pub id: String,
    pub leader_cluster: ClusterUuid,
    pub shard: ShardId,
    pub seq_no: SeqNo,
    /// Behind the record of that operation.
    pub offset: Offset,
}

/// `control.leader`: a snapshot that was begun for a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub id: String,
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

/// Of the snapshot that is made for a request.
pub fn snapshot_name(id: &str) -> String {
    format!("shardline-{id}")
}

/// The snapshot's path in the REST API.
pub fn snapshot_path(repository: &str, id: &str) -> String {
    format!(
        "/_snapshot/{}/{}",
        path_segment(repository),
        snapshot_name(id)
    )
}

/// At which a cluster says whether all its nodes reach a repository.
pub fn verification_path(repository: &str) -> String {
    format!("/_snapshot/{}/_verify", path_segment(repository))
}

/// Whether a call about a snapshot fails for good: what is wrong with a repository or a snapshot is
/// told with status 500, too.
pub fn is_final(error: &OpenSearchError) -> bool {
    match error {
        OpenSearchError::Refused { error_type, .. }
            if error_type.starts_with("repository") || error_type.starts_with("snapshot") =>
        {
            true
        }
        error => !error.retryable(),
    }
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
            Self::prefix_of(&self.leader_cluster, &self.id),
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
        Self::key_of(&self.leader_cluster, &self.id)
    }
}

impl Snapshot {
    pub fn key_of(leader: &ClusterUuid, id: &str) -> String {
        format!("{}/{leader}/{id}", Self::KIND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_repository_does_not_pass() {
        let refused = |status, error_type: &str| OpenSearchError::Refused {
            method: "PUT".to_owned(),
            path: "/_snapshot/r/s".to_owned(),
            status,
            error_type: error_type.to_owned(),
            reason: String::new(),
            body: Box::default(),
        };
        assert!(is_final(&refused(404, "repository_missing_exception")));
        assert!(is_final(&refused(500, "repository_exception")));
        assert!(is_final(&refused(500, "snapshot_restore_exception")));
        assert!(!is_final(&refused(
            503,
            "concurrent_snapshot_execution_exception"
        )));
    }
}
