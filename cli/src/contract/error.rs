//! Errors as OpenSearch words them: one type that renders the recorded envelopes byte for byte.

use std::fmt::Display;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value, json};
use shardline_common::opensearch::OpenSearchError;
use shardline_common::types::IndexName;

/// The block that every followed index carries, as `_cluster/state/blocks` of the plugin shows it.
const REPLICATION_BLOCK: &str = "FORBIDDEN/1000/index read-only(cross-cluster-replication)";

/// One level of an error: what the envelope shows at its top, in `root_cause` and in each
/// `caused_by`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub error_type: String,
    pub reason: String,
    /// Further keys beside `type` and `reason` (`index`, `index_uuid`, `resource.id`, …), in order.
    pub extra: Vec<(&'static str, String)>,
    pub caused_by: Option<Box<Cause>>,
}

/// An answer other than success.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.message())]
pub struct ApiError {
    status: StatusCode,
    shape: Shape,
    /// Where in the body the parser stood when it gave up, for a parser around it to report.
    stopped_at: Option<(usize, usize)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Shape {
    /// `{"error":{"root_cause":[..],"type":..,"reason":..},"status":..}`; the root is the cause
    /// itself unless given.
    Envelope {
        cause: Box<Cause>,
        root: Option<Box<Cause>>,
    },
    /// `{"error":"..","status":..}`, with an `Allow` header where a method was wrong.
    Plain {
        text: String,
        with_status: bool,
        allow: Option<String>,
    },
    /// What another server said, passed on as it came.
    Raw {
        content_type: Option<HeaderValue>,
        body: Bytes,
    },
}

impl Cause {
    pub fn new(error_type: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            error_type: error_type.into(),
            reason: reason.into(),
            extra: Vec::new(),
            caused_by: None,
        }
    }

    pub fn with_cause(mut self, cause: Cause) -> Self {
        self.caused_by = Some(Box::new(cause));
        self
    }

    fn without_cause(&self) -> Self {
        Self {
            caused_by: None,
            ..self.clone()
        }
    }

    /// The JSON object of this level; `caused_by` comes last.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("type".to_owned(), Value::from(self.error_type.as_str()));
        object.insert("reason".to_owned(), Value::from(self.reason.as_str()));
        for (key, value) in &self.extra {
            object.insert((*key).to_owned(), Value::from(value.as_str()));
        }
        if let Some(cause) = &self.caused_by {
            object.insert("caused_by".to_owned(), Value::Object(cause.to_json()));
        }
        object
    }
}

impl ApiError {
    pub fn new(
        status: StatusCode,
        error_type: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self::from_cause(status, Cause::new(error_type, reason))
    }

    pub fn from_cause(status: StatusCode, cause: Cause) -> Self {
        Self::of(
            status,
            Shape::Envelope {
                cause: Box::new(cause),
                root: None,
            },
        )
    }

    fn of(status: StatusCode, shape: Shape) -> Self {
        Self {
            status,
            shape,
            stopped_at: None,
        }
    }

    pub(super) fn stopped_at(mut self, position: (usize, usize)) -> Self {
        self.stopped_at = Some(position);
        self
    }

    pub(super) fn stopping_point(&self) -> Option<(usize, usize)> {
        self.stopped_at
    }

    /// Names another root cause than the error itself, as nested object parsers do.
    pub fn with_root(mut self, cause: Cause) -> Self {
        if let Shape::Envelope { root, .. } = &mut self.shape {
            *root = Some(Box::new(cause));
        }
        self
    }

    pub fn illegal_argument(reason: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "illegal_argument_exception",
            reason,
        )
    }

    /// `Validation Failed: 1: a;2: b;`
    pub fn validation<S: AsRef<str>>(problems: &[S]) -> Self {
        let mut reason = String::from("Validation Failed: ");
        for (position, problem) in problems.iter().enumerate() {
            reason.push_str(&format!("{}: {};", position + 1, problem.as_ref()));
        }
        Self::new(
            StatusCode::BAD_REQUEST,
            "action_request_validation_exception",
            reason,
        )
    }

    pub fn parse(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "parse_exception", reason)
    }

    /// `reason` without the position; `line` and `column` as Jackson counts them.
    pub fn x_content_parse(line: usize, column: usize, reason: impl AsRef<str>) -> Self {
        let reason = format!("[{line}:{column}] {}", reason.as_ref());
        Self::new(StatusCode::BAD_REQUEST, "x_content_parse_exception", reason)
    }

    pub fn settings(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "settings_exception", reason)
    }

    pub fn index_closed() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "index_closed_exception", "closed")
    }

    /// 400, not 409: the plugin's own mapping.
    pub fn resource_already_exists(reason: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "resource_already_exists_exception",
            reason,
        )
    }

    pub fn index_taken(follower: &IndexName) -> Self {
        Self::illegal_argument(format!(
            "Cant use same index again for replication. Delete the index:{follower}"
        ))
    }

    pub fn resource_not_found(reason: impl Into<String>) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "resource_not_found_exception",
            reason,
        )
    }

    pub fn no_such_remote_cluster(alias: &str) -> Self {
        let reason = format!("no such remote cluster: [{alias}]");
        Self::new(
            StatusCode::NOT_FOUND,
            "no_such_remote_cluster_exception",
            reason,
        )
    }

    pub fn index_not_found(index: &str) -> Self {
        let mut cause = Cause::new(
            "index_not_found_exception",
            format!("no such index [{index}]"),
        );
        cause.extra = vec![
            ("index", index.to_owned()),
            ("resource.id", index.to_owned()),
            ("resource.type", "index_expression".to_owned()),
            ("index_uuid", "_na_".to_owned()),
        ];
        Self::from_cause(StatusCode::NOT_FOUND, cause)
    }

    /// A write to followed indices; lists them all, in the order given.
    pub fn followed_block<S: AsRef<str>>(indices: &[S]) -> Self {
        Self::from_cause(StatusCode::FORBIDDEN, Self::block_cause(indices))
    }

    /// The error of [`Self::followed_block`] as it stands inside a bulk item or a by-query failure.
    pub fn block_cause<S: AsRef<str>>(indices: &[S]) -> Cause {
        let reason: String = indices
            .iter()
            .map(|index| {
                format!(
                    "index [{}] blocked by: [{REPLICATION_BLOCK}];",
                    index.as_ref()
                )
            })
            .collect();
        Cause::new("cluster_block_exception", reason)
    }

    /// What the security plugin refuses.
    pub fn security(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "security_exception", reason)
    }

    pub fn status_exception(status: StatusCode, reason: impl Into<String>) -> Self {
        Self::new(status, "status_exception", reason)
    }

    pub fn illegal_state(reason: impl Into<String>) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "illegal_state_exception",
            reason,
        )
    }

    /// A plain `exception`, as the plugin raises for want of a better type.
    pub fn generic(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "exception", reason)
    }

    pub fn replication(reason: impl Into<String>) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "replication_exception",
            reason,
        )
    }

    /// A known alias whose cluster cannot be reached; `address` is `host:port`.
    pub fn connect_transport(address: &str, detail: &str) -> Self {
        let inner = Cause::new("connect_exception", detail);
        let middle = Cause::new(
            "annotated_connect_exception",
            format!("{detail}: {address}"),
        )
        .with_cause(inner);
        let cause = Cause::new(
            "connect_transport_exception",
            format!("[][{address}] connect_exception"),
        )
        .with_cause(middle);
        Self::from_cause(StatusCode::INTERNAL_SERVER_ERROR, cause)
    }

    pub fn method_not_allowed(uri: &str, method: &str, allowed: &str) -> Self {
        let text = format!(
            "Incorrect HTTP method for uri [{uri}] and method [{method}], allowed: [{allowed}]"
        );
        let shape = Shape::Plain {
            text,
            with_status: true,
            allow: Some(allowed.to_owned()),
        };
        Self::of(StatusCode::METHOD_NOT_ALLOWED, shape)
    }

    pub fn no_handler(uri: &str, method: &str) -> Self {
        let text = format!("no handler found for uri [{uri}] and method [{method}]");
        Self::of(
            StatusCode::BAD_REQUEST,
            Shape::Plain {
                text,
                with_status: false,
                allow: None,
            },
        )
    }

    pub fn missing_content_type() -> Self {
        Self::not_acceptable("Content-Type header is missing".to_owned())
    }

    /// A list of documents in a format that cannot hold one.
    pub fn not_streamable(content_type: &str) -> Self {
        Self::not_acceptable(format!(
            "Content-Type [{content_type}] does not support stream parsing. Use JSON or SMILE \
             instead"
        ))
    }

    pub fn unsupported_content_type(content_type: &str) -> Self {
        Self::not_acceptable(format!(
            "Content-Type header [{content_type}] is not supported"
        ))
    }

    fn not_acceptable(text: String) -> Self {
        Self::of(
            StatusCode::NOT_ACCEPTABLE,
            Shape::Plain {
                text,
                with_status: true,
                allow: None,
            },
        )
    }

    pub fn too_large(limit: usize) -> Self {
        let reason =
            format!("request body exceeds the {limit} bytes that this gateway reads into memory");
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "content_too_long_exception",
            reason,
        )
    }

    /// Something that the agent depends on does not answer, or refuses.
    pub fn unavailable(error: &impl Display) -> Self {
        Self::status_exception(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }

    /// What the follower cluster said, passed on.
    pub fn from_cluster(error: &OpenSearchError) -> Self {
        let OpenSearchError::Refused { status, body, .. } = error else {
            return Self::unavailable(error);
        };
        let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let json = HeaderValue::from_static("application/json; charset=UTF-8");
        Self::raw(status, Some(json), body.to_string().into())
    }

    /// An answer that the plugin gives without JSON.
    pub fn plain_text(status: StatusCode, text: &'static str) -> Self {
        let content_type = HeaderValue::from_static("text/plain; charset=UTF-8");
        Self::raw(
            status,
            Some(content_type),
            Bytes::from_static(text.as_bytes()),
        )
    }

    /// The follower cluster's own error, passed on.
    pub fn raw(status: StatusCode, content_type: Option<HeaderValue>, body: Bytes) -> Self {
        Self::of(status, Shape::Raw { content_type, body })
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The top `type`, where the answer has one.
    pub fn error_type(&self) -> Option<&str> {
        match &self.shape {
            Shape::Envelope { cause, .. } => Some(&cause.error_type),
            Shape::Plain { .. } | Shape::Raw { .. } => None,
        }
    }

    /// The reason in words, for logs and for `caused_by` of another error.
    pub fn message(&self) -> String {
        match &self.shape {
            Shape::Envelope { cause, .. } => format!("{}: {}", cause.error_type, cause.reason),
            Shape::Plain { text, .. } => text.clone(),
            Shape::Raw { body, .. } => {
                format!("{}: {}", self.status, String::from_utf8_lossy(body))
            }
        }
    }

    /// What went wrong, without its type; the one that another server gave, if it did.
    pub fn reason(&self) -> String {
        match &self.shape {
            Shape::Envelope { cause, .. } => cause.reason.clone(),
            Shape::Plain { text, .. } => text.clone(),
            Shape::Raw { body, .. } => {
                let answer: Option<Value> = serde_json::from_slice(body).ok();
                let reason = answer
                    .as_ref()
                    .and_then(|answer| answer.pointer("/error/reason")?.as_str());
                reason.map_or_else(|| self.message(), str::to_owned)
            }
        }
    }

    /// The error as a level of another error's `caused_by`.
    pub fn into_cause(self) -> Cause {
        match self.shape {
            Shape::Envelope { cause, .. } => *cause,
            Shape::Plain { text, .. } => Cause::new("exception", text),
            Shape::Raw { .. } => Cause::new("exception", self.message()),
        }
    }

    /// The innermost error that the envelope names as its root.
    pub fn root(&self) -> Option<Cause> {
        match &self.shape {
            Shape::Envelope { cause, root } => Some(root.as_ref().unwrap_or(cause).without_cause()),
            Shape::Plain { .. } | Shape::Raw { .. } => None,
        }
    }

    /// The methods that a path takes, where another one was tried.
    pub fn allowed_methods(&self) -> Option<&str> {
        match &self.shape {
            Shape::Plain { allow, .. } => allow.as_deref(),
            Shape::Envelope { .. } | Shape::Raw { .. } => None,
        }
    }

    /// The answer as another server gave it, with its content type; `None` if it is this agent's
    /// own.
    pub fn passed_on(&self) -> Option<(Option<&HeaderValue>, &Bytes)> {
        match &self.shape {
            Shape::Raw { content_type, body } => Some((content_type.as_ref(), body)),
            Shape::Envelope { .. } | Shape::Plain { .. } => None,
        }
    }

    /// The answer's body; empty for one that is passed on.
    pub fn to_json(&self) -> Value {
        let mut body = Map::new();
        match &self.shape {
            Shape::Raw { .. } => {}
            Shape::Plain {
                text, with_status, ..
            } => {
                body.insert("error".to_owned(), Value::from(text.as_str()));
                if *with_status {
                    body.insert("status".to_owned(), json!(self.status.as_u16()));
                }
            }
            Shape::Envelope { cause, root } => {
                let root = root.as_ref().unwrap_or(cause).without_cause();
                let mut error = Map::new();
                error.insert(
                    "root_cause".to_owned(),
                    Value::Array(vec![Value::Object(root.to_json())]),
                );
                error.extend(cause.to_json());
                body.insert("error".to_owned(), Value::Object(error));
                body.insert("status".to_owned(), json!(self.status.as_u16()));
            }
        }
        Value::Object(body)
    }
}
