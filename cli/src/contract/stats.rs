//! Answers of the statistics routes, with the plugin's keys in the plugin's order.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};
use shardline_common::auto_follow::RuleProgress;
use shardline_common::types::IndexName;

/// Counters of one followed index, or of all; checkpoints are sums over shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowerCounters {
    pub operations_written: u64,
    pub operations_read: u64,
    pub failed_read_requests: u64,
    /// Nothing throttles reads from Kafka: always 0.
    pub throttled_read_requests: u64,
    pub failed_write_requests: u64,
    pub throttled_write_requests: u64,
    pub follower_checkpoint: i64,
    pub leader_checkpoint: i64,
    pub total_write_time_millis: u64,
}

impl AddAssign for FollowerCounters {
    fn add_assign(&mut self, other: Self) {
        self.operations_written += other.operations_written;
        self.operations_read += other.operations_read;
        self.failed_read_requests += other.failed_read_requests;
        self.throttled_read_requests += other.throttled_read_requests;
        self.failed_write_requests += other.failed_write_requests;
        self.throttled_write_requests += other.throttled_write_requests;
        self.follower_checkpoint += other.follower_checkpoint;
        self.leader_checkpoint += other.leader_checkpoint;
        self.total_write_time_millis += other.total_write_time_millis;
    }
}

/// Answer of `follower_stats`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowerStats {
    pub num_syncing_indices: usize,
    pub num_bootstrapping_indices: usize,
    pub num_paused_indices: usize,
    pub num_failed_indices: usize,
    /// Shards that are being followed.
    pub num_shard_tasks: usize,
    pub num_index_tasks: usize,
    #[serde(flatten)]
    pub total: FollowerCounters,
    pub index_stats: BTreeMap<IndexName, FollowerCounters>,
}

/// Answer of `autofollow_stats`: all rules together, and each of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AutoFollowStats {
    pub num_success_start_replication: u64,
    pub num_failed_start_replication: u64,
    pub num_failed_leader_calls: u64,
    pub failed_indices: Vec<IndexName>,
    pub autofollow_stats: Vec<RuleStats>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleStats {
    pub name: String,
    pub pattern: String,
    pub leader_alias: String,
    #[serde(flatten)]
    pub progress: RuleProgress,
}

impl AutoFollowStats {
    pub fn of(rules: Vec<RuleStats>) -> Self {
        let mut stats = Self::default();
        for RuleStats { progress, .. } in &rules {
            stats.num_success_start_replication += progress.num_success_start_replication;
            stats.num_failed_start_replication += progress.num_failed_start_replication;
            stats.num_failed_leader_calls += progress.num_failed_leader_calls;
            stats
                .failed_indices
                .extend(progress.failed_indices.iter().cloned());
        }
        stats.failed_indices.sort();
        stats.failed_indices.dedup();
        Self {
            autofollow_stats: rules,
            ..stats
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_add_up_and_share_their_failures() {
        let rule = |name: &str, failed: &[&str]| RuleStats {
            name: name.into(),
            pattern: "*".into(),
            leader_alias: "a".into(),
            progress: RuleProgress {
                num_success_start_replication: 2,
                num_failed_start_replication: failed.len() as u64,
                failed_indices: failed.iter().map(|index| IndexName::from(*index)).collect(),
                ..RuleProgress::default()
            },
        };
        let stats = AutoFollowStats::of(vec![rule("r", &["x", "y"]), rule("s", &["x"])]);
        assert_eq!(
            (
                stats.num_success_start_replication,
                stats.num_failed_start_replication
            ),
            (4, 3)
        );
        assert_eq!(stats.failed_indices, ["x".into(), "y".into()]);
        let json = serde_json::to_value(AutoFollowStats::of(Vec::new())).unwrap();
        let recorded = serde_json::json!({
            "num_success_start_replication": 0, "num_failed_start_replication": 0, "num_failed_leader_calls": 0,
            "failed_indices": [], "autofollow_stats": [],
        });
        assert_eq!(json.to_string(), recorded.to_string());
    }
}
