//! The agent's life: wait for the follower cluster and Kafka, then follow, and serve the gateway,
//! until told to stop.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::middleware;
use prometheus::Registry;
use shardline::contract::ReplicationService;
use shardline_common::backoff::until_available;
use shardline_common::config::{OpenSearchConfig, base_url};
use shardline_common::exposition;
use shardline_common::kafka::{ControlError, ControlTopic, Derived, Kafka};
use shardline_common::lease::lease;
use shardline_common::opensearch::{OpenSearch, proxy_client};
use shardline_common::preflight::Root;
use shardline_common::telemetry::{self, Readiness};
use shardline_common::topic::{dead_letter_topic, follower_control_topic, leader_control_topic};
use shardline_common::types::{ClusterUuid, Offset};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{FollowerConfig, GatewayConfig, SecurityConfig, SecurityMode};
use crate::control::{
    Leaders, OwnGateway, Subscriptions, auto_follow, bulk_tasks, leader_watch, tidy_requests,
    verify,
};
use crate::http::gateway::security::{self, Grant, Grants};
use crate::http::gateway::{self, Budget, Guard, Limits, Upstream};
use crate::http::measure;
use crate::http::page::{self, Page};
use crate::http::peers::{self, Peers};
use crate::index::{AgentContext, ControlSettings, SnapshotRequests};
use crate::membership::{Group, Membership, Positions, Slots};
use crate::metrics::Metrics;
use crate::progress::{CHECKPOINTS_FOLDER, CheckpointStore};
use crate::read::Streams;

/// How long requests through the gateway may take to end when the agent stops.
const GATEWAY_GRACE: Duration = Duration::from_secs(10);
/// How often progress is written into the metrics.
const METRICS_INTERVAL: Duration = Duration::from_secs(1);

/// Runs until `stop` is cancelled.
pub async fn run(config: FollowerConfig, stop: CancellationToken) -> anyhow::Result<()> {
    let registry = Registry::new();
    exposition::register_process(&registry, env!("CARGO_PKG_VERSION"))?;
    let metrics = Arc::new(Metrics::register(&registry)?);
    let measured = Arc::clone(&metrics);
    let readiness = Readiness::waiting_for("the follower cluster");
    let admin = telemetry::bind("admin.listen", config.admin.listen).await?;
    let front = telemetry::bind("gateway.listen", config.gateway.listen).await?;
    let checkpoints = open_checkpoints(&config.storage.data_dir)?;
    let opensearch = OpenSearch::new(&config.opensearch)?;
    let kafka = Kafka::new(config.kafka.clone())?;

    // The streams and tables outlive the signal to stop, until the last checkpoint is saved.
    let end = CancellationToken::new();
    let page = Arc::new(std::sync::OnceLock::new());
    let routes =
        telemetry::admin_router(registry, readiness.clone()).merge(page::router(Arc::clone(&page)));
    let admin = tokio::spawn(telemetry::serve(admin, routes, end.clone()));
    let sampling = tokio::spawn(page::sample(Arc::clone(&page), stop.clone()));
    let Some(cluster) = wait_for_cluster(&opensearch, &stop).await else {
        return Ok(());
    };
    readiness.wait_for("Kafka");
    let prefix = kafka.topic_prefix().to_owned();
    let opened = async {
        let leader_table = ControlTopic::open(&kafka, leader_control_topic(&prefix), &stop).await?;
        let follower_table =
            ControlTopic::open(&kafka, follower_control_topic(&prefix), &stop).await?;
        let dead_letters =
            ControlTopic::open(&kafka, dead_letter_topic(&prefix, &cluster), &stop).await?;
        Ok::<_, ControlError>((leader_table, follower_table, dead_letters))
    };
    let (leader_table, follower_table, dead_letters) = match opened.await {
        Ok(tables) => tables,
        Err(_) if stop.is_cancelled() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if until_available(
        "the slots topic",
        || Group::make_slots(&kafka, &cluster),
        &stop,
    )
    .await
    .is_none()
    {
        return Ok(());
    }
    let (keeper, lease) = lease();
    let (acted, own_acted) = watch::channel(Offset(-1));
    let (slots, positions) = (Arc::new(Slots::default()), Arc::new(Positions::default()));
    let membership = Membership {
        cluster: cluster.clone(),
        address: config.gateway.address(),
        slots: Arc::clone(&slots),
        positions: Arc::clone(&positions),
        lease: keeper,
        acted: own_acted,
    };
    let (group, rebalances) = Group::join(&kafka, membership)?;
    let share_within = Duration::from_secs(config.bootstrap.share_seconds);
    let requests = SnapshotRequests {
        table: follower_table.clone(),
        cluster: cluster.clone(),
        share_within,
    };
    let reading = kafka.consumer(&format!("{prefix}.{cluster}"));
    let context = Arc::new(AgentContext {
        requests,
        repository: config.bootstrap.repository.clone(),
        opensearch: opensearch.clone().under(lease.clone()),
        streams: Streams::of_shards(
            reading.clone(),
            metrics.waiting_partitions.clone(),
            end.clone(),
        ),
        copies: Streams::of_copies(reading, metrics.waiting_partitions.clone(), end.clone()),
        kafka,
        checkpoints,
        slots: Arc::clone(&slots),
        positions,
        group: Arc::clone(&group),
        lease,
        leader_table: leader_table.clone(),
        follower_table: follower_table.clone(),
        dead_letters,
        subscription_ids: Derived::default(),
        memory: Arc::default(),
        metrics,
        changing: Mutex::new(()),
    });
    let leaders = Leaders {
        opensearch,
        leader_table: leader_table.clone(),
        follower_table: follower_table.clone(),
        aliases: config.aliases.clone(),
    };
    let settings = ControlSettings::new(follower_table, cluster.clone());
    let upstream = upstream(&config.opensearch)?;
    let Some(guard) = guard(&config.gateway.security, &upstream, &stop).await? else {
        return Ok(());
    };
    let guard = Arc::new(guard);
    let own_gateway = OwnGateway::new(
        config.gateway.own_address(),
        proxy_client(&config.opensearch)?,
        guard
            .is_on()
            .then(|| config.opensearch.authorization.clone()),
    );
    let subscriptions = Subscriptions::new(
        context,
        leaders,
        settings.clone(),
        own_gateway,
        cluster.clone(),
        acted,
        stop.clone(),
    );
    let following = tokio::spawn({
        let subscriptions = Arc::clone(&subscriptions);
        async move { subscriptions.run().await }
    });
    let left = CancellationToken::new();
    let member = tokio::spawn({
        let (group, left) = (Arc::clone(&group), left.clone());
        async move { group.run(rebalances, left).await }
    });
    let service: Arc<dyn ReplicationService> = subscriptions.clone();
    let peers = Arc::new(Peers {
        slots,
        group,
        client: proxy_client(&config.opensearch)?,
        guard: Arc::clone(&guard),
    });
    let budget = Budget::new(limits(&config.gateway));
    let gateway = gateway::router(
        Arc::clone(&service),
        Arc::new(settings),
        upstream,
        budget.clone(),
        Arc::clone(&guard),
    )
    .layer(middleware::from_fn_with_state(peers, peers::route))
    .layer(middleware::from_fn_with_state(measured, measure::measure));
    // Set once, here.
    let _ = page.set(Page {
        overview: subscriptions.clone(),
        sight: Box::new(page::Guarded(guard)),
        gateway: gateway.clone(),
        address: config.gateway.address(),
        actions: page::Actions {
            is_on: config.admin.actions,
            hosts: config.admin.known_hosts(),
        },
        kept: page::Kept::default(),
    });
    let front = tokio::spawn(gateway::serve(front, gateway, budget, stop.clone()));
    let rules = tokio::spawn(auto_follow::run(Arc::clone(&subscriptions), stop.clone()));
    let tasks = tokio::spawn(bulk_tasks::run(Arc::clone(&subscriptions), stop.clone()));
    let verifications = tokio::spawn(verify::run(Arc::clone(&subscriptions), stop.clone()));
    let tidying = tokio::spawn(tidy_requests::run(Arc::clone(&subscriptions), stop.clone()));
    let watch = tokio::spawn(leader_watch::run(
        Arc::clone(&subscriptions),
        leader_table,
        stop.clone(),
    ));
    readiness.ready();
    info!(gateway = %config.gateway.listen, admin = %config.admin.listen, "ready");
    while !stop.is_cancelled() {
        subscriptions.hear_others().await;
        subscriptions.hear_captures();
        subscriptions.export_metrics();
        tokio::select! {
            () = tokio::time::sleep(METRICS_INTERVAL) => {}
            () = stop.cancelled() => {}
        }
    }
    info!("stopping");
    following
        .await
        .context("the control topic's follower panicked")?;
    subscriptions.shut_down().await;
    left.cancel();
    member
        .await
        .context("the consumer group's member panicked")?;
    match tokio::time::timeout(GATEWAY_GRACE, front).await {
        Ok(ended) => ended
            .context("the gateway panicked")?
            .context("the gateway failed")?,
        Err(_) => warn!("requests through the gateway are still under way and are cut off"),
    }
    watch.await.context("the leader watch panicked")?;
    rules.await.context("auto-follow panicked")?;
    tasks.await.context("a bulk task panicked")?;
    tidying.await.context("the tidying of requests panicked")?;
    verifications.await.context("a verification panicked")?;
    sampling.await.context("the page's samples panicked")?;
    end.cancel();
    admin
        .await
        .context("the admin server panicked")?
        .context("the admin server failed")
}

fn limits(config: &GatewayConfig) -> Limits {
    Limits {
        max_content: config.max_content_mib << 20,
        max_inspected: config.max_inspected_mib << 20,
        max_connections: config.max_connections,
        head_timeout: gateway::HEAD_TIMEOUT,
    }
}

fn upstream(config: &OpenSearchConfig) -> anyhow::Result<Upstream> {
    let url = base_url("opensearch.url", &config.url)?;
    let upstream = Upstream::new(url, proxy_client(config)?);
    Ok(upstream.with_authorization(config.authorization.clone()))
}

/// What stands before the gateway; `None` if stopped before it is known whether the cluster has
/// the security plugin.
async fn guard(
    config: &SecurityConfig,
    upstream: &Upstream,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Guard>> {
    let ask = || security::has_plugin(upstream);
    let has_plugin = match config.mode {
        Some(SecurityMode::Off) => false,
        _ => match until_available("the follower cluster's security plugin", ask, stop).await {
            Some(has_plugin) => has_plugin,
            None => return Ok(None),
        },
    };
    let mode = config.mode.map(|mode| match mode {
        SecurityMode::Plugin => security::Mode::Plugin,
        SecurityMode::Off => security::Mode::Off,
    });
    let grants = config.roles.iter().map(|(role, grant)| {
        let (operations, indices) = (grant.operations.clone(), grant.indices.clone());
        (
            role.clone(),
            Grant {
                operations,
                indices,
            },
        )
    });
    let grants = Grants::new(grants.collect());
    let guard = security::guard(mode, has_plugin, upstream.clone(), grants)?;
    if !guard.is_on() {
        warn!("nobody is asked who they are: whoever reaches the gateway controls replication");
    }
    Ok(Some(guard))
}

fn open_checkpoints(data_dir: &Path) -> anyhow::Result<CheckpointStore> {
    std::fs::create_dir_all(data_dir).with_context(|| {
        format!(
            "the folder {} (storage.data_dir) cannot be made",
            data_dir.display()
        )
    })?;
    Ok(CheckpointStore::open(&data_dir.join(CHECKPOINTS_FOLDER))?)
}

async fn wait_for_cluster(
    opensearch: &OpenSearch,
    stop: &CancellationToken,
) -> Option<ClusterUuid> {
    let ask = || async {
        let root = opensearch.get::<Root>("/").await?;
        root.supported()?;
        let cluster = root.cluster_uuid;
        ensure!(
            cluster.is_formed(),
            "the follower cluster has not formed yet"
        );
        Ok(cluster)
    };
    until_available("the follower cluster", ask, stop).await
}
