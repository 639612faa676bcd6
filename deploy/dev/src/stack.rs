//! The whole stack: what it is made of, started and stopped together.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::agents::{AgentConfig, Agents, is_agent};
use crate::endpoints::{Endpoint, Endpoints};
use crate::jars::Jars;
use crate::kafka::Kafka;
use crate::launcher::Lifetime;
use crate::opensearch::{ADMIN, Cluster, OpenSearchVersion, url, wait_for_status_as};
use crate::ports::{Counts, PortPlan, Ports};
use crate::process::{Process, ProcessSpec};
use crate::process_id::{ProcessId, stop_all};
use crate::ready::wait_until_ready;
use crate::security::{Access, Security};

const STOP_GRACE: Duration = Duration::from_secs(20);

/// What a stack is made of. Start from [`StackOptions::new`] and change what differs.
#[derive(Clone, Debug)]
pub struct StackOptions {
    pub leader_nodes: usize,
    pub follower_nodes: usize,
    pub leader_version: OpenSearchVersion,
    pub follower_version: OpenSearchVersion,
    /// Whether both clusters run the security plugin, in the version of which it is to be had.
    pub secure: bool,
    pub follower_agents: usize,
    pub brokers: usize,
    /// Heap of each OpenSearch node.
    pub heap_mb: usize,
    /// Whether to start Shardline's agents: one beside each leader node, and `follower_agents`.
    pub agents: bool,
    pub ports: Ports,
    /// Holds everything: data, logs, configuration and `endpoints.json`. What is there already is
    /// used again.
    pub run_dir: PathBuf,
    pub lifetime: Lifetime,
    /// How long servers, and then agents, may take to come up.
    pub patience: Duration,
    pub kafka_overrides: Vec<(String, String)>,
    pub leader_overrides: Vec<(String, String)>,
    pub follower_overrides: Vec<(String, String)>,
    pub leader_agent_config: AgentConfig,
    pub follower_agent_config: AgentConfig,
    /// Environment of the agents on top of this process's own.
    pub agent_environment: Vec<(String, String)>,
}

impl StackOptions {
    /// One of everything on free ports, owned by this process.
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        Self {
            leader_nodes: 1,
            follower_nodes: 1,
            leader_version: OpenSearchVersion::Newest,
            follower_version: OpenSearchVersion::Newest,
            secure: false,
            follower_agents: 1,
            brokers: 1,
            heap_mb: 512,
            agents: true,
            ports: Ports::Free,
            run_dir: run_dir.into(),
            lifetime: Lifetime::Owned,
            patience: Duration::from_secs(180),
            kafka_overrides: Vec::new(),
            leader_overrides: Vec::new(),
            follower_overrides: Vec::new(),
            leader_agent_config: AgentConfig::default(),
            follower_agent_config: AgentConfig::default(),
            agent_environment: Vec::new(),
        }
    }

    fn counts(&self) -> Result<Counts> {
        let counts = Counts {
            leader_nodes: self.leader_nodes,
            follower_nodes: self.follower_nodes,
            brokers: self.brokers,
            follower_agents: self.follower_agents,
        };
        if [
            counts.leader_nodes,
            counts.follower_nodes,
            counts.brokers,
            counts.follower_agents,
        ]
        .contains(&0)
        {
            bail!(
                "a stack needs at least one of everything, not {counts:?}; agents are left out with agents = false"
            );
        }
        Ok(counts)
    }
}

/// A running stack. Dropping an owned one kills its processes.
#[derive(Debug)]
pub struct Stack {
    options: StackOptions,
    plan: PortPlan,
    kafka_bootstrap: String,
    security: Option<Security>,
    processes: Vec<Process>,
    kill_on_drop: bool,
}

impl Stack {
    /// Starts Kafka and both clusters at the same time and then the agents; returns when all are
    /// up. If one does not come up, what was started is killed again.
    pub async fn start(mut options: StackOptions) -> Result<Self> {
        let counts = options.counts()?;
        options.run_dir = std::path::absolute(&options.run_dir)?;
        let run_dir = &options.run_dir;
        std::fs::create_dir_all(run_dir)
            .with_context(|| format!("cannot create {}", run_dir.display()))?;
        if let Some(endpoints) = Endpoints::read(run_dir)? {
            let names: Vec<&str> = endpoints
                .alive()
                .map(|process| process.name.as_str())
                .collect();
            if !names.is_empty() {
                let names = names.join(", ");
                bail!(
                    "a stack is up in {} ({names}): stop it first with deploy/dev/down",
                    run_dir.display()
                );
            }
        }
        let (jars, security) = jars_and_security(&options).await?;
        let plan = PortPlan::new(&options.ports, counts)?;
        // Free ones were tried when they were picked. Once more would be too often: a process that
        // is just being started by another stack's thread holds the listener of the try until it
        // runs its program.
        if matches!(options.ports, Ports::Fixed(_)) {
            plan.check_unused()?;
        }

        let kafka = Kafka {
            brokers: &plan.brokers,
            overrides: &options.kafka_overrides,
        };
        let kafka_bootstrap = kafka.bootstrap_servers();
        let leader = Cluster {
            name: "leader",
            version: options.leader_version,
            nodes: &plan.leader,
            heap_mb: options.heap_mb,
            security: security.as_ref(),
            overrides: &options.leader_overrides,
        };
        let follower = Cluster {
            name: "follower",
            version: options.follower_version,
            nodes: &plan.follower,
            heap_mb: options.heap_mb,
            security: security.as_ref(),
            overrides: &options.follower_overrides,
        };
        let mut servers = kafka.specs(run_dir, &jars)?;
        servers.extend(leader.specs(run_dir, &jars)?);
        servers.extend(follower.specs(run_dir, &jars)?);
        let agents = Agents {
            plan: &plan,
            bootstrap_servers: &kafka_bootstrap,
            replication_factor: kafka.replication_factor(),
            leader_config: &options.leader_agent_config,
            follower_config: &options.follower_agent_config,
            environment: &options.agent_environment,
            security: security.as_ref(),
        };
        let agents = if options.agents {
            agents.specs(run_dir)?
        } else {
            Vec::new()
        };

        let owned = options.lifetime == Lifetime::Owned;
        let mut stack = Self {
            options,
            plan,
            kafka_bootstrap,
            security,
            processes: Vec::new(),
            kill_on_drop: true,
        };
        stack.launch(servers).await?;
        // With data from an earlier run, shards take a moment to be served again.
        for url in [stack.leader_url(), stack.follower_url()] {
            let admin = stack.access(ADMIN);
            wait_for_status_as(admin.as_ref(), &url, "yellow", stack.options.patience).await?;
        }
        stack.launch(agents).await?;
        stack.kill_on_drop = owned;
        Ok(stack)
    }

    async fn launch(&mut self, specs: Vec<ProcessSpec>) -> Result<()> {
        let already = self.processes.len();
        for spec in specs {
            let process = Process::new(spec, self.options.lifetime);
            process.spawn()?;
            self.processes.push(process);
        }
        // Before they are up: should this process be killed while it waits, `down` still knows what
        // to stop.
        self.write_endpoints()?;
        let started: Vec<&Process> = self.processes[already..].iter().collect();
        wait_until_ready(&started, self.options.patience).await
    }

    /// The first node of the leader cluster; others: `process("leader-2")?.url()`.
    pub fn leader_url(&self) -> String {
        url(self.plan.leader[0].http, self.security.is_some())
    }

    /// The first node of the follower cluster itself, past the gateway.
    pub fn follower_url(&self) -> String {
        url(self.plan.follower[0].http, self.security.is_some())
    }

    /// The first follower agent's gateway; nobody answers there without agents.
    pub fn gateway_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.plan.follower_agents[0].gateway)
    }

    /// How a user of the dev stack (`deploy/dev/security`) logs in; `None` where nobody has to.
    pub fn access(&self, user: &str) -> Option<Access> {
        Some(self.security.as_ref()?.access(user))
    }

    /// `host:port` of all brokers, with commas.
    pub fn kafka_bootstrap(&self) -> &str {
        &self.kafka_bootstrap
    }

    pub fn ports(&self) -> &PortPlan {
        &self.plan
    }

    pub fn run_dir(&self) -> &Path {
        &self.options.run_dir
    }

    /// `kafka-1`, `leader-1`, `follower-1`, `leader-agent-1`, `follower-agent-1` and so on, in the
    /// order of their start.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    pub fn process(&self, name: &str) -> Result<&Process> {
        self.processes
            .iter()
            .find(|process| process.name() == name)
            .with_context(|| {
                let names: Vec<&str> = self.processes.iter().map(Process::name).collect();
                format!(
                    "no process {name} in this stack, there are {}",
                    names.join(", ")
                )
            })
    }

    /// Kills a process if it runs, starts it with the same ports and data, waits until it is up,
    /// and notes its new pid in `endpoints.json`. A node that is up may not yet serve its shards:
    /// see [`crate::wait_for_status`].
    pub async fn restart(&self, name: &str) -> Result<()> {
        self.process(name)?.restart(self.options.patience).await?;
        self.write_endpoints()
    }

    /// Stops everything cleanly, agents first, and waits until all are gone. The data stays.
    pub async fn stop(self) -> Result<()> {
        let (agents, servers): (Vec<&Process>, Vec<&Process>) = self
            .processes
            .iter()
            .partition(|process| is_agent(process.name()));
        for group in [agents, servers] {
            let ids: Vec<ProcessId> = group.into_iter().filter_map(Process::id).collect();
            stop_all(&ids, STOP_GRACE).await?;
        }
        self.processes.iter().for_each(Process::kill_now);
        Endpoints::remove(self.run_dir())
    }

    /// What `endpoints.json` holds.
    pub fn endpoints(&self) -> Endpoints {
        let endpoint = |process: &Process| {
            Some(Endpoint {
                name: process.name().to_owned(),
                url: process.url().to_owned(),
                id: process.id()?,
                data_dir: process.data_dir().to_owned(),
                log_file: process.log_file().to_owned(),
            })
        };
        Endpoints {
            kafka_bootstrap: self.kafka_bootstrap.clone(),
            leader_url: self.leader_url(),
            follower_url: self.follower_url(),
            gateway_url: self.options.agents.then(|| self.gateway_url()),
            processes: self.processes.iter().filter_map(endpoint).collect(),
        }
    }

    fn write_endpoints(&self) -> Result<()> {
        self.endpoints().write(self.run_dir())
    }
}

async fn jars_and_security(options: &StackOptions) -> Result<(Jars, Option<Security>)> {
    if !options.secure {
        return Ok((tokio::task::spawn_blocking(Jars::locate).await??, None));
    }
    let jars = tokio::task::spawn_blocking(Jars::locate_with_security).await??;
    let security = Security::prepare(&options.run_dir, &jars)?;
    Ok((jars, Some(security)))
}

impl Drop for Stack {
    fn drop(&mut self) {
        if !self.kill_on_drop {
            return;
        }
        self.processes.iter().for_each(Process::kill_now);
        if let Err(error) = Endpoints::remove(self.run_dir()) {
            eprintln!("{error:#}");
        }
    }
}
