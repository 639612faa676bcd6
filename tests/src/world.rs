//! A real stack for a test, with a client for each side.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use shardline_common::topic::replication_topic;
use shardline_common::types::TopicName;
use shardline_dev::{AgentConfig, Stack, StackOptions};

use crate::client::Client;
use crate::compare::compare;
use crate::topic_check::{self, TopicReport};
use crate::wait;

/// The connection alias under which the follower cluster knows the leader.
pub const ALIAS: &str = "my-connection-alias";

const PATIENCE: Duration = Duration::from_secs(120);

pub struct World {
    pub stack: Stack,
    pub leader: Client,
    /// The follower cluster itself, past the gateway.
    pub follower: Client,
    pub gateway: Client,
    // Removed behind the stack.
    _run_dir: tempfile::TempDir,
}

impl World {
    /// One of everything, on free ports; gone with the test. Indices named `always-*` are captured
    /// without a follower.
    pub async fn start() -> Result<Self> {
        Self::with(|_| {}).await
    }

    /// A stack that differs in something.
    pub async fn with(change: impl FnOnce(&mut StackOptions)) -> Result<Self> {
        let run_dir = tempfile::tempdir()?;
        let leader_agent_config = AgentConfig::default().set("capture", "always", "[\"always-*\"]");
        let mut options = StackOptions {
            leader_agent_config,
            ..StackOptions::new(run_dir.path())
        };
        change(&mut options);
        let stack = Stack::start(options).await?;
        let client = |url: String| client_as(&stack, "admin", url);
        let world = Self {
            leader: client(stack.leader_url())?,
            follower: client(stack.follower_url())?,
            gateway: client(stack.gateway_url())?,
            stack,
            _run_dir: run_dir,
        };
        let seed = format!("127.0.0.1:{}", world.stack.ports().leader[0].transport);
        let alias = json!({"persistent": {"cluster": {"remote": {ALIAS: {"seeds": [seed]}}}}});
        world
            .gateway
            .ok("PUT", "/_cluster/settings", Some(&alias))
            .await?;
        Ok(world)
    }

    pub async fn follow(&self, leader: &str, follower: &str) -> Result<()> {
        let mut body = json!({"leader_alias": ALIAS, "leader_index": leader});
        if self.stack.access("admin").is_some() {
            let role = "all_access";
            body["use_roles"] = json!({"leader_cluster_role": role, "follower_cluster_role": role});
        }
        self.gateway
            .ok(
                "PUT",
                &format!("/_plugins/_replication/{follower}/_start"),
                Some(&body),
            )
            .await?;
        Ok(())
    }

    /// Writes documents to a leader index one by one: `<prefix>-0`, `<prefix>-1` and so on.
    pub async fn put_numbered(&self, index: &str, prefix: &str, documents: u32) -> Result<()> {
        for n in 0..documents {
            let path = format!("/{index}/_doc/{prefix}-{n}");
            let document = json!({"status": n});
            self.leader.ok("PUT", &path, Some(&document)).await?;
        }
        Ok(())
    }

    /// Waits until the follower has everything, then compares document by document.
    pub async fn equal(&self, leader: &str, follower: &str) -> Result<()> {
        wait::caught_up(&self.leader, leader, &self.gateway, follower, PATIENCE).await?;
        let difference = compare(&self.leader, leader, &self.follower, follower).await?;
        ensure!(
            difference.is_equal(),
            "{leader} and {follower}: {difference}"
        );
        Ok(())
    }

    /// Proves of the index's topic what must hold for its records.
    pub async fn check_topic(&self, leader: &str) -> Result<TopicReport> {
        let topic = self.topic(leader).await?;
        topic_check::check(self.stack.kafka_bootstrap(), &topic, &self.leader, leader).await
    }

    /// The topic of a leader index.
    pub async fn topic(&self, leader: &str) -> Result<TopicName> {
        let settings = self
            .leader
            .get(&format!("/{leader}/_settings?flat_settings=true"))
            .await?;
        let uuid = settings[leader]["settings"]["index.uuid"]
            .as_str()
            .context("no uuid")?;
        Ok(replication_topic(
            "shardline",
            "leader",
            &leader.into(),
            &uuid.into(),
        ))
    }

    /// The gateway as somebody else; everybody is the same where the stack asks for no login.
    pub fn gateway_as(&self, user: &str) -> Result<Client> {
        client_as(&self.stack, user, self.stack.gateway_url())
    }

    /// The follower cluster itself as somebody else.
    pub fn follower_as(&self, user: &str) -> Result<Client> {
        client_as(&self.stack, user, self.stack.follower_url())
    }

    pub async fn stop(self) -> Result<()> {
        self.stack.stop().await
    }
}

fn client_as(stack: &Stack, user: &str, url: String) -> Result<Client> {
    match stack.access(user) {
        Some(access) => Client::with_access(url, &access),
        None => Client::new(url),
    }
}
