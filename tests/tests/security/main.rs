//! Both clusters with the real security plugin: https, users of least privilege, roles.

mod before;
mod refusals;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use shardline_tests::client::Client;
use shardline_tests::wait;
use shardline_tests::world::{ALIAS, World};

const PATIENCE: Duration = Duration::from_secs(60);
/// So soon it is seen that the leader has taken a role away.
const SOON: Duration = Duration::from_secs(10);
const REPLICATED: usize = 200;
const BASE: &str = "/_plugins/_replication";
const FOLLOWER_ROLE: &str = "cross_cluster_replication_follower_full_access";
const LEADER_ROLE: &str = "cross_cluster_replication_leader_full_access";

#[tokio::test]
async fn an_index_is_followed_by_agents_that_may_do_no_more_than_they_need() -> Result<()> {
    let world = secured().await?;
    let index = json!({
        "settings": {"number_of_shards": 2, "number_of_replicas": 0},
        "aliases": {"all-books": {}}
    });
    world.leader.ok("PUT", "/books", Some(&index)).await?;
    fill(&world, 0).await?;
    world.follow("books", "books-copy").await?;
    // What is copied, and what is shipped afterwards.
    fill(&world, REPLICATED).await?;
    world.leader.ok("DELETE", "/books/_doc/7", None).await?;
    world.equal("books", "books-copy").await?;
    verified_equal(&world.gateway, "books-copy").await?;

    // The agents have no more than their roles: another index is none of theirs.
    let agent = world.follower_as("follower-agent")?;
    let (status, answer) = agent.call("PUT", "/secrets", None).await?;
    ensure!(status == 403, "{status}: {answer}");
    world.stop().await
}

#[tokio::test]
async fn every_call_is_for_those_who_may() -> Result<()> {
    let world = secured().await?;
    world.leader.ok("PUT", "/books", None).await?;
    fill(&world, 0).await?;
    world.follow("books", "books-copy").await?;
    world.equal("books", "books-copy").await?;
    for refused in refusals::all() {
        refused.check(&world).await?;
    }
    nobody_learns_a_name(&world).await?;
    let settings = world.gateway.get("/_cluster/settings").await?;
    ensure!(!settings.to_string().contains("dead_letters"), "{settings}");
    wait::for_status(&world.gateway, "books-copy", "SYNCING", PATIENCE).await?;
    world.equal("books", "books-copy").await?;
    those_who_may_do(&world).await?;
    a_role_that_is_lost_holds_what_it_began(&world).await?;
    world.stop().await
}

/// The gateway knows two roles besides the plugin's: `operators`, and `masked`, who may less at the
/// cluster than at the gateway.
async fn secured() -> Result<World> {
    World::with(|options| {
        options.secure = true;
        for (role, users) in [
            (LEADER_ROLE, "[\"both\", \"operator\"]"),
            ("all_access", "[\"admin\"]"),
        ] {
            let section = format!("capture.roles.{role}");
            options.leader_agent_config = std::mem::take(&mut options.leader_agent_config)
                .set(&section, "indices", "[\"books*\", \"logs-*\"]")
                .set(&section, "users", users);
        }
        for (role, indices) in [("operators", "[\"books*\"]"), ("masked", "[\"*\"]")] {
            let section = format!("gateway.security.roles.{role}");
            let operations = "[\"indices:admin/plugins/replication/*\"]";
            options.follower_agent_config = std::mem::take(&mut options.follower_agent_config)
                .set(&section, "operations", operations)
                .set(&section, "indices", indices);
        }
    })
    .await
}

fn start(roles: Option<(&str, &str)>) -> Value {
    let mut body = json!({"leader_alias": ALIAS, "leader_index": "books"});
    if let Some((leader, follower)) = roles {
        body["use_roles"] =
            json!({"leader_cluster_role": leader, "follower_cluster_role": follower});
    }
    body
}

/// Whoever has no login, or a wrong one, gets the cluster's own answer, whatever they ask for.
async fn nobody_learns_a_name(world: &World) -> Result<()> {
    let nobody = Client::new(world.stack.gateway_url())?;
    let unknown = world.gateway_as("nobody-of-that-name")?;
    let mut access = world.stack.access("both").context("no security")?;
    access.password = "wrong".to_owned();
    let wrong = Client::with_access(world.stack.gateway_url(), &access)?;
    let mut calls: Vec<(&str, String)> = refusals::all()
        .into_iter()
        .map(|refused| (refused.method, refused.path))
        .collect();
    for (method, path) in [
        ("GET", "/_plugins/_replication/_status"),
        ("GET", "/_plugins/_replication/_openapi"),
        ("GET", "/_plugins/_replication/leader_stats"),
        ("GET", "/_plugins/_replication/autofollow_stats"),
        ("GET", "/_plugins/_replication/_task_status/x"),
        ("DELETE", "/_plugins/_replication/_autofollow"),
        ("GET", "/_plugins/_replication/books-copy/_dead_letters"),
        ("GET", "/_plugins/_replication/no/such/route"),
        ("PUT", "/*/_settings"),
        ("POST", "/_bulk"),
        ("DELETE", "/books-copy"),
    ] {
        calls.push((method, path.to_owned()));
    }
    for client in [&nobody, &unknown, &wrong] {
        for (method, path) in &calls {
            let (status, answer) = client.call(method, path, Some(&json!({}))).await?;
            ensure!(status == 401, "{method} {path}: {status} {answer}");
            ensure!(answer == "Unauthorized", "{method} {path}: {answer}");
        }
    }
    let url = format!("{}{BASE}/_status", world.stack.gateway_url());
    let answer = reqwest::get(url).await?;
    let challenge = answer.headers().get("www-authenticate");
    let is_asked = challenge.is_some_and(|challenge| challenge.as_bytes().starts_with(b"Basic"));
    ensure!(is_asked, "{:?}", answer.headers());
    let admin = world.stack.ports().follower_agents[0].admin;
    let page = Client::new(format!("http://127.0.0.1:{admin}"))?;
    let (status, answer) = page.call("GET", "/page/indices", None).await?;
    ensure!(status == 401, "{status}: {answer}");
    // Who is somebody sees what they may.
    let reader = world.gateway_as("reader")?;
    let listed = reader.get(&format!("{BASE}/_status")).await?;
    ensure!(listed == json!({"indices": {}}), "{listed}");
    Ok(())
}

async fn those_who_may_do(world: &World) -> Result<()> {
    let both = world.gateway_as("both")?;
    let roles = start(Some((LEADER_ROLE, FOLLOWER_ROLE)));
    both.ok("PUT", &format!("{BASE}/books-both/_start"), Some(&roles))
        .await?;
    world.equal("books", "books-both").await?;
    let listed = both.get(&format!("{BASE}/_status")).await?;
    ensure!(
        listed["indices"]
            .as_object()
            .is_some_and(|all| all.len() == 2),
        "{listed}"
    );

    let operator = world.gateway_as("operator")?;
    let roles = start(Some((LEADER_ROLE, "operators")));
    operator
        .ok(
            "PUT",
            &format!("{BASE}/books-operator/_start"),
            Some(&roles),
        )
        .await?;
    for (call, body) in [
        ("_pause", json!({})),
        ("_resume", json!({})),
        ("_stop", json!({})),
    ] {
        let path = format!("{BASE}/books-operator/{call}");
        operator.ok("POST", &path, Some(&body)).await?;
    }
    // The follower's role alone is enough for what is followed already.
    let other = world.gateway_as("follower-role")?;
    for call in ["_pause", "_resume"] {
        let path = format!("{BASE}/books-both/{call}");
        other.ok("POST", &path, Some(&json!({}))).await?;
    }
    let status = wait::status(&other, "books-both").await?;
    ensure!(status["use_roles"]["user"] == "both", "{status}");
    // What a rule and a task begin, the agent asks its own gateway for.
    world.leader.ok("PUT", "/logs-1", None).await?;
    let rule = json!({
        "leader_alias": ALIAS, "name": "r", "pattern": "logs-*",
        "use_roles": {"leader_cluster_role": LEADER_ROLE, "follower_cluster_role": FOLLOWER_ROLE},
    });
    both.ok("POST", &format!("{BASE}/_autofollow"), Some(&rule))
        .await?;
    wait::for_status(&world.gateway, "logs-1", "SYNCING", PATIENCE).await?;
    let pattern = json!({"pattern": "logs-*"});
    world
        .gateway
        .ok("POST", &format!("{BASE}/_bulk_pause"), Some(&pattern))
        .await?;
    wait::for_status(&both, "logs-1", "PAUSED", PATIENCE).await?;
    let admin = json!({"persistent": {"plugins.replication.follower.dead_letters": true}});
    world
        .gateway
        .ok("PUT", "/_cluster/settings", Some(&admin))
        .await?;
    Ok(())
}

/// The leader agent's configuration takes a user's role away, and gives it back.
async fn a_role_that_is_lost_holds_what_it_began(world: &World) -> Result<()> {
    let file = world.stack.run_dir().join("leader-agent-1/config.toml");
    let with_role = std::fs::read_to_string(&file)?;
    let without = with_role.replace("\"both\", ", "");
    ensure!(with_role != without, "{with_role}");
    std::fs::write(&file, without)?;
    world.stack.restart("leader-agent-1").await?;
    let held = wait::for_status(&world.gateway, "books-both", "PAUSED", SOON).await?;
    let reason = held["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("No mapping for [both]"), "{held}");
    let path = format!("{BASE}/books-both/_resume");
    let (status, answer) = world.gateway.call("POST", &path, Some(&json!({}))).await?;
    ensure!(status == 403, "{status}: {answer}");
    // What others began goes on; what is held can be read.
    fill(world, 2 * REPLICATED).await?;
    world.equal("books", "books-copy").await?;
    let count = world.follower.get("/books-both/_count").await?;
    ensure!(count["count"] == REPLICATED, "{count}");

    std::fs::write(&file, with_role)?;
    world.stack.restart("leader-agent-1").await?;
    wait::for_status(&world.gateway, "books-both", "SYNCING", PATIENCE).await?;
    world.equal("books", "books-both").await
}

async fn verified_equal(gateway: &Client, follower: &str) -> Result<()> {
    let call = format!("{BASE}/{follower}/_verify");
    let body = json!({"content": true});
    gateway.ok("POST", &call, Some(&body)).await?;
    wait::until("the comparison's end", PATIENCE, async || {
        let found = gateway.get(&call).await?;
        Ok(match found["state"].as_str() {
            Some("equal") => Ok(()),
            _ => Err(found.to_string()),
        })
    })
    .await
}

async fn fill(world: &World, from: usize) -> Result<()> {
    let body: String = (from..from + REPLICATED)
        .map(|id| format!("{{\"index\":{{\"_id\":\"{id}\"}}}}\n{{\"number\":{id}}}\n"))
        .collect();
    world.leader.bulk("/books/_bulk", body).await
}
