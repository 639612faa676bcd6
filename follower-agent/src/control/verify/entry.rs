//! A verification as the control topic has it.

use serde::{Deserialize, Serialize};
use shardline::contract::verify::{Findings, VerificationState, VerificationStatus, VerifyRequest};
use shardline_common::clock::now_ms;
use shardline_common::control::Entry;
use shardline_common::types::{ClusterUuid, IndexName};

/// `control.follower`: the last verification of an index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    pub follower_cluster: ClusterUuid,
    pub follower_index: IndexName,
    /// Of which start of the replication.
    pub subscription: String,
    pub id: String,
    pub request: VerifyRequest,
    pub state: VerificationState,
    /// Why it failed.
    pub reason: Option<String>,
    /// Milliseconds since the epoch.
    pub start_time: i64,
    pub end_time: Option<i64>,
    pub shards_total: u32,
    pub shards_done: u32,
    /// Read so far, on both sides together.
    pub documents_read: u64,
    pub found: Findings,
    /// What had been found when a repair began.
    pub before_repair: Option<Findings>,
}

impl Entry for Verification {
    const KIND: &'static str = "verification";
    fn key(&self) -> String {
        Self::key_of(&self.follower_cluster, &self.follower_index)
    }
}

impl Verification {
    pub fn key_of(cluster: &ClusterUuid, index: &IndexName) -> String {
        format!("{}/{cluster}/{index}", Self::KIND)
    }
}

impl From<Verification> for VerificationStatus {
    fn from(verification: Verification) -> Self {
        Self {
            verification_id: verification.id,
            follower_index: verification.follower_index,
            state: verification.state,
            reason: verification.reason,
            start_time: verification.start_time,
            running_time: verification.end_time.unwrap_or_else(now_ms) - verification.start_time,
            content: verification.request.how.content,
            shards_total: verification.shards_total,
            shards_done: verification.shards_done,
            documents_read: verification.documents_read,
            found: verification.found,
            before_repair: verification.before_repair,
        }
    }
}
