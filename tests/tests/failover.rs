//! A leader cluster of three nodes with replicas, under a steady load: nodes and agents are killed,
//! primaries move, translogs are flushed all the time. The stream has no hole, and needs no scan as
//! long as the agent of some copy is there.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use shardline_dev::wait_for_status;
use shardline_tests::client::Client;
use shardline_tests::load::{Load, index_body};
use shardline_tests::wait;
use shardline_tests::world::World;

const PATIENCE: Duration = Duration::from_secs(180);
const SHARDS: u32 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_loses_nodes_and_agents_is_followed_without_a_hole() -> Result<()> {
    let world = World::with(|options| {
        options.leader_nodes = 3;
        options.heap_mb = 384;
        // Shards move when the test says so.
        options.leader_overrides = vec![("cluster.routing.rebalance.enable".into(), "none".into())];
    })
    .await?;
    let nodes: Vec<Client> = (1..=3)
        .map(|node| Client::new(world.stack.process(&format!("leader-{node}"))?.url()))
        .collect::<Result<_>>()?;
    let mut body = index_body(SHARDS);
    body["settings"]["number_of_replicas"] = json!(1);
    world.leader.ok("PUT", "/logs", Some(&body)).await?;
    wait_for_status(world.leader.url(), "green", PATIENCE).await?;
    world.follow("logs", "logs").await?;

    let done = AtomicBool::new(false);
    let faults = async {
        let outcome = nodes_and_agents_fail(&world, &nodes).await;
        done.store(true, Relaxed);
        outcome
    };
    let (written, _, ()) = tokio::try_join!(write(&nodes, 1, &done), flush(&nodes, &done), faults)?;
    world.equal("logs", "logs").await?;
    let report = world.check_topic("logs").await?;
    println!(
        "{written} operations written, the topic has {report}; {} fills",
        logged(&world, "filled: ")?
    );
    assert_eq!(
        logged(&world, "resync: ")?,
        0,
        "the agent of some copy was there all the time"
    );

    // All agents are away for a while: there is a hole now, and a scan fills it.
    for agent in 1..=3 {
        world
            .stack
            .process(&format!("leader-agent-{agent}"))?
            .kill()
            .await?;
    }
    let done = AtomicBool::new(false);
    let away = async {
        tokio::time::sleep(Duration::from_secs(6)).await;
        done.store(true, Relaxed);
        Ok(())
    };
    tokio::try_join!(write(&nodes, 2, &done), flush(&nodes, &done), away)?;
    for agent in 1..=3 {
        world
            .stack
            .restart(&format!("leader-agent-{agent}"))
            .await?;
    }
    world.equal("logs", "logs").await?;
    let report = world.check_topic("logs").await?;
    assert!(
        report.resyncs >= 1,
        "what was flushed meanwhile is in no translog: {report}"
    );
    a_node_that_lost_its_disk_is_captured_when_it_is_back(&world).await?;
    world.stop().await
}

/// It has another id then; its agent runs on meanwhile.
async fn a_node_that_lost_its_disk_is_captured_when_it_is_back(world: &World) -> Result<()> {
    let node = world.stack.process("leader-3")?;
    node.terminate().await?;
    std::fs::remove_dir_all(node.data_dir())?;
    world.stack.restart("leader-3").await?;
    let only_there = json!({"index.number_of_replicas": 0, "index.routing.allocation.require._name": "leader-3"});
    world
        .leader
        .ok("PUT", "/logs/_settings", Some(&only_there))
        .await?;
    wait::until("all shards to be on the new node", PATIENCE, async || {
        let shards = world.leader.get("/_cat/shards/logs?format=json").await?;
        let is_there = |shard: &Value| shard["state"] == "STARTED" && shard["node"] == "leader-3";
        let all = shards
            .as_array()
            .is_some_and(|shards| shards.len() == SHARDS as usize && shards.iter().all(is_there));
        Ok(if all { Ok(()) } else { Err(shards.to_string()) })
    })
    .await?;
    world
        .leader
        .bulk("/logs/_bulk", Load::new(3, "c").bulk(1_000))
        .await?;
    world.equal("logs", "logs").await
}

/// How often the leader agents have logged something; printed, too.
fn logged(world: &World, what: &str) -> Result<usize> {
    let mut count = 0;
    for agent in 1..=3 {
        let log = std::fs::read_to_string(
            world
                .stack
                .process(&format!("leader-agent-{agent}"))?
                .log_file(),
        )?;
        for line in log.lines().filter(|line| line.contains(what)) {
            println!("leader-agent-{agent}: {line}");
            count += 1;
        }
    }
    Ok(count)
}

async fn nodes_and_agents_fail(world: &World, nodes: &[Client]) -> Result<()> {
    let stack = &world.stack;
    for node in 1..=3 {
        let name = format!("leader-{node}");
        let other = &nodes[node % 3];
        stack.process(&name)?.kill().await?;
        wait::until("replicas to be promoted", PATIENCE, async || {
            let health = other.get("/_cluster/health/logs?timeout=1s").await?;
            Ok(if health["status"] == "yellow" {
                Ok(())
            } else {
                Err(health.to_string())
            })
        })
        .await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        stack.restart(&name).await?;
        wait_for_status(other.url(), "green", PATIENCE).await?;
    }
    for shard in 0..SHARDS {
        relocate_primary(&nodes[0], shard).await?;
        wait_for_status(nodes[0].url(), "green", PATIENCE).await?;
    }
    for agent in 1..=3 {
        let name = format!("leader-agent-{agent}");
        stack.process(&name)?.kill().await?;
        // Generations come and go meanwhile; the agents beside the other copies hold theirs.
        tokio::time::sleep(Duration::from_secs(4)).await;
        stack.restart(&name).await?;
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    Ok(())
}

/// Moves a primary to the node that has no copy of its shard.
async fn relocate_primary(client: &Client, shard: u32) -> Result<()> {
    let state = client
        .get("/_cluster/state/nodes,routing_table/logs")
        .await?;
    let copies = state["routing_table"]["indices"]["logs"]["shards"][shard.to_string()]
        .as_array()
        .context("shard")?;
    let holders: Vec<&str> = copies
        .iter()
        .filter_map(|copy| copy["node"].as_str())
        .collect();
    let from = copies
        .iter()
        .find(|copy| copy["primary"] == true)
        .and_then(|copy| copy["node"].as_str());
    let to = state["nodes"]
        .as_object()
        .and_then(|nodes| nodes.keys().find(|id| !holders.contains(&id.as_str())));
    let (from, to) = from.zip(to).context("no node without a copy")?;
    let command = json!({"commands": [{"move": {"index": "logs", "shard": shard, "from_node": from, "to_node": to}}]});
    client
        .ok("POST", "/_cluster/reroute", Some(&command))
        .await?;
    wait::until("the primary to have moved", PATIENCE, async || {
        let state = client.get("/_cluster/state/routing_table/logs").await?;
        let copies = &state["routing_table"]["indices"]["logs"]["shards"][shard.to_string()];
        let moved = |copy: &Value| {
            copy["primary"] == true && copy["node"] == **to && copy["state"] == "STARTED"
        };
        Ok(
            if copies
                .as_array()
                .is_some_and(|copies| copies.iter().any(moved))
            {
                Ok(())
            } else {
                Err(copies.to_string())
            },
        )
    })
    .await
}

/// Writes until told to stop, through whichever node answers. What fails is not tried again.
async fn write(nodes: &[Client], seed: u64, done: &AtomicBool) -> Result<u64> {
    const BULK: u64 = 200;
    let (mut load, mut written) = (Load::new(seed, &format!("f{seed}")), 0);
    while !done.load(Relaxed) {
        let body = load.bulk(BULK);
        for node in nodes
            .iter()
            .cycle()
            .skip(usize::try_from(written / BULK)?)
            .take(nodes.len())
        {
            let body = Some(("application/x-ndjson", body.clone().into_bytes()));
            if matches!(
                node.send(reqwest::Method::POST, "/logs/_bulk?timeout=5s", body)
                    .await,
                Ok((200, _))
            ) {
                written += BULK;
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    Ok(written)
}

async fn flush(nodes: &[Client], done: &AtomicBool) -> Result<()> {
    for node in nodes.iter().cycle() {
        if done.load(Relaxed) {
            break;
        }
        // A node that is away cannot.
        let _ = node.call("POST", "/logs/_flush?force=true", None).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    Ok(())
}
