//! This agent's part of `leader_stats`: counted by the metrics, shared with the other agents
//! through the control topic.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::core::Collector;
use prometheus::proto::Metric;
use shardline_common::clock::now_ms;
use shardline_common::control::Entry;
use shardline_common::kafka::ControlTopic;
use shardline_common::leader_stats::{LeaderStats, NodeReads, ReadCounters, followed_indices};
use shardline_common::types::{ClusterUuid, IndexName};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::capture::Context;
use crate::metrics::Metrics;
use crate::node::LocalNode;

/// How often what has changed is shared.
const SHARE_INTERVAL: Duration = Duration::from_secs(2);

/// Where every agent of the cluster finds the others' counters.
#[derive(Clone)]
pub(crate) struct Tables {
    pub cluster: ClusterUuid,
    pub(crate) leader_table: ControlTopic,
    pub(crate) follower_table: ControlTopic,
}

/// Shares what this agent has read, whenever it has changed, until told to stop.
pub(crate) async fn share(
    node: LocalNode,
    context: Arc<Context>,
    tables: Tables,
    stop: CancellationToken,
) {
    let own = |indices| {
        let standstills = context.standing.some(NodeReads::STANDSTILLS_MAX);
        let step = NodeReads::STANDSTILLS_INTERVAL_MS;
        NodeReads {
            cluster_uuid: tables.cluster.clone(),
            node_id: node.id.clone(),
            indices,
            standstills_ms: (!standstills.is_empty()).then(|| now_ms() / step * step),
            standstills,
        }
    };
    loop {
        let followed = followed_indices(&tables.cluster, &tables.follower_table);
        // The metrics of a thousand shards are not collected for nobody.
        let is_followed = !followed.is_empty();
        let reads = own(is_followed
            .then(|| counted(&context.metrics, &followed))
            .into_iter()
            .flatten()
            .collect());
        let shared: Option<NodeReads> = tables.leader_table.get(&reads.key());
        if shared.as_ref() != Some(&reads)
            && let Err(error) = tables.leader_table.publish(&reads).await
        {
            warn!(%error, "the statistics of what was read could not be shared");
        }
        tokio::select! {
            () = tokio::time::sleep(SHARE_INTERVAL) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// `leader_stats` of the whole cluster, beside the agent's metrics; 503 until the agent knows its
/// cluster.
pub(crate) fn router(tables: Arc<std::sync::OnceLock<Tables>>) -> Router {
    let stats = move || {
        let answer = match tables.get() {
            Some(tables) => answer(&LeaderStats::of_cluster(
                &tables.cluster,
                &tables.leader_table,
                &tables.follower_table,
            )),
            None => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the agent has not reached its node and Kafka yet\n",
            )
                .into_response(),
        };
        std::future::ready(answer)
    };
    Router::new().route("/_plugins/_replication/leader_stats", get(stats))
}

fn answer(stats: &LeaderStats) -> Response {
    match serde_json::to_string_pretty(stats) {
        Ok(json) => (
            [(header::CONTENT_TYPE, "application/json; charset=UTF-8")],
            json + "\n",
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The counters of each index of which this agent ships a shard.
fn counted<'a>(
    metrics: &Metrics,
    followed: &'a HashSet<IndexName>,
) -> impl Iterator<Item = (IndexName, ReadCounters)> + use<'a> {
    let shipped = by_index(&metrics.operations);
    let (copied, resynced) = (
        by_index(&metrics.snapshot_documents),
        by_index(&metrics.resync_documents),
    );
    let bytes = by_index(&metrics.bytes);
    let translog_size = by_index(&metrics.translog_bytes);
    let (reading, scanning) = (
        by_index(&metrics.translog_read_seconds),
        by_index(&metrics.scan_seconds),
    );
    followed.iter().filter_map(move |index| {
        let sum = |values: &[(String, f64)]| {
            values
                .iter()
                .filter(|(name, _)| name == index.as_str())
                .map(|(_, value)| value)
                .sum::<f64>()
        };
        if !shipped
            .iter()
            .chain(&translog_size)
            .any(|(name, _)| name == index.as_str())
        {
            return None;
        }
        let (from_translog, from_lucene) =
            (sum(&shipped) as u64, (sum(&copied) + sum(&resynced)) as u64);
        let counters = ReadCounters {
            operations_read: from_translog + from_lucene,
            translog_size_bytes: sum(&translog_size) as u64,
            operations_read_lucene: from_lucene,
            operations_read_translog: from_translog,
            total_read_time_lucene_millis: (sum(&scanning) * 1000.0) as u64,
            total_read_time_translog_millis: (sum(&reading) * 1000.0) as u64,
            bytes_read: sum(&bytes) as u64,
        };
        Some((index.clone(), counters))
    })
}

/// A series' values with the index that each is of.
fn by_index(series: &impl Collector) -> Vec<(String, f64)> {
    let families = series.collect();
    let metrics = families.iter().flat_map(|family| family.get_metric());
    metrics
        .filter_map(|metric| Some((index_of(metric)?, value_of(metric))))
        .collect()
}

fn index_of(metric: &Metric) -> Option<String> {
    metric
        .get_label()
        .iter()
        .find(|label| label.name() == "index")
        .map(|label| label.value().to_owned())
}

fn value_of(metric: &Metric) -> f64 {
    metric.get_counter().get_value() + metric.get_gauge().get_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_of_an_index_add_up() {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        metrics
            .operations
            .with_label_values(&["books", "0"])
            .inc_by(3);
        metrics
            .operations
            .with_label_values(&["books", "1"])
            .inc_by(4);
        metrics
            .snapshot_documents
            .with_label_values(&["books", "1"])
            .inc_by(10);
        metrics
            .translog_bytes
            .with_label_values(&["books", "0"])
            .set(55);
        metrics
            .operations
            .with_label_values(&["nobody-follows", "0"])
            .inc_by(9);
        let followed = HashSet::from(["books".into(), "elsewhere".into()]);
        let counted: Vec<_> = counted(&metrics, &followed).collect();
        let expected = ReadCounters {
            operations_read: 17,
            operations_read_lucene: 10,
            operations_read_translog: 7,
            translog_size_bytes: 55,
            ..ReadCounters::default()
        };
        assert_eq!(counted, [("books".into(), expected)]);
    }
}
