//! The gateway in front of the follower cluster: serves the control API, refuses writes to followed
//! indices as the plugin does, and passes all else through.
//!
//! What it cannot see: a pipeline inside the cluster that sends a document to another index, and
//! whatever runs there by itself. It does not ask who calls either; authentication belongs in front
//! of [`router`].

mod aliases;
mod bulk;
mod bulk_route;
mod by_query;
mod classify;
mod cluster_settings;
mod inspect;
mod paths;
mod resolve;
mod upstream;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use http::request::Parts;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use shardline::contract::replication_settings::SettingsStore;
use shardline::contract::{ApiError, ReplicationService};
use shardline_common::types::IndexName;
use tokio::sync::Mutex;

use crate::http::api::query::Query;
use crate::http::api::{render, routes};
use classify::{RequestKind, Scope, Target, classify};
use resolve::{Aliases, Coverage};

pub use upstream::Upstream;

/// How long an answer about aliases may be used.
const ALIASES_VALID: Duration = Duration::from_secs(1);
/// Most that is read and thrown away of a refused body, so that the caller can finish sending and
/// see the answer.
const DRAINED: usize = 16 << 20;

/// What every request needs.
struct Gateway {
    service: Arc<dyn ReplicationService>,
    settings: Arc<dyn SettingsStore>,
    upstream: Upstream,
    aliases: Mutex<Option<(Instant, Arc<Aliases>)>>,
}

/// One request after its head was read.
struct Call<'a> {
    parts: &'a Parts,
    query: &'a Query,
    followed: Arc<HashSet<IndexName>>,
}

/// The whole front door: mount it at the root.
pub fn router(
    service: Arc<dyn ReplicationService>,
    settings: Arc<dyn SettingsStore>,
    upstream: Upstream,
) -> Router {
    let gateway = Gateway {
        service,
        settings,
        upstream,
        aliases: Mutex::new(None),
    };
    Router::new().fallback(serve).with_state(Arc::new(gateway))
}

async fn serve(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query());
    match gateway.answer(&parts, &query, body).await {
        Ok(response) => response,
        Err(error) => render::refusal(&error, &query.rendering()),
    }
}

impl Gateway {
    async fn answer(&self, parts: &Parts, query: &Query, body: Body) -> Result<Response, ApiError> {
        let segments = paths::segments(parts.uri.path())?;
        let kind = classify(&parts.method, &segments, query);
        let followed = self.service.followed();
        let call = Call {
            parts,
            query,
            followed,
        };
        match kind {
            RequestKind::Control => {
                return Ok(routes::handle(self.service.as_ref(), parts, body).await);
            }
            RequestKind::ReadClusterSettings => {
                return self.read_cluster_settings(&call, body).await;
            }
            RequestKind::WriteClusterSettings => {
                return self.write_cluster_settings(&call, body).await;
            }
            RequestKind::Pass => return self.upstream.forward(parts, body).await,
            _ if call.followed.is_empty() => return self.upstream.forward(parts, body).await,
            _ => {}
        }
        match kind {
            RequestKind::Write(target) => self.write(&call, target, body).await,
            RequestKind::Bulk { default_index } => self.bulk(&call, default_index, body).await,
            RequestKind::PutAlias { expression } => self.put_alias(&call, expression, body).await,
            RequestKind::UpdateAliases => self.update_aliases(&call, body).await,
            RequestKind::Reindex => self.reindex(&call, body).await,
            RequestKind::ByQuery {
                expression,
                operation,
            } => self.by_query(&call, &expression, operation, body).await,
            RequestKind::Control
            | RequestKind::ReadClusterSettings
            | RequestKind::WriteClusterSettings
            | RequestKind::Pass => self.upstream.forward(parts, body).await,
        }
    }

    async fn write(
        &self,
        call: &Call<'_>,
        target: Target,
        body: Body,
    ) -> Result<Response, ApiError> {
        let coverage = self.covered(call, &target.expression, target.scope).await?;
        if coverage.followed.is_empty() {
            return self.upstream.forward(call.parts, body).await;
        }
        // The outcome does not matter: what is left unread only costs the connection.
        let _ = axum::body::to_bytes(body, DRAINED).await;
        Err(ApiError::followed_block(&coverage.followed))
    }

    /// What an expression covers now; asks the follower cluster only where it has to.
    async fn covered(
        &self,
        call: &Call<'_>,
        expression: &str,
        scope: Scope,
    ) -> Result<Coverage, ApiError> {
        let mut names: Vec<String> = Vec::new();
        for element in resolve::elements(expression) {
            match resolve::is_date_math(element) {
                true => names.extend(self.resolve_date_math(element).await?),
                false => names.push(element.to_owned()),
            }
        }
        // An expression that came to nothing is not the empty expression, which stands for all.
        let expression = if names.is_empty() && !expression.is_empty() {
            "-".to_owned()
        } else {
            names.join(",")
        };
        let aliases = match resolve::needs_aliases(&expression, scope, &call.followed) {
            true => self.aliases().await?,
            false => Arc::default(),
        };
        Ok(resolve::cover(&expression, scope, &call.followed, &aliases))
    }

    /// Names of the indices that a date math expression stands for now.
    async fn resolve_date_math(&self, element: &str) -> Result<Vec<String>, ApiError> {
        let encoded = utf8_percent_encode(element, NON_ALPHANUMERIC);
        let answer = self
            .upstream
            .ask(
                &format!("/{encoded}/_alias"),
                Some("ignore_unavailable=true"),
            )
            .await?;
        match answer.status {
            StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Ok(Vec::new()),
            status if status.is_success() => Ok(read_lookup(&answer.body)?
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| name.clone())
                .collect()),
            status => Err(lookup_failed(&format!("status {status}"))),
        }
    }

    /// Aliases of the follower cluster, at most [`ALIASES_VALID`] old. Callers that wait share one
    /// question.
    async fn aliases(&self) -> Result<Arc<Aliases>, ApiError> {
        let mut known = self.aliases.lock().await;
        if let Some((asked, aliases)) = known.as_ref()
            && asked.elapsed() < ALIASES_VALID
        {
            return Ok(Arc::clone(aliases));
        }
        let asked = Instant::now();
        let answer = self.upstream.ask("/_alias/*", None).await?;
        let aliases = match answer.status {
            StatusCode::NOT_FOUND => Arc::default(),
            status if status.is_success() => {
                Arc::new(Aliases::from_answer(&read_lookup(&answer.body)?))
            }
            status => return Err(lookup_failed(&format!("status {status}"))),
        };
        *known = Some((asked, Arc::clone(&aliases)));
        Ok(aliases)
    }

    /// After a change of aliases through this gateway.
    async fn forget_aliases(&self) {
        *self.aliases.lock().await = None;
    }
}

fn read_lookup(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|error| lookup_failed(&error.to_string()))
}

/// Without knowing what a name stands for a write cannot be let through.
fn lookup_failed(detail: &str) -> ApiError {
    let reason =
        format!("the gateway could not ask the follower cluster for its aliases: {detail}");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "status_exception", reason)
}
