//! The agent's life: wait for the follower cluster and Kafka, then follow, and serve the gateway,
//! until told to stop.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::middleware;
use base64::Engine as _;
use prometheus::Registry;
use serde::Deserialize;
use shardline_common::backoff::until_available;
use shardline_common::config::{OpenSearchConfig, Secret};
use shardline_common::exposition;
use shardline_common::kafka::Kafka;
use shardline_common::opensearch::{OpenSearch, proxy_client};
use shardline_common::telemetry::{self, Readiness};
use shardline_common::types::ClusterUuid;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::FollowerConfig;
use crate::control::OwnGateway;
use crate::engine::{Engine, Parts};
use crate::http::gateway::{self, Upstream};
use crate::http::measure;
use crate::http::page;
use crate::http::peers::{self, Peers};
use crate::metrics::Metrics;
use crate::progress::CheckpointStore;

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
    let Some(cluster) = wait_for_cluster(&opensearch, &stop).await else {
        return Ok(());
    };
    readiness.wait_for("Kafka");
    let proxy = proxy_client(&config.opensearch)?;
    let parts = Parts {
        opensearch,
        kafka,
        checkpoints,
        metrics,
        own_gateway: OwnGateway::new(config.gateway.own_address(), proxy.clone()),
        address: config.gateway.address(),
        repository: config.bootstrap.repository.clone(),
        share_within: Duration::from_secs(config.bootstrap.share_seconds),
        aliases: config.aliases.clone(),
    };
    let Some(engine) = Engine::start(parts, cluster, stop.clone()).await? else {
        return Ok(());
    };
    let upstream = upstream(&config.opensearch)?;
    let peers = Arc::new(Peers {
        slots: Arc::clone(engine.slots()),
        group: Arc::clone(engine.group()),
        client: proxy,
    });
    let settings = Arc::new(engine.settings().clone());
    let gateway = gateway::router(engine.service(), settings, upstream)
        .layer(middleware::from_fn_with_state(peers, peers::route))
        .layer(middleware::from_fn_with_state(measured, measure::measure));
    let front = tokio::spawn(telemetry::serve(front, gateway, stop.clone()));
    // Set once, here.
    let _ = page.set(engine.service());
    readiness.ready();
    info!(gateway = %config.gateway.listen, admin = %config.admin.listen, "ready");
    engine.run().await?;
    match tokio::time::timeout(GATEWAY_GRACE, front).await {
        Ok(ended) => ended
            .context("the gateway panicked")?
            .context("the gateway failed")?,
        Err(_) => warn!("requests through the gateway are still under way and are cut off"),
    }
    end.cancel();
    admin
        .await
        .context("the admin server panicked")?
        .context("the admin server failed")
}

fn upstream(config: &OpenSearchConfig) -> anyhow::Result<Upstream> {
    let url = reqwest::Url::parse(&config.url)
        .with_context(|| format!("opensearch.url {:?}", config.url))?;
    let upstream = Upstream::new(url, proxy_client(config)?);
    let Some(username) = &config.username else {
        return Ok(upstream);
    };
    let password = config.password.as_ref().map_or("", Secret::reveal);
    let login = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    let mut header = http::HeaderValue::try_from(format!("Basic {login}"))?;
    header.set_sensitive(true);
    Ok(upstream.with_authorization(header))
}

fn open_checkpoints(data_dir: &Path) -> anyhow::Result<CheckpointStore> {
    std::fs::create_dir_all(data_dir).with_context(|| {
        format!(
            "the folder {} (storage.data_dir) cannot be made",
            data_dir.display()
        )
    })?;
    Ok(CheckpointStore::open(&data_dir.join("checkpoints"))?)
}

#[derive(Deserialize)]
struct Root {
    cluster_uuid: ClusterUuid,
}

async fn wait_for_cluster(
    opensearch: &OpenSearch,
    stop: &CancellationToken,
) -> Option<ClusterUuid> {
    let ask = || async {
        let cluster = opensearch.get::<Root>("/").await?.cluster_uuid;
        ensure!(
            cluster.is_formed(),
            "the follower cluster has not formed yet"
        );
        Ok(cluster)
    };
    until_available("the follower cluster", ask, stop).await
}
