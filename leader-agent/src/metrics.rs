//! The leader agent's metrics.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

pub struct Metrics {
    pub operations: IntCounterVec,
    pub bytes: IntCounterVec,
    pub shipped_seq_no: IntGaugeVec,
    pub global_checkpoint: IntGaugeVec,
    pub gaps: IntCounterVec,
    pub errors: IntCounterVec,
    pub metadata_records: IntCounterVec,
    pub snapshot_documents: IntCounterVec,
    pub spool_bytes: IntGaugeVec,
    pub captures: IntGauge,
    pub cluster_errors: IntCounter,
}

const SHARD: &[&str] = &["index", "shard"];

impl Metrics {
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(format!("shardline_leader_{name}"), help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntGaugeVec::new(Opts::new(format!("shardline_leader_{name}"), help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let captures = IntGauge::new("shardline_leader_captured_shards", "Shards whose operations this agent ships")?;
        registry.register(Box::new(captures.clone()))?;
        let cluster_errors =
            IntCounter::new("shardline_leader_cluster_errors_total", "Failed requests to the leader cluster")?;
        registry.register(Box::new(cluster_errors.clone()))?;
        Ok(Self {
            operations: counter("operations_total", "Operations that Kafka has acknowledged", SHARD)?,
            bytes: counter("operation_bytes_total", "Bytes of document sources that Kafka has acknowledged", SHARD)?,
            shipped_seq_no: gauge("shipped_seq_no", "Sequence number up to which Kafka has the shard", SHARD)?,
            global_checkpoint: gauge("global_checkpoint", "The shard's persisted global checkpoint", SHARD)?,
            gaps: counter("gaps_total", "Times the translog no longer reached back to what Kafka has", SHARD)?,
            errors: counter("capture_errors_total", "Times a shard's capture stopped and was started again", SHARD)?,
            metadata_records: counter("metadata_records_total", "Metadata records shipped", SHARD)?,
            snapshot_documents: counter("snapshot_documents_total", "Documents scanned for bootstraps", SHARD)?,
            spool_bytes: gauge("spool_bytes", "Disk taken by generations that only the spool still holds", SHARD)?,
            captures,
            cluster_errors,
        })
    }
}
