//! `follower_stats` of what this agent follows.

use shardline::contract::stats::{FollowerCounters, FollowerStats};
use shardline_common::control::{Subscription, SubscriptionState};

use crate::index::Phase;
use crate::metrics::Metrics;
use crate::progress::IndexProgress;

/// Adds one subscription in its phase.
pub(crate) fn add(
    stats: &mut FollowerStats,
    metrics: &Metrics,
    subscription: &Subscription,
    phase: Option<Phase>,
) {
    let running = match subscription.state {
        SubscriptionState::Paused => {
            stats.num_paused_indices += 1;
            return;
        }
        SubscriptionState::Failed => {
            stats.num_failed_indices += 1;
            return;
        }
        SubscriptionState::Running => phase,
    };
    stats.num_index_tasks += 1;
    match running {
        Some(Phase::Syncing(progress)) => {
            stats.num_syncing_indices += 1;
            stats.num_shard_tasks += progress.shards.len();
            let counters = counters(metrics, subscription.follower_index.as_str(), &progress);
            stats.total += counters;
            stats
                .index_stats
                .insert(subscription.follower_index.clone(), counters);
        }
        Some(Phase::Bootstrapping(_) | Phase::Starting | Phase::Refused(_)) | None => {
            stats.num_bootstrapping_indices += 1;
        }
    }
}

fn counters(metrics: &Metrics, index: &str, progress: &IndexProgress) -> FollowerCounters {
    let mut sum = FollowerCounters::default();
    for (shard, progress) in progress.shards.iter().enumerate() {
        let labels = [index, &shard.to_string()];
        sum += FollowerCounters {
            operations_written: metrics.operations.with_label_values(&labels).get(),
            operations_read: metrics.operations_read.with_label_values(&labels).get(),
            failed_read_requests: metrics.failed_reads.with_label_values(&labels).get(),
            throttled_read_requests: 0,
            failed_write_requests: metrics.failed_requests.with_label_values(&labels).get(),
            throttled_write_requests: metrics.throttled_requests.with_label_values(&labels).get(),
            follower_checkpoint: progress.follower_checkpoint().0,
            leader_checkpoint: progress.leader_checkpoint().0,
            total_write_time_millis: (metrics.write_seconds.with_label_values(&labels).get()
                * 1000.0) as u64,
        };
    }
    sum
}
