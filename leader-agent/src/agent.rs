//! The agent's life: wait for its node and Kafka, then follow the cluster's state until told to stop.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use prometheus::Registry;
use shardline_common::kafka::{ControlTopic, Kafka};
use shardline_common::opensearch::{OpenSearch, OpenSearchError};
use shardline_common::telemetry::{self, Readiness};
use shardline_common::topic::{follower_control_topic, leader_control_topic};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::capture::Context;
use crate::catalog::Catalog;
use crate::cluster::{ClusterView, LocalNode};
use crate::config::LeaderConfig;
use crate::metrics::Metrics;
use crate::publish::Publisher;
use crate::supervisor::Supervisor;
use crate::translog::TranslogWatcher;

/// How often the cluster's state version is asked for. Followers' wishes arrive at once, through the control topic.
const STATE_INTERVAL: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Runs until `stop` is cancelled.
pub async fn run(config: LeaderConfig, stop: CancellationToken) -> anyhow::Result<()> {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry)?;
    let readiness = Readiness::waiting_for("the node's REST address");
    let listener = telemetry::bind("admin.listen", config.admin.listen).await?;
    let admin =
        tokio::spawn(telemetry::serve(listener, telemetry::admin_router(registry, readiness.clone()), stop.clone()));
    let work = follow_cluster(&config, metrics, readiness, stop.clone()).await;
    stop.cancel();
    admin.await.context("the admin server panicked")?.context("the admin server failed")?;
    work
}

async fn follow_cluster(
    config: &LeaderConfig,
    metrics: Metrics,
    readiness: Readiness,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let opensearch = OpenSearch::new(&config.opensearch)?;
    let kafka = Kafka::new(config.kafka.clone())?;
    let Some(mut node) = wait_for_node(&opensearch, &stop).await else { return Ok(()) };
    if !config.capture.data_paths.is_empty() {
        node.data_paths.clone_from(&config.capture.data_paths);
    }
    info!(cluster = node.announcement.cluster_name, node = node.announcement.node_name, data_paths = ?node.data_paths,
          "beside this node");
    readiness.wait_for("Kafka");
    let prefix = kafka.topic_prefix().to_owned();
    let leader_table = match ControlTopic::open(&kafka, leader_control_topic(&prefix), &stop).await {
        Ok(table) => table,
        Err(_) if stop.is_cancelled() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let follower_table = match ControlTopic::open(&kafka, follower_control_topic(&prefix), &stop).await {
        Ok(table) => table,
        Err(_) if stop.is_cancelled() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    leader_table.publish(&node.announcement).await?;

    let context = Arc::new(Context {
        opensearch: opensearch.clone(),
        publisher: Publisher::new(kafka.clone())?,
        kafka,
        watcher: TranslogWatcher::start(),
        metrics,
        heartbeat: Duration::from_secs(config.capture.heartbeat_seconds),
    });
    let mut catalog = Catalog::new(node.cluster().clone(), leader_table.clone(), follower_table.clone());
    let mut wishes = follower_table.changes();
    let mut supervisor =
        Supervisor::new(node.clone(), Arc::clone(&context), leader_table, follower_table, &config.capture);
    let mut view = ClusterView::default();
    let mut must_ask = true;
    while !stop.is_cancelled() {
        wishes.mark_unchanged();
        let request = catalog.open_request();
        match newer_view(&opensearch, &node, &view, must_ask || request.is_some()).await {
            Ok(newer) => {
                must_ask = false;
                view = newer.unwrap_or(view);
                readiness.ready();
                if let Err(error) = catalog.announce(&view, request).await {
                    warn!(%error, "the cluster's indices could not be announced");
                }
                supervisor.reconcile(&view).await;
            }
            Err(error) => {
                context.metrics.cluster_errors.inc();
                warn!(%error, "the leader cluster's state is unknown; capture goes on with the last one known");
            }
        }
        tokio::select! {
            _ = wishes.changed() => {}
            () = tokio::time::sleep(STATE_INTERVAL) => {}
            () = stop.cancelled() => {}
        }
    }
    info!("stopping");
    supervisor.stop().await;
    Ok(())
}

/// The cluster's state if it is not the one we have.
async fn newer_view(
    opensearch: &OpenSearch,
    node: &LocalNode,
    view: &ClusterView,
    must_ask: bool,
) -> Result<Option<ClusterView>, OpenSearchError> {
    if !must_ask && ClusterView::version(opensearch).await? == view.version {
        return Ok(None);
    }
    ClusterView::ask(opensearch, node).await.map(Some)
}

async fn wait_for_node(opensearch: &OpenSearch, stop: &CancellationToken) -> Option<LocalNode> {
    let mut delay = FIRST_RETRY;
    loop {
        match LocalNode::ask(opensearch).await {
            // A cluster that has not formed yet has no identity.
            Ok(node) if node.cluster().as_str() != "_na_" => return Some(node),
            Ok(_) => warn!("the leader cluster has not formed yet"),
            Err(error) => warn!(%error, retry_in_ms = delay.as_millis() as u64, "the node is not available yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => return None,
        }
        delay = (delay * 2).min(LAST_RETRY);
    }
}
