//! The agent's life: wait for its node and Kafka, then follow the cluster's state until told to
//! stop.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use parking_lot::Mutex;
use prometheus::Registry;
use shardline_common::backoff::until_available;
use shardline_common::exposition;
use shardline_common::kafka::{ControlTopic, Kafka};
use shardline_common::launch::StartAgain;
use shardline_common::opensearch::{OpenSearch, OpenSearchError, StateOf, until_all_closed};
use shardline_common::preflight::Root;
use shardline_common::telemetry::{self, Readiness};
use shardline_common::topic::{follower_control_topic, leader_control_topic};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::capture::{Context, FetchTurns, Standing};
use crate::config::{LeaderConfig, Source};
use crate::metrics::Metrics;
use crate::node::{self, ClusterView, LocalNode, StateId};
use crate::page::{self, Page};
use crate::publish::Publisher;
use crate::scan::STRETCH_LENGTH;
use crate::supervise::{self, Announced, Catalog, Held, Spools, Supervisor, Tables};
use crate::translog::TranslogWatcher;

/// How often the node is asked for its version of the cluster's state: a copy of a shard that is
/// being made is to be held before its first flush. Followers' wishes arrive at once, through the
/// control topic.
const STATE_INTERVAL: Duration = Duration::from_millis(250);
/// After this the agent is not ready without a cluster manager, and says so.
const UNMANAGED: Duration = Duration::from_secs(30);
/// How long points in time may take to be closed when the agent ends.
const CLOSING: Duration = Duration::from_secs(2);
/// What could not be started is tried again this often.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(1);

/// Runs until `stop` is cancelled.
pub async fn run(config: LeaderConfig, stop: CancellationToken) -> anyhow::Result<()> {
    let registry = Registry::new();
    exposition::register_process(&registry, env!("CARGO_PKG_VERSION"))?;
    let metrics = Metrics::register(&registry)?;
    let readiness = Readiness::waiting_for("the node's REST address");
    let listener = telemetry::bind("admin.listen", config.admin.listen).await?;
    let tables = Arc::new(OnceLock::new());
    let shown = Arc::new(OnceLock::new());
    let routes = telemetry::admin_router(registry, readiness.clone())
        .merge(supervise::router(Arc::clone(&tables)))
        .merge(page::router(Arc::clone(&shown)));
    let admin = tokio::spawn(telemetry::serve(listener, routes, stop.clone()));
    let work = follow_cluster(&config, metrics, readiness, (&tables, &shown), stop.clone());
    let work = work.await;
    stop.cancel();
    admin
        .await
        .context("the admin server panicked")?
        .context("the admin server failed")?;
    work
}

async fn follow_cluster(
    config: &LeaderConfig,
    metrics: Metrics,
    readiness: Readiness,
    (tables, shown): (&OnceLock<Tables>, &OnceLock<Page>),
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let opensearch = OpenSearch::new(&config.opensearch)?;
    let kafka = Kafka::new(config.kafka.clone())?;
    let Some(mut node) = wait_for_node(&opensearch, config.capture.source, &stop).await else {
        return Ok(());
    };
    if !config.capture.data_paths.is_empty() {
        node.data_paths.clone_from(&config.capture.data_paths);
    }
    info!(cluster = node.announcement.cluster_name, node = node.announcement.node_name, data_paths = ?node.data_paths,
          "beside this node");
    let ask = || node::unsupported(&opensearch);
    let Some(unsupported) = until_available("the node", ask, &stop).await else {
        return Ok(());
    };
    if let Some(reason) = unsupported {
        bail!(reason);
    }
    let watcher = TranslogWatcher::start();
    let mut spools = Spools::new(config.capture.spool_limit_mib.saturating_mul(1024 * 1024));
    let held = match config.capture.source {
        Source::Translog => Held::from_before(&node, &mut spools, &watcher),
        Source::Poll => Held::default(),
    };
    readiness.wait_for("Kafka");
    let prefix = kafka.topic_prefix().to_owned();
    let leader_table = match ControlTopic::open(&kafka, leader_control_topic(&prefix), &stop).await
    {
        Ok(table) => table,
        Err(_) if stop.is_cancelled() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let follower_table =
        match ControlTopic::open(&kafka, follower_control_topic(&prefix), &stop).await {
            Ok(table) => table,
            Err(_) if stop.is_cancelled() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
    let announce = || leader_table.publish(&node.announcement);
    if until_available("the agent's place in the control topic", announce, &stop)
        .await
        .is_none()
    {
        return Ok(());
    }

    let context = Arc::new(Context {
        opensearch: opensearch.clone(),
        state_id: StateId::new(opensearch.clone()),
        cluster: node.cluster().clone(),
        board: Arc::new(leader_table.clone()),
        log: Arc::new(Publisher::new(kafka.clone(), config.capture.pack_bytes)?),
        kafka,
        watcher,
        metrics,
        turns: FetchTurns::default(),
        stretch: STRETCH_LENGTH,
        heartbeat: Duration::from_secs(config.capture.heartbeat_seconds),
        cluster_seen: Mutex::new(Instant::now()),
        started: Instant::now(),
        standing: Standing::default(),
    });
    let mut catalog = Catalog::new(
        node.cluster().clone(),
        leader_table.clone(),
        follower_table.clone(),
        config.capture.roles.clone(),
    );
    let own_tables = Tables {
        cluster: node.cluster().clone(),
        leader_table: leader_table.clone(),
        follower_table: follower_table.clone(),
    };
    // Set once, here.
    let _ = tables.set(own_tables.clone());
    let _ = shown.set(Page {
        node: node.clone(),
        context: Arc::clone(&context),
        tables: own_tables.clone(),
        kept: page::Kept::default(),
    });
    let sharing = tokio::spawn(supervise::share(
        node.clone(),
        Arc::clone(&context),
        own_tables,
        stop.clone(),
    ));
    let mut wishes = follower_table.changes();
    let mut supervisor = Supervisor::new(
        node.clone(),
        Arc::clone(&context),
        leader_table,
        follower_table,
        (spools, held),
        &config.capture,
        &stop,
    );
    let mut is_told = false;
    let mut view = ClusterView::default();
    let mut must_ask = true;
    let mut reconcile_by = Instant::now();
    while !stop.is_cancelled() {
        wishes.mark_unchanged();
        let request = catalog.open_request();
        let answers = catalog.answers(request.as_ref(), &view);
        let asks_manager = must_ask || answers;
        match newer_view(&opensearch, &node, &view, asks_manager).await {
            Ok((newer, is_member)) => {
                must_ask = false;
                if is_member {
                    *context.cluster_seen.lock() = Instant::now();
                    readiness.ready();
                    is_told = false;
                } else if !is_told && context.cluster_seen.lock().elapsed() >= UNMANAGED {
                    readiness.wait_for("the leader cluster to have a cluster manager");
                    warn!(
                        seconds = UNMANAGED.as_secs(),
                        "the leader cluster has no cluster manager: its state is unknown"
                    );
                    is_told = true;
                }
                if newer.as_ref().is_some_and(|newer| !newer.is_nodes_own) {
                    if is_another(&opensearch, &node).await {
                        supervisor.stop().await;
                        sharing.abort();
                        let reason = "the node beside the agent is another one than before, or of another cluster";
                        return Err(StartAgain(reason.to_owned()).into());
                    }
                    // Its indices are not the ones that are announced.
                    must_ask = true;
                } else if newer.is_some() || reconcile_by <= Instant::now() {
                    reconcile_by = Instant::now() + RECONCILE_INTERVAL;
                    let is_managers = newer.is_some() && asks_manager;
                    view = newer.unwrap_or(view);
                    // A manager that was cut off from its cluster would go on with what it knew.
                    if is_member {
                        match catalog
                            .announce(&view, is_managers, request.filter(|_| answers))
                            .await
                        {
                            Ok(announced) => must_ask = announced == Announced::AskAnew,
                            Err(error) => {
                                warn!(%error, "the cluster's indices could not be announced")
                            }
                        }
                        if let Err(error) = catalog.announce_again(&view).await {
                            let lost = "what the control topic lost could not be announced again";
                            warn!(%error, "{lost}");
                        }
                    }
                    supervisor.reconcile(&view).await;
                }
            }
            Err(error) => {
                context.metrics.cluster_errors.inc();
                warn!(%error, "the leader cluster's state is unknown; capture goes on with the last one known");
            }
        }
        tokio::select! {
            _ = wishes.changed() => reconcile_by = Instant::now(),
            () = tokio::time::sleep(STATE_INTERVAL) => {}
            () = stop.cancelled() => {}
        }
    }
    info!("stopping");
    supervisor.stop().await;
    until_all_closed(CLOSING).await;
    sharing
        .await
        .context("the sharing of statistics panicked")?;
    Ok(())
}

/// Whether the agent's address leads to another node by now, such as one that was made anew with an
/// empty data folder.
async fn is_another(opensearch: &OpenSearch, node: &LocalNode) -> bool {
    let now = LocalNode::ask(opensearch, node.source).await;
    now.is_ok_and(|now| {
        let is_formed = now.cluster().is_formed();
        is_formed
            && (now.cluster() != node.cluster()
                || (node.source == Source::Translog && now.id != node.id))
    })
}

/// The cluster's state as its manager has it; or as the node has it, unless we have that. And
/// whether the node is part of the cluster.
async fn newer_view(
    opensearch: &OpenSearch,
    node: &LocalNode,
    view: &ClusterView,
    asks_manager: bool,
) -> Result<(Option<ClusterView>, bool), OpenSearchError> {
    let mut of = StateOf::Manager;
    if !asks_manager {
        let (version, is_member) = ClusterView::local_version(opensearch).await?;
        if version == view.version || !is_member {
            return Ok((None, is_member));
        }
        // Every agent beside a node asks with each change: the manager would have to answer all of
        // them. The node may be behind what its manager has told before.
        if node.source == Source::Translog && version > view.version {
            of = StateOf::Node;
        }
    }
    let newer = ClusterView::ask(opensearch, node, of).await?;
    Ok(if newer.has_manager {
        (Some(newer), true)
    } else {
        (None, false)
    })
}

async fn wait_for_node(
    opensearch: &OpenSearch,
    source: Source,
    stop: &CancellationToken,
) -> Option<LocalNode> {
    let ask = || async {
        opensearch.get::<Root>("/").await?.supported()?;
        let node = LocalNode::ask(opensearch, source).await?;
        ensure!(
            node.cluster().is_formed(),
            "the leader cluster has not formed yet"
        );
        Ok(node)
    };
    until_available("the node", ask, stop).await
}
