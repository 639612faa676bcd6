//! Calls of the control API over HTTP.

use std::time::Duration;

use bytes::Bytes;
use console::Term;
use http::Method;
use serde_json::Value;
use shardline_common::config::{OpenSearchConfig, Secret};
use shardline_common::opensearch::{OpenSearch, OpenSearchError};

use super::CtlError;
use super::arguments::Connection;
use crate::contract::BASE;

/// Longer than an agent takes for any call.
const TIMEOUT: Duration = Duration::from_secs(120);

pub(super) struct Client(OpenSearch);

impl Client {
    pub(crate) fn new(connection: Connection) -> Result<Self, CtlError> {
        let (username, password) = match connection.user {
            Some(user) => {
                let (name, password) = user
                    .split_once(':')
                    .map_or((user.as_str(), None), |(n, p)| (n, Some(p)));
                let password = password.map_or_else(
                    || ask_for_password(name),
                    |password| Ok(password.to_owned()),
                )?;
                (Some(name.to_owned()), Some(Secret::from(password)))
            }
            None => (None, None),
        };
        // A gateway answers in the ways of the cluster behind it.
        let config = OpenSearchConfig {
            url: connection.url,
            username,
            password,
            ca_certificate: connection.ca_certificate,
            ..OpenSearchConfig::default()
        };
        Ok(Self(OpenSearch::new(&config)?))
    }

    /// `path` lies below [`BASE`].
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, CtlError> {
        let body = body.map(|body| ("application/json", Bytes::from(body.to_string())));
        let answer = self
            .0
            .send(method, &format!("{BASE}{path}"), body, TIMEOUT)
            .await
            .map_err(CtlError::from)?;
        serde_json::from_slice(&answer).map_err(|error| unexpected(path, &error))
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, CtlError> {
        self.call(Method::GET, path, None).await
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Result<Value, CtlError> {
        self.call(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Result<Value, CtlError> {
        self.call(Method::PUT, path, Some(body)).await
    }
}

pub(crate) fn unexpected(path: &str, error: &serde_json::Error) -> CtlError {
    CtlError::Unexpected {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

fn ask_for_password(name: &str) -> Result<String, CtlError> {
    let term = Term::stderr();
    term.write_str(&format!("password of {name}: "))?;
    Ok(term.read_secure_line()?)
}

impl From<OpenSearchError> for CtlError {
    fn from(error: OpenSearchError) -> Self {
        match error {
            OpenSearchError::Refused {
                status,
                error_type,
                reason,
                body,
                ..
            } => Self::Refused {
                status,
                error_type,
                reason,
                body,
            },
            OpenSearchError::Unreachable { url, reason } => Self::Unreachable { url, reason },
            OpenSearchError::Unexpected { path, reason, .. } => Self::Unexpected { path, reason },
            OpenSearchError::Incomplete { path, shards } => Self::Unexpected {
                path,
                reason: format!("some shards did not answer: {shards}"),
            },
            OpenSearchError::Fenced { path, .. } => Self::Unexpected {
                path,
                reason: "not sent".to_owned(),
            },
            OpenSearchError::NotRecovered { url } => Self::Unreachable {
                url,
                reason: "it is starting".to_owned(),
            },
        }
    }
}
