//! Each agent is killed with SIGKILL three times in the middle of a load, and the leader's
//! translogs are flushed: nothing is lost, reordered or resurrected.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use shardline_dev::{Signal, wait_for_status};
use shardline_tests::load::{Load, by_query, index_body};
use shardline_tests::wait;
use shardline_tests::world::World;

const PATIENCE: Duration = Duration::from_secs(120);
const BULKS: u64 = 60;
const BULK: u64 = 500;

#[tokio::test(flavor = "multi_thread")]
async fn killed_agents_lose_nothing() -> Result<()> {
    let world = World::start().await?;
    let World {
        stack,
        leader,
        follower,
        gateway,
        ..
    } = &world;
    leader.ok("PUT", "/logs", Some(&index_body(3))).await?;
    world.follow("logs", "logs").await?;

    let load = async {
        let mut load = Load::new(11, "k");
        for _ in 0..BULKS {
            leader.bulk("/logs/_bulk", load.bulk(BULK)).await?;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    let faults = async {
        for _ in 0..3 {
            for agent in ["leader-agent-1", "follower-agent-1"] {
                tokio::time::sleep(Duration::from_millis(700)).await;
                stack.process(agent)?.kill().await?;
                // Generations are rolled and trimmed while nobody looks.
                leader.ok("POST", "/logs/_flush?force=true", None).await?;
                stack.restart(agent).await?;
            }
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::try_join!(load, faults)?;
    by_query(leader, "logs").await?;
    world.equal("logs", "logs").await?;

    // A pause comes into effect although the follower cluster hangs.
    stack.process("follower-1")?.signal(Signal::SIGSTOP)?;
    let mut hung = Load::new(13, "h");
    leader.bulk("/logs/_bulk", hung.bulk(BULK)).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let pause = async {
        gateway
            .ok(
                "POST",
                "/_plugins/_replication/logs/_pause",
                Some(&json!({})),
            )
            .await
    };
    tokio::time::timeout(Duration::from_secs(30), pause).await??;
    stack.process("follower-1")?.signal(Signal::SIGCONT)?;
    gateway
        .ok(
            "POST",
            "/_plugins/_replication/logs/_resume",
            Some(&json!({})),
        )
        .await?;
    world.equal("logs", "logs").await?;

    // A pause survives the restart of everything, and so does all that was written before and
    // during it.
    gateway
        .ok(
            "POST",
            "/_plugins/_replication/logs/_pause",
            Some(&json!({"reason": "night"})),
        )
        .await?;
    let mut more = Load::new(12, "m");
    leader.bulk("/logs/_bulk", more.bulk(BULK)).await?;
    for name in [
        "leader-agent-1",
        "follower-agent-1",
        "kafka-1",
        "leader-1",
        "follower-1",
    ] {
        stack.process(name)?.kill().await?;
    }
    for name in [
        "kafka-1",
        "leader-1",
        "follower-1",
        "leader-agent-1",
        "follower-agent-1",
    ] {
        stack.restart(name).await?;
    }
    wait_for_status(leader.url(), "yellow", PATIENCE).await?;
    wait_for_status(follower.url(), "yellow", PATIENCE).await?;
    let status = wait::for_status(gateway, "logs", "PAUSED", PATIENCE).await?;
    assert_eq!(status["reason"], "night");
    leader.bulk("/logs/_bulk", more.bulk(BULK)).await?;
    gateway
        .ok(
            "POST",
            "/_plugins/_replication/logs/_resume",
            Some(&json!({})),
        )
        .await?;
    world.equal("logs", "logs").await?;
    world.stop().await
}
