//! Shows in an index's progress why the leader's agents do not get on with its copy.

use shardline_common::trouble::ScanTrouble;
use shardline_common::types::{ClusterUuid, ShardId, TopicName};

use crate::copy::Index;

/// Runs until dropped.
pub async fn show(index: &Index, leader: &ClusterUuid, topic: &TopicName) {
    let table = &index.shared.leader_table;
    let mut changes = table.changes();
    let mut shown = vec![None; index.progress.shards.len()];
    loop {
        changes.mark_unchanged();
        for ((shard, progress), shown) in (0..)
            .map(ShardId)
            .zip(&index.progress.shards)
            .zip(&mut shown)
        {
            let key = ScanTrouble::key_of(leader, topic, shard);
            let reason = table.get::<ScanTrouble>(&key).map(|trouble| {
                format!("the leader's documents cannot be read: {}", trouble.reason)
            });
            if reason != *shown {
                progress.held_up(reason.clone());
                *shown = reason;
            }
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
