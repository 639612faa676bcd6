//! The follower agent's metrics.

use prometheus::{
    CounterVec, GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    register_counter_vec_with_registry, register_gauge_vec_with_registry,
    register_int_counter_vec_with_registry, register_int_gauge_vec_with_registry,
    register_int_gauge_with_registry,
};
use shardline_common::types::ShardId;

pub struct Metrics {
    pub operations: IntCounterVec,
    pub operations_read: IntCounterVec,
    pub failed_reads: IntCounterVec,
    pub failed_requests: IntCounterVec,
    pub throttled_requests: IntCounterVec,
    pub write_seconds: CounterVec,
    pub writes: IntCounterVec,
    pub bytes: IntCounterVec,
    pub retried_writes: IntCounterVec,
    pub pace: GaugeVec,
    pub dead_letters: IntGaugeVec,
    pub errors: IntCounterVec,
    pub follower_checkpoint: IntGaugeVec,
    pub leader_checkpoint: IntGaugeVec,
    pub lag_operations: IntGaugeVec,
    pub resyncing: IntGaugeVec,
    pub waiting_partitions: IntGauge,
    pub foreign_writes: IntGaugeVec,
    pub verified_equal: IntGaugeVec,
    pub lag_seconds: GaugeVec,
    pub bootstrap_documents: IntCounterVec,
    pub state: IntGaugeVec,
}

const INDEX: &[&str] = &["index"];
const SHARD: &[&str] = &["index", "shard"];

impl Metrics {
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            operations: register_int_counter_vec_with_registry!(
                "shardline_follower_operations_total",
                "Operations that the follower cluster has acknowledged",
                SHARD,
                registry
            )?,
            operations_read: register_int_counter_vec_with_registry!(
                "shardline_follower_operations_read_total",
                "Operations read from Kafka and not seen before",
                SHARD,
                registry
            )?,
            failed_reads: register_int_counter_vec_with_registry!(
                "shardline_follower_failed_reads_total",
                "Times a shard's partition could not be read on",
                SHARD,
                registry
            )?,
            failed_requests: register_int_counter_vec_with_registry!(
                "shardline_follower_failed_requests_total",
                "Bulk requests that failed as a whole, other than for overload",
                SHARD,
                registry
            )?,
            throttled_requests: register_int_counter_vec_with_registry!(
                "shardline_follower_throttled_requests_total",
                "Bulk requests that the follower cluster refused for overload (429), as a whole \
                 or in part",
                SHARD,
                registry
            )?,
            write_seconds: register_counter_vec_with_registry!(
                "shardline_follower_write_seconds_total",
                "Time that bulk requests took, failed ones included",
                SHARD,
                registry
            )?,
            writes: register_int_counter_vec_with_registry!(
                "shardline_follower_writes_total",
                "Index operations sent for them: the last one of each document",
                SHARD,
                registry
            )?,
            bytes: register_int_counter_vec_with_registry!(
                "shardline_follower_write_bytes_total",
                "Bytes of ids and sources sent for them",
                SHARD,
                registry
            )?,
            retried_writes: register_int_counter_vec_with_registry!(
                "shardline_follower_retried_writes_total",
                "Writes sent again after a refusal or failure",
                INDEX,
                registry
            )?,
            pace: register_gauge_vec_with_registry!(
                "shardline_follower_pace",
                "How hard the shard presses the follower cluster: 1 is full speed, less is after \
                 refusals for overload",
                SHARD,
                registry
            )?,
            dead_letters: register_int_gauge_vec_with_registry!(
                "shardline_follower_dead_letters",
                "Documents that the follower index refuses and that wait to be replayed",
                INDEX,
                registry
            )?,
            errors: register_int_counter_vec_with_registry!(
                "shardline_follower_errors_total",
                "Times a shard stopped for an error",
                SHARD,
                registry
            )?,
            follower_checkpoint: register_int_gauge_vec_with_registry!(
                "shardline_follower_checkpoint",
                "Sequence number up to which the shard is applied",
                SHARD,
                registry
            )?,
            leader_checkpoint: register_int_gauge_vec_with_registry!(
                "shardline_follower_leader_checkpoint",
                "The leader's global checkpoint as last heard of",
                SHARD,
                registry
            )?,
            verified_equal: register_int_gauge_vec_with_registry!(
                "shardline_follower_verified_equal",
                "1 if the last verification of the index found it equal to its leader's, 0 if it \
                 did not",
                INDEX,
                registry
            )?,
            resyncing: register_int_gauge_vec_with_registry!(
                "shardline_follower_resyncing",
                "1 while the shard goes through a resync",
                SHARD,
                registry
            )?,
            lag_operations: register_int_gauge_vec_with_registry!(
                "shardline_follower_lag_operations",
                "Operations of the leader that are not applied yet",
                SHARD,
                registry
            )?,
            waiting_partitions: register_int_gauge_with_registry!(
                "shardline_follower_waiting_partitions",
                "Partitions that are far behind and wait until others are read",
                registry
            )?,
            foreign_writes: register_int_gauge_vec_with_registry!(
                "shardline_follower_foreign_writes",
                "Operations of others that were found in the follower shard and not dealt with \
                 since",
                SHARD,
                registry
            )?,
            lag_seconds: register_gauge_vec_with_registry!(
                "shardline_follower_lag_seconds",
                "Age of the oldest operation that is not applied yet, or of the last word from the leader if that is older \
                 than its heartbeat",
                SHARD,
                registry
            )?,
            bootstrap_documents: register_int_counter_vec_with_registry!(
                "shardline_follower_bootstrap_documents_total",
                "Documents loaded from snapshots",
                SHARD,
                registry
            )?,
            state: register_int_gauge_vec_with_registry!(
                "shardline_follower_index_state",
                "1 syncing, 2 bootstrapping, 3 paused, 4 failed",
                INDEX,
                registry
            )?,
        })
    }

    /// Takes a shard's gauges away when another agent has it.
    pub fn forget_progress(&self, index: &str, shard: ShardId) {
        let labels = [index, &shard.to_string()];
        for gauge in [
            &self.follower_checkpoint,
            &self.leader_checkpoint,
            &self.lag_operations,
            &self.foreign_writes,
            &self.resyncing,
        ] {
            let _ = gauge.remove_label_values(&labels);
        }
        for gauge in [&self.lag_seconds, &self.pace] {
            let _ = gauge.remove_label_values(&labels);
        }
    }

    /// Takes an index's series away when it is no longer followed.
    pub fn forget(&self, index: &str, shards: u32) {
        // A series that was never made cannot be removed, which is as well.
        let _ = self.state.remove_label_values(&[index]);
        let _ = self.retried_writes.remove_label_values(&[index]);
        let _ = self.dead_letters.remove_label_values(&[index]);
        let _ = self.verified_equal.remove_label_values(&[index]);
        for shard in 0..shards {
            let labels = [index, &shard.to_string()];
            for counter in [
                &self.operations,
                &self.operations_read,
                &self.failed_reads,
                &self.failed_requests,
                &self.throttled_requests,
                &self.writes,
                &self.bytes,
                &self.errors,
                &self.bootstrap_documents,
            ] {
                let _ = counter.remove_label_values(&labels);
            }
            let _ = self.write_seconds.remove_label_values(&labels);
            self.forget_progress(index, ShardId(shard));
        }
    }
}
