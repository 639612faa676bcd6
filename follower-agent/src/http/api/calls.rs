//! Calls of the control API: read from a request, then carried out.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value, json};
use shardline::contract::auto_follow::{RuleBody, RuleName, RuleRequest};
use shardline::contract::bulk::{BulkBody, BulkRequest};
use shardline::contract::error::ApiError;
use shardline::contract::request::{
    PauseRequest, ResumeRequest, StartBody, StartRequest, StopRequest, UpdateRequest,
};
use shardline::contract::service::ReplicationService;
use shardline::contract::verify::VerifyRequest;
use shardline_common::bulk::BulkOperation;
use shardline_common::control::ReplicationRoles;
use shardline_common::types::IndexName;

use super::openapi;
use super::query::Query;
use super::routes::{CLUSTER_MANAGER_TIMEOUT, Endpoint, Route};

/// A call whose request has been read and checked as far as that needs no cluster.
pub(crate) enum Call {
    Start {
        request: StartRequest,
        wait_for_restore: bool,
    },
    Stop,
    Pause(PauseRequest),
    Resume(ResumeRequest),
    Update(UpdateRequest),
    Status {
        verbose: bool,
    },
    Verify(VerifyRequest),
    Verification,
    ForgetVerification,
    DeadLetters,
    ReplayDeadLetters,
    Statuses {
        pattern: String,
        verbose: bool,
    },
    LeaderStats,
    FollowerStats,
    AutoFollowStats,
    CreateRule(RuleRequest),
    DeleteRule(RuleName),
    Bulk(BulkOperation, BulkRequest),
    BulkStatus {
        pattern: String,
    },
    TaskStatus,
    CancelTask,
    OpenApi,
}

/// Reads a call, in the plugin's order: its body, its parameters, what the body says. `named` is
/// what the path names: an index, or a task.
pub(crate) fn parse(
    route: Route,
    parts: &Parts,
    query: &Query,
    body: Bytes,
    named: &str,
) -> Result<Call, ApiError> {
    let headers = &parts.headers;
    let check_query = || check_parameters(route, parts, query);
    let call = match route.endpoint {
        Endpoint::Start => {
            let body = StartBody::parse(&body_or_source(headers, query, body)?)?;
            start(body, query, check_query, named)?
        }
        Endpoint::Stop => {
            StopRequest::parse(&body_or_source(headers, query, body)?).map(|_| Call::Stop)?
        }
        Endpoint::Pause => {
            Call::Pause(PauseRequest::parse(&body_or_source(headers, query, body)?)?)
        }
        Endpoint::Resume => Call::Resume(ResumeRequest::parse(&body_or_source(
            headers, query, body,
        )?)?),
        Endpoint::Update => Call::Update(UpdateRequest::parse(&checked_body(headers, body)?)?),
        Endpoint::Status => Call::Status {
            verbose: query.boolean("verbose")?,
        },
        Endpoint::Verify => Call::Verify(VerifyRequest::parse(&body_or_source(
            headers, query, body,
        )?)?),
        Endpoint::Verification => Call::Verification,
        Endpoint::ForgetVerification => Call::ForgetVerification,
        Endpoint::DeadLetters => Call::DeadLetters,
        Endpoint::ReplayDeadLetters => Call::ReplayDeadLetters,
        Endpoint::Statuses => {
            let pattern = query.get("pattern").unwrap_or("*").to_owned();
            Call::Statuses {
                pattern,
                verbose: query.boolean("verbose")?,
            }
        }
        Endpoint::LeaderStats => Call::LeaderStats,
        Endpoint::FollowerStats => Call::FollowerStats,
        Endpoint::AutoFollowStats => Call::AutoFollowStats,
        Endpoint::CreateRule => {
            let body = RuleBody::parse(&checked_body(headers, body)?)?;
            check_query()?;
            Call::CreateRule(body.into_rule()?)
        }
        Endpoint::DeleteRule => {
            let body = RuleBody::parse(&checked_body(headers, body)?)?;
            check_query()?;
            Call::DeleteRule(body.into_name()?)
        }
        Endpoint::Bulk(operation) => {
            let body = BulkBody::parse(&body_or_source(headers, query, body)?)?;
            check_query()?;
            Call::Bulk(operation, body.validate(operation)?)
        }
        Endpoint::BulkStatus => bulk_status(query)?,
        Endpoint::TaskStatus => Call::TaskStatus,
        Endpoint::CancelTask => Call::CancelTask,
        Endpoint::OpenApi => Call::OpenApi,
    };
    check_query()?;
    Ok(call)
}

fn start(
    body: StartBody,
    query: &Query,
    check_query: impl Fn() -> Result<(), ApiError>,
    named: &str,
) -> Result<Call, ApiError> {
    let wait_for_restore = query.boolean("wait_for_restore")?;
    check_query()?;
    Ok(Call::Start {
        request: body.validate(named)?,
        wait_for_restore,
    })
}

fn bulk_status(query: &Query) -> Result<Call, ApiError> {
    let missing = || ApiError::plain_text(StatusCode::BAD_REQUEST, "pattern parameter is required");
    Ok(Call::BulkStatus {
        pattern: query.get("pattern").ok_or_else(missing)?.to_owned(),
    })
}

fn check_parameters(route: Route, parts: &Parts, query: &Query) -> Result<(), ApiError> {
    for name in ["timeout", "master_timeout", CLUSTER_MANAGER_TIMEOUT] {
        if route.parameters.contains(&name) {
            query.check_time(name)?;
        }
    }
    query.check_known(parts.uri.path(), route.parameters)
}

/// `named` is as for [`parse`]. `user` is who calls, where that is asked.
pub(crate) async fn carry_out(
    service: &dyn ReplicationService,
    call: Call,
    named: String,
    user: Option<String>,
) -> Result<Value, ApiError> {
    let follower = IndexName(named);
    match call {
        Call::Start {
            mut request,
            wait_for_restore,
        } => {
            note_user(&mut request.roles, user);
            service.start(follower, request, wait_for_restore).await?;
        }
        Call::Stop => service.stop(follower).await?,
        Call::Pause(request) => service.pause(follower, request).await?,
        Call::Resume(request) => service.resume(follower, request).await?,
        Call::Update(mut request) => {
            note_user(&mut request.roles, user);
            service.update(follower, request).await?;
        }
        Call::Status { verbose } => {
            if follower.as_str().is_empty() {
                return Err(ApiError::validation(&[
                    "Index name must be specified to obtain replication status",
                ]));
            }
            return print(&service.status(follower, verbose).await?);
        }
        Call::Verify(request) => {
            let id = service.verify(follower, request).await?;
            return Ok(json!({"acknowledged": true, "verification_id": id}));
        }
        Call::Verification => {
            return print(&service.verification(&follower)?);
        }
        Call::ForgetVerification => service.forget_verification(follower).await?,
        Call::DeadLetters => {
            return print(&service.dead_letters(&follower)?);
        }
        Call::ReplayDeadLetters => {
            let documents = service.replay_dead_letters(follower).await?;
            return Ok(json!({"acknowledged": true, "documents": documents}));
        }
        Call::Statuses { pattern, verbose } => {
            return Ok(json!({"indices": by_index(service.statuses(&pattern, verbose))?}));
        }
        Call::CreateRule(mut rule) => {
            note_user(&mut rule.roles, user);
            service.create_rule(rule).await?
        }
        Call::DeleteRule(rule) => service.delete_rule(rule).await?,
        Call::Bulk(operation, mut request) => {
            note_user(&mut request.roles, user);
            let task = service.begin_bulk(operation, request).await?;
            return Ok(json!({"acknowledged": true, "task_id": task}));
        }
        Call::BulkStatus { pattern } => {
            return Ok(json!({"indices": by_index(service.bulk_status(pattern).await?)?}));
        }
        Call::TaskStatus => return print(&service.task_status(follower.as_str())?),
        Call::CancelTask => service.cancel_task(follower.0).await?,
        Call::LeaderStats => return print(&service.leader_stats()),
        Call::FollowerStats => return print(&service.follower_stats()),
        Call::AutoFollowStats => return print(&service.auto_follow_stats()),
        Call::OpenApi => return openapi::document(),
    }
    Ok(json!({"acknowledged": true}))
}

fn note_user(roles: &mut Option<ReplicationRoles>, user: Option<String>) {
    if let Some(roles) = roles {
        roles.user = user;
    }
}

fn by_index(statuses: Vec<(IndexName, impl Serialize)>) -> Result<Map<String, Value>, ApiError> {
    statuses
        .into_iter()
        .map(|(index, status)| Ok((index.0, print(&status)?)))
        .collect()
}

fn print(answer: &impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(answer)
        .map_err(|error| ApiError::replication(format!("cannot print the answer: {error}")))
}

/// The body, or what `source` and `source_content_type` give in its stead.
fn body_or_source(headers: &HeaderMap, query: &Query, body: Bytes) -> Result<Bytes, ApiError> {
    if !body.is_empty() {
        return checked_body(headers, body);
    }
    match (query.get("source"), query.get("source_content_type")) {
        (None, _) => Ok(body),
        (Some(_), None) => Err(ApiError::illegal_argument(
            "source and source_content_type parameters are required",
        )),
        (Some(source), Some(kind)) if is_json(kind) => Ok(Bytes::from(source.to_owned())),
        (Some(_), Some(kind)) => Err(ApiError::illegal_argument(format!(
            "Unknown value for source_content_type [{kind}]"
        ))),
    }
}

/// A body in another form than plain JSON is refused before it is read.
fn checked_body(headers: &HeaderMap, body: Bytes) -> Result<Bytes, ApiError> {
    if body.is_empty() {
        return Ok(body);
    }
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if !is_json(content_type) {
        return Err(ApiError::unsupported_content_type(content_type));
    }
    match headers.get(CONTENT_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"identity") => Ok(body),
        Some(other) => {
            let encoding = String::from_utf8_lossy(other).into_owned();
            Err(ApiError::illegal_argument(format!(
                "content encoding [{encoding}] is not supported on this route"
            )))
        }
    }
}

/// Whether a `Content-Type` names one of OpenSearch's JSON types.
pub(crate) fn is_json(content_type: &str) -> bool {
    let media_type = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    matches!(
        media_type.as_str(),
        "application/json" | "application/x-ndjson" | "application/*" | "json"
    )
}
