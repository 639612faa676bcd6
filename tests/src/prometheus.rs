//! A real Prometheus that scrapes a stack's agents, with the rules that Shardline ships.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shardline_dev::{Lifetime, Process, ProcessSpec, Ready, Stack};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::client::Client;

const PATIENCE: Duration = Duration::from_secs(60);

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where `prometheus` and `promtool` are; fetched where they are missing.
pub async fn programs() -> Result<PathBuf> {
    let script = root().join("deploy/dev/prometheus");
    let output = Command::new(&script).output().await?;
    ensure!(output.status.success(), "{script:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?.trim().into())
}

/// Runs `promtool` with something on its standard input; fails with what it printed.
pub async fn promtool(arguments: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(programs().await?.join("promtool"))
        .args(arguments)
        .current_dir(root().join("deploy/prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().context("it was asked for")?;
    // It may end before it has read everything.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(output.status.success(), "promtool {arguments:?}: {said}");
    Ok(said)
}

pub struct Prometheus {
    process: Process,
    client: Client,
}

impl Prometheus {
    /// Scrapes the first agent of each side, and looks at the rules, once a second.
    pub async fn start(stack: &Stack) -> Result<Self> {
        let folder = stack.run_dir().join("prometheus");
        std::fs::create_dir_all(&folder)?;
        let config = folder.join("prometheus.yml");
        let ports = stack.ports();
        let (leader, follower) = (ports.leader_agents[0], ports.follower_agents[0].admin);
        let rules = root().join("deploy/prometheus/shardline.rules.yml");
        let text = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: [{}]\n\
             scrape_configs:\n\
             - {{job_name: shardline-leader, static_configs: [{{targets: ['127.0.0.1:{}']}}]}}\n\
             - {{job_name: shardline-follower, static_configs: [{{targets: ['127.0.0.1:{}']}}]}}\n",
            rules.canonicalize()?.display(),
            leader,
            follower
        );
        std::fs::write(&config, text)?;
        let socket = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        let address = socket.local_addr()?;
        drop(socket);
        let url = format!("http://{address}");
        let spec = ProcessSpec {
            name: "prometheus".to_owned(),
            program: programs().await?.join("prometheus"),
            arguments: vec![
                format!("--config.file={}", config.display()),
                format!("--storage.tsdb.path={}", folder.join("data").display()),
                format!("--web.listen-address={address}"),
            ],
            environment: Vec::new(),
            url: url.clone(),
            ready: Ready::Http(format!("{url}/-/ready")),
            data_dir: folder.join("data"),
            log_file: folder.join("prometheus.log"),
        };
        let process = Process::new(spec, Lifetime::Owned);
        process.start(PATIENCE).await?;
        let client = Client::new(url)?;
        Ok(Self { process, client })
    }

    /// The samples that a query gives now.
    pub async fn query(&self, query: &str) -> Result<Vec<Value>> {
        let encoded = reqwest::Url::parse_with_params("http://q/", [("query", query)])?;
        let encoded = encoded.query().unwrap_or_default().to_owned();
        let answer = self.client.get(&format!("/api/v1/query?{encoded}")).await?;
        let samples = answer["data"]["result"].as_array().cloned();
        samples.with_context(|| format!("{query}: {answer}"))
    }

    pub async fn stop(self) -> Result<()> {
        self.process.terminate().await
    }
}
