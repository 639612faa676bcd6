//! What stands behind the control API: the trait that carries its calls out, and the status it
//! answers with.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use shardline_common::bulk::BulkOperation;
use shardline_common::control::{ReplicationRoles, VersionExample};
use shardline_common::leader_stats::LeaderStats;
use shardline_common::standstill::{Cause, StandstillReason};
use shardline_common::types::{IndexName, ShardId};

use super::auto_follow::{RuleName, RuleRequest};
use super::bulk::{BulkRequest, TaskStatus};
use super::dead_letters::DeadLetterList;
use super::error::ApiError;
use super::request::{PauseRequest, ResumeRequest, StartRequest, UpdateRequest};
use super::stats::{AutoFollowStats, FollowerStats};
use super::verify::{VerificationStatus, VerifyRequest};

/// Carries out the calls of the control API. Requests have passed the checks that need neither
/// cluster nor state.
pub trait ReplicationService: Send + Sync + 'static {
    /// Starts to follow. `wait_for_restore` waits for the first catch-up instead of the beginning
    /// of the bootstrap.
    fn start(
        &self,
        follower: IndexName,
        request: StartRequest,
        wait_for_restore: bool,
    ) -> BoxFuture<'_, Result<(), ApiError>>;

    fn stop(&self, follower: IndexName) -> BoxFuture<'_, Result<(), ApiError>>;

    fn pause(
        &self,
        follower: IndexName,
        request: PauseRequest,
    ) -> BoxFuture<'_, Result<(), ApiError>>;

    fn resume(
        &self,
        follower: IndexName,
        request: ResumeRequest,
    ) -> BoxFuture<'_, Result<(), ApiError>>;

    /// Replaces the override settings; checks them before it looks at the state.
    fn update(
        &self,
        follower: IndexName,
        request: UpdateRequest,
    ) -> BoxFuture<'_, Result<(), ApiError>>;

    /// Never fails for an index that is not followed: that is a status too.
    fn status(
        &self,
        follower: IndexName,
        verbose: bool,
    ) -> BoxFuture<'_, Result<ReplicationStatus, ApiError>>;

    /// Begins to compare an index with its leader's; the id of the verification.
    fn verify(
        &self,
        follower: IndexName,
        request: VerifyRequest,
    ) -> BoxFuture<'_, Result<String, ApiError>>;

    /// The one under way, or the last one.
    fn verification(&self, follower: &IndexName) -> Result<VerificationStatus, ApiError>;

    /// Ends it, if it is under way.
    fn forget_verification(&self, follower: IndexName) -> BoxFuture<'_, Result<(), ApiError>>;

    /// What the follower index refuses, the oldest first.
    fn dead_letters(&self, follower: &IndexName) -> Result<DeadLetterList, ApiError>;

    /// Has them all delivered again; how many they are.
    fn replay_dead_letters(&self, follower: IndexName) -> BoxFuture<'_, Result<usize, ApiError>>;

    /// Of every followed index whose name matches, sorted by name.
    fn statuses(&self, pattern: &str, verbose: bool) -> Vec<(IndexName, FollowedStatus)>;

    fn create_rule(&self, rule: RuleRequest) -> BoxFuture<'_, Result<(), ApiError>>;

    /// Ends the rule, and not the replications that it began.
    fn delete_rule(&self, rule: RuleName) -> BoxFuture<'_, Result<(), ApiError>>;

    /// Begins an operation on every index that matches; the id of its task.
    fn begin_bulk(
        &self,
        operation: BulkOperation,
        request: BulkRequest,
    ) -> BoxFuture<'_, Result<String, ApiError>>;

    /// In the order in which they are shown.
    fn bulk_status(
        &self,
        pattern: String,
    ) -> BoxFuture<'_, Result<Vec<(IndexName, ReplicationStatus)>, ApiError>>;

    fn task_status(&self, id: &str) -> Result<TaskStatus, ApiError>;

    fn cancel_task(&self, id: String) -> BoxFuture<'_, Result<(), ApiError>>;

    /// Of this cluster as a leader.
    fn leader_stats(&self) -> LeaderStats;

    fn follower_stats(&self) -> FollowerStats;

    fn auto_follow_stats(&self) -> AutoFollowStats;

    /// The indices that are read-only now because they follow; cheap, asked on every request.
    fn followed(&self) -> Arc<HashSet<IndexName>>;

    /// Aliases that followed indices have or are about to get, as the leader has them; cheap, as
    /// [`Self::followed`].
    fn followed_aliases(&self) -> Arc<HashMap<String, Vec<IndexName>>>;
}

/// The status words of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicationState {
    #[serde(rename = "SYNCING")]
    Syncing,
    #[serde(rename = "BOOTSTRAPPING")]
    Bootstrapping,
    #[serde(rename = "RUNNING")]
    Running,
    #[serde(rename = "PAUSED")]
    Paused,
    #[serde(rename = "FAILED")]
    Failed,
    #[serde(rename = "REPLICATION NOT IN PROGRESS")]
    NotInProgress,
}

/// Answer of `_status`; keys are printed in the plugin's order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicationStatus {
    pub status: ReplicationState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader_alias: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader_index: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follower_index: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syncing_details: Option<SyncingDetails>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap_details: Option<BootstrapDetails>,
    /// Not in the plugin: the shards that go through a resync at this time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resync_details: Vec<ResyncDetails>,
    /// Not in the plugin: operations of others that were found in the follower index, past the
    /// gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign_writes: Option<u64>,
    /// Not in the plugin: documents that the follower index refuses, and that wait to be replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<u64>,
    /// Not in the plugin: the shards that do not get on at this time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_up: Vec<HeldUpDetails>,
    /// Not in the plugin: why the index as a whole does not get on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standstill: Option<StandstillDetails>,
    /// Not in the plugin: aliases of the leader index that the follower cluster refuses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_aliases: Vec<RefusedAlias>,
    /// Not in the plugin: a document whose version users have given (`version_type=external`):
    /// after a promotion the index refuses writes that go on with such versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_versions: Option<VersionExample>,
    /// Not in the plugin: under which roles the index is followed, and since whose call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_roles: Option<ReplicationRoles>,
    /// Not in the plugin: whether the index is followed under no roles where callers are asked for
    /// some, because it was followed before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_roles: bool,
    /// Primaries only, and only when `verbose`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard_replication_details: Option<Vec<ShardReplicationDetails>>,
}

impl ReplicationStatus {
    pub fn not_in_progress() -> Self {
        Self {
            status: ReplicationState::NotInProgress,
            reason: None,
            leader_alias: None,
            leader_index: None,
            follower_index: None,
            syncing_details: None,
            bootstrap_details: None,
            resync_details: Vec::new(),
            foreign_writes: None,
            dead_letters: None,
            held_up: Vec::new(),
            standstill: None,
            refused_aliases: Vec::new(),
            external_versions: None,
            use_roles: None,
            without_roles: false,
            shard_replication_details: None,
        }
    }
}

/// The status of one index in the answer of `_status` without an index, which the plugin does not
/// have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FollowedStatus {
    #[serde(flatten)]
    pub status: ReplicationStatus,
    /// While the stream is being followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_details: Option<LagDetails>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LagDetails {
    /// That the leader has and the follower has not, over all shards; not known before the leader
    /// was heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<i64>,
    /// Age of the oldest operation that is not applied; of the shard that is furthest behind.
    pub millis: i64,
}

/// A stretch of operations that the leader could not ship one by one; what they left behind is
/// being scanned and compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResyncDetails {
    pub shard_id: u32,
    pub from_seq_no: i64,
    pub to_seq_no: i64,
    pub cause: String,
    /// Documents and ids that the scan expects, and those that were received.
    pub documents_total: u64,
    pub documents_received: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldUpDetails {
    pub shard_id: u32,
    /// The words of whoever is in the way, or what was seen.
    pub reason: String,
    #[serde(flatten)]
    pub why: StandstillCause,
}

/// Why the index as a whole does not get on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandstillDetails {
    pub reason: String,
    #[serde(flatten)]
    pub why: StandstillCause,
}

/// What of a [`StandstillReason`] is the same wherever it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandstillCause {
    // Agents of the build before do not tell these to a newer `ctl`.
    #[serde(default)]
    pub cause: Cause,
    /// Milliseconds since the epoch.
    #[serde(default)]
    pub since: i64,
    /// In words.
    #[serde(default)]
    pub ends_when: String,
}

impl HeldUpDetails {
    pub fn of(shard_id: u32, reason: StandstillReason) -> Self {
        let StandstillDetails { reason, why } = reason.into();
        Self {
            shard_id,
            reason,
            why,
        }
    }
}

impl From<StandstillReason> for StandstillDetails {
    fn from(reason: StandstillReason) -> Self {
        Self {
            why: StandstillCause {
                cause: reason.cause,
                since: reason.since_ms,
                ends_when: reason.cause.ends_when().to_owned(),
            },
            reason: reason.detail,
        }
    }
}

/// It is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedAlias {
    pub alias: String,
    /// The follower cluster's own words.
    pub reason: String,
}

/// Of one shard, or summed over shards: an empty shard counts −1, −1, 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncingDetails {
    pub leader_checkpoint: i64,
    pub follower_checkpoint: i64,
    pub seq_no: i64,
}

/// Progress of a bootstrap, of one shard or of all. Times are in milliseconds; `start_time` since
/// the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BootstrapDetails {
    pub bytes_total: i64,
    pub bytes_recovered: i64,
    pub bytes_percent: f64,
    pub files_total: i64,
    pub files_recovered: i64,
    pub files_percent: f64,
    pub start_time: i64,
    pub running_time: i64,
    /// Not in the plugin: what a bootstrap copies here is documents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub documents_total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub documents_recovered: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardReplicationDetails {
    /// As `[follower][0]`.
    pub shard_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syncing_task_details: Option<SyncingDetails>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap_task_details: Option<BootstrapDetails>,
}

impl ShardReplicationDetails {
    pub fn syncing(follower: &IndexName, shard: ShardId, details: SyncingDetails) -> Self {
        Self {
            shard_id: format!("[{follower}][{shard}]"),
            syncing_task_details: Some(details),
            bootstrap_task_details: None,
        }
    }

    pub fn bootstrapping(follower: &IndexName, shard: ShardId, details: BootstrapDetails) -> Self {
        Self {
            shard_id: format!("[{follower}][{shard}]"),
            syncing_task_details: None,
            bootstrap_task_details: Some(details),
        }
    }
}
