//! Any agent answers any call: one that another agent has to carry out is passed on to it, through
//! its gateway.
//!
//! Calls that change an index belong to the agent that holds the index's slot, calls on the whole
//! cluster to the one that holds [`Slot::CLUSTER`]. What is only read every agent knows itself.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderName};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use serde_json::Value;
use shardline::contract::{ApiError, BASE};
use shardline_common::types::IndexName;
use tokio::time::Instant;
use tracing::debug;

use super::api::query::{Query, decode_component};
use crate::http::api::render;
use crate::http::gateway::Guard;
use crate::membership::{Group, Slot, Slots};

/// Marks a call that was passed on. In the answer: the agent did not carry it out, as it does not
/// hold the slot.
const PASSED_ON: HeaderName = HeaderName::from_static("x-shardline-passed-on");
/// How long to look for the agent that holds a slot: longer than it takes to give a dead one's
/// slots to another.
const PATIENCE: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_millis(200);
/// Largest body of a call that is passed on, in bytes.
const MAX_BODY: usize = 10 << 20;
/// Largest body of cluster settings whose keys are looked at, in bytes.
const MAX_SETTINGS: usize = 1 << 20;
/// How long an agent may take for a call: longer than any call does.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

pub(crate) struct Peers {
    pub slots: Arc<Slots>,
    pub group: Arc<Group>,
    pub client: reqwest::Client,
    pub guard: Arc<Guard>,
}

enum Passed {
    Answer(Box<Response>),
    /// To be tried again: the agent is gone, or not the right one.
    Elsewhere(String),
}

/// The slot of a call that only its holder can carry out.
fn slot_of(method: &Method, path: &str) -> Option<Slot> {
    if let Some(rest) = path.strip_prefix(BASE) {
        let mut segments = rest.strip_suffix('/').unwrap_or(rest).split('/');
        return match (segments.next(), segments.next()) {
            (Some(_), Some("_status"))
            | (Some("_status" | "_openapi" | "leader_stats" | "follower_stats"), None) => None,
            (Some(index), Some(_)) if !index.starts_with('_') => {
                Some(Slot::of_index(&IndexName(decode_component(index))))
            }
            _ => Some(Slot::CLUSTER),
        };
    }
    is_cluster_settings(method, path).then_some(Slot::CLUSTER)
}

fn is_cluster_settings(method: &Method, path: &str) -> bool {
    method == Method::PUT && path.trim_end_matches('/') == "/_cluster/settings"
}

/// Whether cluster settings may have any of `plugins.replication.*`; those that cannot are the
/// follower cluster's alone, and needed when something is wrong.
fn may_be_ours(body: &[u8]) -> bool {
    if body.len() > MAX_SETTINGS {
        return true;
    }
    serde_json::from_slice(body).map_or(true, |settings: Value| has_own_key(&settings))
}

/// A pattern may mean them.
fn has_own_key(settings: &Value) -> bool {
    settings
        .as_object()
        .into_iter()
        .flatten()
        .any(|(key, value)| key.contains("replication") || key.contains('*') || has_own_key(value))
}

/// Passes a call on or lets it through to this agent's own gateway.
pub(crate) async fn route(
    State(peers): State<Arc<Peers>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(slot) = slot_of(request.method(), request.uri().path()) else {
        return next.run(request).await;
    };
    if peers.slots.holds(slot) {
        return next.run(request).await;
    }
    let rendering = Query::parse(request.uri().query()).rendering();
    if request.headers().contains_key(&PASSED_ON) {
        let mut response = render::refusal(
            &unavailable("this agent does not look after it"),
            &rendering,
        );
        response
            .headers_mut()
            .insert(PASSED_ON, HeaderValue::from_static("elsewhere"));
        return response;
    }
    let (parts, body) = request.into_parts();
    // Nobody else hears whether and why a call cannot be passed on.
    if let Err(refused) = peers.guard.login(&parts).await {
        return refused.into_response(&rendering);
    }
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY).await else {
        return render::refusal(&ApiError::too_large(MAX_BODY), &rendering);
    };
    if is_cluster_settings(&parts.method, parts.uri.path()) && !may_be_ours(&body) {
        return next.run(Request::from_parts(parts, Body::from(body))).await;
    }
    let until = Instant::now() + PATIENCE;
    loop {
        if peers.slots.holds(slot) {
            return next.run(Request::from_parts(parts, Body::from(body))).await;
        }
        let reason = match peers.pass_on(slot, &parts, &body).await {
            Passed::Answer(response) => return *response,
            Passed::Elsewhere(reason) => reason,
        };
        if Instant::now() >= until {
            return render::refusal(&unavailable(&reason), &rendering);
        }
        debug!(slot = slot.0, reason, "a call is not passed on yet");
        tokio::time::sleep(RETRY).await;
    }
}

impl Peers {
    async fn pass_on(&self, slot: Slot, parts: &Parts, body: &Bytes) -> Passed {
        let holders = match self.group.holders().await {
            Ok(holders) => holders,
            Err(error) => return Passed::Elsewhere(error.to_string()),
        };
        let Some(holder) = holders.get(&slot) else {
            return Passed::Elsewhere("nobody looks after it yet".to_owned());
        };
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = self
            .client
            .request(parts.method.clone(), format!("{}{path}", holder.address));
        for (name, value) in &parts.headers {
            if *name != HOST && *name != CONTENT_LENGTH {
                request = request.header(name, value);
            }
        }
        let answer = match request
            .header(PASSED_ON, "1")
            .timeout(ANSWER_TIMEOUT)
            .body(body.clone())
            .send()
            .await
        {
            Ok(answer) => answer,
            Err(error) if error.is_connect() => {
                return Passed::Elsewhere(format!(
                    "the agent at {} does not answer",
                    holder.address
                ));
            }
            Err(error) => {
                let reason = format!(
                    "the agent at {} stopped answering ({error}); it may have carried the call out",
                    holder.address
                );
                return Passed::Answer(Box::new(render::refusal(
                    &unavailable(&reason),
                    &Query::parse(None).rendering(),
                )));
            }
        };
        if answer.headers().contains_key(&PASSED_ON) {
            return Passed::Elsewhere(format!(
                "the agent at {} no longer looks after it",
                holder.address
            ));
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        response
            .headers_mut()
            .remove(http::header::TRANSFER_ENCODING);
        *response.body_mut() = Body::from_stream(answer.bytes_stream());
        Passed::Answer(Box::new(response))
    }
}

fn unavailable(reason: &str) -> ApiError {
    let reason =
        format!("the follower agent that carries this call out cannot be reached: {reason}");
    ApiError::status_exception(StatusCode::SERVICE_UNAVAILABLE, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_belong_to_their_index_or_to_the_cluster() {
        let slot = |method: Method, path: &str| slot_of(&method, path);
        let books = Some(Slot::of_index(&"books-ü".into()));
        assert_eq!(
            slot(Method::PUT, "/_plugins/_replication/books-%C3%BC/_start"),
            books
        );
        assert_eq!(
            slot(Method::POST, "/_plugins/_replication/books-%C3%BC/_stop/"),
            books
        );
        assert_eq!(
            slot(Method::GET, "/_plugins/_replication/books/_status"),
            None
        );
        assert_eq!(slot(Method::GET, "/_plugins/_replication/_status"), None);
        assert_eq!(
            slot(Method::GET, "/_plugins/_replication/follower_stats"),
            None
        );
        assert_eq!(
            slot(Method::POST, "/_plugins/_replication/_autofollow"),
            Some(Slot::CLUSTER)
        );
        assert_eq!(
            slot(Method::POST, "/_plugins/_replication/_bulk/_start"),
            Some(Slot::CLUSTER)
        );
        assert_eq!(slot(Method::PUT, "/_cluster/settings"), Some(Slot::CLUSTER));
        assert_eq!(slot(Method::GET, "/_cluster/settings"), None);
        assert_eq!(slot(Method::PUT, "/books/_doc/1"), None);
    }

    #[test]
    fn cluster_settings_without_ours_need_no_other_agent() {
        let ours = |body: &str| may_be_ours(body.as_bytes());
        assert!(!ours(
            r#"{"persistent": {"cluster.routing.allocation.enable": "none"}}"#
        ));
        assert!(!ours(
            r#"{"persistent": {"cluster.routing.allocation.exclude._name": "node-*"}}"#
        ));
        assert!(ours(
            r#"{"persistent": {"plugins": {"replication.autofollow.fetch_poll_interval": "1m"}}}"#
        ));
        assert!(ours(r#"{"transient": {"plugins.*": null}}"#));
        assert!(ours(
            r#"{"transient": {"plugins.repl\u0069cation.x": null}}"#
        ));
        assert!(ours("not JSON"));
    }
}
