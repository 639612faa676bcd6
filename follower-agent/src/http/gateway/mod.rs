//! The gateway in front of the follower cluster: serves the control API, refuses writes to followed
//! indices as the plugin does, and passes all else through.
//!
//! What it cannot see: a pipeline or a stored script inside the cluster that sends a document to
//! another index, and whatever runs there by itself. Who calls is asked of the cluster
//! ([`security`]) where the configuration wants it.

mod aliases;
mod budget;
mod bulk;
mod bulk_answer;
mod bulk_route;
mod by_query;
mod cluster_settings;
mod creation;
mod encoding;
mod expression;
mod forwarded;
mod inspect;
mod judge;
mod lookup;
mod media;
mod names;
mod paths;
mod reindex;
mod route_table;
mod routes;
mod script;
pub(crate) mod security;
mod serve;
mod structured;
mod upstream;

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::request::Parts;
use http::{Method, Version};

pub use budget::{Budget, Limits};
pub use security::Guard;
pub(crate) use serve::HEAD_TIMEOUT;
pub use serve::serve;
pub use upstream::Upstream;

use crate::http::api::query::Query;
use crate::http::api::render;
use crate::http::api::routes as control;
use by_query::Operation;
use inspect::Inspected;
use judge::Judge;
use lookup::Lookup;
use names::{Followed, KnownAliases, Names};
use routes::{Routed, Scope, Touch, route};
use security::{Caller, Refused};
use shardline::contract::BASE;
use shardline::contract::replication_settings::SettingsStore;
use shardline::contract::{ApiError, ReplicationService};

/// Most that is read and thrown away of a refused body, so that the caller can finish sending and
/// see the answer.
const DRAINED: usize = 16 << 20;

/// What every request needs.
struct Gateway {
    service: Arc<dyn ReplicationService>,
    settings: Arc<dyn SettingsStore>,
    upstream: Upstream,
    budget: Budget,
    guard: Arc<Guard>,
    lookup: Arc<Lookup>,
}

/// One request after its head was read.
struct Call<'a> {
    parts: &'a Parts,
    query: &'a Query,
    followed: Arc<Followed>,
    known_aliases: Arc<KnownAliases>,
}

/// The whole front door: mount it at the root.
pub fn router(
    service: Arc<dyn ReplicationService>,
    settings: Arc<dyn SettingsStore>,
    upstream: Upstream,
    budget: Budget,
    guard: Arc<Guard>,
) -> Router {
    let gateway = Gateway {
        service,
        settings,
        upstream,
        budget,
        guard,
        lookup: Arc::default(),
    };
    Router::new().fallback(answer).with_state(Arc::new(gateway))
}

async fn answer(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query());
    match gateway.answer(&parts, &query, body).await {
        Ok(response) => response,
        Err(error) => render::refusal(&error, &query.rendering()),
    }
}

impl Gateway {
    async fn answer(&self, parts: &Parts, query: &Query, body: Body) -> Result<Response, ApiError> {
        refuse_forms_of_proxies(parts)?;
        let segments = paths::segments(parts.uri.path())?;
        if parts.uri.path().starts_with(BASE) {
            return Ok(control::handle(self.service.as_ref(), &self.guard, parts, body).await);
        }
        let routed = route(&parts.method, &segments, query);
        if routed.touch == Touch::Nothing {
            return self.upstream.forward(parts, body).await;
        }
        // Before anything that the gateway answers by itself.
        let caller = match self.admit(parts, routed.touch).await {
            Ok(caller) => caller,
            Err(refused) => return Ok(refused.into_response(&query.rendering())),
        };
        let call = Call {
            parts,
            query,
            followed: self.service.followed(),
            known_aliases: self.service.followed_aliases(),
        };
        match routed.touch {
            Touch::ReadClusterSettings => self.read_cluster_settings(&call, body).await,
            Touch::WriteClusterSettings => {
                let answer = self.write_cluster_settings(&call, body).await?;
                self.guard.audit(parts, caller.as_ref(), answer.status());
                Ok(answer)
            }
            _ if call.followed.is_empty() => self.upstream.forward(parts, body).await,
            _ => self.judged(&call, routed, body).await,
        }
    }

    /// Who calls, unless they may not go on.
    async fn admit(&self, parts: &Parts, touch: Touch) -> Result<Option<Caller>, Refused> {
        let caller = self.guard.login(parts).await?;
        if touch == Touch::WriteClusterSettings
            && let Err(refused) = self.guard.may_change_settings(parts, caller.as_ref()).await
        {
            self.guard.audit(parts, caller.as_ref(), refused.status());
            return Err(refused);
        }
        Ok(caller)
    }

    /// Answers a request that could touch a followed index.
    async fn judged(
        &self,
        call: &Call<'_>,
        routed: Routed,
        body: Body,
    ) -> Result<Response, ApiError> {
        match routed.touch {
            Touch::Write(scope) => self.write(call, routed.expression(), scope, body).await,
            Touch::Create => self.create(call, routed.expression(), body).await,
            Touch::Resize => {
                let target = routed.name.unwrap_or_default();
                self.create(call, &target, body).await
            }
            Touch::Rollover => self.rollover(call, &routed, body).await,
            Touch::Bulk => self.bulk(call, routed.index, body).await,
            Touch::PutAlias => self.put_alias(call, routed.index, body).await,
            Touch::RemoveAlias => self.remove_alias(call, &routed, body).await,
            Touch::Aliases | Touch::ModifyDataStreams => self.change_names(call, body).await,
            Touch::Reindex => self.reindex(call, body).await,
            Touch::UpdateByQuery => {
                self.by_query(call, routed.expression(), Operation::Update, body)
                    .await
            }
            Touch::DeleteByQuery => {
                self.by_query(call, routed.expression(), Operation::Delete, body)
                    .await
            }
            Touch::DeleteDataStreams => self.delete_data_streams(call, &routed, body).await,
            Touch::RestoreSnapshot => self.restore_snapshot(call, body).await,
            Touch::RestoreRemote => self.restore_remote(call, body).await,
            Touch::Reroute => self.reroute(call, body).await,
            Touch::Sql => self.sql(call, body).await,
            Touch::Nothing | Touch::ReadClusterSettings | Touch::WriteClusterSettings => {
                self.upstream.forward(call.parts, body).await
            }
        }
    }

    async fn write(
        &self,
        call: &Call<'_>,
        expression: &str,
        scope: Scope,
        body: Body,
    ) -> Result<Response, ApiError> {
        if self.is_settled(call, expression, scope) {
            let coverage = call.judge_by_name().cover(expression, scope);
            let answer = self.refuse_or_pass(call, &coverage.followed, body).await;
            if scope == Scope::Concrete {
                // What is left of an alias may be another index now.
                self.lookup.forget().await;
            }
            return answer;
        }
        // What a name stands for is asked when nothing is left to wait for but the cluster.
        let mut charge = self.budget.open();
        let body = inspect::collect(&self.budget, body, &mut charge).await?;
        let coverage = self.judge().await?.cover(expression, scope);
        self.refuse_or_pass(call, &coverage.followed, Body::from(body))
            .await
    }

    async fn refuse_or_pass(
        &self,
        call: &Call<'_>,
        followed: &[String],
        body: Body,
    ) -> Result<Response, ApiError> {
        if followed.is_empty() {
            return self.upstream.forward(call.parts, body).await;
        }
        self.refuse(followed, body).await
    }

    async fn refuse(&self, followed: &[String], body: Body) -> Result<Response, ApiError> {
        // The outcome does not matter: what is left unread only costs the connection.
        drain(body).await;
        Err(ApiError::followed_block(followed))
    }

    /// Whether what the expression covers is known without asking the follower cluster.
    fn is_settled(&self, call: &Call<'_>, expression: &str, scope: Scope) -> bool {
        scope == Scope::Concrete
            || self
                .lookup
                .is_settled(expression, &call.followed, &call.known_aliases)
    }

    /// What is followed and what names stand for now.
    async fn judge(&self) -> Result<Judge, ApiError> {
        let cluster = self.lookup.of_cluster(&self.upstream).await?;
        // Looked at last: the answer may have taken its time.
        let followed = self.service.followed();
        let known = self.service.followed_aliases();
        let names = self.lookup.joined(cluster, &known);
        Ok(Judge { followed, names })
    }

    /// Reads a body that says what the request does.
    async fn inspect(&self, call: &Call<'_>, body: Body) -> Result<Inspected, ApiError> {
        let mut inspected =
            inspect::read(&self.budget, call.parts, call.query, body, false).await?;
        structured::charge(&mut inspected)?;
        Ok(inspected)
    }

    async fn inspect_bulk(&self, call: &Call<'_>, body: Body) -> Result<Inspected, ApiError> {
        inspect::read(&self.budget, call.parts, call.query, body, true).await
    }

    /// Sends an inspected request on, as what it was read as.
    async fn pass_on(&self, call: &Call<'_>, inspected: Inspected) -> Result<Response, ApiError> {
        let path = call.parts.uri.path();
        let headers = inspected.headers(call.parts);
        let body = Body::from(inspected.body());
        self.upstream
            .forward_as(call.parts, &headers, path, body)
            .await
    }

    /// Refuses an inspected request if it touches followed indices, else sends it on.
    async fn refuse_or_pass_on(
        &self,
        call: &Call<'_>,
        followed: BTreeSet<String>,
        inspected: Inspected,
    ) -> Result<Response, ApiError> {
        if followed.is_empty() {
            return self.pass_on(call, inspected).await;
        }
        Err(ApiError::followed_block(
            &followed.into_iter().collect::<Vec<_>>(),
        ))
    }
}

impl Call<'_> {
    /// For names that stand for themselves.
    fn judge_by_name(&self) -> Judge {
        Judge {
            followed: Arc::clone(&self.followed),
            names: Arc::new(Names::default()),
        }
    }
}

/// A target with a host in it is meant for a proxy; OpenSearch knows no such route.
fn refuse_forms_of_proxies(parts: &Parts) -> Result<(), ApiError> {
    let is_absolute = parts.version != Version::HTTP_2 && parts.uri.scheme().is_some();
    if is_absolute || parts.method == Method::CONNECT {
        let uri = parts.uri.to_string();
        return Err(ApiError::no_handler(&uri, parts.method.as_str()));
    }
    Ok(())
}

/// Reads a body and throws it away, up to [`DRAINED`] bytes.
async fn drain(body: Body) {
    use futures::StreamExt;
    let mut read = 0;
    let mut frames = body.into_data_stream();
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(inspect::SILENCE, frames.next()).await {
        read += frame.len();
        if read > DRAINED {
            return;
        }
    }
}
