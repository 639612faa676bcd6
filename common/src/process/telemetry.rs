//! Logs, and the admin server with `/metrics`, `/health` and `/ready`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use parking_lot::RwLock;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::exposition;

/// Structured logs on standard error: text, or JSON lines with `SHARDLINE_LOG=json`. `RUST_LOG`
/// filters.
pub fn init_logs() {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,librdkafka=error"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::env::var("SHARDLINE_LOG").is_ok_and(|format| format == "json") {
        logs.json().init();
    } else {
        logs.with_ansi(false).init();
    }
}

/// What an agent is waiting for before it can do its work; empty when it is ready.
#[derive(Clone)]
pub struct Readiness(Arc<RwLock<Option<String>>>);

impl Readiness {
    pub fn waiting_for(what: &str) -> Self {
        Self(Arc::new(RwLock::new(Some(what.to_owned()))))
    }

    pub fn wait_for(&self, what: &str) {
        *self.0.write() = Some(what.to_owned());
    }

    pub fn ready(&self) {
        *self.0.write() = None;
    }

    fn answer(&self) -> (StatusCode, String) {
        match &*self.0.read() {
            None => (StatusCode::OK, "ready\n".to_owned()),
            Some(what) => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("waiting for {what}\n"),
            ),
        }
    }
}

/// Binds a listener, with an error that names the configuration key.
pub async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| BindError {
            key,
            address,
            source,
        })
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({key}): {source}")]
pub struct BindError {
    key: &'static str,
    address: SocketAddr,
    source: std::io::Error,
}

/// The admin routes; an agent adds its own.
pub fn admin_router(registry: Registry, readiness: Readiness) -> Router {
    Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(move || async move { readiness.answer() }))
        .route(
            "/metrics",
            get(move |headers: HeaderMap| async move { exposition::answer(&registry, &headers) }),
        )
}

/// Serves until cancelled; requests under way are finished.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) -> std::io::Result<()> {
    axum::serve(listener, router)
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await
}

/// Resolves on SIGTERM or SIGINT.
pub async fn terminated() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
