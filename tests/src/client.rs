//! A small HTTP client that takes and gives JSON.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::Value;
use shardline_dev::Access;

const TIMEOUT: Duration = Duration::from_secs(120);

/// One server.
#[derive(Clone)]
pub struct Client {
    base: String,
    http: reqwest::Client,
    login: Option<(String, String)>,
}

impl Client {
    pub fn new(base: impl Into<String>) -> Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .tcp_nodelay(true)
            .build()?;
        Ok(Self {
            base: base.into(),
            http,
            login: None,
        })
    }

    /// A client of a server that asks for a login.
    pub fn with_access(base: impl Into<String>, access: &Access) -> Result<Self> {
        Ok(Self {
            base: base.into(),
            http: access.client(TIMEOUT)?,
            login: Some((access.user.clone(), access.password.clone())),
        })
    }

    pub fn url(&self) -> &str {
        &self.base
    }

    /// Sends a body of any type; gives the status and the answer, JSON or else a text.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> Result<(u16, Value)> {
        let mut request = self
            .http
            .request(method.clone(), format!("{}{path}", self.base));
        if let Some((user, password)) = &self.login {
            request = request.basic_auth(user, Some(password));
        }
        if let Some((content_type, body)) = body {
            request = request.header("content-type", content_type).body(body);
        }
        let response = request
            .send()
            .await
            .with_context(|| format!("{method} {}{path}", self.base))?;
        let status = response.status().as_u16();
        let bytes = response.bytes().await?;
        let answer = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok((status, answer))
    }

    pub async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let body = body.map(|body| ("application/json", body.to_string().into_bytes()));
        self.send(method.parse()?, path, body).await
    }

    /// A call that has to succeed.
    pub async fn ok(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let (status, answer) = self.call(method, path, body).await?;
        ensure!(
            (200..300).contains(&status),
            "{method} {}{path} answered {status}: {answer}",
            self.base
        );
        Ok(answer)
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        self.ok("GET", path, None).await
    }

    /// A bulk request of which every item has to succeed; a delete may find nothing.
    pub async fn bulk(&self, path: &str, body: String) -> Result<()> {
        let (status, answer) = self
            .send(
                Method::POST,
                path,
                Some(("application/x-ndjson", body.into_bytes())),
            )
            .await?;
        ensure!(status == 200, "bulk answered {status}: {answer}");
        if answer["errors"] == true {
            let failed = answer["items"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|item| {
                    item.as_object()
                        .and_then(|item| item.values().next())
                        .is_some_and(|item| item.get("error").is_some())
                });
            anyhow::bail!("a bulk item failed: {}", failed.unwrap_or(&Value::Null));
        }
        Ok(())
    }
}
