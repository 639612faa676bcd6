//! Indices that come from a snapshot repository: under load, with agents killed meanwhile; and what
//! is refused.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shardline_tests::client::Client;
use shardline_tests::ctl::ctl_ok;
use shardline_tests::load::{Load, index_body};
use shardline_tests::repository::register;
use shardline_tests::retention::Topic;
use shardline_tests::wait;
use shardline_tests::world::{ALIAS, World};

const PATIENCE: Duration = Duration::from_secs(120);
const BULK: u64 = 1_000;
/// So slow that there is time to kill an agent.
const SLOW: &str = "300kb";

#[tokio::test(flavor = "multi_thread")]
async fn an_index_comes_from_a_repository_while_it_is_written() -> Result<()> {
    let world = World::start().await?;
    let World {
        stack,
        leader,
        follower,
        gateway,
        ..
    } = &world;
    register(
        world.stack.run_dir(),
        leader,
        "shared",
        json!({"max_snapshot_bytes_per_sec": SLOW}),
    )
    .await?;
    register(
        world.stack.run_dir(),
        follower,
        "shared",
        json!({"max_restore_bytes_per_sec": SLOW, "readonly": true}),
    )
    .await?;
    let pipeline = json!({"processors": [{"set": {"field": "piped", "value": true}}]});
    leader
        .ok("PUT", "/_ingest/pipeline/mark", Some(&pipeline))
        .await?;
    let mut body = index_body(2);
    body["settings"]["default_pipeline"] = json!("mark");
    body["aliases"] = json!({"current": {"is_write_index": true}});
    leader.ok("PUT", "/old", Some(&body)).await?;
    let mut load = Load::new(5, "r");
    for _ in 0..20 {
        leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    }
    leader.ok("POST", "/old/_flush?force=true", None).await?;

    // Stopped in the middle, it leaves nothing behind.
    start(gateway, "old", "new", "shared").await?;
    restoring(follower).await?;
    gateway
        .ok("POST", "/_plugins/_replication/new/_stop", Some(&json!({})))
        .await?;
    ensure!(
        follower.call("HEAD", "/new", None).await?.0 == 404,
        "half of an index stays"
    );
    no_snapshots(leader).await?;

    start(gateway, "old", "new", "shared").await?;
    let is_copied = AtomicBool::new(false);
    let copied = async {
        wait::until("a snapshot in the middle", PATIENCE, async || {
            let snapshots = snapshots(leader).await?;
            Ok(if snapshots.iter().any(|it| it["state"] == "IN_PROGRESS") {
                Ok(())
            } else {
                Err(format!("{snapshots:?}"))
            })
        })
        .await?;
        stack.process("leader-agent-1")?.kill().await?;
        stack.restart("leader-agent-1").await?;
        restoring(follower).await?;
        let details = wait::until("its progress", PATIENCE, async || {
            let status = wait::status(gateway, "new").await?;
            let details = status["bootstrap_details"].clone();
            Ok(if details["files_total"].as_i64() > Some(2) {
                Ok(details)
            } else {
                Err(status.to_string())
            })
        })
        .await?;
        ensure!(details["bytes_total"].as_i64() > Some(100_000), "{details}");
        stack.process("follower-agent-1")?.kill().await?;
        stack.restart("follower-agent-1").await?;
        wait::for_status(gateway, "new", "SYNCING", PATIENCE).await?;
        is_copied.store(true, Relaxed);
        Ok::<_, anyhow::Error>(())
    };
    let written = async {
        while !is_copied.load(Relaxed) {
            leader.bulk("/old/_bulk", load.bulk(200)).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::try_join!(copied, written)?;
    proven_equal(&world, "old", "new").await?;

    let restored = log_has(&world, "follower-agent-1", "snapshot restored")?;
    let topics = Topic::names(stack.kafka_bootstrap(), |name| name.contains(".bootstrap.")).await?;
    ensure!(
        restored && topics.is_empty(),
        "it came through Kafka: {topics:?}"
    );
    let found = follower.get("/new?flat_settings=true").await?;
    ensure!(
        found["new"]["settings"]["index.default_pipeline"].is_null(),
        "the pipeline was restored: {found}"
    );
    ensure!(found["new"]["aliases"] == json!({"current": {}}), "{found}");
    no_snapshots(leader).await?;

    // What came from the files is changed and deleted as anything else; and outranked by a copy in
    // place.
    for _ in 0..5 {
        leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    }
    proven_equal(&world, "old", "new").await?;
    let foreign = json!({"query": {"range": {"_seq_no": {"lt": 1_000}}}});
    follower
        .ok("POST", "/new/_delete_by_query?refresh=true", Some(&foreign))
        .await?;
    ctl_ok(gateway, "verify new --repair --yes").await?;
    proven_equal(&world, "old", "new").await?;
    world.stop().await
}

/// Primaries on two nodes, and two follower agents, of which the one that restores dies.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_comes_from_a_repository_among_several_nodes_and_agents() -> Result<()> {
    let world =
        World::with(|options| (options.leader_nodes, options.follower_agents) = (2, 2)).await?;
    let World {
        stack,
        leader,
        follower,
        gateway,
        ..
    } = &world;
    register(stack.run_dir(), leader, "shared", json!({})).await?;
    register(
        stack.run_dir(),
        follower,
        "shared",
        json!({"max_restore_bytes_per_sec": SLOW, "readonly": true}),
    )
    .await?;
    leader.ok("PUT", "/old", Some(&index_body(4))).await?;
    let mut load = Load::new(7, "r");
    for _ in 0..20 {
        leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    }
    leader.ok("POST", "/old/_flush?force=true", None).await?;
    let shards = leader.get("/_cat/shards/old?format=json").await?;
    let shards = shards.as_array().context("no shards")?;
    ensure!(
        shards.iter().any(|it| it["node"] != shards[0]["node"]),
        "all on one node: {shards:?}"
    );

    start(gateway, "old", "new", "shared").await?;
    restoring(follower).await?;
    leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    let (restoring, other) = match log_has(&world, "follower-agent-1", "restoring a snapshot")? {
        true => ("follower-agent-1", "follower-agent-2"),
        false => ("follower-agent-2", "follower-agent-1"),
    };
    stack.process(restoring)?.kill().await?;
    leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    wait::for_status(
        &Client::new(stack.process(other)?.url())?,
        "new",
        "SYNCING",
        PATIENCE,
    )
    .await?;
    ensure!(
        log_has(&world, other, "snapshot restored")?,
        "{other} did not take over"
    );
    stack.restart(restoring).await?;
    leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    proven_equal(&world, "old", "new").await?;
    let topics = Topic::names(stack.kafka_bootstrap(), |name| name.contains(".bootstrap.")).await?;
    ensure!(topics.is_empty(), "it came through Kafka: {topics:?}");
    no_snapshots(leader).await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polled_index_comes_from_a_repository() -> Result<()> {
    let world = World::with(|options| {
        let config = &mut options.leader_agent_config;
        *config = config.clone().set("capture", "source", "\"poll\"").set(
            "capture",
            "poll_sweep_seconds",
            3,
        );
    })
    .await?;
    let World {
        stack,
        leader,
        follower,
        gateway,
        ..
    } = &world;
    register(stack.run_dir(), leader, "shared", json!({})).await?;
    register(
        stack.run_dir(),
        follower,
        "shared",
        json!({"readonly": true}),
    )
    .await?;
    leader.ok("PUT", "/old", Some(&index_body(2))).await?;
    let mut load = Load::new(8, "r");
    for _ in 0..5 {
        leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    }
    start(gateway, "old", "new", "shared").await?;
    for _ in 0..5 {
        leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    }
    wait::for_status(gateway, "new", "SYNCING", PATIENCE).await?;
    leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    // Deletions come with the next sweep.
    wait::until("the deletions to arrive", PATIENCE, async || {
        Ok(world
            .equal("old", "new")
            .await
            .map_err(|error| error.to_string()))
    })
    .await?;
    ensure!(
        log_has(&world, "follower-agent-1", "snapshot restored")?,
        "it came through Kafka"
    );
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_come_from_a_repository_says_why() -> Result<()> {
    let world = World::start().await?;
    let World {
        leader,
        follower,
        gateway,
        ..
    } = &world;
    leader.ok("PUT", "/old", Some(&index_body(1))).await?;
    leader
        .bulk("/old/_bulk", Load::new(6, "r").bulk(BULK))
        .await?;
    leader.ok("POST", "/old/_flush?force=true", None).await?;

    let body = json!({"leader_alias": ALIAS, "leader_index": "old", "repository": "nowhere"});
    let (status, answer) = gateway
        .call("PUT", "/_plugins/_replication/new/_start", Some(&body))
        .await?;
    ensure!(
        status == 404 && answer.to_string().contains("nowhere"),
        "{status} {answer}"
    );

    register(
        world.stack.run_dir(),
        follower,
        "one-sided",
        json!({"readonly": true}),
    )
    .await?;
    start(gateway, "old", "new", "one-sided").await?;
    let paused = wait::for_status(gateway, "new", "PAUSED", PATIENCE).await?;
    let reason = paused["reason"].as_str().context("no reason")?;
    ensure!(
        reason.contains("[one-sided]") && reason.contains("repository_missing_exception"),
        "{reason}"
    );
    register(world.stack.run_dir(), leader, "one-sided", json!({})).await?;
    gateway
        .ok(
            "POST",
            "/_plugins/_replication/new/_resume",
            Some(&json!({})),
        )
        .await?;
    wait::for_status(gateway, "new", "SYNCING", PATIENCE).await?;
    proven_equal(&world, "old", "new").await?;

    // Versions that users have set, and that no epoch outranks.
    leader
        .ok(
            "PUT",
            "/versions",
            Some(&json!({"settings": {"number_of_shards": 1, "number_of_replicas": 0}})),
        )
        .await?;
    let version = (1i64 << 62) - 1;
    let path = format!("/versions/_doc/1?version_type=external&version={version}");
    leader.ok("PUT", &path, Some(&json!({"n": 1}))).await?;
    leader
        .ok("POST", "/versions/_flush?force=true", None)
        .await?;
    start(gateway, "versions", "versions", "one-sided").await?;
    let paused = wait::for_status(gateway, "versions", "PAUSED", PATIENCE).await?;
    let reason = paused["reason"].as_str().context("no reason")?;
    ensure!(reason.contains(&version.to_string()), "{reason}");
    gateway
        .ok(
            "POST",
            "/_plugins/_replication/versions/_stop",
            Some(&json!({})),
        )
        .await?;
    start(gateway, "versions", "versions", "").await?;
    wait::for_status(gateway, "versions", "SYNCING", PATIENCE).await?;
    proven_equal(&world, "versions", "versions").await?;
    world.stop().await
}

async fn start(gateway: &Client, leader: &str, follower: &str, repository: &str) -> Result<()> {
    let body = json!({"leader_alias": ALIAS, "leader_index": leader, "repository": repository});
    gateway
        .ok(
            "PUT",
            &format!("/_plugins/_replication/{follower}/_start"),
            Some(&body),
        )
        .await?;
    Ok(())
}

async fn snapshots(leader: &Client) -> Result<Vec<Value>> {
    let found = leader.get("/_snapshot/shared/_all").await?;
    found["snapshots"]
        .as_array()
        .cloned()
        .context("no snapshots")
}

async fn no_snapshots(leader: &Client) -> Result<()> {
    wait::until("the snapshot to be deleted", PATIENCE, async || {
        let snapshots = snapshots(leader).await?;
        Ok(if snapshots.is_empty() {
            Ok(())
        } else {
            Err(format!("{snapshots:?}"))
        })
    })
    .await
}

async fn restoring(follower: &Client) -> Result<()> {
    wait::until("a restore in the middle", PATIENCE, async || {
        let recovery = follower.get("/new/_recovery").await?;
        let shards = recovery["new"]["shards"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let is_restored = |it: &Value| it["type"] == "SNAPSHOT" && it["stage"] == "INDEX";
        Ok(if shards.iter().any(is_restored) {
            Ok(())
        } else {
            Err(recovery.to_string())
        })
    })
    .await
}

async fn proven_equal(world: &World, leader: &str, follower: &str) -> Result<()> {
    world.equal(leader, follower).await?;
    ctl_ok(&world.gateway, &format!("verify {follower} --content")).await?;
    Ok(())
}

fn log_has(world: &World, agent: &str, words: &str) -> Result<bool> {
    let log = std::fs::read_to_string(world.stack.process(agent)?.log_file())?;
    Ok(log.contains(words))
}
