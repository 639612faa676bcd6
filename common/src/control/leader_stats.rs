//! What `leader_stats` shows: how much of a leader cluster's indices has been read for followers.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::words::Entry;
use crate::words::standstill::StandstillReason;
use crate::words::types::{ClusterUuid, IndexName, IndexUuid, ShardId};

/// Counters of one index, or of all. They begin anew when an agent does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadCounters {
    pub operations_read: u64,
    pub translog_size_bytes: u64,
    /// Operations read by a scan of the shard: for a bootstrap, or where the translog no longer
    /// reached back.
    pub operations_read_lucene: u64,
    pub operations_read_translog: u64,
    pub total_read_time_lucene_millis: u64,
    pub total_read_time_translog_millis: u64,
    /// Bytes of document sources.
    pub bytes_read: u64,
}

impl AddAssign for ReadCounters {
    fn add_assign(&mut self, other: Self) {
        self.operations_read += other.operations_read;
        self.translog_size_bytes += other.translog_size_bytes;
        self.operations_read_lucene += other.operations_read_lucene;
        self.operations_read_translog += other.operations_read_translog;
        self.total_read_time_lucene_millis += other.total_read_time_lucene_millis;
        self.total_read_time_translog_millis += other.total_read_time_translog_millis;
        self.bytes_read += other.bytes_read;
    }
}

/// `control.leader`: what one leader agent has read, of the indices that are followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReads {
    pub cluster_uuid: ClusterUuid,
    pub node_id: String,
    pub indices: BTreeMap<IndexName, ReadCounters>,
    /// Shards whose capture stands still. Earlier builds do not tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standstills: Vec<CaptureStandstill>,
    /// When the agent last said so, in milliseconds since the epoch, while any stands still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standstills_ms: Option<i64>,
}

impl NodeReads {
    /// At most so many captures are told of.
    pub const STANDSTILLS_MAX: usize = 1_000;
    /// An agent says at least so often, in milliseconds, that captures stand still.
    pub const STANDSTILLS_INTERVAL_MS: i64 = 10_000;
    /// An agent that has not said so for this long, in milliseconds, is gone. Hosts' clocks may
    /// differ by as much.
    const STANDSTILLS_AGE_MAX_MS: i64 = 60_000;

    /// What stands still now, of an agent that is not gone.
    pub fn standing(&self, now_ms: i64) -> &[CaptureStandstill] {
        let said = self.standstills_ms.unwrap_or(i64::MIN);
        if now_ms.saturating_sub(said) > Self::STANDSTILLS_AGE_MAX_MS {
            return &[];
        }
        &self.standstills
    }
}

/// Why the capture of a shard stands still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureStandstill {
    pub index: IndexName,
    pub index_uuid: IndexUuid,
    pub shard: ShardId,
    #[serde(flatten)]
    pub reason: StandstillReason,
}

impl Entry for NodeReads {
    const KIND: &'static str = "reads";
    fn key(&self) -> String {
        format!("{}/{}/{}", Self::KIND, self.cluster_uuid, self.node_id)
    }
}

/// Answer of `leader_stats`, in the plugin's order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderStats {
    pub num_replicated_indices: usize,
    #[serde(flatten)]
    pub total: ReadCounters,
    pub index_stats: BTreeMap<IndexName, ReadCounters>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::standstill::Cause;

    #[test]
    fn an_entry_without_standstills_is_as_an_earlier_build_writes_it() {
        let earlier = r#"{"cluster_uuid":"c","node_id":"n","indices":{}}"#;
        let read: NodeReads = serde_json::from_str(earlier).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), earlier);
    }

    #[test]
    fn the_word_of_an_agent_that_is_gone_does_not_count() {
        let told = r#"{"cluster_uuid":"c","node_id":"n","indices":{},"standstills_ms":1000000,
                       "standstills":[{"index":"i","index_uuid":"u","shard":0,"cause":"other",
                                       "detail":"d","since_ms":1}]}"#;
        let told: NodeReads = serde_json::from_str(told).unwrap();
        assert_eq!(told.standing(1_010_000).len(), 1);
        assert_eq!(told.standing(990_000).len(), 1);
        assert_eq!(told.standing(1_100_000).len(), 0);
    }

    #[test]
    fn a_standstill_of_a_later_build_is_read() {
        let told = r#"{"index": "i", "index_uuid": "u", "shard": 0, "cause": "sunspots",
                       "detail": "the sun has spots", "since_ms": 1, "more": true}"#;
        let told: CaptureStandstill = serde_json::from_str(told).unwrap();
        let reason = StandstillReason::new(Cause::Other, 1, "the sun has spots");
        assert_eq!(told.reason, reason);
        let again = serde_json::to_value(&told).unwrap();
        assert_eq!(
            (&again["cause"], &again["since_ms"]),
            (&"other".into(), &1.into())
        );
    }
}
