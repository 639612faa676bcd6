//! That an index takes documents of an earlier mapping, and who asks for it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Entry;
use crate::words::types::{ClusterUuid, IndexName, ShardId};

/// The index's mapping is more lenient than the leader's, for documents that the leader took under
/// an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leniency {
    /// The leader's, which the index gets back.
    pub mappings: Value,
    /// The requests for which the index is lenient by now: see [`LeniencyRequest`].
    pub granted: Vec<String>,
    /// Whether limits are raised, too, and shapes may be malformed, which keep an explicit
    /// `ignore_malformed` afterwards.
    #[serde(default)]
    pub is_thorough: bool,
}

impl Leniency {
    /// The same once the leader has this newer mapping.
    pub fn behind(self, mappings: &Value) -> Self {
        Self {
            mappings: mappings.clone(),
            ..self
        }
    }
}

/// `control.follower`: asks the agent that looks after an index to have it take what its mapping
/// refuses of a shard's documents; removed by whoever asked, when that is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeniencyRequest {
    pub follower_cluster: ClusterUuid,
    pub follower_index: IndexName,
    pub shard: ShardId,
    pub subscription: String,
    /// The copy's id.
    pub copy: String,
    pub nonce: String,
    /// See [`Leniency::is_thorough`].
    pub is_thorough: bool,
}

impl Entry for LeniencyRequest {
    const KIND: &'static str = "leniency";
    fn key(&self) -> String {
        Self::key_of(&self.follower_cluster, &self.follower_index, self.shard)
    }
}

impl LeniencyRequest {
    pub fn key_of(cluster: &ClusterUuid, index: &IndexName, shard: ShardId) -> String {
        format!("{}{shard}", Self::prefix_of(cluster, index))
    }

    /// Of all requests for an index.
    pub fn prefix_of(cluster: &ClusterUuid, index: &IndexName) -> String {
        format!("{}/{cluster}/{index}/", Self::KIND)
    }
}
