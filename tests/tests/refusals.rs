//! What the follower cluster refuses: for good, and for now.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shardline_tests::ctl::ctl_ok;
use shardline_tests::wait;
use shardline_tests::world::{ALIAS, World};

const PATIENCE: Duration = Duration::from_secs(60);
const REPLICATION: &str = "/_plugins/_replication/logs";

#[tokio::test(flavor = "multi_thread")]
async fn refused_documents_stop_the_index_or_wait_to_be_replayed() -> Result<()> {
    let world = World::start().await?;
    a_refused_document_pauses_the_index_and_is_named(&world).await?;
    it_becomes_a_dead_letter_and_the_index_goes_on(&world).await?;
    a_dead_letter_goes_with_a_later_operation(&world).await?;
    what_is_mended_is_replayed(&world).await?;
    a_full_disk_is_waited_out_and_said(&world).await?;
    a_mended_index_is_not_paused_for_what_was(&world).await?;
    world
        .gateway
        .ok("POST", &format!("{REPLICATION}/_stop"), Some(&json!({})))
        .await?;
    world.stop().await
}

/// A document whose nested objects the follower index, with a limit of 2, refuses if there are
/// more.
async fn put(world: &World, id: &str, nested: usize) -> Result<()> {
    let items: Vec<Value> = (0..nested).map(|n| json!({"n": n})).collect();
    world
        .leader
        .ok(
            "PUT",
            &format!("/logs/_doc/{id}"),
            Some(&json!({"items": items})),
        )
        .await?;
    Ok(())
}

async fn dead_letters(world: &World) -> Result<Vec<Value>> {
    let list = world
        .gateway
        .get(&format!("{REPLICATION}/_dead_letters"))
        .await?;
    list["dead_letters"].as_array().cloned().context("a list")
}

async fn wait_for_dead_letters(world: &World, ids: &[&str]) -> Result<()> {
    wait::until(&format!("dead letters {ids:?}"), PATIENCE, async || {
        let mut found: Vec<String> = dead_letters(world)
            .await?
            .iter()
            .map(|letter| letter["id"].as_str().unwrap_or_default().to_owned())
            .collect();
        found.sort();
        Ok(if found == ids {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        })
    })
    .await
}

async fn a_refused_document_pauses_the_index_and_is_named(world: &World) -> Result<()> {
    let body = json!({"settings": {"number_of_replicas": 0}, "mappings": {"properties": {"items": {"type": "nested"}}}});
    world.leader.ok("PUT", "/logs", Some(&body)).await?;
    put(world, "before", 1).await?;
    let settings = json!({"index.mapping.nested_objects.limit": 2});
    let start = json!({"leader_alias": ALIAS, "leader_index": "logs", "settings": settings});
    world
        .gateway
        .ok("PUT", &format!("{REPLICATION}/_start"), Some(&start))
        .await?;
    world.equal("logs", "logs").await?;
    put(world, "poison", 3).await?;
    put(world, "after", 1).await?;
    let status = wait::for_status(&world.gateway, "logs", "PAUSED", PATIENCE).await?;
    let reason = status["reason"].as_str().unwrap_or_default();
    ensure!(
        reason.contains("[poison] at seq_no 1") && reason.contains("nested"),
        "{reason}"
    );
    Ok(())
}

async fn it_becomes_a_dead_letter_and_the_index_goes_on(world: &World) -> Result<()> {
    let switch = json!({"persistent": {"plugins.replication.follower.dead_letters": true}});
    world
        .gateway
        .ok("PUT", "/_cluster/settings", Some(&switch))
        .await?;
    world
        .gateway
        .ok("POST", &format!("{REPLICATION}/_resume"), Some(&json!({})))
        .await?;
    wait::caught_up(&world.leader, "logs", &world.gateway, "logs", PATIENCE).await?;
    let letters = dead_letters(world).await?;
    ensure!(
        letters.len() == 1 && letters[0]["id"] == "poison" && letters[0]["seq_no"] == 1,
        "{letters:?}"
    );
    let status = wait::status(&world.gateway, "logs").await?;
    ensure!(
        status["status"] == "SYNCING" && status["dead_letters"] == 1,
        "{status}"
    );
    let found = world.follower.get("/logs/_doc/after").await?;
    ensure!(found["found"] == true, "{found}");
    let listed = ctl_ok(&world.gateway, "dead-letters logs").await?;
    ensure!(listed.contains("poison"), "{listed}");
    Ok(())
}

async fn a_dead_letter_goes_with_a_later_operation(world: &World) -> Result<()> {
    put(world, "changed", 4).await?;
    put(world, "deleted", 4).await?;
    wait_for_dead_letters(world, &["changed", "deleted", "poison"]).await?;
    put(world, "changed", 2).await?;
    world
        .leader
        .ok("DELETE", "/logs/_doc/deleted", None)
        .await?;
    wait_for_dead_letters(world, &["poison"]).await
}

async fn what_is_mended_is_replayed(world: &World) -> Result<()> {
    put(world, "older", 4).await?;
    wait_for_dead_letters(world, &["older", "poison"]).await?;
    // Nothing is mended: both are refused again.
    let seen = dead_letters(world).await?;
    ctl_ok(&world.gateway, "dead-letters logs --replay").await?;
    wait::until("both to be refused again", PATIENCE, async || {
        let now = dead_letters(world).await?;
        let is_newer = |letter: &Value| {
            let before = seen.iter().find(|before| before["id"] == letter["id"]);
            before
                .is_some_and(|before| before["refused_at"].as_i64() < letter["refused_at"].as_i64())
        };
        Ok(if now.len() == 2 && now.iter().all(is_newer) {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        })
    })
    .await?;
    let mended = json!({"settings": {"index.mapping.nested_objects.limit": 100}});
    world
        .gateway
        .ok("PUT", &format!("{REPLICATION}/_update"), Some(&mended))
        .await?;
    let asked = world
        .gateway
        .ok(
            "POST",
            &format!("{REPLICATION}/_dead_letters/_replay"),
            None,
        )
        .await?;
    ensure!(asked["documents"] == 2, "{asked}");
    wait_for_dead_letters(world, &[]).await?;
    world.equal("logs", "logs").await?;
    world.check_topic("logs").await?;
    Ok(())
}

/// The block that a full disk sets is lifted when there is room again.
async fn a_full_disk_is_waited_out_and_said(world: &World) -> Result<()> {
    let block = |set: bool| json!({"index.blocks.read_only_allow_delete": set.then_some(true)});
    world
        .follower
        .ok("PUT", "/logs/_settings", Some(&block(true)))
        .await?;
    put(world, "waits", 1).await?;
    wait::until(
        "the status to say why nothing is written",
        PATIENCE,
        async || {
            let status = wait::status(&world.gateway, "logs").await?;
            let reason = status["held_up"][0]["reason"].as_str().unwrap_or_default();
            Ok(
                if reason.contains("flood-stage") && status["status"] == "SYNCING" {
                    Ok(())
                } else {
                    Err(status.to_string())
                },
            )
        },
    )
    .await?;
    world
        .follower
        .ok("PUT", "/logs/_settings", Some(&block(false)))
        .await?;
    world.equal("logs", "logs").await?;
    let status = wait::status(&world.gateway, "logs").await?;
    ensure!(status.get("held_up").is_none(), "{status}");
    Ok(())
}

/// Every shard asks for the pause.
async fn a_mended_index_is_not_paused_for_what_was(world: &World) -> Result<()> {
    let World {
        leader, gateway, ..
    } = world;
    let switch = json!({"persistent": {"plugins.replication.follower.dead_letters": false}});
    gateway
        .ok("PUT", "/_cluster/settings", Some(&switch))
        .await?;
    let settings = json!({"number_of_replicas": 0, "number_of_shards": 5});
    let body =
        json!({"settings": settings, "mappings": {"properties": {"items": {"type": "nested"}}}});
    leader.ok("PUT", "/wide", Some(&body)).await?;
    let replication = "/_plugins/_replication/wide";
    let settings = json!({"index.mapping.nested_objects.limit": 1});
    let start = json!({"leader_alias": ALIAS, "leader_index": "wide", "settings": settings});
    gateway
        .ok("PUT", &format!("{replication}/_start"), Some(&start))
        .await?;
    let lines = (0..50).map(|n| {
        format!("{{\"index\":{{\"_id\":\"{n}\"}}}}\n{{\"items\":[{{\"n\":1}},{{\"n\":2}}]}}\n")
    });
    leader.bulk("/wide/_bulk", lines.collect()).await?;
    wait::for_status(gateway, "wide", "PAUSED", PATIENCE).await?;
    let mended = json!({"settings": {"index.mapping.nested_objects.limit": 100}});
    gateway
        .ok("PUT", &format!("{replication}/_update"), Some(&mended))
        .await?;
    gateway
        .ok("POST", &format!("{replication}/_resume"), Some(&json!({})))
        .await?;
    world.equal("wide", "wide").await?;
    let status = wait::status(gateway, "wide").await?;
    ensure!(status["status"] == "SYNCING", "{status}");
    gateway
        .ok("POST", &format!("{replication}/_stop"), Some(&json!({})))
        .await?;
    Ok(())
}
