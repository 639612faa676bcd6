//! Calls that this agent makes on its own gateway: what a rule or a task starts may belong to
//! another agent, and the gateway passes it on.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::Method;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};
use shardline::contract::error::Cause;
use shardline::contract::{ApiError, BASE, ON_BEHALF_OF};
use shardline_common::config::Authorization;
use shardline_common::control::ReplicationRoles;
use shardline_common::types::IndexName;

/// How long a call may take: longer than any does, also one that goes to another agent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// The way of such a call: over HTTP, or in the simulation to the agent that it is for.
pub trait GatewayCalls: Send + Sync {
    /// A control call on an index: `action` is `_start`, `_stop` or another; `user` is who wanted
    /// it.
    fn call<'a>(
        &'a self,
        method: Method,
        index: &'a IndexName,
        action: &'a str,
        body: &'a Value,
        user: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), ApiError>>;

    /// Whether the gateway asks who calls.
    fn is_asked(&self) -> bool {
        false
    }
}

#[derive(Clone)]
pub struct OwnGateway(Arc<dyn GatewayCalls>);

impl OwnGateway {
    /// `address` is a URL without a path.
    pub(crate) fn new(
        address: String,
        client: reqwest::Client,
        authorization: Option<Authorization>,
    ) -> Self {
        Self::over(Arc::new(Http {
            address,
            client,
            authorization,
        }))
    }

    pub fn over(calls: Arc<dyn GatewayCalls>) -> Self {
        Self(calls)
    }

    /// See [`GatewayCalls::is_asked`].
    pub(crate) fn is_asked(&self) -> bool {
        self.0.is_asked()
    }

    /// See [`GatewayCalls::call`].
    pub(crate) async fn call(
        &self,
        method: Method,
        index: &IndexName,
        action: &str,
        body: &Value,
        user: Option<&str>,
    ) -> Result<(), ApiError> {
        self.0.call(method, index, action, body, user).await
    }
}

struct Http {
    address: String,
    client: reqwest::Client,
    /// The agents' own, where the gateway asks who calls.
    authorization: Option<Authorization>,
}

impl GatewayCalls for Http {
    fn call<'a>(
        &'a self,
        method: Method,
        index: &'a IndexName,
        action: &'a str,
        body: &'a Value,
        user: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        self.send(method, index, action, body, user).boxed()
    }

    fn is_asked(&self) -> bool {
        self.authorization.is_some()
    }
}

impl Http {
    async fn send(
        &self,
        method: Method,
        index: &IndexName,
        action: &str,
        body: &Value,
        user: Option<&str>,
    ) -> Result<(), ApiError> {
        // Valid names of indices have no characters that need to be escaped but these.
        let name = index.as_str().replace('%', "%25");
        let mut request = self
            .client
            .request(method, format!("{}{BASE}{name}/{action}", self.address))
            .timeout(ANSWER_TIMEOUT)
            .json(body);
        let authorization = self.authorization.as_ref();
        if let Some(login) = authorization.and_then(Authorization::header) {
            request = request.header(AUTHORIZATION, login);
        }
        if let Some(user) = user {
            request = request.header(ON_BEHALF_OF, user);
        }
        let answered = async {
            let answer = request.send().await?;
            Ok::<_, reqwest::Error>((answer.status(), answer.bytes().await?))
        };
        match answered.await {
            Ok((status, _)) if status.is_success() => Ok(()),
            Ok((status, body)) => Err(error_of(status, &body)),
            Err(error) => {
                let reason = format!(
                    "the agent's own gateway at {} does not answer: {error}",
                    self.address
                );
                Err(ApiError::status_exception(
                    http::StatusCode::SERVICE_UNAVAILABLE,
                    reason,
                ))
            }
        }
    }
}

/// Writes into a `_start`'s body under which roles it is; whose they are.
pub(super) fn name_roles<'a>(
    body: &mut Value,
    roles: Option<&'a ReplicationRoles>,
) -> Option<&'a str> {
    let roles = roles?;
    body["use_roles"] = json!({
        "leader_cluster_role": roles.leader_cluster_role,
        "follower_cluster_role": roles.follower_cluster_role,
    });
    roles.user.as_deref()
}

fn error_of(status: http::StatusCode, body: &[u8]) -> ApiError {
    let answer: Value =
        serde_json::from_slice(body).unwrap_or_else(|_| json!(String::from_utf8_lossy(body)));
    let error = &answer["error"];
    match (error["type"].as_str(), error["reason"].as_str()) {
        (Some(kind), Some(reason)) => {
            let mut cause = Cause::new(kind, reason);
            let deeper = (
                error.pointer("/caused_by/type"),
                error.pointer("/caused_by/reason"),
            );
            if let (Some(Value::String(kind)), Some(Value::String(reason))) = deeper {
                cause = cause.with_cause(Cause::new(kind.as_str(), reason.as_str()));
            }
            ApiError::from_cause(status, cause)
        }
        _ => ApiError::status_exception(status, answer.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_understood_as_it_was_meant() {
        let taken = ApiError::index_taken(&"books".into());
        let body = json!({"error": {"root_cause": [], "type": "illegal_argument_exception", "reason": taken.reason()}, "status": 400});
        assert_eq!(
            error_of(http::StatusCode::BAD_REQUEST, body.to_string().as_bytes()),
            taken
        );
    }
}
