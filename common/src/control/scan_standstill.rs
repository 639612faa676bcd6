//! Why a copy does not get on, as the leader's agents tell the followers that wait for it.

use serde::{Deserialize, Serialize};

use super::Entry;
use crate::words::standstill::StandstillReason;
use crate::words::types::{ClusterUuid, ShardId, TopicName};

/// `control.leader`: a shard's scan for a bootstrap topic that failed, and is tried again; removed
/// when it gets on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanStandstill {
    pub cluster_uuid: ClusterUuid,
    /// That the scan is to fill.
    pub topic: TopicName,
    pub shard: ShardId,
    pub why: StandstillReason,
}

impl Entry for ScanStandstill {
    const KIND: &'static str = "scan-standstill";
    fn key(&self) -> String {
        Self::key_of(&self.cluster_uuid, &self.topic, self.shard)
    }
}

impl ScanStandstill {
    pub fn key_of(cluster: &ClusterUuid, topic: &TopicName, shard: ShardId) -> String {
        format!("{}/{cluster}/{topic}/{shard}", Self::KIND)
    }
}
