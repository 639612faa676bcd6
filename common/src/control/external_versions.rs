//! Documents that the leader's users give versions of their own (`version_type=external`).

use serde::{Deserialize, Serialize};

use super::Entry;
use crate::words::types::{ClusterUuid, IndexName, ShardId};

/// A document whose version users have given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionExample {
    pub id: String,
    pub version: i64,
}

/// `control.follower`: that an index has documents with versions of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalVersions {
    pub follower_cluster: ClusterUuid,
    pub follower_index: IndexName,
    /// Of which start of the replication.
    pub subscription: String,
    pub shard: ShardId,
    pub example: VersionExample,
}

impl Entry for ExternalVersions {
    const KIND: &'static str = "external-versions";
    fn key(&self) -> String {
        Self::key_of(&self.follower_cluster, &self.follower_index)
    }
}

impl ExternalVersions {
    pub fn key_of(cluster: &ClusterUuid, index: &IndexName) -> String {
        format!("{}/{cluster}/{index}", Self::KIND)
    }
}
