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
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};

use super::exposition;
use crate::process::config::{ConfigError, LogConfig, LogFormat};

/// What is logged where nothing else is said.
const DEFAULT_FILTER: &str = "info,librdkafka=error";

/// The filter of the logs, to be changed while the agent runs.
pub struct LogFilter(reload::Handle<EnvFilter, tracing_subscriber::Registry>);

impl LogFilter {
    /// Filters as the configuration says from now on.
    pub fn replace(&self, config: &LogConfig) -> Result<(), ConfigError> {
        let filter = filter(config)?;
        // Fails only when the logs are gone, and with them whoever could be told.
        let _ = self.0.reload(filter);
        Ok(())
    }
}

/// Structured logs on standard error: text, or JSON lines with `SHARDLINE_LOG=json`. `RUST_LOG`
/// filters. Both win over the configuration.
pub fn init_logs(config: &LogConfig) -> Result<LogFilter, ConfigError> {
    let (filter, handle) = reload::Layer::new(filter(config)?);
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    match format(config)? {
        LogFormat::Json => registry.with(logs.json()).init(),
        LogFormat::Text => registry.with(logs.with_ansi(false)).init(),
    }
    Ok(LogFilter(handle))
}

/// Finds what is wrong with how logs are to be written.
pub fn check_logs(config: &LogConfig) -> Result<(), ConfigError> {
    filter(config)?;
    format(config).map(drop)
}

fn filter(config: &LogConfig) -> Result<EnvFilter, ConfigError> {
    let variable = std::env::var(EnvFilter::DEFAULT_ENV)
        .ok()
        .filter(|text| !text.is_empty());
    let (key, text) = match (&variable, &config.filter) {
        (Some(text), _) => (EnvFilter::DEFAULT_ENV, text.as_str()),
        (None, Some(text)) => ("log.filter", text.as_str()),
        (None, None) => ("log.filter", DEFAULT_FILTER),
    };
    EnvFilter::try_new(text).map_err(|_| ConfigError::BadValue {
        key,
        expected: "a filter such as info,librdkafka=error",
    })
}

fn format(config: &LogConfig) -> Result<LogFormat, ConfigError> {
    match std::env::var(FORMAT_VARIABLE).as_deref() {
        Ok("json") => Ok(LogFormat::Json),
        Ok("text") => Ok(LogFormat::Text),
        Ok("") | Err(_) => Ok(config.format.unwrap_or_default()),
        Ok(_) => Err(ConfigError::BadValue {
            key: FORMAT_VARIABLE,
            expected: "text or json",
        }),
    }
}

/// Names the form of the logs, over what the configuration says.
const FORMAT_VARIABLE: &str = "SHARDLINE_LOG";

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
