//! The agent's life: wait for the follower cluster and Kafka, then follow, and serve the gateway,
//! until told to stop.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::middleware;
use prometheus::Registry;
use shardline_common::backoff::until_available;
use shardline_common::config::{OpenSearchConfig, base_url};
use shardline_common::exposition;
use shardline_common::kafka::Kafka;
use shardline_common::opensearch::{OpenSearch, proxy_client};
use shardline_common::preflight::Root;
use shardline_common::telemetry::{self, Readiness};
use shardline_common::types::ClusterUuid;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{FollowerConfig, GatewayConfig, SecurityConfig, SecurityMode};
use crate::control::OwnGateway;
use crate::engine::{Engine, Parts};
use crate::http::gateway::security::{self, Grant, Grants};
use crate::http::gateway::{self, Budget, Guard, Limits, Upstream};
use crate::http::measure;
use crate::http::page::{self, Page};
use crate::http::peers::{self, Peers};
use crate::metrics::Metrics;
use crate::progress::{CHECKPOINTS_FOLDER, CheckpointStore};

/// How long requests through the gateway may take to end when the agent stops.
const GATEWAY_GRACE: Duration = Duration::from_secs(10);

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

    // The admin server outlives the signal to stop, until the last checkpoint is saved.
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
    let proxy = proxy_client(&config.opensearch)?;
    let upstream = upstream(&config.opensearch)?;
    let Some(guard) = guard(&config.gateway.security, &upstream, &stop).await? else {
        return Ok(());
    };
    let guard = Arc::new(guard);
    let own_login = guard
        .is_on()
        .then(|| config.opensearch.authorization.clone());
    let own_gateway = OwnGateway::new(config.gateway.own_address(), proxy.clone(), own_login);
    let parts = Parts {
        opensearch,
        kafka,
        checkpoints,
        metrics,
        own_gateway,
        address: config.gateway.address(),
        repository: config.bootstrap.repository.clone(),
        share_within: Duration::from_secs(config.bootstrap.share_seconds),
        aliases: config.aliases.clone(),
    };
    let Some(engine) = Engine::start(parts, cluster, stop.clone()).await? else {
        return Ok(());
    };
    let peers = Arc::new(Peers {
        slots: Arc::clone(engine.slots()),
        group: Arc::clone(engine.group()),
        client: proxy,
        guard: Arc::clone(&guard),
    });
    let settings = Arc::new(engine.settings().clone());
    let budget = Budget::new(limits(&config.gateway));
    let (service, is_asked) = (engine.service(), Arc::clone(&guard));
    let gateway = gateway::router(service, settings, upstream, budget.clone(), is_asked)
        .layer(middleware::from_fn_with_state(peers, peers::route))
        .layer(middleware::from_fn_with_state(measured, measure::measure));
    // Set once, here.
    let _ = page.set(Page {
        overview: engine.overview(),
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
    readiness.ready();
    info!(gateway = %config.gateway.listen, admin = %config.admin.listen, "ready");
    engine.run().await?;
    match tokio::time::timeout(GATEWAY_GRACE, front).await {
        Ok(ended) => ended
            .context("the gateway panicked")?
            .context("the gateway failed")?,
        Err(_) => warn!("requests through the gateway are still under way and are cut off"),
    }
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
