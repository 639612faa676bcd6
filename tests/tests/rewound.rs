//! The leader's data is put back to an older copy: acknowledged operations are gone, and others
//! take their numbers. The follower follows what the leader has now.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use shardline_common::types::ShardId;
use shardline_dev::AgentConfig;
use shardline_tests::load::index_body;
use shardline_tests::world::World;
use shardline_tests::{folders, repository, topic_check, wait};

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_lost_operations_is_followed_on_from_what_it_has() -> Result<()> {
    let world = World::start().await?;
    let backup = follow_what_will_be_lost(&world).await?;
    put_back(&world, &backup).await?;
    world.stack.restart("leader-agent-1").await?;
    write(&world, "new", 60).await?;
    nothing_lost_is_there(&world).await?;
    world.stop().await
}

/// Heartbeats have moved the last operation out of the partition's last records, and the shard has
/// others in its place before the agent looks.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_long_after_the_last_operation_is_noticed() -> Result<()> {
    let world = World::with(|options| {
        options.leader_agent_config = AgentConfig::default().set("capture", "heartbeat_seconds", 1);
    })
    .await?;
    let backup = follow_what_will_be_lost(&world).await?;
    let (kafka, topic) = (
        topic_check::kafka(world.stack.kafka_bootstrap())?,
        world.topic("logs").await?,
    );
    let reach = wait::until(
        "heartbeats behind the last operation",
        Duration::from_secs(180),
        async || {
            let reach = kafka
                .reach(&topic, ShardId(0))
                .await?
                .context("an empty partition")?;
            Ok(if reach.last.is_none() {
                Ok(reach)
            } else {
                Err("it is among the last records".to_owned())
            })
        },
    );
    let last = kafka
        .last_operation(&topic, ShardId(0), &reach.await?)
        .await?;
    ensure!(last.is_some(), "the last operation is not found");
    put_back(&world, &backup).await?;
    write(&world, "new", 60).await?;
    world.stack.restart("leader-agent-1").await?;
    nothing_lost_is_there(&world).await?;
    world.stop().await
}

/// The translog no longer has the operation that Kafka ends with, so that only the documents tell.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_and_flushed_away_is_noticed() -> Result<()> {
    let world = World::start().await?;
    let backup = follow_what_will_be_lost(&world).await?;
    put_back(&world, &backup).await?;
    write(&world, "new", 60).await?;
    world
        .leader
        .ok("POST", "/logs/_flush?force=true", None)
        .await?;
    world.stack.restart("leader-agent-1").await?;
    nothing_lost_is_there(&world).await?;
    world.stop().await
}

/// It keeps its uuid, and may be further than the index was.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_restored_over_is_copied_anew() -> Result<()> {
    let world = World::start().await?;
    let World {
        stack,
        leader,
        gateway,
        ..
    } = &world;
    for (index, documents) in [("logs", 100), ("other", 300)] {
        leader
            .ok("PUT", &format!("/{index}"), Some(&index_body(1)))
            .await?;
        for n in 0..documents {
            leader
                .ok(
                    "PUT",
                    &format!("/{index}/_doc/{n}"),
                    Some(&json!({"message": index})),
                )
                .await?;
        }
    }
    world.follow("logs", "logs").await?;
    world.equal("logs", "logs").await?;
    repository::register(stack.run_dir(), leader, "backups", json!({})).await?;
    let snapshot = "/_snapshot/backups/one?wait_for_completion=true";
    leader
        .ok("PUT", snapshot, Some(&json!({"indices": "other"})))
        .await?;
    leader.ok("POST", "/logs/_close", None).await?;
    wait::for_status(gateway, "logs", "PAUSED", Duration::from_secs(30)).await?;
    let restore = "/_snapshot/backups/one/_restore?wait_for_completion=true";
    let renamed =
        json!({"indices": "other", "rename_pattern": "other", "rename_replacement": "logs"});
    leader.ok("POST", restore, Some(&renamed)).await?;
    wait::for_status(gateway, "logs", "SYNCING", Duration::from_secs(60)).await?;
    let counted = wait::until(
        "the restored documents",
        Duration::from_secs(60),
        async || {
            world.follower.ok("POST", "/logs/_refresh", None).await?;
            let found = world.follower.get("/logs/_count?q=message:other").await?;
            Ok(if found["count"] == 300 {
                Ok(())
            } else {
                Err(found.to_string())
            })
        },
    );
    counted.await?;
    world.equal("logs", "logs").await?;
    world.stop().await
}

/// Gives a copy of the leader's data from before.
async fn follow_what_will_be_lost(world: &World) -> Result<PathBuf> {
    let World { stack, leader, .. } = world;
    leader.ok("PUT", "/logs", Some(&index_body(1))).await?;
    write(world, "kept", 50).await?;
    world.follow("logs", "logs").await?;
    world.equal("logs", "logs").await?;

    let data = stack.process("leader-1")?.data_dir();
    let backup = data.with_extension("backup");
    stack.process("leader-1")?.terminate().await?;
    folders::copy(data, &backup)?;
    stack.restart("leader-1").await?;
    write(world, "lost", 50).await?;
    world.equal("logs", "logs").await?;
    Ok(backup)
}

/// The leader's agent is away when this returns.
async fn put_back(World { stack, .. }: &World, backup: &Path) -> Result<()> {
    let data = stack.process("leader-1")?.data_dir();
    stack.process("leader-agent-1")?.kill().await?;
    stack.process("leader-1")?.terminate().await?;
    std::fs::remove_dir_all(data)?;
    folders::copy(backup, data)?;
    stack.restart("leader-1").await
}

async fn nothing_lost_is_there(world: &World) -> Result<()> {
    world.equal("logs", "logs").await?;
    let found = world
        .follower
        .get("/logs/_search?q=_id:lost-1&_source=false")
        .await?;
    ensure!(
        found["hits"]["total"]["value"] == 0,
        "an operation that the leader lost is still there"
    );
    Ok(())
}

async fn write(world: &World, prefix: &str, documents: u32) -> Result<()> {
    shardline_dev::wait_for_status(world.leader.url(), "yellow", Duration::from_secs(60)).await?;
    world.put_numbered("logs", prefix, documents).await
}
