//! Indices whose history the translog no longer holds: they are copied, under load, and again after a gap.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use shardline_dev::{Stack, StackOptions};
use shardline_tests::client::Client;
use shardline_tests::compare::compare;
use shardline_tests::load::{Load, index_body};
use shardline_tests::wait;

const PATIENCE: Duration = Duration::from_secs(120);
const BULK: u64 = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_no_longer_holds_is_copied() -> Result<()> {
    let run_dir = tempfile::tempdir()?;
    let stack = Stack::start(StackOptions::new(run_dir.path())).await?;
    let leader = Client::new(stack.leader_url())?;
    let follower = Client::new(stack.follower_url())?;
    let gateway = Client::new(stack.gateway_url())?;
    let seed = format!("127.0.0.1:{}", stack.ports().leader[0].transport);
    let alias = json!({"persistent": {"cluster.remote.a.seeds": [seed]}});
    gateway.ok("PUT", "/_cluster/settings", Some(&alias)).await?;

    // Written and flushed before anybody follows.
    leader.ok("PUT", "/old", Some(&index_body(2))).await?;
    let mut load = Load::new(3, "o");
    for _ in 0..20 {
        leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    }
    leader.ok("POST", "/old/_flush?force=true", None).await?;

    // Copied while it is written on.
    let start = json!({"leader_alias": "a", "leader_index": "old"});
    gateway.ok("PUT", "/_plugins/_replication/new/_start", Some(&start)).await?;
    for _ in 0..10 {
        leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    }
    wait::for_status(&gateway, "new", "SYNCING", PATIENCE).await?;
    wait::caught_up(&leader, "old", &gateway, "new", PATIENCE).await?;
    let difference = compare(&leader, "old", &follower, "new").await?;
    anyhow::ensure!(difference.is_equal(), "after the copy: {difference}");
    let settings = follower.get("/new/_settings?flat_settings=true").await?;
    let settings = &settings["new"]["settings"];
    assert!(settings["index.refresh_interval"].is_null(), "bulk-load settings stay behind: {settings}");

    // The leader's agent is away while the translog is trimmed: there is a gap, and the index is copied anew.
    stack.process("leader-agent-1")?.kill().await?;
    for _ in 0..5 {
        leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
        leader.ok("POST", "/old/_flush?force=true", None).await?;
    }
    stack.restart("leader-agent-1").await?;
    leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    wait::caught_up(&leader, "old", &gateway, "new", PATIENCE).await?;
    let difference = compare(&leader, "old", &follower, "new").await?;
    anyhow::ensure!(difference.is_equal(), "after the gap: {difference}");

    // All of it again in another order: both agents down, the follower's checkpoints lost.
    stack.process("follower-agent-1")?.kill().await?;
    std::fs::remove_dir_all(stack.process("follower-agent-1")?.data_dir())?;
    leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    stack.restart("follower-agent-1").await?;
    wait::caught_up(&leader, "old", &gateway, "new", PATIENCE).await?;
    let difference = compare(&leader, "old", &follower, "new").await?;
    anyhow::ensure!(difference.is_equal(), "after the checkpoints were lost: {difference}");
    stack.stop().await
}
