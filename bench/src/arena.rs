//! The servers and agents that are measured, and what every phase does with them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shardline_dev::{AgentConfig, Stack, StackOptions};
use shardline_tests::client::Client;
use shardline_tests::repository::register;
use shardline_tests::wait;
use shardline_tests::world::ALIAS;

use crate::usage::{Meter, WRITERS, Watched, cpu_of, pin};
use crate::writers::Writer;

pub const PATIENCE: Duration = Duration::from_secs(600);
/// Indices whose names begin like this are captured without a follower.
pub const CAPTURED: &str = "captured-";
/// A snapshot repository that both clusters have.
pub const REPOSITORY: &str = "files";
pub const HEAP_MB: usize = 2048;

pub struct Arena {
    pub stack: Stack,
    pub leader: Client,
    /// The follower cluster itself, past the gateway.
    pub follower: Client,
    pub gateway: Client,
    pub to_leader: Writer,
    pub to_follower: Writer,
    /// Removed behind the stack.
    _run_dir: tempfile::TempDir,
}

/// Which cores the processes run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cores {
    /// Everything on all of them.
    Shared,
    /// Leader node, leader agent and load generator on the first; Kafka, follower agent and
    /// follower node on the second.
    Split,
}

impl Arena {
    pub async fn start() -> Result<Self> {
        let run_dir = tempfile::tempdir()?;
        let leader_agent_config =
            AgentConfig::default().set("capture", "always", format!("[\"{CAPTURED}*\"]"));
        let cluster_settings = vec![("cluster.max_shards_per_node".to_owned(), "5000".to_owned())];
        let options = StackOptions {
            heap_mb: HEAP_MB,
            leader_overrides: cluster_settings.clone(),
            follower_overrides: cluster_settings,
            leader_agent_config,
            ..StackOptions::new(run_dir.path())
        };
        let stack = Stack::start(options).await?;
        let arena = Self {
            leader: Client::new(stack.leader_url())?,
            follower: Client::new(stack.follower_url())?,
            gateway: Client::new(stack.gateway_url())?,
            to_leader: Writer::new(&stack.leader_url())?,
            to_follower: Writer::new(&stack.follower_url())?,
            stack,
            _run_dir: run_dir,
        };
        let seed = format!("127.0.0.1:{}", arena.stack.ports().leader[0].transport);
        let alias = json!({"persistent": {"cluster": {"remote": {ALIAS: {"seeds": [seed]}}}}});
        arena
            .gateway
            .ok("PUT", "/_cluster/settings", Some(&alias))
            .await?;
        Ok(arena)
    }

    /// All processes of the stack, and this one.
    pub fn processes(&self) -> Vec<Watched> {
        let stack = self.stack.processes().iter();
        let stack = stack.filter_map(|process| {
            Some(Watched {
                name: process.name().to_owned(),
                pid: process.pid()?,
            })
        });
        stack
            .chain([Watched {
                name: WRITERS.to_owned(),
                pid: std::process::id(),
            }])
            .collect()
    }

    pub fn pin(&self, cores: Cores) -> Result<()> {
        for process in self.processes() {
            let on: &[usize] = match (cores, process.name.as_str()) {
                (Cores::Shared, _) => &[0, 1],
                (Cores::Split, "leader-1" | "leader-agent-1" | WRITERS) => &[0],
                (Cores::Split, _) => &[1],
            };
            pin(process.pid, on).with_context(|| format!("cannot pin {}", process.name))?;
        }
        Ok(())
    }

    pub async fn create(&self, on: &Client, index: &str, shards: u32) -> Result<()> {
        on.ok("PUT", &format!("/{index}"), Some(&index_body(shards)))
            .await?;
        Ok(())
    }

    /// Follows an index and waits until it is followed.
    pub async fn follow(&self, leader: &str, follower: &str) -> Result<()> {
        self.start_following(leader, follower).await?;
        self.following(follower).await
    }

    pub async fn following(&self, follower: &str) -> Result<()> {
        wait::for_status(&self.gateway, follower, "SYNCING", PATIENCE).await?;
        Ok(())
    }

    pub async fn start_following(&self, leader: &str, follower: &str) -> Result<()> {
        self.start_with(
            follower,
            json!({"leader_alias": ALIAS, "leader_index": leader}),
        )
        .await
    }

    /// Follows an index that comes from the repository, and waits until it is followed.
    pub async fn follow_from_repository(&self, leader: &str, follower: &str) -> Result<()> {
        let body = json!({"leader_alias": ALIAS, "leader_index": leader, "repository": REPOSITORY});
        self.start_with(follower, body).await?;
        self.following(follower).await
    }

    async fn start_with(&self, follower: &str, body: Value) -> Result<()> {
        self.gateway
            .ok("PUT", &replication(follower, "_start"), Some(&body))
            .await?;
        Ok(())
    }

    pub async fn register_repository(&self) -> Result<()> {
        let run_dir = self.stack.run_dir();
        register(run_dir, &self.leader, REPOSITORY, json!({})).await?;
        register(
            run_dir,
            &self.follower,
            REPOSITORY,
            json!({"readonly": true}),
        )
        .await?;
        Ok(())
    }

    pub async fn pause(&self, follower: &str) -> Result<()> {
        self.gateway
            .ok("POST", &replication(follower, "_pause"), Some(&json!({})))
            .await?;
        Ok(())
    }

    pub async fn resume(&self, follower: &str) -> Result<()> {
        self.gateway
            .ok("POST", &replication(follower, "_resume"), Some(&json!({})))
            .await?;
        Ok(())
    }

    pub async fn caught_up(&self, leader: &str, follower: &str) -> Result<()> {
        wait::caught_up(&self.leader, leader, &self.gateway, follower, PATIENCE).await
    }

    /// Waits until Kafka has everything of an index.
    pub async fn shipped(&self, index: &str) -> Result<()> {
        let stats = self
            .leader
            .get(&format!("/{index}/_stats?level=shards"))
            .await?;
        let shards = stats["indices"][index]["shards"]
            .as_object()
            .context("no shards in _stats")?;
        let last = shards
            .values()
            .filter_map(|copies| copies[0]["seq_no"]["max_seq_no"].as_i64());
        let wanted: f64 = last.map(|seq_no| seq_no as f64).sum();
        let what = format!("{index} to be in Kafka up to {wanted}");
        wait::until(&what, PATIENCE, async || {
            let reached = self
                .metric("leader-agent-1", "shardline_leader_shipped_seq_no", index)
                .await?;
            Ok(if reached >= wanted {
                Ok(())
            } else {
                Err(format!("{reached}"))
            })
        })
        .await
    }

    /// The sum over an index's shards of one of an agent's metrics.
    pub async fn metric(&self, agent: &str, metric: &str, index: &str) -> Result<f64> {
        let ports = self.stack.ports();
        let port = if agent == "leader-agent-1" {
            ports.leader_agents[0]
        } else {
            ports.follower_agents[0].admin
        };
        let text = Client::new(format!("http://127.0.0.1:{port}"))?
            .get("/metrics")
            .await?;
        let label = format!("index=\"{index}\"");
        let lines = text.as_str().context("metrics are a text")?.lines();
        let values = lines.filter(|line| {
            line.strip_prefix(metric)
                .is_some_and(|rest| rest.starts_with('{') && rest.contains(&label))
        });
        Ok(values
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }

    /// Waits until what the last measurement left to do is done: until all processes together use
    /// little of a core.
    pub async fn settle(&self) -> Result<()> {
        self.settle_those(|_| true).await
    }

    /// As [`Self::settle`], of some of the processes.
    pub async fn settle_those(&self, which: impl Fn(&str) -> bool + Copy) -> Result<()> {
        let window = Duration::from_millis(500);
        for _ in 0..60 {
            let meter = Meter::start(self.processes())?;
            tokio::time::sleep(window).await;
            if cpu_of(&meter.stop()?, which) < 0.15 * window.as_secs_f64() {
                break;
            }
        }
        Ok(())
    }

    /// Verifies an index; what came of it.
    pub async fn verified(&self, follower: &str, body: &Value) -> Result<Value> {
        let path = replication(follower, "_verify");
        self.gateway.ok("POST", &path, Some(body)).await?;
        wait::until("the verification to end", PATIENCE, async || {
            let found = self.gateway.get(&path).await?;
            let is_done = ["equal", "different", "failed"]
                .iter()
                .any(|state| found["state"] == *state);
            Ok(if is_done {
                Ok(found)
            } else {
                Err(found.to_string())
            })
        })
        .await
    }

    /// A check that what is measured is the real thing.
    pub async fn same_count(&self, leader: &str, follower: &str) -> Result<()> {
        let (expected, found) = (
            count(&self.leader, leader).await?,
            count(&self.follower, follower).await?,
        );
        ensure!(
            expected == found,
            "{leader} has {expected} documents and {follower} {found}"
        );
        Ok(())
    }

    /// Ends a replication and removes the follower index.
    pub async fn unfollow(&self, follower: &str) -> Result<()> {
        self.gateway
            .ok("POST", &replication(follower, "_stop"), Some(&json!({})))
            .await?;
        remove(&self.follower, follower).await
    }
}

pub async fn remove(from: &Client, index: &str) -> Result<()> {
    from.ok("DELETE", &format!("/{index}"), None).await?;
    Ok(())
}

pub async fn count(at: &Client, index: &str) -> Result<u64> {
    at.ok("POST", &format!("/{index}/_refresh"), None).await?;
    at.get(&format!("/{index}/_count")).await?["count"]
        .as_u64()
        .context("no count")
}

fn replication(follower: &str, call: &str) -> String {
    format!("/_plugins/_replication/{follower}/{call}")
}

fn index_body(shards: u32) -> Value {
    json!({
        "settings": {"number_of_shards": shards, "number_of_replicas": 0},
        "mappings": {"properties": {
            "@timestamp": {"type": "date"}, "service": {"type": "keyword"}, "level": {"type": "keyword"},
            "status": {"type": "short"}, "duration_ms": {"type": "float"}, "trace": {"type": "keyword"},
            "message": {"type": "text"}, "text": {"type": "text"},
        }},
    })
}
