//! One capture, several followers: each goes its own way, none disturbs another; and a follower that is itself followed.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use shardline_dev::{AgentConfig, Lifetime, Process, ProcessSpec, Ready, find_binary, wait_until_ready};
use shardline_tests::client::Client;
use shardline_tests::compare::compare;
use shardline_tests::load::{Load, index_body};
use shardline_tests::retention::Topic;
use shardline_tests::wait;
use shardline_tests::world::World;

const PATIENCE: Duration = Duration::from_secs(120);
const BULK: u64 = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn followers_of_one_index_go_their_own_ways() -> Result<()> {
    let world = World::start().await?;
    one_of_three_comes_back_after_retention(&world).await?;
    a_follower_is_followed(&world).await?;
    world.stop().await
}

async fn one_of_three_comes_back_after_retention(world: &World) -> Result<()> {
    let World { stack, leader, follower, gateway, .. } = world;
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
    gateway.ok("POST", "/_plugins/_replication/two-logs/_pause", Some(&json!({}))).await?;
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
    gateway.ok("POST", "/_plugins/_replication/two-logs/_resume", Some(&json!({}))).await?;
    let readable = async {
        loop {
            let answer = follower.get("/two-logs/_count").await?;
            let count = answer["count"].as_u64().unwrap_or_default();
            ensure!(count >= before / 2 && answer["_shards"]["failed"] == 0, "unreadable meanwhile: {answer}");
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
    let copied: Vec<&str> = log.lines().filter(|line| line.contains("copying the index anew")).collect();
    ensure!(copied.len() == 1 && copied[0].contains("two-logs"), "{copied:?}");
    Ok(())
}

async fn count(client: &Client, index: &str) -> Result<u64> {
    client.ok("POST", &format!("/{index}/_refresh"), None).await?;
    client.get(&format!("/{index}/_count")).await?["count"].as_u64().context("no count")
}

/// From the leader cluster to the follower cluster, and from there back under another name: with a leader agent beside
/// the follower's node, and a follower agent for the leader cluster.
async fn a_follower_is_followed(world: &World) -> Result<()> {
    let World { stack, leader, follower, .. } = world;
    let own = stack.run_dir().join("second-hop");
    let [gateway_port, leader_admin, follower_admin] = [free_port()?, free_port()?, free_port()?];
    let config = |cluster: &str, admin: u16| {
        AgentConfig::default()
            .set_text("opensearch", "url", cluster)
            .set_text("kafka", "bootstrap_servers", stack.kafka_bootstrap())
            .set("kafka", "replication_factor", 1)
            .set_text("admin", "listen", &local(admin))
    };
    let leader_agent =
        agent(&own, "leader-agent", leader_admin, leader_admin, &config(&stack.follower_url(), leader_admin))?;
    let config = config(&stack.leader_url(), follower_admin)
        .set_text("gateway", "listen", &local(gateway_port))
        .set_text("storage", "data_dir", &own.join("data").display().to_string());
    let follower_agent = agent(&own, "follower-agent", gateway_port, follower_admin, &config)?;
    wait_until_ready(&[&leader_agent, &follower_agent], PATIENCE).await?;
    let gateway = Client::new(follower_agent.url())?;
    let seed = format!("127.0.0.1:{}", stack.ports().follower[0].transport);
    let alias = json!({"persistent": {"cluster": {"remote": {"back": {"seeds": [seed]}}}}});
    gateway.ok("PUT", "/_cluster/settings", Some(&alias)).await?;

    leader.ok("PUT", "/origin", Some(&index_body(2))).await?;
    let mut load = Load::new(9, "c");
    leader.bulk("/origin/_bulk", load.bulk(BULK)).await?;
    world.follow("origin", "copy").await?;
    world.equal("origin", "copy").await?;
    let body = json!({"leader_alias": "back", "leader_index": "copy"});
    wait::until("the follower cluster to be a leader, too", PATIENCE, async || {
        let (status, answer) = gateway.call("PUT", "/_plugins/_replication/copy-of-copy/_start", Some(&body)).await?;
        Ok(if status == 200 { Ok(()) } else { Err(answer.to_string()) })
    })
    .await?;
    for _ in 0..5 {
        leader.bulk("/origin/_bulk", load.bulk(BULK)).await?;
    }
    world.equal("origin", "copy").await?;
    wait::caught_up(follower, "copy", &gateway, "copy-of-copy", PATIENCE).await?;
    let difference = compare(leader, "origin", leader, "copy-of-copy").await?;
    ensure!(difference.is_equal(), "origin and the copy of its copy: {difference}");
    for process in [follower_agent, leader_agent] {
        process.kill().await?;
    }
    Ok(())
}

/// Starts an agent beside those of the stack; it ends with the test.
fn agent(folder: &Path, program: &str, port: u16, admin: u16, config: &AgentConfig) -> Result<Process> {
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
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
