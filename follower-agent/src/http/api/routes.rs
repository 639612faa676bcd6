//! The routes below `/_plugins/_replication`, with OpenSearch's conventions for methods and
//! parameters.

use axum::body::Body;
use axum::response::Response;
use http::header::WARNING;
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde_json::Value;
use shardline::contract::BASE;
use shardline::contract::error::ApiError;
use shardline::contract::service::ReplicationService;
use shardline_common::bulk::BulkOperation;

use super::calls;
use super::query::{Query, decode_component};
use super::render::{self, Format, Rendering};
use crate::http::gateway::Guard;
use crate::http::gateway::security::{Caller, Refused};

/// Largest body of a control call, in bytes.
const MAX_BODY: usize = 10 << 20;
pub(super) const CLUSTER_MANAGER_TIMEOUT: &str = "cluster_manager_timeout";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Start,
    Stop,
    Pause,
    Resume,
    Update,
    Status,
    Verify,
    Verification,
    ForgetVerification,
    DeadLetters,
    ReplayDeadLetters,
    Statuses,
    LeaderStats,
    FollowerStats,
    AutoFollowStats,
    CreateRule,
    DeleteRule,
    Bulk(BulkOperation),
    BulkStatus,
    TaskStatus,
    CancelTask,
    OpenApi,
}

#[derive(Clone, Copy, Debug)]
pub struct Route {
    pub method: &'static str,
    /// Below [`BASE`]; a segment in braces stands for any.
    pub path: &'static str,
    pub endpoint: Endpoint,
    /// Beside those that every route takes.
    pub parameters: &'static [&'static str],
}

const fn route(
    method: &'static str,
    path: &'static str,
    endpoint: Endpoint,
    parameters: &'static [&'static str],
) -> Route {
    Route {
        method,
        path,
        endpoint,
        parameters,
    }
}

/// All routes. Where two paths match, the earlier one counts.
pub const ROUTES: &[Route] = &[
    route("GET", "leader_stats", Endpoint::LeaderStats, &[]),
    route("GET", "follower_stats", Endpoint::FollowerStats, &[]),
    route("GET", "autofollow_stats", Endpoint::AutoFollowStats, &[]),
    route(
        "POST",
        "_autofollow",
        Endpoint::CreateRule,
        &[CLUSTER_MANAGER_TIMEOUT],
    ),
    route(
        "DELETE",
        "_autofollow",
        Endpoint::DeleteRule,
        &[CLUSTER_MANAGER_TIMEOUT],
    ),
    route(
        "POST",
        "_bulk_start",
        Endpoint::Bulk(BulkOperation::Start),
        &[],
    ),
    route(
        "POST",
        "_bulk_stop",
        Endpoint::Bulk(BulkOperation::Stop),
        &[],
    ),
    route(
        "POST",
        "_bulk_pause",
        Endpoint::Bulk(BulkOperation::Pause),
        &[],
    ),
    route(
        "POST",
        "_bulk_resume",
        Endpoint::Bulk(BulkOperation::Resume),
        &[],
    ),
    route("GET", "_bulk_status", Endpoint::BulkStatus, &["pattern"]),
    route("GET", "_task_status/{task}", Endpoint::TaskStatus, &[]),
    route("POST", "_task_cancel/{task}", Endpoint::CancelTask, &[]),
    route(
        "GET",
        "_status",
        Endpoint::Statuses,
        &["pattern", "verbose"],
    ),
    route("GET", "_openapi", Endpoint::OpenApi, &[]),
    route(
        "PUT",
        "{index}/_start",
        Endpoint::Start,
        &["wait_for_restore", CLUSTER_MANAGER_TIMEOUT],
    ),
    route(
        "POST",
        "{index}/_stop",
        Endpoint::Stop,
        &[CLUSTER_MANAGER_TIMEOUT],
    ),
    route(
        "POST",
        "{index}/_pause",
        Endpoint::Pause,
        &[CLUSTER_MANAGER_TIMEOUT],
    ),
    route(
        "POST",
        "{index}/_resume",
        Endpoint::Resume,
        &[CLUSTER_MANAGER_TIMEOUT],
    ),
    route(
        "PUT",
        "{index}/_update",
        Endpoint::Update,
        UPDATE_PARAMETERS,
    ),
    route("GET", "{index}/_status", Endpoint::Status, &["verbose"]),
    route("POST", "{index}/_verify", Endpoint::Verify, &[]),
    route("GET", "{index}/_verify", Endpoint::Verification, &[]),
    route(
        "DELETE",
        "{index}/_verify",
        Endpoint::ForgetVerification,
        &[],
    ),
    route("GET", "{index}/_dead_letters", Endpoint::DeadLetters, &[]),
    route(
        "POST",
        "{index}/_dead_letters/_replay",
        Endpoint::ReplayDeadLetters,
        &[],
    ),
];

const UPDATE_PARAMETERS: &[&str] = &[
    "timeout",
    "master_timeout",
    CLUSTER_MANAGER_TIMEOUT,
    "expand_wildcards",
    "ignore_unavailable",
    "allow_no_indices",
    "ignore_throttled",
];

impl Route {
    /// What stands in the place of the segment in braces, if the path is of this route; empty if
    /// there is none.
    fn matches(&self, segments: &[&str]) -> Option<String> {
        let pattern: Vec<&str> = self.path.split('/').collect();
        if pattern.len() != segments.len() {
            return None;
        }
        let mut named = String::new();
        for (pattern, segment) in pattern.into_iter().zip(segments) {
            if pattern.starts_with('{') {
                named = decode_component(segment);
            } else if pattern != *segment {
                return None;
            }
        }
        Some(named)
    }

    /// The route of a request, and what its path names.
    fn find(uri: &str, path: &str, method: &str) -> Result<(Self, String), ApiError> {
        let rest = path.strip_prefix(BASE).unwrap_or_default();
        let segments: Vec<&str> = rest.strip_suffix('/').unwrap_or(rest).split('/').collect();
        let of_path: Vec<(&Self, String)> = ROUTES
            .iter()
            .filter_map(|route| Some((route, route.matches(&segments)?)))
            .collect();
        let Some((first, _)) = of_path.first() else {
            return Err(ApiError::no_handler(uri, method));
        };
        if let Some((route, named)) = of_path.iter().find(|(route, _)| route.method == method) {
            return Ok((**route, named.clone()));
        }
        let allowed: Vec<&str> = of_path
            .iter()
            .filter(|(route, _)| route.path == first.path)
            .map(|(route, _)| route.method)
            .collect();
        Err(ApiError::method_not_allowed(
            uri,
            method,
            &allowed.join(", "),
        ))
    }
}

/// Answers one request to a path below [`BASE`].
pub(crate) async fn handle(
    service: &dyn ReplicationService,
    guard: &Guard,
    parts: &Parts,
    body: Body,
) -> Response {
    let query = Query::parse(parts.uri.query());
    let (caller, answered) = match guard.login(parts).await {
        Ok(caller) => {
            let visitor = Visitor {
                guard,
                caller: caller.as_ref(),
            };
            let answered = answer(service, &visitor, parts, &query, body).await;
            (caller, answered)
        }
        Err(refused) => (None, Err(refused)),
    };
    let response = answered.unwrap_or_else(|refused| refused.into_response(&query.rendering()));
    guard.audit(parts, caller.as_ref(), response.status());
    response
}

/// Somebody before the guard.
struct Visitor<'a> {
    guard: &'a Guard,
    caller: Option<&'a Caller>,
}

async fn answer(
    service: &dyn ReplicationService,
    visitor: &Visitor<'_>,
    parts: &Parts,
    query: &Query,
    body: Body,
) -> Result<Response, Refused> {
    let uri = parts
        .uri
        .path_and_query()
        .map_or(parts.uri.path(), |whole| whole.as_str());
    let (route, named) = Route::find(uri, parts.uri.path(), parts.method.as_str())?;
    let body = axum::body::to_bytes(body, MAX_BODY)
        .await
        .map_err(|_| ApiError::too_large(MAX_BODY))?;
    query.check_rendering()?;
    let call = calls::parse(route, parts, query, body, &named)?;
    let guard = visitor.guard;
    guard.may(parts, visitor.caller, &call, &named).await?;
    let user = guard.user_of(parts, visitor.caller);
    let warning = match route.endpoint {
        Endpoint::Stop => warning(service, &named).await,
        _ => None,
    };
    let mut value = calls::carry_out(service, call, named, user).await?;
    if route.endpoint == Endpoint::Statuses
        && let Some(Value::Object(indices)) = value.get_mut("indices")
    {
        indices.retain(|index, _| guard.shows(visitor.caller, index));
    }
    let mut response = render::answer(StatusCode::OK, &value, &rendering(route.endpoint, query));
    if let Some(warning) = warning {
        response.headers_mut().insert(WARNING, warning);
    }
    Ok(response)
}

/// What whoever promotes an index has to know, as OpenSearch gives its warnings.
async fn warning(service: &dyn ReplicationService, index: &str) -> Option<HeaderValue> {
    let status = service.status(index.into(), false).await.ok()?;
    status.external_versions?;
    let text = format!(
        "299 Shardline-{} \"the leader's documents have versions of their users \
         (version_type=external), and those of [{index}] are higher: writes that go on with such \
         versions are refused with 409 until they are above what GET shows\"",
        env!("CARGO_PKG_VERSION")
    );
    HeaderValue::try_from(text).ok()
}

/// Statistics are always pretty, whole and JSON; bulk and task routes are always JSON.
fn rendering(endpoint: Endpoint, query: &Query) -> Rendering {
    match endpoint {
        Endpoint::LeaderStats | Endpoint::FollowerStats | Endpoint::AutoFollowStats => Rendering {
            pretty: true,
            ..Rendering::default()
        },
        Endpoint::BulkStatus | Endpoint::TaskStatus => Rendering {
            format: Format::Json,
            ..query.rendering()
        },
        _ => query.rendering(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_one_endpoint_by_its_method() {
        let find = |method: &str, path: &str| {
            let found = Route::find(path, path, method);
            found
                .map(|(route, named)| (route.endpoint, named))
                .map_err(|error| error.status().as_u16())
        };
        let base = |rest: &str| format!("/_plugins/_replication/{rest}");
        assert_eq!(
            find("GET", &base("a%2Fb/_status")),
            Ok((Endpoint::Status, "a/b".to_owned()))
        );
        assert_eq!(
            find("GET", &base("/_status/")),
            Ok((Endpoint::Status, String::new()))
        );
        assert_eq!(
            find("GET", &base("leader_stats")),
            Ok((Endpoint::LeaderStats, String::new()))
        );
        assert_eq!(find("POST", &base("f/_start")), Err(405));
        assert_eq!(find("GET", &base("f/_bogus")), Err(400));
        assert_eq!(find("GET", &base("a/b/_status")), Err(400));
        assert_eq!(find("GET", "/_plugins/_replication"), Err(400));
    }
}
