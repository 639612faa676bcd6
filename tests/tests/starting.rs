//! What `_start`, `_stop` and `_resume` answer at once, and what they leave behind.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use shardline_tests::load::index_body;
use shardline_tests::world::{ALIAS, World};

/// A heartbeat is not waited for.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn calls_answer_at_once_and_leave_nothing_half_made() -> Result<()> {
    let world = World::with(|options| {
        let config = options.leader_agent_config.clone();
        options.leader_agent_config = config.set("capture", "heartbeat_seconds", "40");
    })
    .await?;
    an_empty_index_is_restored_without_a_heartbeat(&world).await?;
    what_was_never_whole_is_removed_by_a_stop(&world).await?;
    another_leader_index_of_the_name_is_said(&world).await?;
    world.stop().await
}

async fn an_empty_index_is_restored_without_a_heartbeat(world: &World) -> Result<()> {
    make(world, "empty").await?;
    let began = Instant::now();
    let path = "/_plugins/_replication/empty/_start?wait_for_restore=true";
    let answer = world.gateway.ok("PUT", path, Some(&start("empty"))).await?;
    let took = began.elapsed();
    ensure!(answer["acknowledged"] == true && took < SOON, "{took:?}");
    // An index that is whole stays, even if it is empty.
    stop(world, "empty").await?;
    let (status, _) = world.follower.call("GET", "/empty", None).await?;
    ensure!(status == 200, "the whole index is gone: {status}");
    Ok(())
}

async fn what_was_never_whole_is_removed_by_a_stop(world: &World) -> Result<()> {
    for number in 0..8 {
        let index = format!("soon-{number}");
        make(world, &index).await?;
        world.put_numbered(&index, "d", 20).await?;
        let path = format!("/_plugins/_replication/{index}/_start");
        world.gateway.ok("PUT", &path, Some(&start(&index))).await?;
        stop(world, &index).await?;
        world
            .follower
            .call("POST", &format!("/{index}/_refresh"), None)
            .await?;
        let (status, found) = world
            .follower
            .call("GET", &format!("/{index}/_count"), None)
            .await?;
        ensure!(
            status == 404 || found["count"] == 20,
            "{index} is half of one: {status} {found}"
        );
    }
    Ok(())
}

async fn another_leader_index_of_the_name_is_said(world: &World) -> Result<()> {
    make(world, "anew").await?;
    world.put_numbered("anew", "d", 3).await?;
    world.follow("anew", "anew").await?;
    world.equal("anew", "anew").await?;
    let pause = "/_plugins/_replication/anew/_pause";
    world.gateway.ok("POST", pause, Some(&json!({}))).await?;
    world.leader.ok("DELETE", "/anew", None).await?;
    make(world, "anew").await?;
    let path = "/_plugins/_replication/anew/_resume";
    let deadline = Instant::now() + SOON;
    loop {
        let (status, answer) = world.gateway.call("POST", path, Some(&json!({}))).await?;
        ensure!(status != 200, "resumed: {answer}");
        let reason = answer["error"]["reason"].as_str().unwrap_or_default();
        if status == 400 && reason.contains("another one of that name") {
            break;
        }
        // The agents hear of the other index a moment later.
        ensure!(Instant::now() < deadline, "{status} {answer}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn make(world: &World, index: &str) -> Result<()> {
    let path = format!("/{index}");
    world.leader.ok("PUT", &path, Some(&index_body(1))).await?;
    Ok(())
}

fn start(index: &str) -> Value {
    json!({"leader_alias": ALIAS, "leader_index": index})
}

async fn stop(world: &World, index: &str) -> Result<()> {
    let path = format!("/_plugins/_replication/{index}/_stop");
    world.gateway.ok("POST", &path, Some(&json!({}))).await?;
    Ok(())
}
