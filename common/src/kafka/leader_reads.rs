//! How much of a leader cluster's indices has been read for followers, from the control topics.

use std::collections::HashSet;

use super::ControlTopic;
use crate::control::FollowedLeader;
use crate::control::leader_stats::{LeaderStats, NodeReads};
use crate::words::types::{ClusterUuid, IndexName};

impl LeaderStats {
    /// Sums the counters of all agents beside a cluster's nodes.
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
    let subscriptions = follower_table.all::<FollowedLeader>().into_iter();
    subscriptions
        .filter(|one| one.leader_cluster == *cluster)
        .map(|one| one.leader_index)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::leader_stats::ReadCounters;

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
            standstills_ms: None,
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
