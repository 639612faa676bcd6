//! A thin REST client: one cluster, JSON in and out, errors classified where they are born.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use crate::process::config::{Authorization, ConfigError, OpenSearchConfig};
use crate::process::lease::Lease;
use crate::words::standstill::Cause;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A client of one OpenSearch cluster. Cheap to clone.
#[derive(Clone)]
pub struct OpenSearch {
    base: String,
    transport: Arc<dyn Transport>,
    lease: Option<Lease>,
}

/// Whose state of the cluster is asked for: the manager's is the newest; the node's own costs the
/// manager nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateOf {
    Manager,
    Node,
}

/// A request to the cluster.
pub struct Request<'a> {
    pub method: Method,
    /// The path behind the cluster's address, with the query.
    pub path: &'a str,
    /// Its content type and its bytes.
    pub body: Option<(&'a str, Bytes)>,
    pub timeout: Duration,
    /// Whoever answers with more bytes than this may leave off behind them.
    pub at_most: usize,
}

/// How requests get to the cluster: over HTTP, or in the simulation into a cluster in memory.
pub trait Transport: Send + Sync {
    /// The answer's status and body, or in words why there is none.
    fn send<'a>(
        &'a self,
        request: Request<'a>,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), String>>;
}

struct Http {
    base: String,
    client: reqwest::Client,
    authorization: Authorization,
}

impl Transport for Http {
    fn send<'a>(
        &'a self,
        request: Request<'a>,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), String>> {
        Box::pin(async move {
            let url = format!("{}{}", self.base, request.path);
            let mut http = self
                .client
                .request(request.method, url)
                .timeout(request.timeout);
            if let Some(authorization) = self.authorization.header() {
                http = http.header(reqwest::header::AUTHORIZATION, authorization);
            }
            if let Some((content_type, bytes)) = request.body {
                http = http
                    .header(reqwest::header::CONTENT_TYPE, content_type)
                    .body(bytes);
            }
            let failed = |error: reqwest::Error| innermost(&error);
            let mut response = http.send().await.map_err(failed)?;
            let status = response.status();
            let length = response
                .content_length()
                .and_then(|length| usize::try_from(length).ok());
            let mut body = BytesMut::with_capacity(length.unwrap_or(0).min(request.at_most));
            while body.len() <= request.at_most
                && let Some(chunk) = response.chunk().await.map_err(failed)?
            {
                body.extend_from_slice(&chunk);
            }
            Ok((status, body.freeze()))
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenSearchError {
    #[error("OpenSearch at {url} does not answer: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("OpenSearch refused {method} {path} with status {status}: [{error_type}] {reason}")]
    Refused {
        method: String,
        path: String,
        status: u16,
        error_type: String,
        reason: String,
        body: Box<Value>,
    },
    #[error("OpenSearch answered {method} {path} with something unexpected: {reason}")]
    Unexpected {
        method: String,
        path: String,
        reason: String,
    },
    #[error("some shards did not answer {path}: {shards}")]
    Incomplete { path: String, shards: String },
    #[error(
        "OpenSearch at {url} has started and not recovered its state yet: which indices it has is unknown"
    )]
    NotRecovered { url: String },
    #[error(
        "{method} {path} was not sent, or not waited for: this agent has lost touch with its consumer group"
    )]
    Fenced { method: String, path: String },
}

impl OpenSearchError {
    /// Whether the same request may succeed later as it is: when the cluster has room, answers
    /// itself, or lets the agent's user in again. What remains is the request's own fault.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Incomplete { .. }
            | Self::NotRecovered { .. }
            | Self::Unexpected { .. }
            | Self::Fenced { .. } => true,
            Self::Refused { status, .. } => {
                self.is_denied() || matches!(*status, 300..=399 | 407 | 408 | 429 | 500..)
            }
        }
    }

    /// Whether the agent's user was refused, rather than what it asked for.
    pub fn is_denied(&self) -> bool {
        matches!(self.status(), Some(401 | 403))
    }

    /// Why whoever met it stands still.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Refused {
                status, error_type, ..
            } => Cause::of_answer(*status, error_type),
            Self::Unexpected { .. } => Cause::UnexpectedAnswer,
            Self::Fenced { .. } => Cause::OtherAgent,
            Self::Unreachable { .. } | Self::Incomplete { .. } | Self::NotRecovered { .. } => {
                Cause::FollowerClusterAway
            }
        }
    }

    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }
}

/// The id of the block that a cluster has from its election until it has recovered its state
/// (`GatewayService` of OpenSearch), which may wait for more nodes. Its state shows no indices
/// meanwhile, and nobody is to take them for deleted.
const STATE_NOT_RECOVERED: &str = "1";

#[derive(Deserialize)]
struct Blocked {
    #[serde(default)]
    blocks: Blocks,
}

#[derive(Default, Deserialize)]
struct Blocks {
    #[serde(default)]
    global: HashMap<String, IgnoredAny>,
}

fn parse<T: DeserializeOwned>(
    answer: &[u8],
    method: &Method,
    path: &str,
) -> Result<T, OpenSearchError> {
    serde_json::from_slice(answer).map_err(|error| OpenSearchError::Unexpected {
        method: method.to_string(),
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// A client for passing requests on: it follows no redirects and sets no time limit, which are its
/// caller's to choose.
pub fn proxy_client(config: &OpenSearchConfig) -> Result<reqwest::Client, ConfigError> {
    build(
        builder(config)?.redirect(reqwest::redirect::Policy::none()),
        "opensearch",
    )
}

fn builder(config: &OpenSearchConfig) -> Result<reqwest::ClientBuilder, ConfigError> {
    let http = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        // Not by way of a proxy that the environment happens to name for other programs.
        .no_proxy()
        .tcp_nodelay(true);
    let authorities = config.authorities()?;
    Ok(authorities
        .into_iter()
        .fold(http, reqwest::ClientBuilder::add_root_certificate))
}

fn build(
    builder: reqwest::ClientBuilder,
    key: &'static str,
) -> Result<reqwest::Client, ConfigError> {
    builder.build().map_err(|_| ConfigError::BadValue {
        key,
        expected: "settings that an HTTP client can be made from",
    })
}

impl OpenSearch {
    pub fn new(config: &OpenSearchConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let http = builder(config)?
            .timeout(REQUEST_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(50));
        let client = build(http, "opensearch")?;
        config.refresh_login()?;
        let authorization = config.authorization.clone();
        Ok(Self::over_http(&config.url, client, authorization))
    }

    /// A client of the cluster, or of whoever answers like one, at `url`.
    pub fn over_http(url: &str, client: reqwest::Client, authorization: Authorization) -> Self {
        let base = url.trim_end_matches('/').to_owned();
        let http = Http {
            base: base.clone(),
            client,
            authorization,
        };
        Self::over(base, Arc::new(http))
    }

    /// A client of the cluster that is called `base` and reached in this way.
    pub fn over(base: String, transport: Arc<dyn Transport>) -> Self {
        Self {
            base,
            transport,
            lease: None,
        }
    }

    /// The same client, which writes only while the lease lasts: what is under way when it ends is
    /// given up.
    pub fn under(self, lease: Lease) -> Self {
        Self {
            lease: Some(lease),
            ..self
        }
    }

    pub fn url(&self) -> &str {
        &self.base
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, OpenSearchError> {
        self.json(Method::GET, path, None, REQUEST_TIMEOUT).await
    }

    /// These `fields` (a `filter_path`) of these `parts` of the cluster's state, with flat
    /// settings; an error while the cluster has not recovered it.
    pub async fn cluster_state<T: DeserializeOwned>(
        &self,
        of: StateOf,
        parts: &str,
        fields: &str,
    ) -> Result<T, OpenSearchError> {
        let local = matches!(of, StateOf::Node);
        let path = format!(
            "/_cluster/state/blocks,{parts}?local={local}&flat_settings=true&filter_path=blocks.global,{fields}"
        );
        let answer = self.send(Method::GET, &path, None, REQUEST_TIMEOUT).await?;
        let Blocked { blocks } = parse(&answer, &Method::GET, &path)?;
        if blocks.global.contains_key(STATE_NOT_RECOVERED) {
            return Err(OpenSearchError::NotRecovered {
                url: self.base.clone(),
            });
        }
        parse(&answer, &Method::GET, &path)
    }

    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<T, OpenSearchError> {
        self.json(Method::POST, path, Some(body), REQUEST_TIMEOUT)
            .await
    }

    pub async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<T, OpenSearchError> {
        self.json(Method::PUT, path, Some(body), REQUEST_TIMEOUT)
            .await
    }

    pub async fn delete<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, OpenSearchError> {
        self.json(Method::DELETE, path, body, REQUEST_TIMEOUT).await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        timeout: Duration,
    ) -> Result<T, OpenSearchError> {
        let body = body.map(|body| ("application/json", Bytes::from(body.to_string())));
        let answer = self.send(method.clone(), path, body, timeout).await?;
        parse(&answer, &method, path)
    }

    /// Sends a request with a body of any type; the answer's bytes when it is a success.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Bytes)>,
        timeout: Duration,
    ) -> Result<Bytes, OpenSearchError> {
        let request = Request {
            method,
            path,
            body,
            timeout,
            at_most: usize::MAX,
        };
        self.send_request(request).await
    }

    /// Sends a request as [`Self::send`] does; `None` when the answer is larger than `at_most`
    /// bytes.
    pub async fn send_at_most(
        &self,
        at_most: usize,
        method: Method,
        path: &str,
        body: Option<(&str, Bytes)>,
        timeout: Duration,
    ) -> Result<Option<Bytes>, OpenSearchError> {
        let answer = self
            .send_request(Request {
                method,
                path,
                body,
                timeout,
                at_most,
            })
            .await?;
        Ok((answer.len() <= at_most).then_some(answer))
    }

    async fn send_request(&self, request: Request<'_>) -> Result<Bytes, OpenSearchError> {
        match &self.lease {
            Some(lease) if request.method != Method::GET => {
                let (method, path) = (request.method.clone(), request.path);
                let fenced = || OpenSearchError::Fenced {
                    method: method.to_string(),
                    path: path.to_owned(),
                };
                tokio::select! {
                    biased;
                    () = lease.ended() => Err(fenced()),
                    answer = self.send_now(request) => answer,
                }
            }
            _ => self.send_now(request).await,
        }
    }

    async fn send_now(&self, request: Request<'_>) -> Result<Bytes, OpenSearchError> {
        let (method, path) = (request.method.clone(), request.path);
        let sent = self.transport.send(request).await;
        let (status, bytes) = sent.map_err(|reason| OpenSearchError::Unreachable {
            url: self.base.clone(),
            reason,
        })?;
        if status.is_success() {
            return Ok(bytes);
        }
        Err(refusal(&method, path, status, &bytes))
    }
}

fn refusal(method: &Method, path: &str, status: StatusCode, bytes: &[u8]) -> OpenSearchError {
    let body: Value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
    let text = |pointer: &str| {
        body.pointer(pointer)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    // A search that fails on every shard says why in its causes only.
    let cause = match text("/error/type").as_deref() {
        Some("search_phase_execution_exception")
            if body.pointer("/error/root_cause/0").is_some() =>
        {
            "/error/root_cause/0"
        }
        _ => "/error",
    };
    OpenSearchError::Refused {
        method: method.to_string(),
        path: path.to_owned(),
        status: status.as_u16(),
        error_type: text(&format!("{cause}/type")).unwrap_or_else(|| "unknown".to_owned()),
        reason: text(&format!("{cause}/reason"))
            .or_else(|| text("/error"))
            .unwrap_or_else(|| {
                String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
            }),
        body: Box::new(body),
    }
}

/// The cause at the bottom says what happened; the layers above repeat the address. One that says
/// what its cause says and more, as OpenSSL's does of a certificate, is the better one.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut current = error;
    while let Some(source) = current.source() {
        let (text, cause) = (current.to_string(), source.to_string());
        if text.len() > cause.len() && text.starts_with(&cause) {
            return text;
        }
        current = source;
    }
    current.to_string()
}

/// Percent-encodes one path segment.
pub fn path_segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte))
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agents_user_is_refused_for_a_moment_is_waited_for() {
        let refused = |status: u16| {
            let status = StatusCode::from_u16(status).unwrap();
            refusal(&Method::POST, "/i/_bulk", status, b"<html>no</html>")
        };
        for status in [302, 401, 403, 407, 408, 429, 500, 502, 503] {
            assert!(refused(status).retryable(), "{status}");
        }
        for status in [400, 404, 409, 413] {
            assert!(!refused(status).retryable(), "{status}");
        }
        assert_eq!(refused(401).cause(), Cause::FollowerClusterDenied);
        let page = parse::<Value>(b"<html>", &Method::GET, "/");
        assert!(page.is_err_and(|error| error.retryable()));
    }

    #[test]
    fn a_search_that_fails_on_all_shards_says_why() {
        let cause = r#"{"type":"query_shard_exception","reason":"No mapping found for [x]"}"#;
        let answer = format!(
            r#"{{"error":{{"root_cause":[{cause}],"type":"search_phase_execution_exception","reason":"all shards failed"}}}}"#
        );
        let error = refusal(
            &Method::POST,
            "/_search",
            StatusCode::BAD_REQUEST,
            answer.as_bytes(),
        )
        .to_string();
        assert!(
            error.ends_with("[query_shard_exception] No mapping found for [x]"),
            "{error}"
        );
    }
}
