//! A gateway that answers as it is told and remembers what it was asked, and the command line as a
//! user runs it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::{Value, json};

pub const BASE: &str = "/_plugins/_replication/";

/// A request as the gateway got it.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub authorization: Option<String>,
    pub body: Value,
}

/// The gateway: answers by `METHOD path`, and `{"acknowledged": true}` to everything else.
#[derive(Clone, Default)]
pub struct Stub {
    answers: Arc<Mutex<HashMap<String, (u16, Value)>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Stub {
    /// Begins to listen; its address.
    pub fn start(&self) -> String {
        let stub = self.clone();
        let answer = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let answered = stub.answer(&method, &uri, &headers, &body);
            std::future::ready(answered)
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        listener.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, Router::new().fallback(answer)).await
            })
        });
        url
    }

    pub fn answers(&self, call: &str, status: u16, body: Value) {
        let mut answers = self.answers.lock().unwrap();
        answers.insert(call.to_owned(), (status, body));
    }

    fn answer(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> (StatusCode, String) {
        let authorization = headers.get("authorization");
        self.asked.lock().unwrap().push(Asked {
            method: method.to_string(),
            path: uri.to_string(),
            authorization: authorization.map(|it| it.to_str().unwrap().to_owned()),
            body: serde_json::from_slice(body).unwrap_or_default(),
        });
        let call = format!("{method} {}", uri.path());
        let answers = self.answers.lock().unwrap();
        let (status, body) = match answers.get(&call) {
            Some((status, body)) => (*status, body.clone()),
            None => (200, json!({"acknowledged": true})),
        };
        let text = body
            .as_str()
            .map_or_else(|| body.to_string(), str::to_owned);
        (StatusCode::from_u16(status).unwrap(), text)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// A user with a folder of their own and an empty environment.
pub struct User {
    pub home: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

impl User {
    pub fn new() -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            variables: Vec::new(),
        }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let file = self.home.path().join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .env("TERM", "xterm-256color")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs `shardline`, its words separated by spaces.
    pub fn runs(&self, words: &str) -> Ran {
        let mut command = self.command(env!("CARGO_BIN_EXE_shardline"));
        let output = command.args(words.split_whitespace()).output().unwrap();
        output.into()
    }
}

/// What a command printed.
#[derive(Debug)]
pub struct Ran {
    pub is_success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            is_success: output.status.success(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Statuses of so many indices, all of them synchronising.
pub fn statuses(number: i64) -> Value {
    let index = |at: i64| {
        let details = json!({
            "status": "SYNCING", "reason": "User initiated", "leader_alias": "eu",
            "leader_index": format!("logs-{at:03}"), "follower_index": format!("logs-{at:03}"),
            "syncing_details": {"leader_checkpoint": at, "follower_checkpoint": 0, "seq_no": 1},
            "lag_details": {"operations": at, "millis": at * 1000},
        });
        (format!("logs-{at:03}"), details)
    };
    let indices: serde_json::Map<String, Value> = (0..number).map(index).collect();
    json!({ "indices": indices })
}
