//! The `poll` source: no access to the node's files, and the follower ends equal all the same,
//! deletions included.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use shardline_dev::AgentConfig;
use shardline_tests::load::{Load, by_query, index_body};
use shardline_tests::wait;
use shardline_tests::world::World;

const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_file_access_is_followed_by_scans() -> Result<()> {
    let world = World::with(|options| {
        let config = AgentConfig::default()
            .set("capture", "source", "\"poll\"")
            .set("capture", "poll_sweep_seconds", 3);
        // Nothing is there: whoever needs files fails.
        options.leader_agent_config = config.set("capture", "data_paths", "[\"/nonexistent\"]");
    })
    .await?;
    let World {
        leader,
        gateway,
        stack,
        ..
    } = &world;
    leader.ok("PUT", "/logs", Some(&index_body(2))).await?;
    let mut load = Load::new(5, "p");
    leader.bulk("/logs/_bulk", load.bulk(500)).await?;
    world.follow("logs", "logs").await?;
    wait::for_status(gateway, "logs", "SYNCING", PATIENCE).await?;
    for _ in 0..10 {
        leader.bulk("/logs/_bulk", load.bulk(300)).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    by_query(leader, "logs").await?;
    equal_in_time(&world).await?;

    // Deleted while the agent is away.
    stack.process("leader-agent-1")?.kill().await?;
    leader
        .ok(
            "POST",
            "/logs/_delete_by_query?refresh=true",
            Some(&json!({"query": {"term": {"level": "WARN"}}})),
        )
        .await?;
    stack.restart("leader-agent-1").await?;
    equal_in_time(&world).await?;
    world.stop().await
}

/// Deletions come with the next sweep.
async fn equal_in_time(world: &World) -> Result<()> {
    wait::until("the deletions to arrive", PATIENCE, async || {
        Ok(world
            .equal("logs", "logs")
            .await
            .map_err(|error| error.to_string()))
    })
    .await
}
