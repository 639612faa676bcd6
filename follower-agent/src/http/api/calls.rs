//! Calls of the control API: read from a request, then carried out.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value, json};
use shardline::contract::auto_follow::RuleBody;
use shardline::contract::bulk::BulkBody;
use shardline::contract::error::ApiError;
use shardline::contract::request::{
    PauseRequest, ResumeRequest, StartBody, StopRequest, UpdateRequest,
};
use shardline::contract::service::ReplicationService;
use shardline::contract::verify::VerifyRequest;
use shardline_common::bulk::BulkOperation;
use shardline_common::control::ReplicationRoles;
use shardline_common::types::IndexName;

use super::openapi;
use super::query::Query;
use super::routes::{CLUSTER_MANAGER_TIMEOUT, Endpoint, Route};

/// A call whose request has been read; what is left are checks on content, and the deed.
pub(crate) enum Call {
    Start {
        body: StartBody,
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
    CreateRule(RuleBody),
    DeleteRule(RuleBody),
    Bulk(BulkOperation, BulkBody),
    BulkStatus {
        pattern: String,
    },
    TaskStatus,
    CancelTask,
    OpenApi,
}

pub(crate) fn parse(
    route: Route,
    headers: &HeaderMap,
    query: &Query,
    body: Bytes,
) -> Result<Call, ApiError> {
    let call = match route.endpoint {
        Endpoint::Start => {
            let body = StartBody::parse(&body_or_source(headers, query, body)?)?;
            Call::Start {
                body,
                wait_for_restore: query.boolean("wait_for_restore")?,
            }
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
        Endpoint::CreateRule => Call::CreateRule(RuleBody::parse(&checked_body(headers, body)?)?),
        Endpoint::DeleteRule => Call::DeleteRule(RuleBody::parse(&checked_body(headers, body)?)?),
        Endpoint::Bulk(operation) => Call::Bulk(
            operation,
            BulkBody::parse(&body_or_source(headers, query, body)?)?,
        ),
        Endpoint::BulkStatus => {
            let missing =
                || ApiError::plain_text(StatusCode::BAD_REQUEST, "pattern parameter is required");
            Call::BulkStatus {
                pattern: query.get("pattern").ok_or_else(missing)?.to_owned(),
            }
        }
        Endpoint::TaskStatus => Call::TaskStatus,
        Endpoint::CancelTask => Call::CancelTask,
        Endpoint::OpenApi => Call::OpenApi,
    };
    for name in ["timeout", "master_timeout", CLUSTER_MANAGER_TIMEOUT] {
        if route.parameters.contains(&name) {
            query.check_time(name)?;
        }
    }
    Ok(call)
}

/// `named` is what the path names: an index, or a task. `user` is who calls, where that is asked.
pub(crate) async fn carry_out(
    service: &dyn ReplicationService,
    call: Call,
    named: String,
    user: Option<String>,
) -> Result<Value, ApiError> {
    let follower = IndexName(named);
    match call {
        Call::Start {
            body,
            wait_for_restore,
        } => {
            let mut request = body.validate(follower.as_str())?;
            note_user(&mut request.roles, user);
            service.start(follower, request, wait_for_restore).await?;
        }
        Call::Stop => service.stop(follower).await?,
        Call::Pause(request) => service.pause(follower, request).await?,
        Call::Resume(request) => service.resume(follower, request).await?,
        Call::Update(request) => service.update(follower, request).await?,
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
        Call::CreateRule(body) => {
            let mut rule = body.into_rule()?;
            note_user(&mut rule.roles, user);
            service.create_rule(rule).await?
        }
        Call::DeleteRule(body) => service.delete_rule(body.into_name()?).await?,
        Call::Bulk(operation, body) => {
            let mut request = body.validate(operation)?;
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
