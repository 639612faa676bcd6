//! What is missing is not taken for deleted or stopped: a control topic that was lost, a
//! subscription that cannot be read or is not there, an index of the follower that somebody else
//! made, closed or deleted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shardline_common::control::{Entry, Subscription};
use shardline_common::kafka::ControlTopic;
use shardline_common::topic::follower_control_topic;
use shardline_tests::load::index_body;
use shardline_tests::world::World;
use shardline_tests::{retention, topic_check, wait};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(90);
/// Within which what is wrong with an index has to show although nothing is written.
const SECONDS: Duration = Duration::from_secs(20);
const LEADER_TOPIC: &str = "shardline.control.leader";
const FOLLOWER_TOPIC: &str = "shardline.control.follower";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_neither_deleted_nor_stopped() -> Result<()> {
    let world = World::start().await?;
    for index in ["logs", "gone"] {
        follow_new(&world, index).await?;
    }
    a_lost_catalogue_deletes_nothing(&world).await?;
    a_deleted_leader_index_is_still_known_for_deleted(&world).await?;
    a_subscription_that_cannot_be_read_is_held(&world).await?;
    lost_subscriptions_are_held_until_they_are_resumed(&world).await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_the_follower_index_shows_without_a_write() -> Result<()> {
    let world = World::start().await?;
    for index in ["closed", "deleted", "other"] {
        follow_new(&world, index).await?;
    }
    a_closed_index_says_so(&world).await?;
    a_deleted_index_says_so(&world).await?;
    an_index_that_somebody_else_made_is_left_alone(&world).await?;
    world.stop().await
}

async fn follow_new(world: &World, index: &str) -> Result<()> {
    let path = format!("/{index}");
    world.leader.ok("PUT", &path, Some(&index_body(1))).await?;
    put(world, index, "first").await?;
    world.follow(index, index).await?;
    world.equal(index, index).await
}

async fn put(world: &World, index: &str, id: &str) -> Result<()> {
    let document = json!({"status": 1});
    let path = format!("/{index}/_doc/{id}");
    world.leader.ok("PUT", &path, Some(&document)).await?;
    Ok(())
}

/// The follower agent begins with an empty catalogue, and the leader's agents remember theirs.
async fn a_lost_catalogue_deletes_nothing(world: &World) -> Result<()> {
    let World { stack, gateway, .. } = world;
    let delete = json!({"persistent": {"plugins.replication.replicate.delete_index": true}});
    gateway
        .ok("PUT", "/_cluster/settings", Some(&delete))
        .await?;
    stack.process("follower-agent-1")?.kill().await?;
    let servers = stack.kafka_bootstrap();
    retention::lose(servers, LEADER_TOPIC).await?;
    stack.restart("follower-agent-1").await?;
    let until = tokio::time::Instant::now() + SECONDS;
    while tokio::time::Instant::now() < until {
        for index in ["logs", "gone"] {
            world.follower.get(&format!("/{index}")).await?;
            let status = wait::status(gateway, index).await?;
            let is_followed = status["status"] == "SYNCING" || status["status"] == "RUNNING";
            ensure!(is_followed, "{status}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    wait::until("the topic to be compacted again", PATIENCE, async || {
        let policy = retention::setting(servers, LEADER_TOPIC, "cleanup.policy").await?;
        Ok(if policy == "compact" {
            Ok(())
        } else {
            Err(policy)
        })
    })
    .await?;
    put(world, "logs", "second").await?;
    world.equal("logs", "logs").await?;
    // What was lost has been announced again.
    wait::until("the index to be known", PATIENCE, async || {
        let status = wait::status(gateway, "logs").await?;
        Ok(if status.get("standstill").is_none() {
            Ok(())
        } else {
            Err(status.to_string())
        })
    })
    .await?;
    control(world, "logs", "_pause").await?;
    control(world, "logs", "_resume").await?;
    wait::for_status(gateway, "logs", "SYNCING", PATIENCE).await?;
    Ok(())
}

async fn a_deleted_leader_index_is_still_known_for_deleted(world: &World) -> Result<()> {
    world.leader.ok("DELETE", "/gone", None).await?;
    wait::until("the follower index to be deleted", PATIENCE, async || {
        let (status, answer) = world.follower.call("GET", "/gone", None).await?;
        Ok(if status == 404 {
            Ok(())
        } else {
            Err(answer.to_string())
        })
    })
    .await?;
    world.follower.get("/logs").await?;
    Ok(())
}

async fn table(world: &World) -> Result<(ControlTopic, CancellationToken)> {
    let stop = CancellationToken::new();
    let kafka = topic_check::kafka(world.stack.kafka_bootstrap())?;
    let topic = follower_control_topic("shardline");
    Ok((ControlTopic::open(&kafka, topic, &stop).await?, stop))
}

async fn subscription(world: &World, index: &str) -> Result<Subscription> {
    let (table, stop) = table(world).await?;
    let all = table.all::<Subscription>();
    stop.cancel();
    let found = all
        .into_iter()
        .find(|subscription| subscription.follower_index.as_str() == index);
    found.context("not followed")
}

/// Such as one that a newer build has written.
async fn a_subscription_that_cannot_be_read_is_held(world: &World) -> Result<()> {
    let known = subscription(world, "logs").await?;
    let servers = world.stack.kafka_bootstrap();
    let mut newer = serde_json::to_value(&known)?;
    newer["state"] = json!("hibernating");
    retention::write(servers, FOLLOWER_TOPIC, &known.key(), &newer.to_string()).await?;
    let cause = |status: &Value| status["standstill"]["cause"].clone();
    let status = wait::for_status(&world.gateway, "logs", "FAILED", SECONDS).await?;
    ensure!(cause(&status) == "newer_build", "{status}");
    is_read_only(world).await?;
    let before = i64::from(known.epoch.0);
    let earlier = serde_json::to_string(&known)?;
    retention::write(servers, FOLLOWER_TOPIC, &known.key(), &earlier).await?;
    wait::for_status(&world.gateway, "logs", "SYNCING", SECONDS).await?;
    put(world, "logs", "third").await?;
    world.equal("logs", "logs").await?;
    // It went on from its checkpoints.
    ensure!(copies(world).await? == before, "the index was copied anew");
    Ok(())
}

async fn copies(world: &World) -> Result<i64> {
    Ok(i64::from(subscription(world, "logs").await?.epoch.0))
}

async fn lost_subscriptions_are_held_until_they_are_resumed(world: &World) -> Result<()> {
    let World { stack, gateway, .. } = world;
    stack.process("follower-agent-1")?.kill().await?;
    retention::lose(stack.kafka_bootstrap(), FOLLOWER_TOPIC).await?;
    stack.restart("follower-agent-1").await?;
    let status = wait::for_status(gateway, "logs", "FAILED", SECONDS).await?;
    ensure!(
        status["standstill"]["cause"] == "subscription_unknown",
        "{status}"
    );
    is_read_only(world).await?;
    put(world, "logs", "fourth").await?;
    control(world, "logs", "_resume").await?;
    world.equal("logs", "logs").await?;
    // One that was stopped stays so.
    control(world, "logs", "_stop").await?;
    stack.restart("follower-agent-1").await?;
    let status = wait::status(gateway, "logs").await?;
    ensure!(
        status["status"] == "REPLICATION NOT IN PROGRESS",
        "{status}"
    );
    let document = json!({"status": 2});
    gateway.ok("PUT", "/logs/_doc/own", Some(&document)).await?;
    Ok(())
}

async fn is_read_only(world: &World) -> Result<()> {
    let document = json!({"status": 2});
    let (status, answer) = world
        .gateway
        .call("PUT", "/logs/_doc/own", Some(&document))
        .await?;
    ensure!(status == 403, "{status} {answer}");
    Ok(())
}

async fn control(world: &World, index: &str, call: &str) -> Result<Value> {
    let path = format!("/_plugins/_replication/{index}/{call}");
    world.gateway.ok("POST", &path, Some(&json!({}))).await
}

async fn a_closed_index_says_so(world: &World) -> Result<()> {
    world.follower.ok("POST", "/closed/_close", None).await?;
    let says = async |cause: Value| {
        wait::until("the status to say it", SECONDS, async || {
            let status = wait::status(&world.gateway, "closed").await?;
            Ok(if status["held_up"][0]["cause"] == cause {
                Ok(())
            } else {
                Err(status.to_string())
            })
        })
        .await
    };
    says(json!("follower_index_closed")).await?;
    world.follower.ok("POST", "/closed/_open", None).await?;
    says(Value::Null).await
}

async fn a_deleted_index_says_so(world: &World) -> Result<()> {
    world.follower.ok("DELETE", "/deleted", None).await?;
    let status = wait::for_status(&world.gateway, "deleted", "PAUSED", SECONDS).await?;
    let reason = status["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("is gone"), "{status}");
    // So does one that took its place.
    world.follower.ok("DELETE", "/other", None).await?;
    let other = json!({"settings": {"number_of_replicas": 0}});
    world.follower.ok("PUT", "/other", Some(&other)).await?;
    let status = wait::for_status(&world.gateway, "other", "PAUSED", SECONDS).await?;
    let reason = status["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("another one"), "{status}");
    Ok(())
}

/// It came between the call to follow and the making of the index, for which the leader's agents
/// are needed.
async fn an_index_that_somebody_else_made_is_left_alone(world: &World) -> Result<()> {
    let World {
        stack,
        leader,
        follower,
        gateway,
        ..
    } = world;
    leader.ok("PUT", "/taken", Some(&index_body(2))).await?;
    put(world, "taken", "theirs").await?;
    let settings = leader.get("/taken/_settings?flat_settings=true").await?;
    let uuid = settings["taken"]["settings"]["index.uuid"]
        .as_str()
        .context("no uuid")?;
    let known = subscription(world, "closed").await?;
    stack.process("leader-agent-1")?.kill().await?;
    let begun = Subscription {
        id: "b".repeat(32),
        follower_index: "taken".into(),
        leader_index: "taken".into(),
        leader_uuid: uuid.into(),
        copy: None,
        ..known
    };
    let (table, stop) = table(world).await?;
    table.publish(&begun).await?;
    stop.cancel();
    let document = json!({"mine": true});
    follower
        .ok("PUT", "/taken/_doc/mine?refresh=true", Some(&document))
        .await?;
    stack.restart("leader-agent-1").await?;
    let status = wait::for_status(gateway, "taken", "PAUSED", PATIENCE).await?;
    let reason = status["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("did not make"), "{status}");
    let found = follower.get("/taken/_search").await?;
    ensure!(found["hits"]["total"]["value"] == 1, "{found}");
    Ok(())
}
