//! A real stack for a test, with a client for each side.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use shardline_dev::{AgentConfig, Stack, StackOptions};

use crate::client::Client;
use crate::compare::compare;
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
    /// One of everything, on free ports; gone with the test. Indices named `always-*` are captured without a follower.
    pub async fn start() -> Result<Self> {
        Self::start_with(|options| options).await
    }

    /// The same with other options.
    pub async fn start_with(change: impl FnOnce(StackOptions) -> StackOptions) -> Result<Self> {
        let run_dir = tempfile::tempdir()?;
        let leader_agent_config = AgentConfig::default().set("capture", "always", "[\"always-*\"]");
        let options = change(StackOptions { leader_agent_config, ..StackOptions::new(run_dir.path()) });
        let stack = Stack::start(options).await?;
        let world = Self {
            leader: Client::new(stack.leader_url())?,
            follower: Client::new(stack.follower_url())?,
            gateway: Client::new(stack.gateway_url())?,
            stack,
            _run_dir: run_dir,
        };
        let seed = format!("127.0.0.1:{}", world.stack.ports().leader[0].transport);
        let alias = json!({"persistent": {"cluster": {"remote": {ALIAS: {"seeds": [seed]}}}}});
        world.gateway.ok("PUT", "/_cluster/settings", Some(&alias)).await?;
        Ok(world)
    }

    pub async fn follow(&self, leader: &str, follower: &str) -> Result<()> {
        let body = json!({"leader_alias": ALIAS, "leader_index": leader});
        self.gateway.ok("PUT", &format!("/_plugins/_replication/{follower}/_start"), Some(&body)).await?;
        Ok(())
    }

    /// Waits until the follower has everything, then compares document by document.
    pub async fn equal(&self, leader: &str, follower: &str) -> Result<()> {
        wait::caught_up(&self.leader, leader, &self.gateway, follower, PATIENCE).await?;
        let difference = compare(&self.leader, leader, &self.follower, follower).await?;
        ensure!(difference.is_equal(), "{leader} and {follower}: {difference}");
        Ok(())
    }

    pub async fn stop(self) -> Result<()> {
        self.stack.stop().await
    }
}
