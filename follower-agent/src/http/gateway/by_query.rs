//! `_update_by_query`, `_delete_by_query` and `_reindex` towards followed indices.
//!
//! OpenSearch runs such a request until its first write meets the block: 200 with a body of zeros
//! when nothing matched, otherwise 403 with a by-query body whose `failures` name documents. Here
//! the documents are only counted. What differs: a failure names the index but no document; where
//! an expression covers other indices too, none of their documents is touched;
//! `wait_for_completion=false` is answered at once instead of with a task; `max_docs` and slices
//! are ignored in the count.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};
use shardline::contract::error::ApiError;
use shardline::contract::syntax_error;

use super::classify::{ByQueryOperation, Scope};
use super::{Call, Gateway, inspect};
use crate::http::api::render;

/// Parameters of a by-query request that say which documents match.
const SELECTING: [&str; 12] = [
    "q",
    "df",
    "analyzer",
    "analyze_wildcard",
    "default_operator",
    "lenient",
    "routing",
    "preference",
    "ignore_unavailable",
    "allow_no_indices",
    "expand_wildcards",
    "ignore_throttled",
];

impl Gateway {
    pub(super) async fn by_query(
        &self,
        call: &Call<'_>,
        expression: &str,
        operation: ByQueryOperation,
        body: Body,
    ) -> Result<Response, ApiError> {
        let coverage = self.covered(call, expression, Scope::Members).await?;
        if coverage.followed.is_empty() {
            return self.upstream.forward(call.parts, body).await;
        }
        let inspected = inspect::read(call.parts, call.query, body).await?;
        let request = first_value(&inspected.content)?;
        // Only the followed part is counted, unless it is all there is: then aliases keep their
        // filters.
        let counted = if coverage.others {
            coverage.followed.join(",")
        } else {
            expression.to_owned()
        };
        let selecting: Vec<String> = call
            .query
            .iter()
            .filter(|(name, _)| SELECTING.contains(name))
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
            .collect();
        let matching = match self
            .count(call, &counted, request.get("query"), &selecting.join("&"))
            .await?
        {
            Ok(matching) => matching,
            Err(refusal) => return Ok(refusal),
        };
        if matching == 0 && coverage.others {
            return self
                .upstream
                .forward(call.parts, Body::from(inspected.original))
                .await;
        }
        Ok(outcome(call, operation, matching, &coverage.followed))
    }

    pub(super) async fn reindex(&self, call: &Call<'_>, body: Body) -> Result<Response, ApiError> {
        let inspected = inspect::read(call.parts, call.query, body).await?;
        let request = first_value(&inspected.content)?;
        // However it is written.
        let sets_index = request
            .get("script")
            .is_some_and(|script| script.to_string().contains("_index"));
        if sets_index {
            let reason = "a script of [_reindex] that mentions [_index] could write into a followed index; \
                          name the index in [dest]";
            return Err(ApiError::status_exception(StatusCode::FORBIDDEN, reason));
        }
        let destination = request
            .pointer("/dest/index")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let blocked = match destination.is_empty() {
            true => Vec::new(),
            false => {
                self.covered(call, destination, Scope::WriteIndex)
                    .await?
                    .followed
            }
        };
        if blocked.is_empty() {
            return self
                .upstream
                .forward(call.parts, Body::from(inspected.original))
                .await;
        }
        let source = request.get("source");
        if source.is_some_and(|source| source.get("remote").is_some()) {
            // Another cluster's documents cannot be counted from here; taken as one at least.
            return Ok(outcome(call, ByQueryOperation::Reindex, 1, &blocked));
        }
        let indices = match source.and_then(|source| source.get("index")) {
            Some(Value::String(index)) => index.clone(),
            Some(Value::Array(list)) => list
                .iter()
                .filter_map(Value::as_str)
                .collect::<Vec<_>>()
                .join(","),
            _ => String::new(),
        };
        if indices.is_empty() {
            return self
                .upstream
                .forward(call.parts, Body::from(inspected.original))
                .await;
        }
        let query = source.and_then(|source| source.get("query"));
        match self.count(call, &indices, query, "").await? {
            Ok(matching) => Ok(outcome(call, ByQueryOperation::Reindex, matching, &blocked)),
            Err(refusal) => Ok(refusal),
        }
    }

    /// How many documents match; or the follower cluster's own refusal, to be passed on.
    async fn count(
        &self,
        call: &Call<'_>,
        indices: &str,
        query: Option<&Value>,
        parameters: &str,
    ) -> Result<Result<u64, Response>, ApiError> {
        let body = query.map_or_else(|| json!({}), |query| json!({"query": query}));
        let path = format!("/{}/_count", utf8_percent_encode(indices, NON_ALPHANUMERIC));
        let parameters = (!parameters.is_empty()).then_some(parameters);
        let answer = self
            .upstream
            .ask_as_caller(call.parts, &path, parameters, Bytes::from(body.to_string()))
            .await?;
        if !answer.status.is_success() {
            return Ok(Err(answer.into_response()));
        }
        let count = serde_json::from_slice::<Value>(&answer.body)
            .ok()
            .and_then(|body| body.get("count")?.as_u64());
        count.map(Ok).ok_or_else(|| {
            ApiError::status_exception(
                StatusCode::BAD_GATEWAY,
                "the follower cluster's count cannot be read",
            )
        })
    }
}

/// The JSON object that a body starts with; an empty body counts as an empty object.
pub(super) fn first_value(content: &[u8]) -> Result<Value, ApiError> {
    if content.trim_ascii().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(content);
    serde::Deserialize::deserialize(&mut deserializer)
        .map_err(|error| syntax_error::describe(content, &error))
}

fn outcome(
    call: &Call<'_>,
    operation: ByQueryOperation,
    matching: u64,
    followed: &[String],
) -> Response {
    let is_blocked = matching > 0;
    let failures: Vec<Value> = match is_blocked {
        true => followed
            .iter()
            .map(|index| json!({"index": index, "cause": ApiError::block_cause(&[index]).to_json(), "status": 403}))
            .collect(),
        false => Vec::new(),
    };
    let mut body = Map::new();
    let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
    put("took", json!(0));
    put("timed_out", json!(false));
    put("total", json!(matching));
    if operation != ByQueryOperation::Delete {
        put("updated", json!(0));
    }
    if operation == ByQueryOperation::Reindex {
        put("created", json!(0));
    }
    put("deleted", json!(0));
    put("batches", json!(u8::from(is_blocked)));
    put("version_conflicts", json!(0));
    put("noops", json!(0));
    put("retries", json!({"bulk": 0, "search": 0}));
    put("throttled_millis", json!(0));
    put("requests_per_second", json!(-1.0));
    put("throttled_until_millis", json!(0));
    put("failures", Value::Array(failures));
    let status = if is_blocked {
        StatusCode::FORBIDDEN
    } else {
        StatusCode::OK
    };
    render::answer(status, &Value::Object(body), &call.query.rendering())
}
