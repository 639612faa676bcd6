//! Both clusters with the real security plugin: https, users of least privilege, roles.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use shardline_tests::client::Client;
use shardline_tests::wait;
use shardline_tests::world::World;

const PATIENCE: Duration = Duration::from_secs(60);
const REPLICATED: usize = 200;

#[tokio::test]
async fn an_index_is_followed_by_agents_that_may_do_no_more_than_they_need() -> Result<()> {
    let world = World::with(|options| options.secure = true).await?;
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
    world.leader.ok("PUT", "/secrets", None).await?;
    let agent = world.follower_as("follower-agent")?;
    let (status, answer) = agent.call("PUT", "/secrets", None).await?;
    ensure!(status == 403, "{status}: {answer}");
    world.stop().await
}

async fn verified_equal(gateway: &Client, follower: &str) -> Result<()> {
    let call = format!("/_plugins/_replication/{follower}/_verify");
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
