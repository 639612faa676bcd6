//! Shows in the progress of indices why the leader's agents do not get on with shipping them.

use std::collections::HashMap;

use shardline_common::clock::now_ms;
use shardline_common::leader_stats::NodeReads;
use shardline_common::types::ShardId;

use super::Subscriptions;
use crate::index::Phase;
use crate::progress::Source;

impl Subscriptions {
    /// Takes over what leader agents tell of their captures.
    pub(crate) fn hear_captures(&self) {
        let of_standing = |nodes: Vec<NodeReads>| {
            let mut standing = nodes;
            standing.retain(|node| !node.standstills.is_empty());
            standing
        };
        let nodes = self.standing.get(&self.context.leader_table, of_standing);
        let (now, mut told) = (now_ms(), HashMap::new());
        for node in nodes.iter() {
            for one in node.standing(now) {
                let key = (&node.cluster_uuid, &one.index_uuid, one.shard);
                told.insert(key, &one.reason);
            }
        }
        for (subscription, phase) in self.tasks.phases() {
            let (Phase::Syncing(progress) | Phase::Bootstrapping(progress)) = phase else {
                continue;
            };
            let (cluster, index) = (&subscription.leader_cluster, &subscription.leader_uuid);
            for (shard, of_shard) in (0..).map(ShardId).zip(&progress.shards) {
                let reason = told.get(&(cluster, index, shard)).copied();
                of_shard.set_standing(Source::Capture, reason.cloned());
            }
        }
    }
}
