//! The follower agent's metrics.

use std::collections::HashSet;

use parking_lot::Mutex;
use prometheus::{
    CounterVec, GaugeVec, Histogram, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    register_counter_vec_with_registry, register_gauge_vec_with_registry,
    register_histogram_vec_with_registry, register_histogram_with_registry,
    register_int_counter_vec_with_registry, register_int_gauge_vec_with_registry,
    register_int_gauge_with_registry,
};
use shardline::contract::ReplicationStatus;
use shardline_common::exposition::SECONDS;
use shardline_common::standstill::Cause;
use shardline_common::types::{IndexName, ShardId};

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
    pub without_roles: IntGauge,
    pub verified_equal: IntGaugeVec,
    pub lag_seconds: GaugeVec,
    pub bootstrap_documents: IntCounterVec,
    pub state: IntGaugeVec,
    pub standstill: IntGaugeVec,
    /// The series of `standstill` that are there.
    shown_standstills: Mutex<HashSet<Standstill>>,
    pub delivery_seconds: Histogram,
    pub request_seconds: Histogram,
    pub gateway_requests: IntCounterVec,
    pub gateway_seconds: HistogramVec,
    pub gateway_refusals: IntCounterVec,
}

const INDEX: &[&str] = &["index"];
const SHARD: &[&str] = &["index", "shard"];
/// What an index can be doing, each a series of its own of which one is 1.
const STATES: [&str; 5] = [
    "syncing",
    "bootstrapping",
    "paused",
    "auto_paused",
    "failed",
];

/// Where something stands still, and the cause: `shard` is `all` for an index as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Standstill {
    pub index: String,
    pub shard: String,
    pub cause: String,
}

impl Standstill {
    /// What stands still of an index, as its status says.
    pub fn of(index: &IndexName, status: &ReplicationStatus) -> Vec<Self> {
        let of_shards = status.held_up.iter();
        let of_shards = of_shards.map(|held| (held.shard_id.to_string(), held.why.cause));
        let of_index = status.standstill.iter();
        let of_index = of_index.map(|whole| ("all".to_owned(), whole.why.cause));
        let standstill = |(shard, cause): (String, Cause)| Self {
            index: index.to_string(),
            shard,
            cause: cause.name(),
        };
        of_shards.chain(of_index).map(standstill).collect()
    }

    fn labels(&self) -> [&str; 3] {
        [&self.index, &self.shard, &self.cause]
    }
}

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
            without_roles: register_int_gauge_with_registry!(
                "shardline_follower_indices_without_roles",
                "Indices that are followed under no roles though callers are asked for some: they \
                 were followed before",
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
                "1 for what the index is doing (syncing, which includes being about to, \
                 bootstrapping, paused, auto_paused by the agent itself, failed), 0 for all else",
                &["index", "state"],
                registry
            )?,
            standstill: register_int_gauge_vec_with_registry!(
                "shardline_follower_standstill",
                "1 for each shard, or index as a whole (shard all), that does not get on, with \
                 the cause that its status has; absent otherwise",
                &["index", "shard", "cause"],
                registry
            )?,
            shown_standstills: Mutex::default(),
            delivery_seconds: register_histogram_with_registry!(
                "shardline_follower_delivery_seconds",
                "Age of the oldest operation of each request when the follower cluster \
                 acknowledges it, since its capture",
                SECONDS.to_vec(),
                registry
            )?,
            request_seconds: register_histogram_with_registry!(
                "shardline_follower_request_seconds",
                "Time that bulk requests took, failed ones included",
                SECONDS.to_vec(),
                registry
            )?,
            gateway_requests: register_int_counter_vec_with_registry!(
                "shardline_follower_gateway_requests_total",
                "Requests that the gateway has answered",
                &["class", "method", "code"],
                registry
            )?,
            gateway_seconds: register_histogram_vec_with_registry!(
                "shardline_follower_gateway_request_seconds",
                "Time until the gateway began its answer",
                &["class"],
                SECONDS.to_vec(),
                registry
            )?,
            gateway_refusals: register_int_counter_vec_with_registry!(
                "shardline_follower_gateway_refusals_total",
                "Requests that the gateway itself refused, by the error's type",
                &["reason"],
                registry
            )?,
        })
    }

    /// Makes an index's and its shards' counters, so that their first event is seen as a rise.
    pub fn begin(&self, index: &str, shard: ShardId) {
        self.retried_writes.with_label_values(&[index]);
        let labels = [index, &shard.to_string()];
        for counter in self.counters() {
            counter.with_label_values(&labels);
        }
        self.write_seconds.with_label_values(&labels);
    }

    fn counters(&self) -> [&IntCounterVec; 9] {
        [
            &self.operations,
            &self.operations_read,
            &self.failed_reads,
            &self.failed_requests,
            &self.throttled_requests,
            &self.writes,
            &self.bytes,
            &self.errors,
            &self.bootstrap_documents,
        ]
    }

    /// Shows which one of [`STATES`] an index is in.
    pub fn show_state(&self, index: &str, state: &str) {
        for other in STATES {
            let is_state = i64::from(other == state);
            self.state.with_label_values(&[index, other]).set(is_state);
        }
    }

    /// Shows what stands still now, and takes away what does no more.
    pub fn show_standstills(&self, now: HashSet<Standstill>) {
        let mut shown = self.shown_standstills.lock();
        for over in shown.difference(&now) {
            let _ = self.standstill.remove_label_values(&over.labels());
        }
        for standing in &now {
            self.standstill.with_label_values(&standing.labels()).set(1);
        }
        *shown = now;
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
        for state in STATES {
            let _ = self.state.remove_label_values(&[index, state]);
        }
        let _ = self.retried_writes.remove_label_values(&[index]);
        let _ = self.dead_letters.remove_label_values(&[index]);
        let _ = self.verified_equal.remove_label_values(&[index]);
        for shard in 0..shards {
            let labels = [index, &shard.to_string()];
            for counter in self.counters() {
                let _ = counter.remove_label_values(&labels);
            }
            let _ = self.write_seconds.remove_label_values(&labels);
            self.forget_progress(index, ShardId(shard));
        }
    }
}
