//! What `_status` shows of a subscription.

use std::sync::atomic::Ordering::Relaxed;

use shardline::contract::ReplicationStatus;
use shardline::contract::service::{
    BootstrapDetails, HeldUpDetails, LagDetails, ReplicationState, ResyncDetails,
    ShardReplicationDetails, SyncingDetails,
};
use shardline_common::clock::now_ms;
use shardline_common::control::{Subscription, SubscriptionState};
use shardline_common::types::ShardId;

use crate::index::Phase;
use crate::progress::{IndexProgress, Recovery, ShardProgress};

pub(crate) fn of(
    subscription: &Subscription,
    phase: Option<Phase>,
    verbose: bool,
) -> ReplicationStatus {
    let mut status = ReplicationStatus {
        status: ReplicationState::Running,
        reason: Some(subscription.reason.clone()),
        leader_alias: Some(subscription.leader_alias.clone()),
        leader_index: Some(subscription.leader_index.to_string()),
        follower_index: Some(subscription.follower_index.to_string()),
        use_roles: subscription.roles.clone(),
        ..ReplicationStatus::not_in_progress()
    };
    match subscription.state {
        SubscriptionState::Paused => status.status = ReplicationState::Paused,
        SubscriptionState::Failed => status.status = ReplicationState::Failed,
        SubscriptionState::Running => match phase {
            Some(Phase::Syncing(progress)) => {
                // Before, a copy may turn out to be needed.
                let is_known = progress.is_known();
                if is_known {
                    status.status = ReplicationState::Syncing;
                }
                status.resync_details = resyncs(&progress);
                status.held_up = held_up(&progress);
                let foreign_writes = progress
                    .shards
                    .iter()
                    .map(|shard| shard.foreign_writes.load(Relaxed))
                    .sum();
                status.foreign_writes = (foreign_writes > 0).then_some(foreign_writes);
                let details = || sum(progress.shards.iter().map(syncing));
                status.syncing_details = is_known.then(details);
                status.shard_replication_details = (verbose && is_known).then(|| {
                    let details = |shard, progress: &ShardProgress| {
                        ShardReplicationDetails::syncing(
                            &subscription.follower_index,
                            shard,
                            syncing(progress),
                        )
                    };
                    shards(&progress, details)
                });
            }
            Some(Phase::Bootstrapping(progress)) => {
                status.status = ReplicationState::Bootstrapping;
                status.held_up = held_up(&progress);
                let all: Vec<_> = progress
                    .shards
                    .iter()
                    .map(|shard| bootstrap(&progress, shard))
                    .collect();
                status.bootstrap_details = Some(sum_bootstrap(&all));
                status.shard_replication_details = verbose.then(|| {
                    let details = |shard, of: &ShardProgress| {
                        ShardReplicationDetails::bootstrapping(
                            &subscription.follower_index,
                            shard,
                            bootstrap(&progress, of),
                        )
                    };
                    shards(&progress, details)
                });
            }
            Some(Phase::Starting | Phase::Refused(_)) | None => {}
        },
    }
    status
}

/// None before the leader was heard of, unless that takes too long.
pub(crate) fn lag(phase: Option<&Phase>) -> Option<LagDetails> {
    let Some(Phase::Syncing(progress)) = phase else {
        return None;
    };
    let is_heard = progress.shards.iter().all(ShardProgress::is_heard);
    if !is_heard
        && progress
            .shards
            .iter()
            .all(|shard| shard.standstill().is_none())
    {
        return None;
    }
    let behind =
        |shard: &ShardProgress| shard.leader_checkpoint().0 - shard.follower_checkpoint().0;
    Some(LagDetails {
        operations: is_heard.then(|| progress.shards.iter().map(behind).sum()),
        millis: progress
            .shards
            .iter()
            .map(ShardProgress::lag_millis)
            .max()
            .unwrap_or_default(),
    })
}

fn shards(
    progress: &IndexProgress,
    details: impl Fn(ShardId, &ShardProgress) -> ShardReplicationDetails,
) -> Vec<ShardReplicationDetails> {
    (0..)
        .map(ShardId)
        .zip(&progress.shards)
        .map(|(shard, progress)| details(shard, progress))
        .collect()
}

fn held_up(progress: &IndexProgress) -> Vec<HeldUpDetails> {
    let details = |(shard_id, shard): (u32, &ShardProgress)| {
        let reason = shard.standstill()?;
        Some(HeldUpDetails::of(shard_id, reason))
    };
    (0..).zip(&progress.shards).filter_map(details).collect()
}

fn resyncs(progress: &IndexProgress) -> Vec<ResyncDetails> {
    let details = |(shard_id, shard): (u32, &ShardProgress)| resync(shard_id, shard);
    (0..).zip(&progress.shards).filter_map(details).collect()
}

/// The resync that a shard goes through, if it does.
pub(super) fn resync(shard_id: u32, shard: &ShardProgress) -> Option<ResyncDetails> {
    let resync = shard.resync()?;
    Some(ResyncDetails {
        shard_id,
        from_seq_no: resync.from.0,
        to_seq_no: resync.to.0,
        cause: resync.cause,
        documents_total: resync.total,
        documents_received: resync.done,
    })
}

fn syncing(shard: &ShardProgress) -> SyncingDetails {
    let follower = shard.follower_checkpoint();
    SyncingDetails {
        leader_checkpoint: shard.leader_checkpoint().0,
        follower_checkpoint: follower.0,
        seq_no: follower.next().0,
    }
}

fn sum(shards: impl Iterator<Item = SyncingDetails>) -> SyncingDetails {
    let none = SyncingDetails {
        leader_checkpoint: 0,
        follower_checkpoint: 0,
        seq_no: 0,
    };
    shards.fold(none, |sum, shard| SyncingDetails {
        leader_checkpoint: sum.leader_checkpoint + shard.leader_checkpoint,
        follower_checkpoint: sum.follower_checkpoint + shard.follower_checkpoint,
        seq_no: sum.seq_no + shard.seq_no,
    })
}

fn restore(index: &IndexProgress, recovery: Recovery) -> BootstrapDetails {
    let percent = |done: i64, total: i64| {
        if total > 0 {
            done as f64 / total as f64 * 100.0
        } else {
            0.0
        }
    };
    let start_time = index.started_ms.load(Relaxed);
    BootstrapDetails {
        bytes_total: recovery.bytes_total,
        bytes_recovered: recovery.bytes_done,
        bytes_percent: percent(recovery.bytes_done, recovery.bytes_total),
        files_total: recovery.files_total,
        files_recovered: recovery.files_done,
        files_percent: percent(recovery.files_done, recovery.files_total),
        start_time,
        running_time: now_ms() - start_time,
        documents_total: None,
        documents_recovered: None,
    }
}

/// From a bootstrap topic no files are copied, so each shard counts as one that is complete when
/// its documents are. Bytes are known as they come; their total is estimated from the documents.
fn bootstrap(index: &IndexProgress, shard: &ShardProgress) -> BootstrapDetails {
    if let Some(recovery) = shard.recovery() {
        return restore(index, recovery);
    }
    let total = shard.documents_total.load(Relaxed);
    let done = shard.documents_done.load(Relaxed);
    let bytes = shard.bytes_done.load(Relaxed);
    let loaded = shard.loaded.load(Relaxed);
    let fraction = match (loaded, total) {
        (true, _) => 1.0,
        (false, 0) => 0.0,
        (false, total) => (done as f64 / total as f64).min(1.0),
    };
    let bytes_total = if fraction > 0.0 {
        (bytes as f64 / fraction) as i64
    } else {
        0
    };
    let start_time = index.started_ms.load(Relaxed);
    BootstrapDetails {
        bytes_total,
        bytes_recovered: i64::try_from(bytes).unwrap_or(i64::MAX),
        bytes_percent: fraction * 100.0,
        files_total: 1,
        files_recovered: i64::from(loaded),
        files_percent: if loaded { 100.0 } else { 0.0 },
        start_time,
        running_time: now_ms() - start_time,
        documents_total: Some(total),
        // Documents come and go while they are scanned.
        documents_recovered: Some(if loaded { total } else { done.min(total) }),
    }
}

/// As the plugin does: sums, the mean of the percentages, the earliest start, the longest time.
fn sum_bootstrap(shards: &[BootstrapDetails]) -> BootstrapDetails {
    let mean = |of: fn(&BootstrapDetails) -> f64| {
        shards.iter().map(of).sum::<f64>() / shards.len().max(1) as f64
    };
    let total = |of: fn(&BootstrapDetails) -> i64| shards.iter().map(of).sum();
    let documents = |of: fn(&BootstrapDetails) -> Option<u64>| shards.iter().map(of).sum();
    BootstrapDetails {
        bytes_total: total(|shard| shard.bytes_total),
        bytes_recovered: total(|shard| shard.bytes_recovered),
        bytes_percent: mean(|shard| shard.bytes_percent),
        files_total: total(|shard| shard.files_total),
        files_recovered: total(|shard| shard.files_recovered),
        files_percent: mean(|shard| shard.files_percent),
        start_time: shards
            .iter()
            .map(|shard| shard.start_time)
            .min()
            .unwrap_or_default(),
        running_time: shards
            .iter()
            .map(|shard| shard.running_time)
            .max()
            .unwrap_or_default(),
        documents_total: documents(|shard| shard.documents_total),
        documents_recovered: documents(|shard| shard.documents_recovered),
    }
}
