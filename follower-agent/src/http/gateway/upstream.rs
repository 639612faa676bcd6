//! The follower cluster behind the gateway: requests passed on as they came, streaming both ways.

use std::fmt;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_TYPE, EXPECT, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::{Client, Url};
use shardline::contract::ApiError;
use shardline_common::config::Authorization;

use super::paths;

/// How long the gateway waits for an answer to a question of its own.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// Headers that belong to one connection. `Expect` too: this server has answered it already.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    EXPECT,
];

/// Address of the follower cluster, and the client to reach it with.
#[derive(Clone)]
pub struct Upstream {
    base_url: Url,
    client: Client,
    authorization: Authorization,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("base_url", &self.to_string())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Upstream {
    /// The address without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{}",
            self.base_url.origin().ascii_serialization(),
            self.base_url.path().trim_end_matches('/')
        )
    }
}

/// A whole answer of the follower cluster, read into memory.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// Passes the answer on as it came.
    pub fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = end_to_end(&self.headers);
        response
    }
}

impl Upstream {
    /// `client` should neither follow redirects nor have a time-out for whole requests: both belong
    /// to the gateway's callers.
    pub fn new(base_url: Url, client: Client) -> Self {
        Self {
            base_url,
            client,
            authorization: Authorization::default(),
        }
    }

    /// The agent's own `Authorization`, used for the gateway's own questions (aliases) and for
    /// nothing else.
    pub fn with_authorization(mut self, authorization: impl Into<Authorization>) -> Self {
        self.authorization = authorization.into();
        self
    }

    /// Passes a request on untouched, its body as it arrives.
    pub async fn forward(&self, parts: &Parts, body: Body) -> Result<Response, ApiError> {
        let url = self.url(parts.uri.path(), parts.uri.query())?;
        let mut request = self
            .client
            .request(parts.method.clone(), url)
            .headers(end_to_end(&parts.headers));
        if !body.is_end_stream() {
            request = request.body(reqwest::Body::wrap_stream(body.into_data_stream()));
        }
        let answer = request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = answer.status();
        *response.headers_mut() = end_to_end(answer.headers());
        *response.body_mut() = Body::from_stream(answer.bytes_stream());
        Ok(response)
    }

    /// Sends a rewritten JSON body in the caller's name and reads the whole answer, uncompressed
    /// JSON.
    pub async fn exchange(
        &self,
        parts: &Parts,
        raw_query: Option<&str>,
        body: Option<Bytes>,
    ) -> Result<Answer, ApiError> {
        let url = self.url(parts.uri.path(), raw_query)?;
        let mut request = self
            .client
            .request(parts.method.clone(), url)
            .headers(rewritten(&parts.headers));
        if let Some(body) = body {
            request = request.body(body);
        }
        self.read(request).await
    }

    /// Asks another question in the caller's name.
    pub async fn ask_as_caller(
        &self,
        caller: &Parts,
        path: &str,
        query: Option<&str>,
        body: Bytes,
    ) -> Result<Answer, ApiError> {
        let mut headers = rewritten(&caller.headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let request = self
            .client
            .request(Method::POST, self.url(path, query)?)
            .timeout(LOOKUP_TIMEOUT);
        self.read(request.headers(headers).body(body)).await
    }

    /// Asks a question in the agent's own name; `path` is encoded.
    pub async fn ask(&self, path: &str, query: Option<&str>) -> Result<Answer, ApiError> {
        let mut request = self
            .client
            .get(self.url(path, query)?)
            .timeout(LOOKUP_TIMEOUT);
        if let Some(authorization) = self.authorization.header() {
            request = request.header(AUTHORIZATION, authorization);
        }
        self.read(request).await
    }

    async fn read(&self, request: reqwest::RequestBuilder) -> Result<Answer, ApiError> {
        let answer = request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer
            .bytes()
            .await
            .map_err(|error| self.unreachable(&error))?;
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    /// The address of `path`, checked to be read by the follower cluster as it was read here.
    fn url(&self, path: &str, raw_query: Option<&str>) -> Result<Url, ApiError> {
        let base = self
            .base_url
            .as_str()
            .split(['?', '#'])
            .next()
            .unwrap_or_default()
            .trim_end_matches('/');
        let question = raw_query.map_or_else(String::new, |query| format!("?{query}"));
        let refused = || ApiError::illegal_argument(format!("path [{path}] cannot be passed on"));
        let url = Url::parse(&format!("{base}{}{question}", paths::forwardable(path)))
            .map_err(|_| refused())?;
        let prefix = self.base_url.path().trim_end_matches('/');
        let sent = url.path().strip_prefix(prefix).ok_or_else(refused)?;
        if paths::segments(sent)? == paths::segments(path)? {
            Ok(url)
        } else {
            Err(refused())
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> ApiError {
        tracing::warn!(upstream = %self, %error, "follower cluster did not answer");
        let kind = if error.is_timeout() {
            "did not answer in time"
        } else {
            "cannot be reached"
        };
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "connect_transport_exception",
            format!("follower cluster [{self}] {kind}"),
        )
    }
}

/// Headers without those of the connection, or named by it, and without `Host`.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        if *name != HOST && !HOP_BY_HOP.contains(name) && !named.contains(name) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

/// The caller's headers for another body, and for an answer that the gateway has to read.
fn rewritten(headers: &HeaderMap) -> HeaderMap {
    let mut kept = end_to_end(headers);
    for name in [CONTENT_LENGTH, CONTENT_ENCODING, ACCEPT_ENCODING, ACCEPT] {
        kept.remove(name);
    }
    kept
}
