//! Calls that this agent makes on its own gateway: what a rule or a task starts may belong to
//! another agent, and the gateway passes it on.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::Method;
use serde_json::{Value, json};
use shardline::contract::error::Cause;
use shardline::contract::{ApiError, BASE};
use shardline_common::types::IndexName;

/// The way of such a call: over HTTP, or in the simulation to the agent that it is for.
pub trait GatewayCalls: Send + Sync {
    /// A control call on an index: `action` is `_start`, `_stop` or another.
    fn call<'a>(
        &'a self,
        method: Method,
        index: &'a IndexName,
        action: &'a str,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<(), ApiError>>;
}

#[derive(Clone)]
pub struct OwnGateway(Arc<dyn GatewayCalls>);

impl OwnGateway {
    /// `address` is a URL without a path.
    pub(crate) fn new(address: String, client: reqwest::Client) -> Self {
        Self::over(Arc::new(Http { address, client }))
    }

    pub fn over(calls: Arc<dyn GatewayCalls>) -> Self {
        Self(calls)
    }

    /// See [`GatewayCalls::call`].
    pub(crate) async fn call(
        &self,
        method: Method,
        index: &IndexName,
        action: &str,
        body: &Value,
    ) -> Result<(), ApiError> {
        self.0.call(method, index, action, body).await
    }
}

struct Http {
    address: String,
    client: reqwest::Client,
}

impl GatewayCalls for Http {
    fn call<'a>(
        &'a self,
        method: Method,
        index: &'a IndexName,
        action: &'a str,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        self.send(method, index, action, body).boxed()
    }
}

impl Http {
    async fn send(
        &self,
        method: Method,
        index: &IndexName,
        action: &str,
        body: &Value,
    ) -> Result<(), ApiError> {
        // Valid names of indices have no characters that need to be escaped but these.
        let name = index.as_str().replace('%', "%25");
        let request = self
            .client
            .request(method, format!("{}{BASE}{name}/{action}", self.address))
            .json(body);
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
