//! What `leader_stats` shows: how much of a leader cluster's indices has been read for followers.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::words::Entry;
use crate::words::types::{ClusterUuid, IndexName};

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
