//! Servers before a real cluster: one that ends TLS, and one that asks for a login, answers the
//! security plugin's questions for permissions, and can tell lies about the cluster.

use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::certificates::Identity;

/// A server of a test; it ends with this.
pub struct Front {
    pub port: u16,
    task: JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends TLS and passes all bytes on to a port of this machine.
pub async fn tls(identity: &Identity, to: u16) -> Result<Front> {
    let identity = native_tls::Identity::from_pkcs8(&identity.certificate, &identity.key)?;
    let acceptor = native_tls::TlsAcceptor::new(identity)?;
    let acceptor = tokio_native_tls::TlsAcceptor::from(acceptor);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let task = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut client = acceptor.accept(client).await?;
                let mut server = TcpStream::connect(("127.0.0.1", to)).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await?;
                anyhow::Ok(())
            });
        }
    });
    Ok(Front { port, task })
}

/// What a guarded front does.
#[derive(Clone, Default)]
pub struct Guard {
    /// User and password that it asks for.
    pub login: Option<(&'static str, &'static str)>,
    /// Permissions that the user lacks: part of the path, and the permission's name.
    pub missing: Vec<(&'static str, &'static str)>,
    /// What is answered to `GET /` instead of the cluster's own.
    pub version: Option<Value>,
    /// The `Date` that every answer has.
    pub date: Option<String>,
}

struct Guarded {
    guard: Guard,
    to: String,
    http: reqwest::Client,
}

/// Guards a cluster as the security plugin does.
pub async fn guarded(guard: Guard, to: &str) -> Result<Front> {
    let guarded = Arc::new(Guarded {
        guard,
        to: to.to_owned(),
        http: reqwest::Client::new(),
    });
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let router = Router::new().fallback(answer).with_state(guarded);
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            eprintln!("the guarded front ended: {error}");
        }
    });
    Ok(Front { port, task })
}

async fn answer(State(guarded): State<Arc<Guarded>>, request: Request) -> Response {
    let date = guarded.guard.date.clone();
    let mut response = match guarded.answer(request).await {
        Ok(response) => response,
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response(),
    };
    if let Some(date) = date.and_then(|date| date.parse().ok()) {
        response.headers_mut().insert(header::DATE, date);
    }
    response
}

impl Guarded {
    async fn answer(&self, request: Request) -> Result<Response> {
        let given = request.headers().get(header::AUTHORIZATION);
        if let Some((user, password)) = self.guard.login {
            let plain = format!("{user}:{password}");
            let wanted = format!("Basic {}", openssl::base64::encode_block(plain.as_bytes()));
            if given.is_none_or(|given| given.as_bytes() != wanted.as_bytes()) {
                return Ok((StatusCode::UNAUTHORIZED, "Unauthorized").into_response());
            }
        }
        let uri = request.uri().clone();
        if uri
            .query()
            .is_some_and(|query| query.contains("perform_permission_check=true"))
        {
            let missing: Vec<&str> = self
                .guard
                .missing
                .iter()
                .filter(|(part, _)| uri.path().contains(part))
                .map(|(_, name)| *name)
                .collect();
            let answer = json!({"accessAllowed": missing.is_empty(), "missingPrivileges": missing});
            return Ok(axum::Json(answer).into_response());
        }
        if let (Some(version), "/") = (&self.guard.version, uri.path()) {
            return Ok(axum::Json(version.clone()).into_response());
        }
        let path = uri.path_and_query().context("no path")?;
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, usize::MAX).await?;
        let sent = self
            .http
            .request(parts.method, format!("{}{path}", self.to))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .send()
            .await?;
        let status = sent.status();
        Ok((status, Body::from(sent.bytes().await?)).into_response())
    }
}
