//! What agents tell each other through the two compacted control topics: keys and JSON values.
//!
//! `control.leader` is written by leader agents only and `control.follower` by follower agents
//! only, so that either survives one-way mirroring.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub mod auto_follow;
pub mod bulk;
mod external_versions;
pub mod leader_stats;
mod leniency;
pub mod repository;
mod roles;
mod scan_standstill;
pub mod verification;

pub use self::external_versions::{ExternalVersions, VersionExample};
pub use self::leniency::{Leniency, LeniencyRequest};
pub use self::roles::{LeaderRoles, ReplicationRoles};
pub use self::scan_standstill::ScanStandstill;
pub use crate::words::Entry;

use crate::words::metadata::{IndexMetadata, MetadataVersions};
use crate::words::types::{
    ClusterUuid, Epoch, ExternalVersion, FrameId, IndexName, IndexUuid, Nonce, Offset, SeqNo,
    ShardId, TopicName,
};

/// `control.leader`: a leader agent and the node beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAnnouncement {
    pub cluster_uuid: ClusterUuid,
    pub cluster_name: String,
    pub node_id: String,
    pub node_name: String,
    /// `host:port` that other OpenSearch nodes connect to; what users put into
    /// `cluster.remote.<alias>.seeds`.
    pub transport_address: String,
    pub agent_version: String,
    /// Milliseconds since the epoch; 0 from earlier builds. Those of a cluster that is no more
    /// stay.
    #[serde(default)]
    pub announced_ms: i64,
}

/// `control.leader`: an index that exists on a leader cluster, followed or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogEntry {
    pub cluster_uuid: ClusterUuid,
    pub index: IndexName,
    pub uuid: IndexUuid,
    pub open: bool,
    pub number_of_shards: u32,
    pub aliases: Vec<String>,
    /// `index.hidden`: patterns do not find it.
    #[serde(default)]
    pub hidden: bool,
    /// Why this index cannot be followed, if it cannot.
    pub refusal: Option<String>,
    /// Under which roles it may be followed, and by whom; `None` if the leader does not judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<LeaderRoles>,
}

/// `control.leader`: an index of a leader cluster that was deleted. An entry that is missing in the
/// catalogue says nothing; this does. Kept for longer than a follower may be away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedIndex {
    pub cluster_uuid: ClusterUuid,
    pub index: IndexName,
    pub uuid: IndexUuid,
    pub deleted: bool,
    /// When that was written down, in milliseconds since the epoch.
    pub deleted_ms: i64,
}

/// `control.follower`: a subscription that was stopped. One that is missing was not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedSubscription {
    pub follower_cluster: ClusterUuid,
    pub follower_index: IndexName,
    /// The subscription's.
    pub id: String,
    /// In milliseconds since the epoch.
    pub stopped_ms: i64,
}

/// `control.leader`: an index whose operations are being captured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capture {
    pub cluster_uuid: ClusterUuid,
    pub topic: TopicName,
    pub metadata: IndexMetadata,
}

/// `control.leader`: the answer to a [`RefreshRequest`]: the catalogue is at least as new as the
/// request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refreshed {
    pub cluster_uuid: ClusterUuid,
    pub nonce: String,
    /// Why the leader cluster could not be asked, if it could not.
    pub error: Option<String>,
}

/// `control.follower`: asks a leader cluster's agents to bring the catalogue up to date.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshRequest {
    pub cluster_uuid: ClusterUuid,
    pub nonce: String,
}

/// `control.follower`: one followed index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subscription {
    /// The id of this start. Positions kept for an earlier one do not count.
    pub id: String,
    pub follower_cluster: ClusterUuid,
    pub follower_index: IndexName,
    pub leader_alias: String,
    pub leader_cluster: ClusterUuid,
    pub leader_index: IndexName,
    pub leader_uuid: IndexUuid,
    pub state: SubscriptionState,
    /// Shown by `_status`.
    pub reason: String,
    pub epoch: Epoch,
    /// Index settings that win over the leader's, flat.
    pub settings: Map<String, Value>,
    /// The bootstrap under way, if one is.
    pub bootstrap: Option<String>,
    /// Whether the index holds nothing but what copies have brought that did not come to their end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_partial: bool,
    /// The snapshot repository that the index is to come from, if it has to be copied while it is
    /// empty.
    #[serde(default)]
    pub repository: Option<String>,
    /// What the follower index is, once it is made.
    #[serde(default)]
    pub copy: Option<IndexCopy>,
    /// Under which roles it was begun; `None` where nobody was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<ReplicationRoles>,
}

/// What leader agents need of a [`Subscription`]: they read it from one of a newer build, too, in
/// which other fields may have words that they do not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowedLeader {
    pub follower_cluster: ClusterUuid,
    pub follower_index: IndexName,
    pub leader_cluster: ClusterUuid,
    pub leader_index: IndexName,
    pub leader_uuid: IndexUuid,
}

/// One copy of a leader index; a bootstrap makes another one. Positions kept for another copy do
/// not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexCopy {
    pub id: String,
    /// Shard by shard, where the stream goes on from what the copy was made of; empty: at its
    /// beginning.
    pub from: Vec<Checkpoint>,
    /// Whether it came from a snapshot repository: with the leader's own document versions, which
    /// are below all of the epoch's.
    #[serde(default)]
    pub is_restored: bool,
}

/// How far a shard is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Every operation up to here has been acknowledged by the follower cluster.
    pub seq_no: SeqNo,
    /// The next record to read.
    pub offset: Offset,
    /// The highest sequence number that may already stand in the follower index: a snapshot holds
    /// documents from after its checkpoint. The copy is consistent once `seq_no` has reached it.
    pub highest: SeqNo,
    /// Writes of others that were found in the follower shard.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub foreign_writes: u64,
    /// What the follower shard is known to have had. Earlier builds did not note it.
    #[serde(rename = "own", default, skip_serializing_if = "Option::is_none")]
    pub own: Option<OwnHistory>,
}

/// How far a follower shard is in its own history: a shard that shows less has lost what it had
/// acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnHistory {
    /// The `history_uuid` of its primary.
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The highest of its own sequence numbers that is known to be durable.
    #[serde(rename = "a")]
    pub acknowledged: SeqNo,
}

impl Default for OwnHistory {
    fn default() -> Self {
        Self {
            uuid: None,
            acknowledged: SeqNo::NONE,
        }
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// `control.follower`: the metadata that a follower index has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedMetadata {
    pub follower_cluster: ClusterUuid,
    pub follower_index: IndexName,
    pub subscription: String,
    /// The copy's id.
    pub copy: String,
    /// The follower index's own: another one of its name is not the copy. Earlier builds did not
    /// note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_uuid: Option<IndexUuid>,
    pub versions: MetadataVersions,
    /// The follower index's own versions when that was noted: one that shows lower ones has been
    /// put back. Earlier builds did not note them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_versions: Option<MetadataVersions>,
    /// The leader's settings, of the version among `versions`. Earlier builds did not note them.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub settings: Map<String, Value>,
    /// Aliases that write to the leader index, with their definitions: not while it is followed,
    /// but when that ends.
    #[serde(default)]
    pub write_aliases: Map<String, Value>,
    /// Names of the aliases that the follower index has or is about to get: noted before they are
    /// made, so that every agent's gateway knows them. Earlier builds did not note them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub aliases: BTreeSet<String>,
    /// The aliases that the index is to have, while it does not have all of them or still has
    /// others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted_aliases: Option<Map<String, Value>>,
    /// Aliases that the follower cluster refuses, with its reason; they are tried again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused_aliases: BTreeMap<String, String>,
    /// While the index takes documents that its mapping would refuse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leniency: Option<Leniency>,
}

/// `control.leader`: the history of a shard that its partition holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardHistory {
    pub cluster_uuid: ClusterUuid,
    pub index_uuid: IndexUuid,
    pub shard: ShardId,
    pub history_uuid: String,
}

/// `control.leader`: operations of a shard that its primary's agent has missed, for the agents
/// beside other copies to ship; removed when they are there, or given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FillRequest {
    pub cluster_uuid: ClusterUuid,
    pub index_uuid: IndexUuid,
    pub shard: ShardId,
    pub from: SeqNo,
    pub to: SeqNo,
    pub nonce: Nonce,
}

/// `control.follower`: what the agent that follows a shard asks of the one that looks after the
/// index; removed when it is taken up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardRequest {
    pub follower_cluster: ClusterUuid,
    pub follower_index: IndexName,
    pub shard: ShardId,
    pub subscription: String,
    /// The copy's id.
    pub copy: String,
    pub ask: Ask,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// To bring this metadata over.
    Metadata(Box<IndexMetadata>),
    /// To copy the index anew.
    Copy { reason: String },
    /// To pause the index.
    Pause { reason: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubscriptionState {
    Running,
    Paused,
    Failed,
}

/// `control.follower`: asks for a snapshot of an index. Requests of several follower clusters with
/// the same id ask for the same one, which is there as long as any of them is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootstrapRequest {
    pub id: String,
    pub leader_cluster: ClusterUuid,
    pub leader_uuid: IndexUuid,
    /// The topic that the snapshot goes to; leader agents make it.
    pub topic: TopicName,
    /// Who asks; earlier builds do not say.
    #[serde(default)]
    pub follower_cluster: Option<ClusterUuid>,
    /// When it was asked, in milliseconds since the epoch.
    #[serde(default)]
    pub asked_ms: i64,
    /// Whether another follower cluster had asked for the snapshot before.
    #[serde(default)]
    pub is_shared: bool,
}

/// `control.follower`: asks the agent beside a shard's primary to ship documents again, as they are
/// now; removed when they have come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redelivery {
    pub follower_cluster: ClusterUuid,
    pub follower_index: IndexName,
    pub leader_cluster: ClusterUuid,
    pub leader_uuid: IndexUuid,
    pub shard: ShardId,
    /// The frame in which the documents are to come.
    pub frame: FrameId,
    pub ids: Vec<String>,
}

/// `control.leader`: documents could not be shipped again. Removed when the request is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRedelivery {
    pub follower_cluster: ClusterUuid,
    pub follower_index: IndexName,
    pub leader_cluster: ClusterUuid,
    pub leader_uuid: IndexUuid,
    pub shard: ShardId,
    /// Of the request.
    pub frame: FrameId,
    pub reason: String,
}

/// `control.follower`: the replication settings that users put into `_cluster/settings` of a
/// follower cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationSettings {
    pub follower_cluster: ClusterUuid,
    pub settings: BTreeMap<String, String>,
}

impl Entry for NodeAnnouncement {
    const KIND: &'static str = "node";
    fn key(&self) -> String {
        format!("{}/{}/{}", Self::KIND, self.cluster_uuid, self.node_id)
    }
}

impl Entry for CatalogEntry {
    const KIND: &'static str = "catalog";
    fn key(&self) -> String {
        Self::key_of(&self.cluster_uuid, &self.index)
    }
}

impl CatalogEntry {
    pub fn key_of(cluster: &ClusterUuid, index: &IndexName) -> String {
        format!("{}/{cluster}/{index}", Self::KIND)
    }
}

impl Entry for DeletedIndex {
    const KIND: &'static str = "deleted";
    fn key(&self) -> String {
        Self::key_of(&self.cluster_uuid, &self.uuid)
    }
}

impl DeletedIndex {
    pub fn key_of(cluster: &ClusterUuid, uuid: &IndexUuid) -> String {
        format!("{}/{cluster}/{uuid}", Self::KIND)
    }
}

impl Entry for StoppedSubscription {
    const KIND: &'static str = "stopped";
    fn key(&self) -> String {
        Self::key_of(&self.follower_cluster, &self.id)
    }
}

impl StoppedSubscription {
    /// The id comes first: index names may be anything.
    pub fn key_of(cluster: &ClusterUuid, id: &str) -> String {
        format!("{}/{cluster}/{id}", Self::KIND)
    }
}

impl Entry for Capture {
    const KIND: &'static str = "capture";
    fn key(&self) -> String {
        Self::key_of(&self.cluster_uuid, &self.metadata.uuid)
    }
}

impl Capture {
    pub fn key_of(cluster: &ClusterUuid, uuid: &IndexUuid) -> String {
        format!("{}/{cluster}/{uuid}", Self::KIND)
    }
}

impl Entry for ShardHistory {
    const KIND: &'static str = "history";
    fn key(&self) -> String {
        Self::key_of(&self.cluster_uuid, &self.index_uuid, self.shard)
    }
}

impl ShardHistory {
    pub fn key_of(cluster: &ClusterUuid, uuid: &IndexUuid, shard: ShardId) -> String {
        format!("{}/{cluster}/{uuid}/{shard}", Self::KIND)
    }
}

impl Entry for FillRequest {
    const KIND: &'static str = "fill";
    fn key(&self) -> String {
        Self::key_of(&self.cluster_uuid, &self.index_uuid, self.shard)
    }
}

impl FillRequest {
    pub fn key_of(cluster: &ClusterUuid, uuid: &IndexUuid, shard: ShardId) -> String {
        format!("{}/{cluster}/{uuid}/{shard}", Self::KIND)
    }
}

impl Entry for Refreshed {
    const KIND: &'static str = "refreshed";
    fn key(&self) -> String {
        format!("{}/{}", Self::KIND, self.cluster_uuid)
    }
}

impl Entry for RefreshRequest {
    const KIND: &'static str = "refresh";
    fn key(&self) -> String {
        format!("{}/{}", Self::KIND, self.cluster_uuid)
    }
}

impl Entry for Subscription {
    const KIND: &'static str = "subscription";
    fn key(&self) -> String {
        Self::key_of(&self.follower_cluster, &self.follower_index)
    }
}

impl Subscription {
    pub fn key_of(cluster: &ClusterUuid, index: &IndexName) -> String {
        format!("{}/{cluster}/{index}", Self::KIND)
    }

    /// Documents of the follower index with lower versions came from a snapshot repository, with
    /// the leader's sequence numbers.
    pub fn restored_below(&self) -> i64 {
        let is_restored = self.copy.as_ref().is_some_and(|copy| copy.is_restored);
        if is_restored {
            ExternalVersion::new(self.epoch, SeqNo(0)).0
        } else {
            0
        }
    }
}

impl Entry for FollowedLeader {
    const KIND: &'static str = Subscription::KIND;
    fn key(&self) -> String {
        Subscription::key_of(&self.follower_cluster, &self.follower_index)
    }
}

impl Entry for AppliedMetadata {
    const KIND: &'static str = "applied";
    fn key(&self) -> String {
        Self::key_of(&self.follower_cluster, &self.follower_index)
    }
}

impl AppliedMetadata {
    pub fn key_of(cluster: &ClusterUuid, index: &IndexName) -> String {
        format!("{}/{cluster}/{index}", Self::KIND)
    }
}

impl Entry for ShardRequest {
    const KIND: &'static str = "request";
    fn key(&self) -> String {
        Self::key_of(&self.follower_cluster, &self.follower_index, self.shard)
    }
}

impl ShardRequest {
    pub fn key_of(cluster: &ClusterUuid, index: &IndexName, shard: ShardId) -> String {
        format!("{}{shard}", Self::prefix_of(cluster, index))
    }

    /// The beginning of the keys of all requests for an index.
    pub fn prefix_of(cluster: &ClusterUuid, index: &IndexName) -> String {
        format!("{}/{cluster}/{index}/", Self::KIND)
    }
}

impl Entry for BootstrapRequest {
    const KIND: &'static str = "bootstrap";
    fn key(&self) -> String {
        let of_snapshot = Self::prefix_of(&self.leader_cluster, &self.id);
        self.follower_cluster
            .as_ref()
            .map_or(of_snapshot.clone(), |follower| {
                format!("{of_snapshot}/{follower}")
            })
    }
}

impl BootstrapRequest {
    /// How the keys of all requests for a snapshot begin; of all of a leader cluster's, if the id
    /// is empty.
    pub fn prefix_of(leader: &ClusterUuid, id: &str) -> String {
        format!("{}/{leader}/{id}", Self::KIND)
    }
}

impl Entry for Redelivery {
    const KIND: &'static str = "redelivery";
    fn key(&self) -> String {
        Self::key_of(&self.follower_cluster, &self.follower_index, self.shard)
    }
}

impl Redelivery {
    pub fn key_of(cluster: &ClusterUuid, index: &IndexName, shard: ShardId) -> String {
        format!("{}/{cluster}/{index}/{shard}", Self::KIND)
    }
}

impl Entry for FailedRedelivery {
    const KIND: &'static str = "failed-redelivery";
    fn key(&self) -> String {
        Self::key_of(&self.follower_cluster, &self.follower_index, self.shard)
    }
}

impl FailedRedelivery {
    pub fn of(request: &Redelivery, reason: String) -> Self {
        Self {
            follower_cluster: request.follower_cluster.clone(),
            follower_index: request.follower_index.clone(),
            leader_cluster: request.leader_cluster.clone(),
            leader_uuid: request.leader_uuid.clone(),
            shard: request.shard,
            frame: request.frame,
            reason,
        }
    }

    pub fn key_of(cluster: &ClusterUuid, index: &IndexName, shard: ShardId) -> String {
        format!("{}{shard}", Self::keys_of(cluster, index))
    }

    /// What the keys of an index begin with.
    pub fn keys_of(cluster: &ClusterUuid, index: &IndexName) -> String {
        format!("{}/{cluster}/{index}/", Self::KIND)
    }

    /// The key of the request.
    pub fn request_key(&self) -> String {
        Redelivery::key_of(&self.follower_cluster, &self.follower_index, self.shard)
    }
}

impl Entry for ReplicationSettings {
    const KIND: &'static str = "settings";
    fn key(&self) -> String {
        Self::key_of(&self.follower_cluster)
    }
}

impl ReplicationSettings {
    pub fn key_of(cluster: &ClusterUuid) -> String {
        format!("{}/{cluster}", Self::KIND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leader_agents_know_what_is_followed_by_a_newer_build() {
        let newer = r#"{"id": "s", "follower_cluster": "fc", "follower_index": "f",
            "leader_cluster": "lc", "leader_index": "l", "leader_uuid": "u", "state": "hibernating",
            "reason": [], "more": 1}"#;
        assert!(serde_json::from_str::<Subscription>(newer).is_err());
        let read: FollowedLeader = serde_json::from_str(newer).unwrap();
        assert_eq!(read.leader_uuid, "u".into());
        assert_eq!(read.key(), "subscription/fc/f");
    }

    #[test]
    fn a_request_of_an_earlier_build_is_read_and_has_its_own_key() {
        let earlier = r#"{"id": "b", "leader_cluster": "l", "leader_uuid": "u", "topic": "t"}"#;
        let earlier: BootstrapRequest = serde_json::from_str(earlier).unwrap();
        assert_eq!(earlier.key(), "bootstrap/l/b");
        let now = BootstrapRequest {
            follower_cluster: Some("f".into()),
            ..earlier
        };
        assert_eq!(now.key(), "bootstrap/l/b/f");
    }
}
