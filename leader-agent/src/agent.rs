//! The agent's life: wait for its node and Kafka, then follow the cluster's state until told to
//! stop.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use parking_lot::Mutex;
use prometheus::Registry;
use shardline_common::backoff::until_available;
use shardline_common::exposition;
use shardline_common::kafka::{ControlError, ControlTopic, Kafka};
use shardline_common::launch::StartAgain;
use shardline_common::opensearch::{OpenSearch, OpenSearchError, StateOf, until_all_closed};
use shardline_common::preflight::Root;
use shardline_common::telemetry::{self, Readiness};
use shardline_common::topic::{follower_control_topic, leader_control_topic};
use shardline_common::types::ClusterUuid;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::capture::{Context, FetchTurns, Standing};
use crate::config::{CaptureConfig, LeaderConfig, Source};
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
    let clients = Clients {
        opensearch: OpenSearch::new(&config.opensearch)?,
        kafka: Kafka::new(config.kafka.clone())?,
    };
    let shown = (&*tables, &*shown);
    let work = follow_cluster(
        clients,
        &config.capture,
        metrics,
        readiness,
        shown,
        stop.clone(),
    );
    let work = work.await;
    stop.cancel();
    admin
        .await
        .context("the admin server panicked")?
        .context("the admin server failed")?;
    work
}

/// The agent's ways to its node and to Kafka.
pub struct Clients {
    pub opensearch: OpenSearch,
    pub kafka: Kafka,
}

/// The agent's work without its admin server, until `stop` is cancelled.
pub async fn work(
    clients: Clients,
    capture: CaptureConfig,
    metrics: Metrics,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let readiness = Readiness::waiting_for("the node's REST address");
    let shown = (&OnceLock::new(), &OnceLock::new());
    follow_cluster(clients, &capture, metrics, readiness, shown, stop).await
}

async fn follow_cluster(
    clients: Clients,
    config: &CaptureConfig,
    metrics: Metrics,
    readiness: Readiness,
    (tables, shown): (&OnceLock<Tables>, &OnceLock<Page>),
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let Clients { opensearch, kafka } = clients;
    let Some(mut node) = wait_for_node(&opensearch, config.source, &stop).await else {
        return Ok(());
    };
    if !config.data_paths.is_empty() {
        node.data_paths.clone_from(&config.data_paths);
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
    let mut spools = Spools::new(config.spool_limit_mib.saturating_mul(1024 * 1024));
    let (watcher, held) = match config.source {
        Source::Translog => {
            let watcher = TranslogWatcher::start();
            let held = Held::from_before(&node, &mut spools, &watcher);
            (watcher, held)
        }
        // There are no translogs to be seen.
        Source::Poll => (TranslogWatcher::blind(), Held::default()),
    };
    readiness.wait_for("Kafka");
    let opened = open_tables(&kafka, node.cluster(), &stop).await;
    let own_tables = match opened {
        Ok(tables) => tables,
        Err(_) if stop.is_cancelled() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let announce = || own_tables.leader_table.publish(&node.announcement);
    let place = "the agent's place in the control topic";
    if until_available(place, announce, &stop).await.is_none() {
        return Ok(());
    }
    let context = Arc::new(Context {
        state_id: StateId::new(opensearch.clone()),
        cluster: node.cluster().clone(),
        board: Arc::new(own_tables.leader_table.clone()),
        log: Arc::new(Publisher::new(kafka.clone(), config.pack_bytes)?),
        kafka,
        watcher,
        opensearch,
        metrics,
        turns: FetchTurns::default(),
        stretch: STRETCH_LENGTH,
        heartbeat: Duration::from_secs(config.heartbeat_seconds),
        cluster_seen: Mutex::new(Instant::now()),
        started: Instant::now(),
        standing: Standing::default(),
    });
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
        own_tables.clone(),
        stop.clone(),
    ));
    let mut agent = Agent::new(node, context, &own_tables, (spools, held), config, &stop);
    let worked = agent.run(&readiness, &stop).await;
    if worked.is_err() {
        sharing.abort();
        return worked;
    }
    info!("stopping");
    agent.supervisor.stop().await;
    until_all_closed(CLOSING).await;
    sharing
        .await
        .context("the sharing of statistics panicked")?;
    Ok(())
}

async fn open_tables(
    kafka: &Kafka,
    cluster: &ClusterUuid,
    stop: &CancellationToken,
) -> Result<Tables, ControlError> {
    let prefix = kafka.topic_prefix();
    let leader_table = ControlTopic::open(kafka, leader_control_topic(prefix), stop).await?;
    let follower_table = ControlTopic::open(kafka, follower_control_topic(prefix), stop).await?;
    Ok(Tables {
        cluster: cluster.clone(),
        leader_table,
        follower_table,
    })
}

/// The agent at work: what it knows of its cluster, and who acts on that.
struct Agent {
    node: LocalNode,
    context: Arc<Context>,
    follower_table: ControlTopic,
    catalog: Catalog,
    supervisor: Supervisor,
    view: ClusterView,
    /// Whether the manager is to be asked for the cluster's state.
    must_ask: bool,
    /// Whether it was said that the cluster has no manager.
    is_told: bool,
    reconcile_by: Instant,
}

impl Agent {
    fn new(
        node: LocalNode,
        context: Arc<Context>,
        tables: &Tables,
        held: (Spools, Held),
        config: &CaptureConfig,
        stop: &CancellationToken,
    ) -> Self {
        let (leader_table, follower_table) = (&tables.leader_table, &tables.follower_table);
        let catalog = Catalog::new(
            node.cluster().clone(),
            leader_table.clone(),
            follower_table.clone(),
            config.roles.clone(),
        );
        let supervisor = Supervisor::new(
            node.clone(),
            Arc::clone(&context),
            leader_table.clone(),
            follower_table.clone(),
            held,
            config,
            stop,
        );
        Self {
            node,
            context,
            follower_table: follower_table.clone(),
            catalog,
            supervisor,
            view: ClusterView::default(),
            must_ask: true,
            is_told: false,
            reconcile_by: Instant::now(),
        }
    }

    async fn run(&mut self, readiness: &Readiness, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut wishes = self.follower_table.changes();
        while !stop.is_cancelled() {
            wishes.mark_unchanged();
            self.look(readiness).await?;
            tokio::select! {
                _ = wishes.changed() => self.reconcile_by = Instant::now(),
                () = tokio::time::sleep(STATE_INTERVAL) => {}
                () = stop.cancelled() => {}
            }
        }
        Ok(())
    }

    /// Looks at the cluster, and does what has changed.
    async fn look(&mut self, readiness: &Readiness) -> anyhow::Result<()> {
        let opensearch = &self.context.opensearch;
        let request = self.catalog.open_request();
        let answers = self.catalog.answers(request.as_ref(), &self.view);
        let asks_manager = self.must_ask || answers;
        let looked = newer_view(opensearch, &self.node, &self.view, asks_manager).await;
        let (newer, is_member) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                self.context.metrics.cluster_errors.inc();
                warn!(%error, "the leader cluster's state is unknown; capture goes on with the last one known");
                return Ok(());
            }
        };
        self.must_ask = false;
        if is_member {
            *self.context.cluster_seen.lock() = Instant::now();
            readiness.ready();
            self.is_told = false;
        } else if !self.is_told && self.context.cluster_seen.lock().elapsed() >= UNMANAGED {
            readiness.wait_for("the leader cluster to have a cluster manager");
            warn!(
                seconds = UNMANAGED.as_secs(),
                "the leader cluster has no cluster manager: its state is unknown"
            );
            self.is_told = true;
        }
        if newer.as_ref().is_some_and(|newer| !newer.is_nodes_own) {
            if is_another(opensearch, &self.node).await {
                self.supervisor.stop().await;
                let reason =
                    "the node beside the agent is another one than before, or of another cluster";
                return Err(StartAgain(reason.to_owned()).into());
            }
            // Its indices are not the ones that are announced.
            self.must_ask = true;
        } else if newer.is_some() || self.reconcile_by <= Instant::now() {
            self.reconcile_by = Instant::now() + RECONCILE_INTERVAL;
            let is_managers = newer.is_some() && asks_manager;
            if let Some(newer) = newer {
                self.view = newer;
            }
            // A manager that was cut off from its cluster would go on with what it knew.
            if is_member {
                let request = request.filter(|_| answers);
                let announced = self
                    .catalog
                    .announce(&self.view, is_managers, request)
                    .await;
                match announced {
                    Ok(announced) => self.must_ask = announced == Announced::AskAnew,
                    Err(error) => {
                        warn!(%error, "the cluster's indices could not be announced")
                    }
                }
                if let Err(error) = self.catalog.announce_again(&self.view).await {
                    let lost = "what the control topic lost could not be announced again";
                    warn!(%error, "{lost}");
                }
            }
            self.supervisor.reconcile(&self.view).await;
        }
        Ok(())
    }
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
