//! The follower's own data goes back: a shard is emptied by force, or a node's data folder is put
//! back to an older copy. The index's uuid stays, and the checkpoints are ahead of what is there.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use shardline_tests::compare::compare;
use shardline_tests::load::index_body;
use shardline_tests::world::World;
use shardline_tests::{folders, wait};

const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_lost_acknowledged_documents_gets_them_back() -> Result<()> {
    let world = World::start().await?;
    world
        .leader
        .ok("PUT", "/logs", Some(&index_body(2)))
        .await?;
    world.put_numbered("logs", "kept", 60).await?;
    world.follow("logs", "logs").await?;
    world.equal("logs", "logs").await?;
    an_emptied_shard_is_filled_again(&world).await?;
    an_emptied_shard_is_noticed_at_the_start_of_an_agent(&world).await?;
    a_data_folder_put_back_is_made_up_for(&world).await?;
    world.stop().await
}

/// Nothing is written meanwhile: what was acknowledged is compared with what the shard has.
async fn an_emptied_shard_is_filled_again(world: &World) -> Result<()> {
    empty_a_shard(world).await?;
    becomes_equal(world).await?;
    // Following goes on.
    world.put_numbered("logs", "behind", 20).await?;
    becomes_equal(world).await
}

async fn an_emptied_shard_is_noticed_at_the_start_of_an_agent(world: &World) -> Result<()> {
    let agent = world.stack.process("follower-agent-1")?;
    agent.kill().await?;
    empty_a_shard(world).await?;
    world.stack.restart("follower-agent-1").await?;
    becomes_equal(world).await
}

/// A mapping and an alias that came after the copy was made are gone, too.
async fn a_data_folder_put_back_is_made_up_for(world: &World) -> Result<()> {
    let World {
        stack,
        leader,
        follower,
        ..
    } = world;
    let node = stack.process("follower-1")?;
    let data = node.data_dir();
    let backup = data.with_extension("backup");
    node.terminate().await?;
    folders::copy(data, &backup)?;
    stack.restart("follower-1").await?;
    shardline_dev::wait_for_status(follower.url(), "yellow", PATIENCE).await?;
    world.put_numbered("logs", "lost", 60).await?;
    let field = json!({"properties": {"added": {"type": "keyword"}}});
    leader.ok("PUT", "/logs/_mapping", Some(&field)).await?;
    let alias = json!({"actions": [{"add": {"index": "logs", "alias": "named"}}]});
    leader.ok("POST", "/_aliases", Some(&alias)).await?;
    world.put_numbered("logs", "last", 1).await?;
    becomes_equal(world).await?;
    has_metadata(world).await?;

    node.kill().await?;
    std::fs::remove_dir_all(data)?;
    folders::copy(&backup, data)?;
    stack.restart("follower-1").await?;
    shardline_dev::wait_for_status(follower.url(), "yellow", PATIENCE).await?;
    becomes_equal(world).await?;
    has_metadata(world).await
}

/// The shard stays where it is, and begins anew with nothing.
async fn empty_a_shard(world: &World) -> Result<()> {
    let nodes = world
        .follower
        .get("/_nodes?filter_path=nodes.*.name")
        .await?;
    let node = nodes["nodes"]
        .as_object()
        .and_then(|nodes| nodes.values().next())
        .and_then(|node| node["name"].as_str())
        .context("no node")?;
    let commands = json!({"commands": [
        {"cancel": {"index": "logs", "shard": 0, "node": node, "allow_primary": true}},
        {"allocate_empty_primary": {
            "index": "logs", "shard": 0, "node": node, "accept_data_loss": true
        }},
    ]});
    world
        .follower
        .ok("POST", "/_cluster/reroute", Some(&commands))
        .await?;
    Ok(())
}

async fn becomes_equal(world: &World) -> Result<()> {
    wait::until("both sides to be equal", PATIENCE, async || {
        let difference = compare(&world.leader, "logs", &world.follower, "logs").await?;
        if difference.is_equal() {
            return Ok(Ok(()));
        }
        let status = wait::status(&world.gateway, "logs").await?;
        Ok(Err(format!("{difference}; {status}")))
    })
    .await
}

async fn has_metadata(world: &World) -> Result<()> {
    wait::until("the mapping and the alias", PATIENCE, async || {
        let found = world.follower.get("/logs").await?;
        let has = found["logs"]["mappings"]["properties"]["added"]["type"] == "keyword"
            && found["logs"]["aliases"]["named"] != Value::Null;
        Ok(if has { Ok(()) } else { Err(found.to_string()) })
    })
    .await
}
