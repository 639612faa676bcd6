//! A real browser without a window: Chromium, driven through chromedriver's HTTP.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::prometheus::root;
use crate::wait;

const PATIENCE: Duration = Duration::from_secs(60);
const ARGUMENTS: [&str; 6] = [
    // The browser ends when the pipe to its driver does.
    "--remote-debugging-pipe",
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--window-size=1360,900",
];

/// How wide a telephone's screen is.
pub const PHONE: u32 = 390;

/// One tab. It ends with its driver when it is dropped.
pub struct Browser {
    session: String,
    client: reqwest::Client,
    axe: String,
    _driver: Child,
}

impl Browser {
    /// Starts Chromium; it is installed where it is missing.
    pub async fn start() -> Result<Self> {
        let script = root().join("deploy/dev/browser");
        let output = Command::new(&script).output().await?;
        ensure!(output.status.success(), "{script:?}: {output:?}");
        let said = String::from_utf8(output.stdout)?;
        let (program, axe) = said.trim().split_once('\n').context("two lines")?;
        let socket = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        let port = socket.local_addr()?.port();
        drop(socket);
        let driver = Command::new(program)
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let base = format!("http://127.0.0.1:{port}");
        let client = reqwest::Client::new();
        wait::until("chromedriver answers", PATIENCE, async || {
            let answer = client.get(format!("{base}/status")).send().await;
            Ok(answer.map(drop).map_err(|error| error.to_string()))
        })
        .await?;
        let options = json!({"args": ARGUMENTS});
        let always = json!({
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        });
        let asked = json!({"capabilities": {"alwaysMatch": always}});
        let session = send(&client, "POST", &format!("{base}/session"), Some(&asked)).await?;
        let id = session["sessionId"].as_str().context("a session")?;
        Ok(Self {
            session: format!("{base}/session/{id}"),
            client,
            axe: std::fs::read_to_string(axe)?,
            _driver: driver,
        })
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        send(
            &self.client,
            "POST",
            &format!("{}{path}", self.session),
            Some(body),
        )
        .await
    }

    /// Opens an address anew, even if only what is behind its `#` differs.
    pub async fn open(&self, url: &str) -> Result<()> {
        self.post("/url", &json!({"url": "about:blank"})).await?;
        self.post("/url", &json!({"url": url})).await.map(drop)
    }

    /// What a piece of JavaScript returns; `arguments` has what is given to it.
    pub async fn run(&self, script: &str, arguments: &[Value]) -> Result<Value> {
        let body = json!({"script": script, "args": arguments});
        self.post("/execute/sync", &body).await
    }

    /// What a piece of JavaScript gives to its last argument, a function.
    pub async fn run_async(&self, script: &str, arguments: &[Value]) -> Result<Value> {
        let body = json!({"script": script, "args": arguments});
        self.post("/execute/async", &body).await
    }

    /// Waits until a piece of JavaScript returns something that counts as true.
    pub async fn until(&self, what: &str, script: &str, arguments: &[Value]) -> Result<Value> {
        wait::until(what, PATIENCE, async || {
            let found = self.run(script, arguments).await?;
            let is_true = !matches!(&found, Value::Null | Value::Bool(false));
            Ok(match is_true {
                true => Ok(found),
                false => Err(format!("not yet: {script}")),
            })
        })
        .await
    }

    /// Presses keys, such as `\u{e004}` for Tab and `\u{e007}` for Enter.
    pub async fn press(&self, keys: &str) -> Result<()> {
        let mut actions = Vec::new();
        for key in keys.chars() {
            actions.push(json!({"type": "keyDown", "value": key}));
            actions.push(json!({"type": "keyUp", "value": key}));
        }
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": actions});
        self.post("/actions", &json!({"actions": [keyboard]}))
            .await
            .map(drop)
    }

    /// Makes the screen another one.
    pub async fn screen(&self, width: u32, is_dark: bool) -> Result<()> {
        let metrics = json!({
            "width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width == PHONE,
        });
        let scheme = if is_dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        for (command, parameters) in [
            ("Emulation.setDeviceMetricsOverride", metrics),
            ("Emulation.setEmulatedMedia", media),
        ] {
            let body = json!({"cmd": command, "params": parameters});
            self.post("/goog/cdp/execute", &body).await?;
        }
        Ok(())
    }

    /// What axe-core finds that keeps people from using what is shown.
    pub async fn findings(&self) -> Result<Vec<String>> {
        self.run(&format!("{};window.axe = axe", self.axe), &[])
            .await?;
        let script = "const done = arguments[0];
            axe.run().then(({violations}) => done(violations.map((found) =>
                `${found.id}: ${found.nodes.map((node) => node.html).slice(0, 3).join(' ')}`)),
                (error) => done([`axe failed: ${error}`]))";
        let found = self.run_async(script, &[]).await?;
        Ok(serde_json::from_value(found)?)
    }

    /// How far what is shown goes beyond the screen's right edge, in pixels.
    pub async fn overflow(&self) -> Result<i64> {
        let script = "return document.documentElement.scrollWidth - window.innerWidth";
        self.run(script, &[]).await?.as_i64().context("a number")
    }

    /// Errors in the browser's console since the last call: scripts that failed and what the
    /// policy kept from being loaded among them. Answers with an error status are not counted.
    pub async fn errors(&self) -> Result<Vec<String>> {
        let log = self.post("/se/log", &json!({"type": "browser"})).await?;
        let lines = log.as_array().context("a log")?.iter();
        let errors = lines.filter(|line| line["level"] == "SEVERE");
        let texts = errors.filter_map(|line| line["message"].as_str());
        let is_answer = |text: &&str| text.contains("the server responded with a status of");
        Ok(texts
            .filter(|text| !is_answer(text))
            .map(str::to_owned)
            .collect())
    }

    /// Keeps a picture of what is shown; returns its path.
    pub async fn picture(&self, name: &str) -> Result<PathBuf> {
        let address = format!("{}/screenshot", self.session);
        let picture = send(&self.client, "GET", &address, None).await?;
        let folder = root().join("target/page");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{name}.png"));
        let text = picture.as_str().context("a picture")?;
        write_base64(&path, text)?;
        Ok(path)
    }

    /// Ends the browser.
    pub async fn stop(self) -> Result<()> {
        send(&self.client, "DELETE", &self.session, None)
            .await
            .map(drop)
    }
}

async fn send(
    client: &reqwest::Client,
    method: &str,
    address: &str,
    body: Option<&Value>,
) -> Result<Value> {
    let mut request = client.request(method.parse()?, address).timeout(PATIENCE);
    if let Some(body) = body {
        request = request.json(body);
    }
    let mut answer: Value = request.send().await?.json().await?;
    let value = answer["value"].take();
    if let Some(error) = value["error"].as_str() {
        bail!("{error}: {}", value["message"].as_str().unwrap_or_default());
    }
    Ok(value)
}

/// OpenSSL is there anyway.
fn write_base64(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, openssl::base64::decode_block(text)?)?;
    Ok(())
}
