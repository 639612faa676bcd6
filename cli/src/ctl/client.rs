//! Calls of the control API over HTTP.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use reqwest::{Certificate, Identity};
use serde_json::{Value, json};
use shardline_common::config::{Authorization, base_url};
use shardline_common::opensearch::{OpenSearch, OpenSearchError};

use super::CtlError;
use super::contexts::Context;
use super::refusal::Refusal;
use super::target::{ask_for_password, check_secret, environment, login};
use crate::contract::BASE;

/// Longer than an agent takes for any call.
const TIMEOUT: Duration = Duration::from_secs(120);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of one gateway.
pub(super) struct Client {
    gateway: OpenSearch,
    is_dry: bool,
}

/// What would be sent.
#[derive(Debug)]
pub(super) struct Sent {
    pub method: Method,
    pub url: String,
    pub body: Option<Value>,
}

impl Sent {
    pub(super) fn to_json(&self) -> Value {
        json!({"method": self.method.as_str(), "url": self.url, "body": self.body})
    }
}

impl Client {
    /// A client that sends nothing if it `is_dry`, and so needs no password.
    pub(super) fn new(context: &Context, is_dry: bool) -> Result<Self, CtlError> {
        base_url("url", &context.url).map_err(|error| CtlError::Address(error.to_string()))?;
        let login = match is_dry {
            true => None,
            false => login(context, &environment, ask_for_password)?,
        };
        let authorization = login.map(Authorization::from).unwrap_or_default();
        let gateway = OpenSearch::over_http(&context.url, http_client(context)?, authorization);
        Ok(Self { gateway, is_dry })
    }

    pub(super) fn url(&self) -> &str {
        self.gateway.url()
    }

    /// `path` lies below [`BASE`].
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, CtlError> {
        let answer = self.send(method, &format!("{BASE}{path}"), body).await?;
        serde_json::from_slice(&answer).map_err(|error| unexpected(path, &error))
    }

    /// The answer's bytes; `path` begins at the gateway's address.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Bytes, CtlError> {
        if self.is_dry {
            let url = format!("{}{path}", self.url());
            return Err(CtlError::Dry(Box::new(Sent { method, url, body })));
        }
        let body = body.map(|body| ("application/json", Bytes::from(body.to_string())));
        let answer = self.gateway.send(method, path, body, TIMEOUT).await;
        answer.map_err(CtlError::from)
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, CtlError> {
        self.call(Method::GET, path, None).await
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Result<Value, CtlError> {
        self.call(Method::POST, path, Some(body)).await
    }

    pub(super) async fn put(&self, path: &str, body: Value) -> Result<Value, CtlError> {
        self.call(Method::PUT, path, Some(body)).await
    }
}

/// An HTTP client with the context's certificates, and without its login.
pub(super) fn http_client(context: &Context) -> Result<reqwest::Client, CtlError> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        // A redirect would take the login elsewhere.
        .redirect(reqwest::redirect::Policy::none())
        // Not by way of a proxy that the environment happens to name for other programs.
        .no_proxy();
    if let Some(file) = &context.ca_certificate {
        let pem = read("--ca-certificate", file)?;
        let found = Certificate::from_pem_bundle(&pem).unwrap_or_default();
        if found.is_empty() {
            return Err(no_pem("--ca-certificate", file, "certificates in PEM"));
        }
        builder = found
            .into_iter()
            .fold(builder, reqwest::ClientBuilder::add_root_certificate);
    }
    match (&context.client_certificate, &context.client_key) {
        (Some(certificate), Some(key)) => {
            check_secret("--client-key", key)?;
            let pem = read("--client-certificate", certificate)?;
            let identity = Identity::from_pkcs8_pem(&pem, &read("--client-key", key)?);
            let wanted = "a certificate's PKCS #8 key in PEM";
            builder = builder.identity(identity.map_err(|_| no_pem("--client-key", key, wanted))?);
        }
        (None, None) => {}
        _ => return Err(CtlError::HalfIdentity),
    }
    builder
        .build()
        .map_err(|error| CtlError::Address(error.to_string()))
}

fn read(option: &'static str, file: &Path) -> Result<Vec<u8>, CtlError> {
    std::fs::read(file).map_err(|error| CtlError::Secret {
        option,
        file: file.to_owned(),
        reason: error.to_string(),
    })
}

fn no_pem(option: &'static str, file: &Path, what: &str) -> CtlError {
    CtlError::Secret {
        option,
        file: file.to_owned(),
        reason: format!("it does not hold {what}"),
    }
}

pub(super) fn unexpected(path: &str, error: &serde_json::Error) -> CtlError {
    CtlError::Unexpected {
        path: path.to_owned(),
        reason: error.to_string(),
    }
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
            } => Self::Refused(Refusal::new(status, error_type, reason, body)),
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
