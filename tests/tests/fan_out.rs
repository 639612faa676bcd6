//! One capture, several followers: each goes its own way, none disturbs another; and a follower
//! that is itself followed.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use follower_agent::{Records, Streams};
use prometheus::IntGauge;
use serde_json::json;
use shardline_common::types::ShardId;
use shardline_dev::{
    AgentConfig, Lifetime, NodePorts, Process, ProcessSpec, Ready, Stack, find_binary,
    wait_until_ready,
};
use shardline_tests::client::Client;
use shardline_tests::compare::compare;
use shardline_tests::load::{Load, index_body};
use shardline_tests::retention::Topic;
use shardline_tests::topic_check::kafka;
use shardline_tests::wait;
use shardline_tests::world::World;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(120);
const BULK: u64 = 1_000;
/// How old a snapshot may be that is shared; not shorter than requests are kept anyway.
const SHARE_SECONDS: u64 = 30;

#[tokio::test(flavor = "multi_thread")]
async fn followers_of_one_index_go_their_own_ways() -> Result<()> {
    let world = World::start().await?;
    one_of_three_comes_back_after_retention(&world).await?;
    a_follower_is_followed(&world).await?;
    a_shard_begins_while_another_waits(&world).await?;
    world.stop().await
}

/// One of them in front of the follower cluster, the other in front of the leader cluster itself.
#[tokio::test(flavor = "multi_thread")]
async fn followers_that_begin_together_share_a_snapshot() -> Result<()> {
    let shared = AgentConfig::default().set("bootstrap", "share_seconds", SHARE_SECONDS);
    let world = World::with(|options| options.follower_agent_config = shared.clone()).await?;
    let World { stack, leader, .. } = &world;
    let (second, gateway) = second_follower(&world, stack.run_dir(), &shared).await?;
    leader.ok("PUT", "/old", Some(&index_body(2))).await?;
    let mut load = Load::new(4, "s");
    for _ in 0..10 {
        leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    }
    leader.ok("POST", "/old/_flush?force=true", None).await?;

    world.follow("old", "one").await?;
    let topic = a_snapshot(&world).await?;
    leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    world.equal("old", "one").await?;
    let documents = scanned(&world).await?;
    start(&gateway, "old", "two").await?;
    leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    world.equal("old", "one").await?;
    wait::caught_up(leader, "old", &gateway, "two", PATIENCE).await?;
    let difference = compare(leader, "old", leader, "two").await?;
    ensure!(difference.is_equal(), "old and two: {difference}");
    ensure!(
        snapshot_topics(&world).await? == topic,
        "the snapshot was not shared"
    );
    ensure!(
        scanned(&world).await? == documents,
        "the leader was scanned more than once"
    );

    // It goes when it is too old to be shared; who comes then gets another one.
    no_snapshots(&world).await?;
    world.follow("old", "three").await?;
    let another = a_snapshot(&world).await?;
    ensure!(
        another.len() == 1 && another != topic,
        "{another:?} after {topic:?}"
    );
    world.equal("old", "three").await?;
    ensure!(
        scanned(&world).await? > documents,
        "the leader was not scanned again"
    );
    no_snapshots(&world).await?;
    second.kill().await?;
    world.stop().await
}

/// Retention has taken what of the stream follows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_snapshot_that_the_stream_has_left_behind_is_replaced() -> Result<()> {
    let world = World::start().await?;
    let World { stack, leader, .. } = &world;
    let (second, gateway) =
        second_follower(&world, stack.run_dir(), &AgentConfig::default()).await?;
    leader.ok("PUT", "/old", Some(&index_body(2))).await?;
    let mut load = Load::new(12, "s");
    for _ in 0..5 {
        leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    }
    leader.ok("POST", "/old/_flush?force=true", None).await?;
    world.follow("old", "one").await?;
    let left_behind = a_snapshot(&world).await?;
    world.equal("old", "one").await?;
    let topic = Topic::find(stack.kafka_bootstrap(), "shardline.leader.old.").await?;
    let ends = topic.ends().await?;
    leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    world.equal("old", "one").await?;
    topic.trim_behind(&ends).await?;

    start(&gateway, "old", "two").await?;
    leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    wait::caught_up(leader, "old", &gateway, "two", PATIENCE).await?;
    let difference = compare(leader, "old", leader, "two").await?;
    ensure!(difference.is_equal(), "old and two: {difference}");
    let log = std::fs::read_to_string(second.log_file())?;
    ensure!(
        log.contains("sharing another follower's snapshot"),
        "it was not shared: {log}"
    );
    let snapshots = snapshot_topics(&world).await?;
    ensure!(
        snapshots.iter().any(|topic| !left_behind.contains(topic)),
        "there is no other: {snapshots:?}"
    );
    second.kill().await?;
    world.stop().await
}

async fn snapshot_topics(world: &World) -> Result<Vec<String>> {
    Topic::names(world.stack.kafka_bootstrap(), |name| {
        name.contains(".bootstrap.")
    })
    .await
}

async fn a_snapshot(world: &World) -> Result<Vec<String>> {
    wait::until("a snapshot", PATIENCE, async || {
        let topics = snapshot_topics(world).await?;
        Ok(if topics.is_empty() {
            Err("there is none".to_owned())
        } else {
            Ok(topics)
        })
    })
    .await
}

async fn no_snapshots(world: &World) -> Result<()> {
    wait::until("the snapshot to be deleted", PATIENCE, async || {
        let topics = snapshot_topics(world).await?;
        Ok(if topics.is_empty() {
            Ok(())
        } else {
            Err(format!("{topics:?}"))
        })
    })
    .await
}

/// Documents that the leader's agent has read for snapshots.
async fn scanned(world: &World) -> Result<u64> {
    let metrics = Client::new(world.stack.process("leader-agent-1")?.url())?
        .get("/metrics")
        .await?;
    let lines = metrics.as_str().context("no metrics")?.lines();
    let values =
        lines.filter(|line| line.starts_with("shardline_leader_snapshot_documents_total{"));
    values
        .map(|line| {
            Ok(line
                .rsplit(' ')
                .next()
                .context("no value")?
                .parse::<u64>()?)
        })
        .sum()
}

async fn one_of_three_comes_back_after_retention(world: &World) -> Result<()> {
    let World {
        stack,
        leader,
        follower,
        gateway,
        ..
    } = world;
    leader.ok("PUT", "/logs", Some(&index_body(2))).await?;
    let mut load = Load::new(8, "l");
    for _ in 0..10 {
        leader.bulk("/logs/_bulk", load.bulk(BULK)).await?;
    }
    for prefix in ["one", "two"] {
        world.follow("logs", &format!("{prefix}-logs")).await?;
    }
    world.equal("logs", "one-logs").await?;
    world.equal("logs", "two-logs").await?;
    let topic = Topic::find(stack.kafka_bootstrap(), "shardline.leader.logs.").await?;
    let ends = topic.ends().await?;
    gateway
        .ok(
            "POST",
            "/_plugins/_replication/two-logs/_pause",
            Some(&json!({})),
        )
        .await?;
    // One that comes later has all of it, too.
    world.follow("logs", "three-logs").await?;
    for _ in 0..10 {
        leader.bulk("/logs/_bulk", load.bulk(BULK)).await?;
    }
    for name in ["one-logs", "three-logs"] {
        world.equal("logs", name).await?;
    }
    topic.trim_behind(&ends).await?;
    let before = count(follower, "two-logs").await?;
    gateway
        .ok(
            "POST",
            "/_plugins/_replication/two-logs/_resume",
            Some(&json!({})),
        )
        .await?;
    let readable = async {
        loop {
            let answer = follower.get("/two-logs/_count").await?;
            let count = answer["count"].as_u64().unwrap_or_default();
            ensure!(
                count >= before / 2 && answer["_shards"]["failed"] == 0,
                "unreadable meanwhile: {answer}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let others = async {
        for _ in 0..5 {
            leader.bulk("/logs/_bulk", load.bulk(BULK)).await?;
            for name in ["one-logs", "three-logs"] {
                world.equal("logs", name).await?;
            }
        }
        world.equal("logs", "two-logs").await
    };
    tokio::select! {
        read = readable => read?,
        equal = others => equal?,
    }
    let log = std::fs::read_to_string(stack.process("follower-agent-1")?.log_file())?;
    let copied: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("copying the index anew"))
        .collect();
    ensure!(
        copied.len() == 1 && copied[0].contains("two-logs"),
        "{copied:?}"
    );
    Ok(())
}

async fn count(client: &Client, index: &str) -> Result<u64> {
    client
        .ok("POST", &format!("/{index}/_refresh"), None)
        .await?;
    client.get(&format!("/{index}/_count")).await?["count"]
        .as_u64()
        .context("no count")
}

/// A partition that is opened while its consumer waits for news of another one is read soon. Other
/// work may delay any one attempt.
async fn a_shard_begins_while_another_waits(world: &World) -> Result<()> {
    let kafka = kafka(world.stack.kafka_bootstrap())?;
    let topic = world.topic("logs").await?;
    let waiting = IntGauge::new("waiting", "partitions")?;
    let streams = Streams::of_shards(kafka.consumer("streams"), waiting, CancellationToken::new());
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let [first, second] = [ShardId(0), ShardId(1)];
        let marks = kafka.watermarks(&topic, first).await?;
        let mut waiting = streams.open(&topic, first, marks.low..marks.high).await?;
        while tokio::time::timeout(Duration::from_millis(20), waiting.next())
            .await
            .is_ok()
        {}
        let marks = kafka.watermarks(&topic, second).await?;
        let started = Instant::now();
        streams
            .open(&topic, second, marks.low..marks.high)
            .await?
            .next()
            .await?;
        fastest = fastest.min(started.elapsed());
    }
    ensure!(
        fastest < Duration::from_millis(300),
        "the second shard waited for {fastest:?}"
    );
    Ok(())
}

/// From the leader cluster to the follower cluster, and from there back under another name: with a
/// leader agent beside the follower's node, and a follower agent for the leader cluster.
async fn a_follower_is_followed(world: &World) -> Result<()> {
    let World {
        stack,
        leader,
        follower,
        ..
    } = world;
    let own = stack.run_dir().join("second-hop");
    let admin = free_port()?;
    let config = agent_config(stack, &stack.follower_url(), admin, AgentConfig::default());
    let leader_agent = agent(&own, "leader-agent", admin, admin, &config)?;
    wait_until_ready(&[&leader_agent], PATIENCE).await?;
    let (follower_agent, gateway) = second_follower(world, &own, &AgentConfig::default()).await?;

    leader.ok("PUT", "/origin", Some(&index_body(2))).await?;
    let mut load = Load::new(9, "c");
    leader.bulk("/origin/_bulk", load.bulk(BULK)).await?;
    world.follow("origin", "copy").await?;
    world.equal("origin", "copy").await?;
    start(&gateway, "copy", "copy-of-copy").await?;
    for _ in 0..5 {
        leader.bulk("/origin/_bulk", load.bulk(BULK)).await?;
    }
    world.equal("origin", "copy").await?;
    wait::caught_up(follower, "copy", &gateway, "copy-of-copy", PATIENCE).await?;
    let difference = compare(leader, "origin", leader, "copy-of-copy").await?;
    ensure!(
        difference.is_equal(),
        "origin and the copy of its copy: {difference}"
    );
    for process in [follower_agent, leader_agent] {
        process.kill().await?;
    }
    Ok(())
}

/// A follower agent in front of the leader cluster, with its gateway. It knows either cluster as a
/// leader.
async fn second_follower(
    world: &World,
    folder: &Path,
    config: &AgentConfig,
) -> Result<(Process, Client)> {
    let stack = &world.stack;
    let [port, admin] = [free_port()?, free_port()?];
    let config = agent_config(stack, &stack.leader_url(), admin, config.clone())
        .set_text("gateway", "listen", &local(port))
        .set_text(
            "storage",
            "data_dir",
            &folder.join("data").display().to_string(),
        );
    let agent = agent(folder, "follower-agent", port, admin, &config)?;
    wait_until_ready(&[&agent], PATIENCE).await?;
    let gateway = Client::new(agent.url())?;
    let seed = |nodes: &[NodePorts]| json!({"seeds": [local(nodes[0].transport)]});
    let (leader, follower) = (seed(&stack.ports().leader), seed(&stack.ports().follower));
    let aliases = json!({"persistent": {"cluster": {"remote": {"old": leader, "copy": follower}}}});
    gateway
        .ok("PUT", "/_cluster/settings", Some(&aliases))
        .await?;
    Ok((agent, gateway))
}

/// By the alias that has the index's name, as soon as that cluster is known for a leader.
async fn start(gateway: &Client, leader: &str, follower: &str) -> Result<()> {
    let body = json!({"leader_alias": leader, "leader_index": leader});
    wait::until("the index to be followed", PATIENCE, async || {
        let call = format!("/_plugins/_replication/{follower}/_start");
        let (status, answer) = gateway.call("PUT", &call, Some(&body)).await?;
        Ok(if status == 200 {
            Ok(())
        } else {
            Err(answer.to_string())
        })
    })
    .await
}

fn agent_config(stack: &Stack, cluster: &str, admin: u16, config: AgentConfig) -> AgentConfig {
    config
        .set_text("opensearch", "url", cluster)
        .set_text("kafka", "bootstrap_servers", stack.kafka_bootstrap())
        .set("kafka", "replication_factor", 1)
        .set_text("admin", "listen", &local(admin))
}

/// Starts an agent beside those of the stack; it ends with the test.
fn agent(
    folder: &Path,
    program: &str,
    port: u16,
    admin: u16,
    config: &AgentConfig,
) -> Result<Process> {
    std::fs::create_dir_all(folder)?;
    let file = folder.join(format!("{program}.toml"));
    std::fs::write(&file, config.to_string())?;
    let spec = ProcessSpec {
        name: format!("second-{program}"),
        program: find_binary(program)?,
        arguments: vec!["--config".to_owned(), file.display().to_string()],
        environment: Vec::new(),
        url: format!("http://{}", local(port)),
        ready: Ready::Http(format!("http://{}/ready", local(admin))),
        data_dir: folder.join("data"),
        log_file: folder.join(format!("{program}.log")),
    };
    let process = Process::new(spec, Lifetime::Owned);
    process.spawn()?;
    Ok(process)
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?
        .local_addr()?
        .port())
}
