//! `_update_by_query` and `_delete_by_query`: followed indices are left out of them.
//!
//! What covers only other indices goes on as it was written; of a mixed expression the rest goes
//! on, and the answer has a `Warning` that names what was left out. Where no expression can say the
//! rest, the request is refused. What covers only followed indices is never run. OpenSearch would
//! run it until its first write meets the block: 200 with a body of zeros when nothing matched,
//! otherwise 403 with a by-query body whose `failures` name documents; so here the documents are
//! counted. What differs: a failure names the index but no document;
//! `wait_for_completion=false` is answered at once instead of with a task; `max_docs` and slices
//! are ignored in the count.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::WARNING;
use http::{HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::inspect::Inspected;
use super::names::Rest;
use super::routes::Scope;
use super::structured;
use super::upstream::Upstream;
use super::{Call, Gateway};
use crate::http::api::render;
use shardline::contract::error::ApiError;

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

/// What an index expression in a path has to have encoded.
const IN_PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Update,
    Delete,
    Reindex,
}

/// Body of a by-query request.
#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    query: Option<&'a RawValue>,
}

impl Gateway {
    pub(super) async fn by_query(
        &self,
        call: &Call<'_>,
        expression: &str,
        operation: Operation,
        body: Body,
    ) -> Result<Response, ApiError> {
        let mut inspected = self.inspect_bulk_or_other(call, body).await?;
        let judge = self.judge(call).await?;
        let expands = call.query.get("expand_wildcards").unwrap_or_default();
        let finds_hidden = ["hidden", "all"].iter().any(|word| expands.contains(word));
        let coverage = judge
            .names
            .cover(expression, Scope::Members, &judge.followed, finds_hidden);
        let followed = &coverage.followed;
        match &coverage.rest {
            Rest::AsWritten => self.pass_on(call, inspected).await,
            Rest::Unsayable => Err(unsayable(followed)),
            Rest::Expression(rest) => self.pass_rest_of(call, rest, followed, inspected).await,
            Rest::Nothing => {
                structured::charge(&mut inspected)?;
                let request: Request<'_> = structured::parse(&inspected.content)?;
                let counted = self.count(call, expression, request.query).await?;
                Ok(match counted {
                    Ok(matching) => outcome(call, operation, matching, followed),
                    Err(refusal) => refusal,
                })
            }
        }
    }

    async fn inspect_bulk_or_other(
        &self,
        call: &Call<'_>,
        body: Body,
    ) -> Result<Inspected, ApiError> {
        super::inspect::read(&self.budget, call.parts, call.query, body, false).await
    }

    /// Runs the request on what is left of its expression.
    async fn pass_rest_of(
        &self,
        call: &Call<'_>,
        rest: &str,
        followed: &[String],
        inspected: Inspected,
    ) -> Result<Response, ApiError> {
        let path = call.parts.uri.path();
        let verb = path
            .trim_end_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or_default();
        let path = format!("/{}/{verb}", utf8_percent_encode(rest, IN_PATH));
        if !Upstream::is_short_enough(call.parts, &path) {
            return Err(unsayable(followed));
        }
        let headers = inspected.headers(call.parts);
        let body = Body::from(inspected.body());
        let mut answer = self
            .upstream
            .forward_as(call.parts, &headers, &path, body)
            .await?;
        let left_out = format!("299 Shardline \"followed indices are left out: {followed:?}\"");
        let quoted = left_out
            .replace("[\"", "[")
            .replace("\"]", "]")
            .replace("\", \"", ", ");
        if let Ok(warning) = HeaderValue::try_from(quoted) {
            answer.headers_mut().append(WARNING, warning);
        }
        Ok(answer)
    }

    /// How many documents match; or the follower cluster's own refusal, to be passed on.
    pub(super) async fn count(
        &self,
        call: &Call<'_>,
        indices: &str,
        query: Option<&RawValue>,
    ) -> Result<Result<u64, Response>, ApiError> {
        let body = match query {
            Some(query) => format!(r#"{{"query":{query}}}"#),
            None => "{}".to_owned(),
        };
        let path = format!("/{}/_count", utf8_percent_encode(indices, NON_ALPHANUMERIC));
        let parameters: Vec<String> = call
            .query
            .iter()
            .filter(|(name, _)| SELECTING.contains(name))
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
            .collect();
        let parameters = (!parameters.is_empty()).then(|| parameters.join("&"));
        let answer = self
            .upstream
            .ask_as_caller(call.parts, &path, parameters.as_deref(), Bytes::from(body))
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

/// The expression covers followed indices and others, and no other expression covers just these.
fn unsayable(followed: &[String]) -> ApiError {
    let names = followed.join(", ");
    let reason = format!(
        "the expression covers followed indices, which are read-only, and others through a \
         filtered or routed alias, a date, or too many names for a request line: name the others; \
         followed: [{names}]"
    );
    ApiError::new(StatusCode::FORBIDDEN, "cluster_block_exception", reason)
}

/// The answer of a by-query request that meets the block, or finds nothing to write.
pub(super) fn outcome(
    call: &Call<'_>,
    operation: Operation,
    matching: u64,
    followed: &[String],
) -> Response {
    let is_blocked = matching > 0;
    let failures: Vec<Value> = match is_blocked {
        true => followed
            .iter()
            .map(|index| {
                let cause = ApiError::block_cause(&[index]).to_json();
                json!({"index": index, "cause": cause, "status": 403})
            })
            .collect(),
        false => Vec::new(),
    };
    let mut body = Map::new();
    let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
    put("took", json!(0));
    put("timed_out", json!(false));
    put("total", json!(matching));
    if operation != Operation::Delete {
        put("updated", json!(0));
    }
    if operation == Operation::Reindex {
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
