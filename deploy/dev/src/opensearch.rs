//! OpenSearch nodes of one cluster.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

use crate::jars::Jars;
use crate::ports::NodePorts;
use crate::process::{ProcessSpec, make_home};
use crate::ready::{Ready, http_client};
use crate::security::{Access, Security};

/// Which OpenSearch a cluster runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OpenSearchVersion {
    /// The newest one that Shardline is made for.
    #[default]
    Newest,
    /// One of the 2 series, 2.19.
    Two,
}

impl OpenSearchVersion {
    /// The folder of its jars.
    fn jars(self) -> &'static str {
        match self {
            Self::Newest => "opensearch",
            Self::Two => "opensearch-2",
        }
    }
}

/// The user of the dev stack's clusters who may do everything.
pub(crate) const ADMIN: &str = "admin";

pub(crate) struct Cluster<'a> {
    /// Also the cluster's name: `leader` or `follower`.
    pub name: &'a str,
    pub version: OpenSearchVersion,
    pub nodes: &'a [NodePorts],
    pub heap_mb: usize,
    /// With it, the nodes have the security plugin.
    pub security: Option<&'a Security>,
    /// Settings that are added or win over the ones here.
    pub overrides: &'a [(String, String)],
}

impl Cluster<'_> {
    pub fn specs(&self, run_dir: &Path, jars: &Jars) -> Result<Vec<ProcessSpec>> {
        (0..self.nodes.len())
            .map(|index| self.spec(index, run_dir, jars))
            .collect()
    }

    fn spec(&self, index: usize, run_dir: &Path, jars: &Jars) -> Result<ProcessSpec> {
        let name = self.node_name(index);
        let home = make_home(run_dir, &name)?;
        if let Some(security) = self.security {
            security.configure_node(self.name, &home)?;
        }
        let url = url(self.nodes[index].http, self.security.is_some());
        let server = match self.security {
            Some(_) => "opensearch-security",
            None => self.version.jars(),
        };
        let mut arguments = jars.jvm_arguments(server, self.heap_mb, &home);
        // A fixed heap, as OpenSearch wants it.
        arguments.push(format!("-Xms{}m", self.heap_mb));
        arguments.push("ShardlineNode".into());
        arguments.extend(
            self.settings(index, run_dir)
                .into_iter()
                .map(|(key, value)| format!("{key}={value}")),
        );
        Ok(ProcessSpec {
            program: jars.java().to_owned(),
            arguments,
            environment: Vec::new(),
            ready: self.ready(&url),
            url,
            data_dir: home.join("data"),
            log_file: home.join(format!("{name}.log")),
            name,
        })
    }

    /// It answers once there is a cluster manager, and the plugin has its users; says nothing about
    /// shards, see `wait_for_status`.
    fn ready(&self, url: &str) -> Ready {
        let health = format!("{url}/_cluster/health?timeout=1s");
        match self.security {
            Some(security) => Ready::Https(health, security.access(ADMIN)),
            None => Ready::Http(health),
        }
    }

    fn settings(&self, index: usize, run_dir: &Path) -> Vec<(String, String)> {
        let name = self.node_name(index);
        let home = run_dir.join(&name);
        let ports = self.nodes[index];
        let mut settings: Vec<(String, String)> = vec![
            ("path.home".into(), home.display().to_string()),
            ("path.data".into(), home.join("data").display().to_string()),
            ("path.logs".into(), home.join("logs").display().to_string()),
            // One snapshot repository folder for both clusters.
            (
                "path.repo".into(),
                run_dir.join("snapshots").display().to_string(),
            ),
            ("cluster.name".into(), self.name.into()),
            ("node.name".into(), name),
            ("network.host".into(), "127.0.0.1".into()),
            ("http.port".into(), ports.http.to_string()),
            ("transport.port".into(), ports.transport.to_string()),
            ("http.max_content_length".into(), "200mb".into()),
            // A developer's disk may be nearly full.
            (
                "cluster.routing.allocation.disk.threshold_enabled".into(),
                "false".into(),
            ),
        ];
        if self.nodes.len() == 1 {
            settings.push(("discovery.type".into(), "single-node".into()));
        } else {
            let seeds: Vec<String> = self
                .nodes
                .iter()
                .map(|node| format!("127.0.0.1:{}", node.transport))
                .collect();
            let names: Vec<String> = (0..self.nodes.len())
                .map(|index| self.node_name(index))
                .collect();
            settings.push(("discovery.seed_hosts".into(), seeds.join(",")));
            settings.push((
                "cluster.initial_cluster_manager_nodes".into(),
                names.join(","),
            ));
        }
        if self.security.is_some() {
            settings.extend(Security::node_settings());
        }
        settings.retain(|(key, _)| self.overrides.iter().all(|(other, _)| other != key));
        settings.extend_from_slice(self.overrides);
        settings
    }

    fn node_name(&self, index: usize) -> String {
        format!("{}-{}", self.name, index + 1)
    }
}

/// The address of a node's REST port.
pub(crate) fn url(port: u16, secure: bool) -> String {
    let scheme = if secure { "https" } else { "http" };
    format!("{scheme}://127.0.0.1:{port}")
}

/// Waits until the cluster at `url` has at least this status: `yellow` (all primaries are there) or
/// `green`.
pub async fn wait_for_status(url: &str, status: &str, patience: Duration) -> Result<()> {
    wait_for_status_as(None, url, status, patience).await
}

/// The same of a cluster that asks for a login.
pub(crate) async fn wait_for_status_as(
    access: Option<&Access>,
    url: &str,
    status: &str,
    patience: Duration,
) -> Result<()> {
    let client = match access {
        Some(access) => access.quick_client()?,
        None => http_client()?,
    };
    let deadline = Instant::now() + patience;
    let health = format!("{url}/_cluster/health?wait_for_status={status}&timeout=1s");
    loop {
        let mut get = client.get(&health);
        if let Some(access) = access {
            get = get.basic_auth(&access.user, Some(&access.password));
        }
        let answer = get.send().await;
        if answer.as_ref().is_ok_and(|answer| answer.status() == 200) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let last = answer
                .with_context(|| format!("{url} is not {status}"))?
                .text()
                .await
                .unwrap_or_default();
            bail!(
                "{url} is not {status} after {} s, it said: {last}",
                patience.as_secs()
            );
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: [NodePorts; 2] = [
        NodePorts {
            http: 9201,
            transport: 9301,
        },
        NodePorts {
            http: 9221,
            transport: 9321,
        },
    ];

    fn settings(nodes: &[NodePorts], overrides: &[(String, String)]) -> Vec<String> {
        let cluster = Cluster {
            name: "leader",
            version: OpenSearchVersion::Newest,
            nodes,
            heap_mb: 512,
            security: None,
            overrides,
        };
        let settings = cluster.settings(nodes.len() - 1, Path::new("/run"));
        settings
            .into_iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect()
    }

    #[test]
    fn one_node_discovers_nobody() {
        let settings = settings(&PORTS[..1], &[]);
        assert!(settings.contains(&"discovery.type=single-node".to_owned()));
        assert!(settings.contains(&"path.data=/run/leader-1/data".to_owned()));
    }

    #[test]
    fn several_nodes_know_each_other() {
        let settings = settings(&PORTS, &[]);
        assert!(settings.contains(&"node.name=leader-2".to_owned()));
        assert!(
            settings.contains(&"discovery.seed_hosts=127.0.0.1:9301,127.0.0.1:9321".to_owned())
        );
        assert!(
            settings
                .contains(&"cluster.initial_cluster_manager_nodes=leader-1,leader-2".to_owned())
        );
    }

    #[test]
    fn overrides_win() {
        let settings = settings(&PORTS, &[("http.max_content_length".into(), "1mb".into())]);
        let found: Vec<_> = settings
            .iter()
            .filter(|line| line.starts_with("http.max"))
            .collect();
        assert_eq!(found, ["http.max_content_length=1mb"]);
    }
}
