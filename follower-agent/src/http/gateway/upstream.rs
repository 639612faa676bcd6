//! The follower cluster behind the gateway: requests passed on as they came, streaming both ways.

use std::fmt;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::{Client, Url};
use shardline::contract::ApiError;
use shardline_common::config::Authorization;

use super::forwarded::{end_to_end, to_cluster};
use super::paths;

/// How long the gateway waits for an answer to a question of its own.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer to a question of the gateway's own, in bytes.
const LOOKUP_LIMIT: usize = 256 << 20;
/// Longest request line that OpenSearch takes, in bytes (`http.max_initial_line_length`).
const MAX_REQUEST_LINE: usize = 4 << 10;

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
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// Passes the answer on as it came.
    pub(super) fn into_response(self) -> Response {
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

    /// The agent's own `Authorization`.
    pub(super) fn login(&self) -> Option<HeaderValue> {
        self.authorization.header()
    }

    /// Passes a request on untouched, its body as it arrives.
    pub(super) async fn forward(&self, parts: &Parts, body: Body) -> Result<Response, ApiError> {
        let path = parts.uri.path();
        self.forward_as(parts, &parts.headers, path, body).await
    }

    /// Passes a request on with other headers, to another path.
    pub(super) async fn forward_as(
        &self,
        parts: &Parts,
        headers: &HeaderMap,
        path: &str,
        body: Body,
    ) -> Result<Response, ApiError> {
        let url = self.url(path, parts.uri.query())?;
        let mut request = self
            .client
            .request(parts.method.clone(), url)
            .headers(to_cluster(headers, parts));
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

    /// Whether OpenSearch takes a request line with this path, encoded, and the request's query.
    pub(super) fn is_short_enough(parts: &Parts, path: &str) -> bool {
        let query = parts.uri.query().map_or(0, |query| query.len() + 1);
        let around = parts.method.as_str().len() + " ".len() + " HTTP/1.1\r\n".len();
        path.len() + query + around <= MAX_REQUEST_LINE
    }

    /// Sends a rewritten JSON body in the caller's name and reads the whole answer, uncompressed
    /// JSON of at most `limit` bytes.
    pub(super) async fn exchange(
        &self,
        parts: &Parts,
        raw_query: Option<&str>,
        body: Option<Bytes>,
        limit: usize,
    ) -> Result<Answer, ApiError> {
        let url = self.url(parts.uri.path(), raw_query)?;
        let mut headers = rewritten(parts);
        if body.is_some() {
            headers.insert(CONTENT_TYPE, JSON);
        }
        let mut request = self
            .client
            .request(parts.method.clone(), url)
            .headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        self.read(request, limit).await
    }

    /// Asks another question in the caller's name.
    pub(super) async fn ask_as_caller(
        &self,
        caller: &Parts,
        path: &str,
        query: Option<&str>,
        body: Bytes,
    ) -> Result<Answer, ApiError> {
        let mut headers = rewritten(caller);
        headers.insert(CONTENT_TYPE, JSON);
        let request = self
            .client
            .request(Method::POST, self.url(path, query)?)
            .timeout(LOOKUP_TIMEOUT);
        let request = request.headers(headers).body(body);
        self.read(request, LOOKUP_LIMIT).await
    }

    /// Asks a question with a method of its own in the caller's name.
    pub(super) async fn ask_as(
        &self,
        caller: &Parts,
        method: Method,
        path: &str,
        query: Option<&str>,
        body: Option<Bytes>,
    ) -> Result<Answer, ApiError> {
        let mut headers = rewritten(caller);
        headers.remove(CONTENT_TYPE);
        let mut request = self
            .client
            .request(method, self.url(path, query)?)
            .timeout(LOOKUP_TIMEOUT);
        if let Some(body) = body {
            headers.insert(CONTENT_TYPE, JSON);
            request = request.body(body);
        }
        self.read(request.headers(headers), LOOKUP_LIMIT).await
    }

    /// Asks a question in the agent's own name; `path` is encoded.
    pub(super) async fn ask(&self, path: &str, query: Option<&str>) -> Result<Answer, ApiError> {
        let mut request = self
            .client
            .get(self.url(path, query)?)
            .timeout(LOOKUP_TIMEOUT);
        if let Some(authorization) = self.authorization.header() {
            request = request.header(AUTHORIZATION, authorization);
        }
        self.read(request, LOOKUP_LIMIT).await
    }

    async fn read(
        &self,
        request: reqwest::RequestBuilder,
        limit: usize,
    ) -> Result<Answer, ApiError> {
        let mut answer = request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let mut body = BytesMut::new();
        while let Some(piece) = answer
            .chunk()
            .await
            .map_err(|error| self.unreachable(&error))?
        {
            if body.len() + piece.len() > limit {
                let reason = format!(
                    "follower cluster [{self}] answered with more than [{limit}] bytes, which the \
                     gateway has to hold; send smaller requests"
                );
                return Err(ApiError::status_exception(StatusCode::BAD_GATEWAY, reason));
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer {
            status: answer.status(),
            headers: answer.headers().clone(),
            body: body.freeze(),
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
        if paths::are_equal(sent, path)? {
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

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The caller's headers for another body, and for an answer that the gateway has to read.
fn rewritten(parts: &Parts) -> HeaderMap {
    let mut kept = to_cluster(&parts.headers, parts);
    for name in [CONTENT_LENGTH, CONTENT_ENCODING, ACCEPT_ENCODING] {
        kept.remove(name);
    }
    kept.insert(ACCEPT, JSON);
    kept
}
