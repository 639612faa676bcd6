//! Servers that are away, and half there again: nobody takes indices for deleted that a starting
//! cluster does not know yet, what a control call could not write is not written later, and copies
//! that are broken off leave nothing half done.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use shardline_dev::{Lifetime, Process, Signal};
use shardline_tests::client::Client;
use shardline_tests::load::{Load, index_body};
use shardline_tests::wait;
use shardline_tests::world::World;

const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn servers_come_back() -> Result<()> {
    let world = World::start().await?;
    world
        .leader
        .ok("PUT", "/logs", Some(&index_body(2)))
        .await?;
    put(&world, "before").await?;
    world.follow("logs", "logs").await?;
    world.equal("logs", "logs").await?;
    a_leader_that_has_not_recovered_its_state_has_lost_no_index(&world).await?;
    nor_has_such_a_follower(&world).await?;
    a_call_that_failed_without_kafka_changes_nothing_later(&world).await?;
    // Of what was there before, Kafka has nothing: every follower begins with a copy.
    world.leader.ok("PUT", "/old", Some(&index_body(2))).await?;
    world
        .leader
        .bulk("/old/_bulk", Load::new(7, "o").bulk(1_000))
        .await?;
    world
        .leader
        .ok("POST", "/old/_flush?force=true", None)
        .await?;
    world.follow("old", "old").await?;
    a_stop_that_failed_is_asked_for_again(&world).await?;
    a_copy_goes_on_whose_index_was_deleted(&world).await?;
    settings_that_change_during_a_copy_stay(&world).await?;
    world.stop().await
}

async fn put(world: &World, id: &str) -> Result<()> {
    world
        .leader
        .ok(
            "PUT",
            &format!("/logs/_doc/{id}"),
            Some(&json!({"status": 1})),
        )
        .await?;
    Ok(())
}

/// For `time`, the index is followed.
async fn stays_followed(world: &World, time: Duration) -> Result<()> {
    let until = tokio::time::Instant::now() + time;
    while tokio::time::Instant::now() < until {
        let status = wait::status(&world.gateway, "logs").await?;
        ensure!(status["status"] == "SYNCING", "{status}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    Ok(())
}

/// Such a cluster has a manager, and a state without indices.
async fn a_leader_that_has_not_recovered_its_state_has_lost_no_index(world: &World) -> Result<()> {
    let waiting = begin_to_recover(world, "leader-1", &world.leader).await?;
    stays_followed(world, Duration::from_secs(8)).await?;
    waiting.terminate().await?;
    world.stack.restart("leader-1").await?;
    shardline_dev::wait_for_status(world.leader.url(), "yellow", PATIENCE).await?;
    stays_followed(world, Duration::from_secs(2)).await?;
    put(world, "after-leader").await?;
    world.equal("logs", "logs").await
}

async fn nor_has_such_a_follower(world: &World) -> Result<()> {
    let waiting = begin_to_recover(world, "follower-1", &world.follower).await?;
    put(world, "for-follower").await?;
    stays_followed(world, Duration::from_secs(8)).await?;
    // Longer than its session: the agent loses its shards, and begins to follow them again.
    let agent = world.stack.process("follower-agent-1")?;
    agent.signal(Signal::SIGSTOP)?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    agent.signal(Signal::SIGCONT)?;
    stays_followed(world, Duration::from_secs(10)).await?;
    waiting.terminate().await?;
    world.stack.restart("follower-1").await?;
    world.equal("logs", "logs").await
}

/// Starts a cluster's only node anew, so that it waits for another one before it recovers its
/// state.
async fn begin_to_recover(world: &World, name: &str, client: &Client) -> Result<Process> {
    let node = world.stack.process(name)?;
    let mut spec = node.spec().clone();
    spec.arguments
        .push("gateway.recover_after_data_nodes=2".to_owned());
    let waiting = Process::new(spec, Lifetime::Owned);
    node.terminate().await?;
    waiting.start(PATIENCE).await?;
    let state = client
        .get("/_cluster/state/blocks,metadata?filter_path=blocks,metadata.indices")
        .await?;
    ensure!(
        state["blocks"]["global"]["1"].is_object()
            && state["metadata"]["indices"].get("logs").is_none(),
        "{state}"
    );
    Ok(waiting)
}

/// Another agent may have been asked for something else by then.
async fn a_call_that_failed_without_kafka_changes_nothing_later(world: &World) -> Result<()> {
    world.stack.process("kafka-1")?.kill().await?;
    let (status, answer) = world
        .gateway
        .call(
            "POST",
            "/_plugins/_replication/logs/_pause",
            Some(&json!({})),
        )
        .await?;
    ensure!(status >= 500, "{status} {answer}");
    world.stack.restart("kafka-1").await?;
    put(world, "without-kafka").await?;
    world.equal("logs", "logs").await?;
    stays_followed(world, Duration::from_secs(5)).await
}

/// Begins to follow, with a copy that does not get on before the leader agent does.
async fn begin_copy(world: &World, follower: &str) -> Result<()> {
    let made = async {
        wait::until("the follower index to be made", PATIENCE, async || {
            let status = found(world, follower).await?;
            Ok(if status == 200 {
                Ok(())
            } else {
                Err(status.to_string())
            })
        })
        .await?;
        world
            .stack
            .process("leader-agent-1")?
            .signal(Signal::SIGSTOP)
    };
    tokio::try_join!(world.follow("old", follower), made)?;
    wait::for_status(&world.gateway, follower, "BOOTSTRAPPING", PATIENCE).await?;
    Ok(())
}

async fn found(world: &World, follower: &str) -> Result<u16> {
    Ok(world
        .follower
        .call("GET", &format!("/{follower}"), None)
        .await?
        .0)
}

fn let_copies_get_on(world: &World) -> Result<()> {
    world
        .stack
        .process("leader-agent-1")?
        .signal(Signal::SIGCONT)
}

/// Half a copy does not stay as an index that looks whole.
async fn a_stop_that_failed_is_asked_for_again(world: &World) -> Result<()> {
    begin_copy(world, "half").await?;
    world.stack.process("follower-1")?.terminate().await?;
    let stop = "/_plugins/_replication/half/_stop";
    let (status, answer) = world.gateway.call("POST", stop, Some(&json!({}))).await?;
    ensure!(status >= 500, "{status} {answer}");
    world.stack.restart("follower-1").await?;
    shardline_dev::wait_for_status(world.follower.url(), "yellow", PATIENCE).await?;
    let status = wait::status(&world.gateway, "half").await?;
    let reason = status["reason"].as_str().unwrap_or_default();
    ensure!(
        status["status"] == "PAUSED" && reason.contains("_stop"),
        "{status}"
    );
    world.gateway.ok("POST", stop, Some(&json!({}))).await?;
    let_copies_get_on(world)?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    ensure!(found(world, "half").await? == 404, "half a copy is there");
    world.equal("old", "old").await
}

/// Writes of the copy may make the index anew, without its mapping.
async fn a_copy_goes_on_whose_index_was_deleted(world: &World) -> Result<()> {
    begin_copy(world, "deleted").await?;
    world.follower.ok("DELETE", "/deleted", None).await?;
    let_copies_get_on(world)?;
    wait::for_status(&world.gateway, "deleted", "PAUSED", PATIENCE).await?;
    world.follower.call("DELETE", "/deleted", None).await?;
    world
        .gateway
        .ok(
            "POST",
            "/_plugins/_replication/deleted/_resume",
            Some(&json!({})),
        )
        .await?;
    wait::for_status(&world.gateway, "deleted", "SYNCING", PATIENCE).await?;
    world.equal("old", "deleted").await
}

async fn settings_that_change_during_a_copy_stay(world: &World) -> Result<()> {
    begin_copy(world, "changed").await?;
    world
        .leader
        .ok(
            "PUT",
            "/old/_settings",
            Some(&json!({"index.max_result_window": 12_345})),
        )
        .await?;
    let_copies_get_on(world)?;
    wait::for_status(&world.gateway, "changed", "SYNCING", PATIENCE).await?;
    world.equal("old", "changed").await?;
    let settings = world
        .follower
        .get("/changed/_settings?flat_settings=true")
        .await?;
    ensure!(
        settings["changed"]["settings"]["index.max_result_window"] == "12345",
        "{settings}"
    );
    Ok(())
}
