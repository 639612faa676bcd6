//! Two follower agents on one follower cluster share the shards, take over from each other, and
//! answer every call.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shardline_dev::Signal;
use shardline_tests::client::Client;
use shardline_tests::load::{Load, index_body};
use shardline_tests::retention::Topic;
use shardline_tests::world::{ALIAS, World};
use shardline_tests::{folders, wait};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(120);
const SHARDS: u32 = 6;
const BULK: u64 = 300;
/// Longer than this no shard may stand still when an agent dies.
const LONGEST_STALL: Duration = Duration::from_secs(15);

async fn two_agents() -> Result<(World, [Client; 2])> {
    let world = World::with(|options| options.follower_agents = 2).await?;
    let gateway = |number: u32| {
        Client::new(
            world
                .stack
                .process(&format!("follower-agent-{number}"))?
                .url(),
        )
    };
    let gateways = [gateway(1)?, gateway(2)?];
    Ok((world, gateways))
}

/// The shards of an index that an agent follows, by its metrics.
async fn held_by(world: &World, agent: usize, index: &str) -> Result<Vec<u32>> {
    let admin = Client::new(format!(
        "http://127.0.0.1:{}",
        world.stack.ports().follower_agents[agent].admin
    ))?;
    let metrics = admin.get("/metrics").await?;
    let metrics = metrics.as_str().context("metrics are text")?;
    let prefix = format!("shardline_follower_checkpoint{{index=\"{index}\",shard=\"");
    let shards = metrics
        .lines()
        .filter_map(|line| line.strip_prefix(&prefix)?.split('"').next()?.parse().ok());
    Ok(shards.collect())
}

/// Waits until each agent follows some shards of an index, and together all.
async fn shared(world: &World, index: &str) -> Result<()> {
    wait::until(&format!("{index} to be shared"), PATIENCE, async || {
        let held = [
            held_by(world, 0, index).await?,
            held_by(world, 1, index).await?,
        ];
        let done = held.iter().all(|held| !held.is_empty())
            && held[0].len() + held[1].len() == SHARDS as usize;
        Ok(if done {
            Ok(())
        } else {
            Err(format!("{held:?}"))
        })
    })
    .await
}

/// Watches the follower cluster itself: the longest time in which a shard did not take anything,
/// until stopped.
async fn longest_stall(
    follower: &Client,
    index: &str,
    stop: CancellationToken,
) -> Result<Duration> {
    let mut last: BTreeMap<String, (i64, Instant)> = BTreeMap::new();
    let mut longest = Duration::ZERO;
    while !stop.is_cancelled() {
        let stats = follower
            .get(&format!(
                "/{index}/_stats?level=shards&filter_path=**.seq_no"
            ))
            .await?;
        for (shard, copies) in stats["indices"][index]["shards"]
            .as_object()
            .context("no shards")?
        {
            let reached = copies[0]["seq_no"]["max_seq_no"].as_i64().unwrap_or(-1);
            let (before, since) = last
                .entry(shard.clone())
                .or_insert((reached, Instant::now()));
            longest = longest.max(since.elapsed());
            if reached > *before {
                (*before, *since) = (reached, Instant::now());
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(longest)
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_taken_over_with_and_without_rocksdb() -> Result<()> {
    let (world, gateways) = two_agents().await?;
    let World {
        stack,
        leader,
        follower,
        ..
    } = &world;
    leader.ok("PUT", "/logs", Some(&index_body(SHARDS))).await?;
    world.follow("logs", "logs").await?;
    shared(&world, "logs").await?;

    // Under load, one agent is killed.
    let stop = CancellationToken::new();
    let mut load = Load::new(21, "s");
    let writing = async {
        while !stop.is_cancelled() {
            leader.bulk("/logs/_bulk", load.bulk(BULK)).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    let faults = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let killed = stack.process("follower-agent-1")?;
        killed.kill().await?;
        let since = Instant::now();
        wait::until("the other agent to have all shards", PATIENCE, async || {
            let held = held_by(&world, 1, "logs").await?;
            Ok(if held.len() == SHARDS as usize {
                Ok(())
            } else {
                Err(format!("{held:?}"))
            })
        })
        .await?;
        println!("all shards taken over after {:?}", since.elapsed());
        // It comes back with nothing, and gets its share again.
        std::fs::remove_dir_all(killed.data_dir())?;
        stack.restart("follower-agent-1").await?;
        shared(&world, "logs").await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        stop.cancel();
        Ok::<_, anyhow::Error>(())
    };
    let (stall, (), ()) = tokio::try_join!(
        longest_stall(follower, "logs", stop.clone()),
        writing,
        faults
    )?;
    println!("longest stall of a shard: {stall:?}");
    ensure!(stall < LONGEST_STALL, "a shard stood still for {stall:?}");
    world.equal("logs", "logs").await?;
    for gateway in &gateways {
        // Each says of all shards how far behind they are, the other's too.
        wait::until("no lag to be shown", PATIENCE, async || {
            let statuses = gateway.get("/_plugins/_replication/_status").await?;
            let done =
                statuses["indices"]["logs"]["lag_details"] == json!({"operations": 0, "millis": 0});
            Ok(if done {
                Ok(())
            } else {
                Err(statuses.to_string())
            })
        })
        .await?;
    }

    // Its folder is set back to an older copy while the other had the shards.
    let agent = stack.process("follower-agent-1")?;
    agent.kill().await?;
    let older = tempfile::tempdir()?;
    folders::copy(agent.data_dir(), older.path())?;
    for _ in 0..5 {
        leader.bulk("/logs/_bulk", load.bulk(BULK)).await?;
    }
    stack.restart("follower-agent-1").await?;
    shared(&world, "logs").await?;
    world.equal("logs", "logs").await?;
    // A clean stop hands the shards over.
    agent.terminate().await?;
    for _ in 0..5 {
        leader.bulk("/logs/_bulk", load.bulk(BULK)).await?;
    }
    wait::caught_up(leader, "logs", &gateways[1], "logs", PATIENCE).await?;
    std::fs::remove_dir_all(agent.data_dir())?;
    folders::copy(older.path(), agent.data_dir())?;
    stack.restart("follower-agent-1").await?;
    shared(&world, "logs").await?;
    leader.bulk("/logs/_bulk", load.bulk(BULK)).await?;
    world.equal("logs", "logs").await?;
    let log = std::fs::read_to_string(agent.log_file())?;
    ensure!(
        log.contains("source=\"Kafka\""),
        "no position came from Kafka"
    );
    ensure!(
        !log.contains("copying the index anew"),
        "positions were lost"
    );

    // Both lose everything, one after the other's death.
    for number in [1, 2] {
        let agent = stack.process(&format!("follower-agent-{number}"))?;
        agent.kill().await?;
        std::fs::remove_dir_all(agent.data_dir())?;
    }
    leader.bulk("/logs/_bulk", load.bulk(BULK)).await?;
    for number in [1, 2] {
        stack.restart(&format!("follower-agent-{number}")).await?;
    }
    world.equal("logs", "logs").await?;

    // Both are away past Kafka's retention: the index is copied anew although half of its shards
    // are elsewhere, and the copying agent is killed on the way.
    shared(&world, "logs").await?;
    let topic = Topic::find(stack.kafka_bootstrap(), "shardline.leader.logs.").await?;
    for number in [1, 2] {
        stack
            .process(&format!("follower-agent-{number}"))?
            .kill()
            .await?;
    }
    let ends = topic.ends().await?;
    for _ in 0..10 {
        leader.bulk("/logs/_bulk", load.bulk(1_000)).await?;
    }
    topic.trim_behind(&ends).await?;
    for number in [1, 2] {
        stack.restart(&format!("follower-agent-{number}")).await?;
    }
    let copying = wait::until("an agent to copy the index anew", PATIENCE, async || {
        for number in [1, 2] {
            let name = format!("follower-agent-{number}");
            if std::fs::read_to_string(stack.process(&name)?.log_file())?
                .contains("copying the index anew")
            {
                return Ok(Ok(name));
            }
        }
        Ok(Err("none yet".to_owned()))
    })
    .await?;
    stack.process(&copying)?.kill().await?;
    let other = &gateways[if copying.ends_with('1') { 1 } else { 0 }];
    wait::for_status(other, "logs", "SYNCING", PATIENCE).await?;
    wait::caught_up(leader, "logs", other, "logs", PATIENCE).await?;
    stack.restart(&copying).await?;
    shared(&world, "logs").await?;
    world.equal("logs", "logs").await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn either_agent_answers_every_call() -> Result<()> {
    let (world, [one, two]) = two_agents().await?;
    let World {
        stack,
        leader,
        follower,
        ..
    } = &world;
    let path = |index: &str, call: &str| format!("/_plugins/_replication/{index}/{call}");

    // An index that has to be copied, and one that has not, started on both.
    leader.ok("PUT", "/old", Some(&index_body(SHARDS))).await?;
    let mut load = Load::new(22, "o");
    for _ in 0..10 {
        leader.bulk("/old/_bulk", load.bulk(1_000)).await?;
    }
    leader.ok("POST", "/old/_flush?force=true", None).await?;
    leader
        .ok("PUT", "/fresh", Some(&index_body(SHARDS)))
        .await?;
    for (leader_index, gateway) in [
        ("old", &one),
        ("old", &two),
        ("fresh", &one),
        ("fresh", &two),
    ] {
        let copy = format!(
            "{leader_index}-{}",
            if gateway.url() == one.url() { 1 } else { 2 }
        );
        let body = json!({"leader_alias": ALIAS, "leader_index": leader_index});
        gateway
            .ok("PUT", &path(&copy, "_start"), Some(&body))
            .await?;
        let (status, again) = two.call("PUT", &path(&copy, "_start"), Some(&body)).await?;
        ensure!(status == 400, "started twice: {again}");
    }
    leader.bulk("/old/_bulk", load.bulk(1_000)).await?;
    leader
        .bulk("/fresh/_bulk", Load::new(23, "f").bulk(1_000))
        .await?;
    for index in ["old-1", "old-2", "fresh-1", "fresh-2"] {
        for gateway in [&one, &two] {
            wait::for_status(gateway, index, "SYNCING", PATIENCE).await?;
            let leader_index = index.split('-').next().unwrap_or_default();
            wait::caught_up(leader, leader_index, gateway, index, PATIENCE).await?;
            let status = gateway
                .get(&format!("{}?verbose=true", path(index, "_status")))
                .await?;
            let shards = status["shard_replication_details"]
                .as_array()
                .map_or(0, Vec::len);
            ensure!(shards == SHARDS as usize, "{status}");
        }
    }
    world.equal("old", "old-1").await?;
    world.equal("old", "old-2").await?;

    // New fields come over whoever has the shard that meets them first; older settings never win
    // over newer ones.
    for round in 0..4 {
        let settings = json!({"index.max_result_window": 20_000 + round});
        leader
            .ok("PUT", "/fresh/_settings", Some(&settings))
            .await?;
        let documents: String = (0..60)
            .map(|n| format!("{{\"index\":{{\"_id\":\"d{n}\"}}}}\n{{\"new_{round}_{n}\":{n}}}\n"))
            .collect();
        leader.bulk("/fresh/_bulk", documents).await?;
    }
    for index in ["fresh-1", "fresh-2"] {
        world.equal("fresh", index).await?;
        let settings = follower
            .get(&format!("/{index}/_settings?flat_settings=true"))
            .await?;
        ensure!(
            settings[index]["settings"]["index.max_result_window"] == "20003",
            "{settings}"
        );
        let mapping = |answer: &Value, index: &str| answer[index]["mappings"]["properties"].clone();
        let (expected, found) = (
            leader.get("/fresh/_mapping").await?,
            follower.get(&format!("/{index}/_mapping")).await?,
        );
        ensure!(
            mapping(&expected, "fresh") == mapping(&found, index),
            "{found}"
        );
    }

    // A pause on one holds on all when it is acknowledged.
    for (pausing, resuming) in [(&one, &two), (&two, &one)] {
        pausing
            .ok(
                "POST",
                &path("fresh-1", "_pause"),
                Some(&json!({"reason": "night"})),
            )
            .await?;
        leader
            .bulk("/fresh/_bulk", Load::new(24, "p").bulk(500))
            .await?;
        let before =
            follower.get("/fresh-1/_stats/indexing").await?["_all"]["primaries"]["indexing"]
                .clone();
        wait::caught_up(leader, "fresh", resuming, "fresh-2", PATIENCE).await?;
        let after =
            follower.get("/fresh-1/_stats/indexing").await?["_all"]["primaries"]["indexing"]
                .clone();
        ensure!(
            before["index_total"] == after["index_total"],
            "written to while paused"
        );
        let status = wait::for_status(resuming, "fresh-1", "PAUSED", PATIENCE).await?;
        ensure!(status["reason"] == "night", "{status}");
        resuming
            .ok("POST", &path("fresh-1", "_resume"), Some(&json!({})))
            .await?;
        world.equal("fresh", "fresh-1").await?;
    }
    two.ok(
        "PUT",
        &path("fresh-1", "_update"),
        Some(&json!({"settings": {"index.max_result_window": 7_777}})),
    )
    .await?;
    let setting = json!({"persistent": {"plugins.replication.follower.block.start": "true"}});
    two.ok("PUT", "/_cluster/settings", Some(&setting)).await?;
    let body = json!({"leader_alias": ALIAS, "leader_index": "fresh"});
    for gateway in [&one, &two] {
        let (status, answer) = gateway
            .call("PUT", &path("refused", "_start"), Some(&body))
            .await?;
        ensure!(status == 403, "{answer}");
    }

    // Stopped is stopped, on all.
    one.ok("POST", &path("old-2", "_stop"), Some(&json!({})))
        .await?;
    let (status, answer) = two
        .call("POST", &path("old-2", "_stop"), Some(&json!({})))
        .await?;
    ensure!(status == 400, "stopped twice: {answer}");
    let (_, answer) = two
        .call("PUT", "/old-2/_doc/1", Some(&json!({"mine": true})))
        .await?;
    ensure!(
        answer["result"].is_string(),
        "not writable after the stop: {answer}"
    );

    // A dead agent's calls are carried out by the other.
    stack.process("follower-agent-1")?.kill().await?;
    let since = Instant::now();
    for index in ["fresh-1", "fresh-2", "old-1"] {
        two.ok("POST", &path(index, "_pause"), Some(&json!({})))
            .await?;
        two.ok("POST", &path(index, "_resume"), Some(&json!({})))
            .await?;
    }
    println!(
        "three indices paused and resumed {:?} after the other agent died",
        since.elapsed()
    );
    leader
        .bulk("/fresh/_bulk", Load::new(25, "q").bulk(500))
        .await?;
    wait::caught_up(leader, "fresh", &two, "fresh-1", PATIENCE).await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_agent_writes_nothing_late() -> Result<()> {
    let (world, gateways) = two_agents().await?;
    let World { stack, leader, .. } = &world;
    leader.ok("PUT", "/logs", Some(&index_body(SHARDS))).await?;
    world.follow("logs", "logs").await?;
    shared(&world, "logs").await?;
    let mut load = Load::new(31, "z");
    for (frozen, awake) in [(0, 1), (1, 0)] {
        // Stopped in the middle of its writes, like a machine that hangs.
        let agent = stack.process(&format!("follower-agent-{}", frozen + 1))?;
        for bulk in 0..12 {
            leader.bulk("/logs/_bulk", load.bulk(1_000)).await?;
            if bulk == 8 {
                agent.signal(Signal::SIGSTOP)?;
            }
        }
        // The other has its shards, and what was just written is deleted, when it wakes up.
        wait::until("the other agent to have all shards", PATIENCE, async || {
            let held = held_by(&world, awake, "logs").await?;
            Ok(if held.len() == SHARDS as usize {
                Ok(())
            } else {
                Err(format!("{held:?}"))
            })
        })
        .await?;
        leader.ok("POST", "/logs/_refresh", None).await?;
        let all = json!({"query": {"match_all": {}}});
        leader
            .ok(
                "POST",
                "/logs/_delete_by_query?conflicts=proceed",
                Some(&all),
            )
            .await?;
        wait::caught_up(leader, "logs", &gateways[awake], "logs", PATIENCE).await?;
        agent.signal(Signal::SIGCONT)?;
        wait::until("the frozen agent to notice", PATIENCE, async || {
            let log = std::fs::read_to_string(agent.log_file())?;
            Ok(if log.contains("the session was lost") {
                Ok(())
            } else {
                Err("it has not".to_owned())
            })
        })
        .await?;
        shared(&world, "logs").await?;
        world.equal("logs", "logs").await?;
    }
    world.stop().await
}
