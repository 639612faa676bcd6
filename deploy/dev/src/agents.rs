//! Shardline's own agents: their config files and how to start them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::opensearch::url;
use crate::ports::PortPlan;
use crate::process::{ProcessSpec, make_home};
use crate::ready::Ready;
use crate::security::Security;

const BIN_DIR_VARIABLE: &str = "SHARDLINE_BIN_DIR";

/// Sections of an agent's config file; values are TOML literals, such as `"text"`, `5` or `true`.
#[derive(Clone, Debug, Default)]
pub struct AgentConfig(BTreeMap<String, BTreeMap<String, String>>);

impl AgentConfig {
    /// Sets a key to a TOML literal.
    pub fn set(mut self, section: &str, key: &str, literal: impl fmt::Display) -> Self {
        self.0
            .entry(section.to_owned())
            .or_default()
            .insert(key.to_owned(), literal.to_string());
        self
    }

    /// Sets a key to a text.
    pub fn set_text(self, section: &str, key: &str, text: &str) -> Self {
        // A JSON string is a TOML basic string too.
        self.set(section, key, serde_json::Value::from(text))
    }

    fn merged_with(mut self, other: &Self) -> Self {
        for (section, keys) in &other.0 {
            self.0
                .entry(section.clone())
                .or_default()
                .extend(keys.clone());
        }
        self
    }
}

impl fmt::Display for AgentConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (section, keys) in &self.0 {
            writeln!(formatter, "[{section}]")?;
            for (key, literal) in keys {
                writeln!(formatter, "{key} = {literal}")?;
            }
            writeln!(formatter)?;
        }
        Ok(())
    }
}

pub(crate) struct Agents<'a> {
    pub plan: &'a PortPlan,
    pub bootstrap_servers: &'a str,
    pub replication_factor: usize,
    pub leader_config: &'a AgentConfig,
    pub follower_config: &'a AgentConfig,
    pub environment: &'a [(String, String)],
    /// With it, the clusters ask for a login.
    pub security: Option<&'a Security>,
}

impl Agents<'_> {
    /// Writes the config files and says how to start the agents: one beside each leader node, then
    /// the followers'.
    pub fn specs(&self, run_dir: &Path) -> Result<Vec<ProcessSpec>> {
        let leaders = self
            .plan
            .leader
            .iter()
            .zip(&self.plan.leader_agents)
            .enumerate()
            .map(|(index, (node, &admin))| {
                let name = format!("leader-agent-{}", index + 1);
                let config = self
                    .config(node.http, admin, "leader-agent")
                    .merged_with(self.leader_config);
                self.spec(name, "leader-agent", admin, admin, &config, run_dir)
            });
        let followers = self
            .plan
            .follower_agents
            .iter()
            .enumerate()
            .map(|(index, ports)| {
                let name = format!("follower-agent-{}", index + 1);
                let config = self
                    .config(self.plan.follower[0].http, ports.admin, "follower-agent")
                    .set_text("gateway", "listen", &address(ports.gateway))
                    .set_text(
                        "storage",
                        "data_dir",
                        &run_dir.join(&name).join("data").display().to_string(),
                    )
                    .merged_with(&self.asked())
                    .merged_with(self.follower_config);
                self.spec(
                    name,
                    "follower-agent",
                    ports.gateway,
                    ports.admin,
                    &config,
                    run_dir,
                )
            });
        leaders.chain(followers).collect()
    }

    /// What the follower agents have besides where clusters ask for a login.
    fn asked(&self) -> AgentConfig {
        match self.security {
            Some(_) => AgentConfig::default().set_text("gateway.security", "mode", "plugin"),
            None => AgentConfig::default(),
        }
    }

    fn config(&self, opensearch: u16, admin: u16, user: &str) -> AgentConfig {
        let config = AgentConfig::default();
        let config = match self.security {
            Some(security) => security.agent_config(config, user),
            None => config,
        };
        config
            .set_text(
                "opensearch",
                "url",
                &url(opensearch, self.security.is_some()),
            )
            .set_text("kafka", "bootstrap_servers", self.bootstrap_servers)
            .set_text("kafka", "topic_prefix", "shardline")
            .set("kafka", "replication_factor", self.replication_factor)
            .set_text("admin", "listen", &address(admin))
    }

    fn spec(
        &self,
        name: String,
        binary: &str,
        port: u16,
        admin: u16,
        config: &AgentConfig,
        run_dir: &Path,
    ) -> Result<ProcessSpec> {
        let home = make_home(run_dir, &name)?;
        let config_file = home.join("config.toml");
        std::fs::write(&config_file, config.to_string())
            .with_context(|| format!("cannot write {}", config_file.display()))?;
        Ok(ProcessSpec {
            program: find_binary(binary)?,
            arguments: vec!["--config".into(), config_file.display().to_string()],
            environment: self.environment.to_vec(),
            url: format!("http://{}", address(port)),
            ready: Ready::Http(format!("http://{}/ready", address(admin))),
            data_dir: home.join("data"),
            log_file: home.join(format!("{name}.log")),
            name,
        })
    }
}

pub(crate) fn is_agent(process_name: &str) -> bool {
    process_name.contains("-agent-")
}

fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// One of the programs that are built with this one: beside it, or one folder up for tests, which
/// cargo builds into `deps`.
pub fn find_binary(name: &str) -> Result<PathBuf> {
    let folders: Vec<PathBuf> = match std::env::var_os(BIN_DIR_VARIABLE) {
        Some(folder) => vec![folder.into()],
        None => {
            let program = std::env::current_exe().context("cannot find this program's folder")?;
            program
                .ancestors()
                .skip(1)
                .take(2)
                .map(Path::to_owned)
                .collect()
        }
    };
    match folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
    {
        Some(path) => Ok(path),
        None => bail!(
            "no program {name} in {folders:?}: run `cargo build --bins`, or set {BIN_DIR_VARIABLE}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{BasePorts, Counts, Ports};

    #[test]
    fn renders_the_config_and_lets_extra_keys_win() {
        let counts = Counts {
            leader_nodes: 1,
            follower_nodes: 1,
            brokers: 1,
            follower_agents: 1,
        };
        let plan = PortPlan::new(&Ports::Fixed(BasePorts::default()), counts).unwrap();
        let extra = AgentConfig::default()
            .set("capture", "batch_bytes", 5)
            .set_text("kafka", "topic_prefix", "a\"b");
        let agents = Agents {
            plan: &plan,
            bootstrap_servers: "127.0.0.1:9092",
            replication_factor: 1,
            leader_config: &extra,
            follower_config: &AgentConfig::default(),
            environment: &[],
            security: None,
        };
        let config = agents
            .config(plan.leader[0].http, plan.leader_agents[0], "leader-agent")
            .merged_with(&extra);
        let expected = r#"[admin]
listen = "127.0.0.1:9601"

[capture]
batch_bytes = 5

[kafka]
bootstrap_servers = "127.0.0.1:9092"
replication_factor = 1
topic_prefix = "a\"b"

[opensearch]
url = "http://127.0.0.1:9201"

"#;
        assert_eq!(config.to_string(), expected);
    }
}
