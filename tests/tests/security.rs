//! Both clusters with the real security plugin: https, users of least privilege, roles.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use shardline_tests::client::Client;
use shardline_tests::wait;
use shardline_tests::world::{ALIAS, World};

const PATIENCE: Duration = Duration::from_secs(60);
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
    for case in refusals() {
        case.check(&world).await?;
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

/// A call that is refused.
struct Refusal {
    user: &'static str,
    method: &'static str,
    path: String,
    body: Option<Value>,
    reason: String,
}

impl Refusal {
    async fn check(self, world: &World) -> Result<()> {
        let Self {
            user, method, path, ..
        } = &self;
        let gateway = world.gateway_as(user)?;
        let (status, answer) = gateway.call(method, path, self.body.as_ref()).await?;
        let is_as_expected = status == 403
            && answer["error"]["type"] == "security_exception"
            && answer["error"]["reason"] == self.reason;
        ensure!(is_as_expected, "{user} {method} {path}: {status} {answer}");
        Ok(())
    }
}

fn shown(user: &str) -> String {
    format!("User [name={user}, backend_roles=[], requestedTenant=null]")
}

fn start(roles: Option<(&str, &str)>) -> Value {
    let mut body = json!({"leader_alias": ALIAS, "leader_index": "books"});
    if let Some((leader, follower)) = roles {
        body["use_roles"] =
            json!({"leader_cluster_role": leader, "follower_cluster_role": follower});
    }
    body
}

fn refusals() -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let mut refused = |user, method, path: &str, body: Option<Value>, reason: String| {
        let path = path.to_owned();
        refusals.push(Refusal {
            user,
            method,
            path,
            body,
            reason,
        });
    };
    let lacks =
        |user: &str, action: &str| format!("no permissions for [{action}] and {}", shown(user));
    let of_index = "indices:admin/plugins/replication/index";
    let of_cluster = "cluster:admin/plugins/replication";
    let roles = Some((LEADER_ROLE, FOLLOWER_ROLE));
    let index = format!("{BASE}/books-copy");
    let rule = json!({"leader_alias": ALIAS, "name": "r", "pattern": "logs-*"});
    for user in ["reader", "writer", "leader-role"] {
        for (method, call, body, action) in [
            ("PUT", "_start", start(roles), "start"),
            ("POST", "_stop", json!({}), "stop"),
            ("POST", "_pause", json!({}), "pause"),
            ("POST", "_resume", json!({}), "resume"),
            ("PUT", "_update", json!({"settings": {}}), "update"),
            ("POST", "_verify", json!({}), "status_check"),
            ("POST", "_dead_letters/_replay", json!({}), "resume"),
        ] {
            let needed = format!("{of_index}/{action}");
            let path = format!("{index}/{call}");
            refused(user, method, &path, Some(body), lacks(user, &needed));
        }
        let status = format!("{of_index}/status_check");
        refused(
            user,
            "GET",
            &format!("{index}/_status"),
            None,
            lacks(user, &status),
        );
        let auto_follow = format!("{of_cluster}/autofollow/update");
        let path = format!("{BASE}/_autofollow");
        refused(
            user,
            "POST",
            &path,
            Some(rule.clone()),
            lacks(user, &auto_follow),
        );
        let bulk = format!("{of_cluster}/bulk/stop");
        let body = json!({"pattern": "*"});
        refused(
            user,
            "POST",
            &format!("{BASE}/_bulk_stop"),
            Some(body),
            lacks(user, &bulk),
        );
    }
    // The plugin's own roles allow no more than there.
    let stats = lacks("both", &format!("{of_cluster}/follower/stats"));
    refused(
        "both",
        "GET",
        &format!("{BASE}/follower_stats"),
        None,
        stats,
    );
    let search = lacks("both", "indices:data/read/search");
    refused("both", "GET", &format!("{index}/_verify"), None, search);
    for user in ["reader", "both", "operator"] {
        let kept = json!({"persistent": {"plugins.replication.follower.dead_letters": true}});
        let reason = lacks(user, "cluster:admin/settings/update");
        refused(user, "PUT", "/_cluster/settings", Some(kept), reason);
    }
    // Roles are named, one's own, and such as allow it.
    let another = format!("{BASE}/books-2/_start");
    let mandatory = "Follower roles are mandatory for replication".to_owned();
    refused(
        "both",
        "PUT",
        &another,
        Some(start(None)),
        mandatory.clone(),
    );
    refused(
        "both",
        "POST",
        &format!("{BASE}/_autofollow"),
        Some(rule),
        mandatory,
    );
    let others = format!("No mapping for {} on roles [all_access]", shown("both"));
    let body = start(Some((LEADER_ROLE, "all_access")));
    refused("both", "PUT", &another, Some(body), others);
    let body = start(Some((LEADER_ROLE, LEADER_ROLE)));
    let validate = lacks("both", &format!("{of_index}/setup/validate"));
    refused("both", "PUT", &another, Some(body), validate);
    // The leader's agents say who has which of its roles.
    let leaders = "No mapping for [both] on roles [all_access]".to_owned();
    let body = start(Some(("all_access", FOLLOWER_ROLE)));
    refused("both", "PUT", &another, Some(body), leaders);
    let unknown = format!("no permissions for [{of_index}/setup/validate] and roles [unknown]");
    let body = start(Some(("unknown", FOLLOWER_ROLE)));
    refused("both", "PUT", &another, Some(body), unknown);
    // A configured role is for its indices, and for what the cluster allows as well.
    let pause = lacks("operator", &format!("{of_index}/pause"));
    refused(
        "operator",
        "POST",
        &format!("{BASE}/logs-1/_pause"),
        Some(json!({})),
        pause,
    );
    let settings = lacks("masked", "indices:admin/settings/update");
    refused(
        "masked",
        "POST",
        &format!("{index}/_pause"),
        Some(json!({})),
        settings,
    );
    refusals
}

async fn nobody_learns_a_name(world: &World) -> Result<()> {
    let nobody = Client::new(world.stack.gateway_url())?;
    let wrong = world.gateway_as("nobody-of-that-name")?;
    let admin = world.stack.ports().follower_agents[0].admin;
    let page = Client::new(format!("http://127.0.0.1:{admin}"))?;
    for client in [&nobody, &wrong] {
        for (method, path) in [
            ("GET", "/_plugins/_replication/_status"),
            ("GET", "/_plugins/_replication/books-copy/_status"),
            ("GET", "/_plugins/_replication/no/such/route"),
            ("POST", "/_plugins/_replication/books-copy/_stop"),
            ("PUT", "/*/_settings"),
            ("DELETE", "/books-copy"),
            ("PUT", "/_cluster/settings"),
        ] {
            let (status, answer) = client.call(method, path, Some(&json!({}))).await?;
            ensure!(status == 401, "{method} {path}: {status} {answer}");
            ensure!(answer == "Unauthorized", "{method} {path}: {answer}");
        }
    }
    let (status, answer) = page.call("GET", "/indices", None).await?;
    ensure!(status == 401, "{status}: {answer}");
    let listed = world
        .gateway_as("reader")?
        .get(&format!("{BASE}/_status"))
        .await?;
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
    let held = wait::for_status(&world.gateway, "books-both", "PAUSED", PATIENCE).await?;
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
