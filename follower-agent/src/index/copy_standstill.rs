//! Shows in an index's progress why the leader's agents do not get on with its copy.

use shardline_common::control::ScanStandstill;
use shardline_common::types::{ClusterUuid, ShardId, TopicName};

use super::followed_copy::FollowedCopy;
use crate::progress::Source;

/// Runs until dropped.
pub(super) async fn show(index: &FollowedCopy, leader: &ClusterUuid, topic: &TopicName) {
    let table = &index.context.leader_table;
    let mut changes = table.changes();
    loop {
        changes.mark_unchanged();
        for (shard, progress) in (0..).map(ShardId).zip(&index.progress.shards) {
            let key = ScanStandstill::key_of(leader, topic, shard);
            let why = table.get::<ScanStandstill>(&key).map(|found| found.why);
            progress.set_standing(Source::Scan, why);
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
