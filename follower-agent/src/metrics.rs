//! The follower agent's metrics.

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry};

pub struct Metrics {
    pub operations: IntCounterVec,
    pub writes: IntCounterVec,
    pub bytes: IntCounterVec,
    pub retried_writes: IntCounterVec,
    pub errors: IntCounterVec,
    pub follower_checkpoint: IntGaugeVec,
    pub leader_checkpoint: IntGaugeVec,
    pub lag_operations: IntGaugeVec,
    pub lag_seconds: GaugeVec,
    pub bootstrap_documents: IntCounterVec,
    pub state: IntGaugeVec,
}

const INDEX: &[&str] = &["index"];
const SHARD: &[&str] = &["index", "shard"];

impl Metrics {
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(format!("shardline_follower_{name}"), help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntGaugeVec::new(Opts::new(format!("shardline_follower_{name}"), help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let lag_seconds = GaugeVec::new(
            Opts::new(
                "shardline_follower_lag_seconds",
                "Age of the oldest operation that is not applied yet, or of the last word from the leader if that is older \
                 than its heartbeat",
            ),
            SHARD,
        )?;
        registry.register(Box::new(lag_seconds.clone()))?;
        Ok(Self {
            operations: counter("operations_total", "Operations that the follower cluster has acknowledged", SHARD)?,
            writes: counter("writes_total", "Index operations sent for them: the last one of each document", SHARD)?,
            bytes: counter("write_bytes_total", "Bytes of ids and sources sent for them", SHARD)?,
            retried_writes: counter("retried_writes_total", "Writes sent again after a refusal or failure", INDEX)?,
            errors: counter("errors_total", "Times a shard stopped for an error", SHARD)?,
            follower_checkpoint: gauge("checkpoint", "Sequence number up to which the shard is applied", SHARD)?,
            leader_checkpoint: gauge("leader_checkpoint", "The leader's global checkpoint as last heard of", SHARD)?,
            lag_operations: gauge("lag_operations", "Operations of the leader that are not applied yet", SHARD)?,
            lag_seconds,
            bootstrap_documents: counter("bootstrap_documents_total", "Documents loaded from snapshots", SHARD)?,
            state: gauge("index_state", "1 syncing, 2 bootstrapping, 3 paused, 4 failed", INDEX)?,
        })
    }

    /// Takes an index's series away when it is no longer followed.
    pub fn forget(&self, index: &str, shards: u32) {
        // A series that was never made cannot be removed, which is as well.
        let _ = self.state.remove_label_values(&[index]);
        let _ = self.retried_writes.remove_label_values(&[index]);
        for shard in 0..shards {
            let labels = [index, &shard.to_string()];
            for counter in [&self.operations, &self.writes, &self.bytes, &self.errors, &self.bootstrap_documents] {
                let _ = counter.remove_label_values(&labels);
            }
            for gauge in [&self.follower_checkpoint, &self.leader_checkpoint, &self.lag_operations] {
                let _ = gauge.remove_label_values(&labels);
            }
            let _ = self.lag_seconds.remove_label_values(&labels);
        }
    }
}
