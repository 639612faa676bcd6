//! What becomes of leader indices: made anew under the same name, rolled over, shrunk, streams of
//! data; and those that cannot be followed are refused with the reason.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use shardline_tests::load::{Load, index_body};
use shardline_tests::retention;
use shardline_tests::wait;
use shardline_tests::world::{ALIAS, World};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn indices_of_every_kind() -> Result<()> {
    let world = World::start().await?;
    made_anew_under_the_same_name(&world).await?;
    closed_and_opened_while_captured(&world).await?;
    a_data_stream_backing_index_is_followed(&world).await?;
    a_shrunk_index_is_followed(&world).await?;
    what_cannot_be_followed_is_refused(&world).await?;
    a_producer_that_failed_for_good_is_replaced(&world).await?;
    world.stop().await
}

async fn made_anew_under_the_same_name(world: &World) -> Result<()> {
    let World {
        leader,
        gateway,
        follower,
        ..
    } = world;
    for life in 1..=2 {
        leader.ok("PUT", "/phoenix", Some(&index_body(1))).await?;
        for n in 0..3 {
            leader
                .ok(
                    "PUT",
                    &format!("/phoenix/_doc/{life}-{n}"),
                    Some(&json!({"status": n})),
                )
                .await?;
        }
        world.follow("phoenix", &format!("phoenix-{life}")).await?;
        world.equal("phoenix", &format!("phoenix-{life}")).await?;
        leader.ok("DELETE", "/phoenix", None).await?;
        let status =
            wait::for_status(gateway, &format!("phoenix-{life}"), "PAUSED", PATIENCE).await?;
        assert!(
            status["reason"]
                .as_str()
                .unwrap_or_default()
                .contains("no such index"),
            "{status}"
        );
    }
    // The first one kept its own documents and got none of the second's.
    for life in 1..=2 {
        follower
            .ok("POST", &format!("/phoenix-{life}/_refresh"), None)
            .await?;
        let found = follower
            .get(&format!("/phoenix-{life}/_search?_source=false"))
            .await?;
        let hits = found["hits"]["hits"].as_array().context("hits")?;
        assert!(
            hits.len() == 3
                && hits.iter().all(|hit| hit["_id"]
                    .as_str()
                    .is_some_and(|id| id.starts_with(&life.to_string()))),
            "{found}"
        );
        gateway
            .ok(
                "POST",
                &format!("/_plugins/_replication/phoenix-{life}/_stop"),
                Some(&json!({})),
            )
            .await?;
    }
    Ok(())
}

async fn closed_and_opened_while_captured(world: &World) -> Result<()> {
    let World { leader, .. } = world;
    let mut load = Load::new(21, "c");
    leader.ok("PUT", "/doors", Some(&index_body(2))).await?;
    world.follow("doors", "doors").await?;
    for _ in 0..3 {
        leader.bulk("/doors/_bulk", load.bulk(300)).await?;
        leader.ok("POST", "/doors/_close", None).await?;
        leader.ok("POST", "/doors/_open", None).await?;
        wait::until("the index to take writes", PATIENCE, async || {
            let (status, answer) = leader
                .call("PUT", "/doors/_doc/probe", Some(&json!({"status": 1})))
                .await?;
            Ok(if status < 300 {
                Ok(())
            } else {
                Err(answer.to_string())
            })
        })
        .await?;
    }
    world.equal("doors", "doors").await
}

async fn a_data_stream_backing_index_is_followed(world: &World) -> Result<()> {
    let World { leader, .. } = world;
    let template = json!({"index_patterns": ["stream*"], "data_stream": {}, "template": {"settings": {"number_of_replicas": 0}}});
    leader
        .ok("PUT", "/_index_template/stream", Some(&template))
        .await?;
    leader.ok("PUT", "/_data_stream/stream", None).await?;
    for rollover in [false, true] {
        if rollover {
            leader.ok("POST", "/stream/_rollover", None).await?;
        }
        leader
            .ok(
                "POST",
                "/stream/_doc?refresh=true",
                Some(&json!({"@timestamp": "2026-11-23T00:00:00Z", "n": 1})),
            )
            .await?;
    }
    let stream = leader.get("/_data_stream/stream").await?;
    let indices = stream["data_streams"][0]["indices"]
        .as_array()
        .context("backing indices")?
        .clone();
    assert_eq!(indices.len(), 2);
    for index in indices {
        let name = index["index_name"].as_str().context("name")?;
        world.follow(name, name).await?;
        world.equal(name, name).await?;
    }
    Ok(())
}

async fn a_shrunk_index_is_followed(world: &World) -> Result<()> {
    let World {
        leader, gateway, ..
    } = world;
    leader.ok("PUT", "/wide", Some(&index_body(2))).await?;
    leader
        .bulk("/wide/_bulk", Load::new(22, "w").bulk(500))
        .await?;
    leader
        .ok(
            "PUT",
            "/wide/_settings",
            Some(&json!({"index.blocks.write": true})),
        )
        .await?;
    let target = json!({"settings": {"index.number_of_shards": 1, "index.number_of_replicas": 0, "index.blocks.write": null}});
    leader
        .ok("POST", "/wide/_shrink/narrow", Some(&target))
        .await?;
    wait::until("the shrunk index", PATIENCE, async || {
        let health = leader.get("/_cluster/health/narrow").await?;
        Ok(if health["status"] == "green" {
            Ok(())
        } else {
            Err(health.to_string())
        })
    })
    .await?;
    world.follow("narrow", "narrow").await?;
    wait::for_status(gateway, "narrow", "SYNCING", PATIENCE).await?;
    leader
        .ok("PUT", "/narrow/_doc/new", Some(&json!({"status": 7})))
        .await?;
    world.equal("narrow", "narrow").await
}

async fn what_cannot_be_followed_is_refused(world: &World) -> Result<()> {
    let World {
        leader, gateway, ..
    } = world;
    let settings = |name: &str, value: Value| json!({"settings": {"number_of_shards": 1, "number_of_replicas": 0, name: value}});
    for (index, body, word) in [
        (
            "hidden-one",
            settings("index.hidden", json!(true)),
            "index.hidden",
        ),
        (
            ".dotted",
            settings("number_of_shards", json!(1)),
            "must not start with '.'",
        ),
        (
            "partial",
            json!({"mappings": {"_source": {"excludes": ["vector"]}}}),
            "_source",
        ),
        (
            "appended",
            settings("index.append_only.enabled", json!(true)),
            "index.append_only.enabled",
        ),
    ] {
        leader.ok("PUT", &format!("/{index}"), Some(&body)).await?;
        let start = json!({"leader_alias": ALIAS, "leader_index": index});
        let (status, answer) = gateway
            .call("PUT", "/_plugins/_replication/refused/_start", Some(&start))
            .await?;
        let reason = answer["error"]["reason"].as_str().unwrap_or_default();
        assert!(
            status == 400 && reason.contains(word),
            "{index}: {status} {answer}"
        );
    }
    Ok(())
}

/// A record that the broker refuses ends an idempotent producer.
async fn a_producer_that_failed_for_good_is_replaced(world: &World) -> Result<()> {
    let configure = async |oldest: &str| {
        let settings = [
            ("cleanup.policy", "compact"),
            ("message.timestamp.before.max.ms", oldest),
        ];
        retention::configure(
            world.stack.kafka_bootstrap(),
            "shardline.control.follower",
            &settings,
        )
        .await
    };
    world
        .leader
        .ok("PUT", "/late", Some(&index_body(1)))
        .await?;
    configure("0").await?;
    let start = json!({"leader_alias": ALIAS, "leader_index": "late"});
    wait::until("a refused record", PATIENCE, async || {
        let (status, answer) = world
            .gateway
            .call("PUT", "/_plugins/_replication/late/_start", Some(&start))
            .await?;
        Ok(if status >= 500 {
            Ok(())
        } else {
            Err(answer.to_string())
        })
    })
    .await?;
    configure("9223372036854775807").await?;
    wait::until("the index to be followed", PATIENCE, async || {
        world
            .gateway
            .call("PUT", "/_plugins/_replication/late/_start", Some(&start))
            .await?;
        let status = wait::status(&world.gateway, "late").await?;
        Ok(if status["status"] == "SYNCING" {
            Ok(())
        } else {
            Err(status.to_string())
        })
    })
    .await
}
