//! The leader agent's metrics.

use prometheus::{
    CounterVec, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    register_counter_vec_with_registry, register_histogram_with_registry,
    register_int_counter_vec_with_registry, register_int_counter_with_registry,
    register_int_gauge_vec_with_registry, register_int_gauge_with_registry,
};
use shardline_common::exposition::SECONDS;

pub struct Metrics {
    pub operations: IntCounterVec,
    pub bytes: IntCounterVec,
    pub(crate) shipped_seq_no: IntGaugeVec,
    pub global_checkpoint: IntGaugeVec,
    pub(crate) fills: IntCounterVec,
    pub(crate) resyncs: IntCounterVec,
    pub(crate) resync_documents: IntCounterVec,
    pub(crate) resyncing: IntGaugeVec,
    pub errors: IntCounterVec,
    pub(crate) metadata_records: IntCounterVec,
    pub(crate) snapshot_documents: IntCounterVec,
    pub(crate) spool_bytes: IntGaugeVec,
    pub(crate) spool_used_bytes: IntGaugeVec,
    pub(crate) spool_limit_bytes: IntGaugeVec,
    pub(crate) spool_let_go: IntCounterVec,
    pub(crate) translog_bytes: IntGaugeVec,
    pub(crate) translog_read_seconds: CounterVec,
    pub(crate) scan_seconds: CounterVec,
    pub(crate) captures: IntGauge,
    pub(crate) cluster_errors: IntCounter,
    pub(crate) acknowledged_seconds: Histogram,
}

const SHARD: &[&str] = &["index", "shard"];
const DATA_PATH: &[&str] = &["data_path"];

impl Metrics {
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            operations: register_int_counter_vec_with_registry!(
                "shardline_leader_operations_total",
                "Operations that Kafka has acknowledged",
                SHARD,
                registry
            )?,
            bytes: register_int_counter_vec_with_registry!(
                "shardline_leader_operation_bytes_total",
                "Bytes of document sources that Kafka has acknowledged",
                SHARD,
                registry
            )?,
            shipped_seq_no: register_int_gauge_vec_with_registry!(
                "shardline_leader_shipped_seq_no",
                "Sequence number up to which Kafka has the shard",
                SHARD,
                registry
            )?,
            global_checkpoint: register_int_gauge_vec_with_registry!(
                "shardline_leader_global_checkpoint",
                "The shard's persisted global checkpoint",
                SHARD,
                registry
            )?,
            fills: register_int_counter_vec_with_registry!(
                "shardline_leader_fills_total",
                "Stretches that the agents beside other copies shipped, as this one had missed them",
                SHARD,
                registry
            )?,
            resyncs: register_int_counter_vec_with_registry!(
                "shardline_leader_resyncs_total",
                "Times the translog no longer reached back to what Kafka has, so that the shard was scanned",
                SHARD,
                registry
            )?,
            resync_documents: register_int_counter_vec_with_registry!(
                "shardline_leader_resync_documents_total",
                "Documents shipped from such scans",
                SHARD,
                registry
            )?,
            resyncing: register_int_gauge_vec_with_registry!(
                "shardline_leader_resyncing",
                "1 while the shard is scanned for a resync",
                SHARD,
                registry
            )?,
            errors: register_int_counter_vec_with_registry!(
                "shardline_leader_capture_errors_total",
                "Times a shard's capture stopped and was started again",
                SHARD,
                registry
            )?,
            metadata_records: register_int_counter_vec_with_registry!(
                "shardline_leader_metadata_records_total",
                "Metadata records shipped",
                SHARD,
                registry
            )?,
            snapshot_documents: register_int_counter_vec_with_registry!(
                "shardline_leader_snapshot_documents_total",
                "Documents scanned for bootstraps",
                SHARD,
                registry
            )?,
            spool_bytes: register_int_gauge_vec_with_registry!(
                "shardline_leader_spool_bytes",
                "Disk taken by generations that only the spool still holds",
                SHARD,
                registry
            )?,
            spool_used_bytes: register_int_gauge_vec_with_registry!(
                "shardline_leader_spool_used_bytes",
                "Disk taken by generations that only the spool of a data folder still holds, of all shards together",
                DATA_PATH,
                registry
            )?,
            spool_limit_bytes: register_int_gauge_vec_with_registry!(
                "shardline_leader_spool_limit_bytes",
                "Disk that the spool of a data folder may take: past it, the oldest generations are let go",
                DATA_PATH,
                registry
            )?,
            spool_let_go: register_int_counter_vec_with_registry!(
                "shardline_leader_spool_let_go_total",
                "Generations that Kafka may not have had, let go because the spool was full",
                DATA_PATH,
                registry
            )?,
            translog_bytes: register_int_gauge_vec_with_registry!(
                "shardline_leader_translog_bytes",
                "Disk taken by the shard's translog",
                SHARD,
                registry
            )?,
            translog_read_seconds: register_counter_vec_with_registry!(
                "shardline_leader_translog_read_seconds_total",
                "Time spent on reading operations from the translog",
                SHARD,
                registry
            )?,
            scan_seconds: register_counter_vec_with_registry!(
                "shardline_leader_scan_seconds_total",
                "Time spent on waiting for pages of scans, for bootstraps and resyncs",
                SHARD,
                registry
            )?,
            captures: register_int_gauge_with_registry!(
                "shardline_leader_captured_shards",
                "Shards whose operations this agent ships",
                registry
            )?,
            cluster_errors: register_int_counter_with_registry!(
                "shardline_leader_cluster_errors_total",
                "Failed requests to the leader cluster",
                registry
            )?,
            acknowledged_seconds: register_histogram_with_registry!(
                "shardline_leader_acknowledged_seconds",
                "Time from sending a batch of operations until Kafka has acknowledged it",
                SECONDS.to_vec(),
                registry
            )?,
        })
    }

    /// Makes a shard's counters, so that their first event is seen as a rise.
    pub(crate) fn begin(&self, labels: &[&str]) {
        for counter in self.counters() {
            counter.with_label_values(labels);
        }
        for counter in [&self.translog_read_seconds, &self.scan_seconds] {
            counter.with_label_values(labels);
        }
    }

    fn counters(&self) -> [&IntCounterVec; 8] {
        [
            &self.operations,
            &self.bytes,
            &self.fills,
            &self.resyncs,
            &self.resync_documents,
            &self.errors,
            &self.metadata_records,
            &self.snapshot_documents,
        ]
    }

    /// Takes a shard's gauges away when it is captured here no more.
    pub(crate) fn forget_gauges(&self, labels: &[&str]) {
        let gauges = [
            &self.shipped_seq_no,
            &self.global_checkpoint,
            &self.resyncing,
            &self.spool_bytes,
            &self.translog_bytes,
        ];
        for gauge in gauges {
            // A series that was never made cannot be removed, which is as well.
            let _ = gauge.remove_label_values(labels);
        }
    }

    /// Takes a shard's counters away when its index is no more.
    pub(crate) fn forget(&self, labels: &[&str]) {
        for counter in self.counters() {
            let _ = counter.remove_label_values(labels);
        }
        for counter in [&self.translog_read_seconds, &self.scan_seconds] {
            let _ = counter.remove_label_values(labels);
        }
    }
}
