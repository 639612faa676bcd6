//! The routes below `/_plugins/_replication`, with OpenSearch's conventions for methods, parameters and bodies.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use shardline_common::types::IndexName;

use super::error::ApiError;
use super::query::{Query, decode_component};
use super::render;
use super::request::{PauseRequest, ResumeRequest, StartBody, StopRequest, UpdateRequest};
use super::service::ReplicationService;

/// Path under which all routes lie.
pub const BASE: &str = "/_plugins/_replication/";
/// Largest body of a control call, in bytes.
const MAX_BODY: usize = 10 << 20;
const CLUSTER_MANAGER_TIMEOUT: &str = "cluster_manager_timeout";

/// A route of one index. Routes of the whole cluster (auto-follow, stats, bulk) have no index and one segment less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Start,
    Stop,
    Pause,
    Resume,
    Update,
    Status,
}

impl Endpoint {
    /// The endpoint, its index and the only method it takes.
    fn find(path: &str) -> Option<(Self, String)> {
        let rest = path.strip_prefix(BASE)?;
        let mut segments = rest.strip_suffix('/').unwrap_or(rest).split('/');
        let (first, second) = (segments.next()?, segments.next());
        if segments.next().is_some() {
            return None;
        }
        let endpoint = match second? {
            "_start" => Self::Start,
            "_stop" => Self::Stop,
            "_pause" => Self::Pause,
            "_resume" => Self::Resume,
            "_update" => Self::Update,
            "_status" => Self::Status,
            _ => return None,
        };
        Some((endpoint, decode_component(first)))
    }

    fn method(self) -> &'static str {
        match self {
            Self::Start | Self::Update => "PUT",
            Self::Stop | Self::Pause | Self::Resume => "POST",
            Self::Status => "GET",
        }
    }

    fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Start => &["wait_for_restore", CLUSTER_MANAGER_TIMEOUT],
            Self::Stop | Self::Pause | Self::Resume => &[CLUSTER_MANAGER_TIMEOUT],
            Self::Update => &[
                "timeout",
                "master_timeout",
                CLUSTER_MANAGER_TIMEOUT,
                "expand_wildcards",
                "ignore_unavailable",
                "allow_no_indices",
                "ignore_throttled",
            ],
            Self::Status => &["verbose"],
        }
    }
}

/// A call whose request has been read; what is left are checks on content, and the deed.
enum Call {
    Start { body: StartBody, wait_for_restore: bool },
    Stop,
    Pause(PauseRequest),
    Resume(ResumeRequest),
    Update(UpdateRequest),
    Status { verbose: bool },
}

/// The control API alone; the gateway serves the same routes beside the follower cluster's own.
pub fn router(service: Arc<dyn ReplicationService>) -> Router {
    Router::new().fallback(serve).with_state(service)
}

async fn serve(State(service): State<Arc<dyn ReplicationService>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    handle(service.as_ref(), &parts, body).await
}

/// Answers one request to a path below [`BASE`].
pub async fn handle(service: &dyn ReplicationService, parts: &Parts, body: Body) -> Response {
    let query = Query::parse(parts.uri.query());
    let rendering = query.rendering();
    match answer(service, parts, &query, body).await {
        Ok(value) => render::json(StatusCode::OK, &value, &rendering),
        Err(error) => error.respond(&rendering),
    }
}

async fn answer(service: &dyn ReplicationService, parts: &Parts, query: &Query, body: Body) -> Result<Value, ApiError> {
    let uri = parts.uri.path_and_query().map_or(parts.uri.path(), |whole| whole.as_str());
    let Some((endpoint, index)) = Endpoint::find(parts.uri.path()) else {
        return Err(ApiError::no_handler(uri, parts.method.as_str()));
    };
    if parts.method.as_str() != endpoint.method() {
        return Err(ApiError::method_not_allowed(uri, parts.method.as_str(), endpoint.method()));
    }
    let body = axum::body::to_bytes(body, MAX_BODY).await.map_err(|_| ApiError::too_large(MAX_BODY))?;
    query.check_rendering()?;
    let call = parse(endpoint, &parts.headers, query, body)?;
    query.check_known(parts.uri.path(), endpoint.parameters())?;
    carry_out(service, call, index).await
}

fn parse(endpoint: Endpoint, headers: &HeaderMap, query: &Query, body: Bytes) -> Result<Call, ApiError> {
    if endpoint == Endpoint::Status {
        return Ok(Call::Status { verbose: query.boolean("verbose")? });
    }
    let body = match endpoint {
        Endpoint::Update => checked_body(headers, body)?,
        _ => body_or_source(headers, query, body)?,
    };
    let call = match endpoint {
        Endpoint::Start => {
            let body = StartBody::parse(&body)?;
            Call::Start { body, wait_for_restore: query.boolean("wait_for_restore")? }
        }
        Endpoint::Stop => StopRequest::parse(&body).map(|_| Call::Stop)?,
        Endpoint::Pause => Call::Pause(PauseRequest::parse(&body)?),
        Endpoint::Resume => Call::Resume(ResumeRequest::parse(&body)?),
        Endpoint::Update => Call::Update(UpdateRequest::parse(&body)?),
        Endpoint::Status => Call::Status { verbose: false },
    };
    for name in ["timeout", "master_timeout", CLUSTER_MANAGER_TIMEOUT] {
        if endpoint.parameters().contains(&name) {
            query.check_time(name)?;
        }
    }
    Ok(call)
}

async fn carry_out(service: &dyn ReplicationService, call: Call, index: String) -> Result<Value, ApiError> {
    let follower = IndexName(index);
    match call {
        Call::Start { body, wait_for_restore } => {
            let request = body.validate(follower.as_str())?;
            service.start(follower, request, wait_for_restore).await?;
        }
        Call::Stop => service.stop(follower).await?,
        Call::Pause(request) => service.pause(follower, request).await?,
        Call::Resume(request) => service.resume(follower, request).await?,
        Call::Update(request) => service.update(follower, request).await?,
        Call::Status { verbose } => {
            if follower.as_str().is_empty() {
                return Err(ApiError::validation(&["Index name must be specified to obtain replication status"]));
            }
            let status = service.status(follower, verbose).await?;
            return serde_json::to_value(status)
                .map_err(|error| ApiError::replication(format!("cannot print the replication status: {error}")));
        }
    }
    Ok(json!({"acknowledged": true}))
}

/// The body, or what `source` and `source_content_type` give in its stead.
fn body_or_source(headers: &HeaderMap, query: &Query, body: Bytes) -> Result<Bytes, ApiError> {
    if !body.is_empty() {
        return checked_body(headers, body);
    }
    match (query.get("source"), query.get("source_content_type")) {
        (None, _) => Ok(body),
        (Some(_), None) => Err(ApiError::illegal_argument("source and source_content_type parameters are required")),
        (Some(source), Some(kind)) if is_json(kind) => Ok(Bytes::from(source.to_owned())),
        (Some(_), Some(kind)) => {
            Err(ApiError::illegal_argument(format!("Unknown value for source_content_type [{kind}]")))
        }
    }
}

/// A body in another form than plain JSON is refused before it is read.
fn checked_body(headers: &HeaderMap, body: Bytes) -> Result<Bytes, ApiError> {
    if body.is_empty() {
        return Ok(body);
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !is_json(content_type) {
        return Err(ApiError::unsupported_content_type(content_type));
    }
    match headers.get(CONTENT_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"identity") => Ok(body),
        Some(other) => {
            let encoding = String::from_utf8_lossy(other).into_owned();
            Err(ApiError::illegal_argument(format!("content encoding [{encoding}] is not supported on this route")))
        }
    }
}

/// Whether a `Content-Type` names one of OpenSearch's JSON types.
pub fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(media_type.as_str(), "application/json" | "application/x-ndjson" | "application/*" | "json")
}
