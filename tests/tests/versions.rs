//! Clusters of an older OpenSearch, on either side of the newest one.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shardline_dev::OpenSearchVersion;
use shardline_tests::client::Client;
use shardline_tests::ctl::ctl_ok;
use shardline_tests::load::{Load, index_body};
use shardline_tests::wait;
use shardline_tests::world::{ALIAS, World};

const PATIENCE: Duration = Duration::from_secs(120);
const BULK: u64 = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn an_older_cluster_follows_and_says_what_it_lacks() -> Result<()> {
    let world = World::with(|options| options.follower_version = OpenSearchVersion::Two).await?;
    copied_and_followed(&world).await?;

    let newer = json!({"settings": {"number_of_shards": 1, "index.derived_source.enabled": true}});
    world.leader.ok("PUT", "/newer", Some(&newer)).await?;
    let body = json!({"leader_alias": ALIAS, "leader_index": "newer"});
    let (status, answer) = world
        .gateway
        .call("PUT", "/_plugins/_replication/newer/_start", Some(&body))
        .await?;
    let reason = answer["error"]["reason"].as_str().unwrap_or_default();
    ensure!(
        status == 400 && reason.contains("unknown setting [index.derived_source.enabled]"),
        "{status} {answer}"
    );
    let left = wait::status(&world.gateway, "newer").await?;
    ensure!(left["status"] == "REPLICATION NOT IN PROGRESS", "{left}");
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_cluster_is_followed() -> Result<()> {
    let world = World::with(|options| options.leader_version = OpenSearchVersion::Two).await?;
    copied_and_followed(&world).await?;
    world.stop().await
}

/// The translog has only the end of it, so the rest is copied.
async fn copied_and_followed(world: &World) -> Result<()> {
    let World {
        leader,
        follower,
        gateway,
        ..
    } = world;
    leader.ok("PUT", "/logs", Some(&index_body(2))).await?;
    let mut load = Load::new(3, "v");
    for _ in 0..3 {
        leader.bulk("/logs/_bulk", load.bulk(BULK)).await?;
    }
    leader.ok("POST", "/logs/_flush?force=true", None).await?;
    world.follow("logs", "logs").await?;
    wait::for_status(gateway, "logs", "SYNCING", PATIENCE).await?;
    leader.bulk("/logs/_bulk", load.bulk(BULK)).await?;
    wait::caught_up(leader, "logs", gateway, "logs", PATIENCE).await?;
    let (expected, found) = (documents(leader).await?, documents(follower).await?);
    ensure!(
        expected == found && expected.len() > 100,
        "{} and {} documents",
        expected.len(),
        found.len()
    );
    ctl_ok(gateway, "verify logs --content").await?;
    Ok(())
}

async fn documents(cluster: &Client) -> Result<BTreeMap<String, Value>> {
    cluster.ok("POST", "/logs/_refresh", None).await?;
    let found = cluster.get("/logs/_search?size=10000").await?;
    let hits = found["hits"]["hits"].as_array().context("no hits")?;
    hits.iter()
        .map(|hit| {
            Ok((
                hit["_id"].as_str().context("no id")?.to_owned(),
                hit["_source"].clone(),
            ))
        })
        .collect()
}
