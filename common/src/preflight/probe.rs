//! Single requests to OpenSearch whose whole answers are looked at, and why there is none.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, DATE};
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

use crate::opensearch::{innermost, proxy_client};
use crate::process::config::{Authorization, ConfigError, OpenSearchConfig};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Asks one cluster as the agent would.
pub struct Probe {
    base: String,
    client: Client,
    authorization: Authorization,
}

pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
    date: Option<String>,
}

impl Answer {
    pub fn date(&self) -> Option<SystemTime> {
        httpdate::parse_http_date(self.date.as_deref()?).ok()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// Why a request was refused, as the cluster says it.
    pub fn reason(&self) -> String {
        let json = self.json();
        let said = json.pointer("/error/reason").and_then(Value::as_str);
        let text = said.map_or_else(
            || String::from_utf8_lossy(&self.body[..self.body.len().min(200)]).into_owned(),
            str::to_owned,
        );
        format!("status {}: {}", self.status.as_u16(), text.trim())
    }
}

impl Probe {
    pub fn new(config: &OpenSearchConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        config.refresh_login()?;
        Ok(Self {
            base: config.url.trim_end_matches('/').to_owned(),
            client: proxy_client(config)?,
            authorization: config.authorization.clone(),
        })
    }

    pub async fn get(&self, path: &str) -> Result<Answer, String> {
        self.send(Method::GET, path, None).await
    }

    /// The answer, whatever its status is; or in words why there is none.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, String)>,
    ) -> Result<Answer, String> {
        let url = format!("{}{path}", self.base);
        let mut request = self.client.request(method, url).timeout(TIMEOUT);
        if let Some(header) = self.authorization.header() {
            request = request.header(AUTHORIZATION, header);
        }
        if let Some((content_type, body)) = body {
            request = request.header(CONTENT_TYPE, content_type).body(body);
        }
        let failed = |error: reqwest::Error| {
            if error.is_timeout() {
                return format!("no answer within {} s", TIMEOUT.as_secs());
            }
            innermost(&error)
        };
        let response = request.send().await.map_err(failed)?;
        let date = response.headers().get(DATE);
        Ok(Answer {
            status: response.status(),
            date: date.and_then(|date| Some(date.to_str().ok()?.to_owned())),
            body: response.bytes().await.map_err(failed)?,
        })
    }
}

/// Whether somebody answers at an address, whoever it is; nothing secret is sent there.
pub(super) async fn anybody_answers(url: &str) -> bool {
    let client = Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .timeout(TIMEOUT)
        .build();
    match client {
        Ok(client) => client.get(url).send().await.is_ok(),
        Err(_) => false,
    }
}
