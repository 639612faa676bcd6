//! What `leader_stats` shows: how much of a leader cluster's indices has been read for followers.

use std::collections::{BTreeMap, HashSet};
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::control::{Entry, Subscription};
use crate::kafka::ControlTopic;
use crate::standstill::Standstill;
use crate::types::{ClusterUuid, IndexName};

/// Counters of one index, or of all. They begin anew when an agent does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadCounters {
    pub operations_read: u64,
    pub translog_size_bytes: u64,
    /// By a scan of the shard: for a bootstrap, or where the translog no longer reached back.
    pub operations_read_lucene: u64,
    pub operations_read_translog: u64,
    pub total_read_time_lucene_millis: u64,
    pub total_read_time_translog_millis: u64,
    /// Of document sources.
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
    pub standstills: Vec<Standstill>,
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

impl LeaderStats {
    /// Of all agents beside a cluster's nodes together.
    pub fn of_cluster(
        cluster: &ClusterUuid,
        leader_table: &ControlTopic,
        follower_table: &ControlTopic,
    ) -> Self {
        let nodes = leader_table
            .all::<NodeReads>()
            .into_iter()
            .filter(|node| node.cluster_uuid == *cluster);
        Self::sum(nodes, &followed_indices(cluster, follower_table))
    }

    fn sum(nodes: impl Iterator<Item = NodeReads>, followed: &HashSet<IndexName>) -> Self {
        let mut stats = Self::default();
        for (index, counters) in nodes.flat_map(|node| node.indices) {
            if followed.contains(&index) {
                *stats.index_stats.entry(index).or_default() += counters;
                stats.total += counters;
            }
        }
        stats.num_replicated_indices = stats.index_stats.len();
        stats
    }
}

/// The indices of a leader cluster that somebody follows.
pub fn followed_indices(
    cluster: &ClusterUuid,
    follower_table: &ControlTopic,
) -> HashSet<IndexName> {
    let subscriptions = follower_table.all::<Subscription>().into_iter();
    subscriptions
        .filter(|one| one.leader_cluster == *cluster)
        .map(|one| one.leader_index)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_without_standstills_is_as_an_earlier_build_writes_it() {
        let earlier = r#"{"cluster_uuid":"c","node_id":"n","indices":{}}"#;
        let read: NodeReads = serde_json::from_str(earlier).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), earlier);
    }

    #[test]
    fn nodes_add_up_and_indices_that_nobody_follows_any_more_drop_out() {
        let node = |id: &str, index: &str, operations| NodeReads {
            cluster_uuid: "c".into(),
            node_id: id.into(),
            indices: [(
                index.into(),
                ReadCounters {
                    operations_read: operations,
                    ..Default::default()
                },
            )]
            .into(),
            standstills: Vec::new(),
        };
        let nodes = [
            node("1", "books", 2),
            node("2", "books", 3),
            node("3", "gone", 9),
        ];
        let stats = LeaderStats::sum(nodes.into_iter(), &HashSet::from(["books".into()]));
        assert_eq!(
            (stats.num_replicated_indices, stats.total.operations_read),
            (1, 5)
        );
        let json = serde_json::to_value(&stats).unwrap();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(keys.len(), 9);
        assert_eq!(
            (keys[0].as_str(), keys[8].as_str()),
            ("num_replicated_indices", "index_stats")
        );
    }
}
