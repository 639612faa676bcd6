//! What somebody does to a follower index past the gateway is noticed, found, named and repaired.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use shardline_common::kafka::ControlTopic;
use shardline_common::topic::{follower_control_topic, leader_control_topic};
use shardline_common::verify::{Question, Reply};
use shardline_tests::client::Client;
use shardline_tests::load::{Load, index_body};
use shardline_tests::world::World;
use shardline_tests::{topic_check, wait};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn foreign_changes_are_noticed_found_and_repaired() -> Result<()> {
    let world = World::start().await?;
    foreign_writes_are_counted(&world).await?;
    differences_are_named_and_repaired(&world).await?;
    settings_of_the_follower_alone_are_no_difference(&world).await?;
    what_the_leader_never_had_is_found(&world).await?;
    questions_of_ended_verifications_are_withdrawn(&world).await?;
    pipelines_of_templates_do_not_run(&world).await?;
    a_closed_index_is_waited_for_and_opened(&world).await?;
    an_index_made_anew_is_not_followed(&world).await?;
    world.stop().await
}

async fn verify(world: &World, body: &Value) -> Result<Value> {
    verify_index(world, "logs", body).await
}

async fn verify_index(world: &World, index: &str, body: &Value) -> Result<Value> {
    let path = &format!("/_plugins/_replication/{index}/_verify");
    let begun = world.gateway.ok("POST", path, Some(body)).await?;
    wait::until("the verification to end", PATIENCE, async || {
        let found = world.gateway.get(path).await?;
        ensure!(
            found["verification_id"] == begun["verification_id"],
            "{found}"
        );
        let is_done = ["equal", "different", "failed"]
            .iter()
            .any(|state| found["state"] == *state);
        Ok(if is_done {
            Ok(found)
        } else {
            Err(found.to_string())
        })
    })
    .await
}

async fn differences_are_named_and_repaired(world: &World) -> Result<()> {
    let World {
        leader,
        follower,
        gateway,
        ..
    } = world;
    leader.ok("PUT", "/logs", Some(&index_body(2))).await?;
    let mut load = Load::new(41, "v");
    for _ in 0..20 {
        leader.bulk("/logs/_bulk", load.bulk(1_000)).await?;
    }
    for id in ["deleted", "changed"] {
        leader
            .ok(
                "PUT",
                &format!("/logs/_doc/{id}"),
                Some(&json!({"status": 1})),
            )
            .await?;
    }
    world.follow("logs", "logs").await?;
    world.equal("logs", "logs").await?;

    // While everything is written to, updated and deleted all the time.
    let stop = CancellationToken::new();
    let writing = async {
        while !stop.is_cancelled() {
            leader.bulk("/logs/_bulk", load.bulk(200)).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    let verifying = async {
        let _stops = stop.clone().drop_guard();
        for body in [
            json!({}),
            json!({"content": true}),
            json!({"documents_per_second": 5_000}),
        ] {
            let found = verify(world, &body).await?;
            ensure!(found["state"] == "equal", "{body}: {found}");
        }
        // What the leader has lies in both shards, and each kind of change is found.
        follower.ok("DELETE", "/logs/_doc/deleted", None).await?;
        follower
            .ok("PUT", "/logs/_doc/changed", Some(&json!({"status": 2})))
            .await?;
        follower
            .ok(
                "PUT",
                "/logs/_doc/added?routing=r",
                Some(&json!({"status": 3})),
            )
            .await?;
        follower
            .ok(
                "PUT",
                "/logs/_mapping",
                Some(&json!({"properties": {"mine": {"type": "long"}}})),
            )
            .await?;
        let alias = json!({"actions": [{"add": {"index": "logs", "alias": "mine"}}]});
        follower.ok("POST", "/_aliases", Some(&alias)).await?;
        let found = verify(world, &json!({})).await?;
        ensure!(found["state"] == "different", "{found}");
        for (kind, id) in [
            ("missing", "deleted"),
            ("different", "changed"),
            ("extra", "added"),
        ] {
            ensure!(
                found[kind] == json!({"count": 1, "ids": [id]}),
                "{kind}: {found}"
            );
        }
        let metadata = found["metadata"].to_string();
        ensure!(
            metadata.contains("mapping.properties.mine") && metadata.contains("alias mine"),
            "{found}"
        );
        let busy = gateway
            .call("POST", "/_plugins/_replication/none/_verify", None)
            .await?;
        ensure!(busy.0 == 400, "{busy:?}");

        // A field cannot be taken out of a mapping.
        let repaired = verify(world, &json!({"repair": true})).await?;
        let left = json!(["mapping.properties.mine: the leader does not have it"]);
        ensure!(repaired["metadata"] == left, "{repaired}");
        for kind in ["missing", "different", "extra"] {
            ensure!(
                repaired[kind]["count"] == 0 && repaired["before_repair"][kind]["count"] == 1,
                "{repaired}"
            );
        }
        Ok(())
    };
    tokio::try_join!(writing, verifying)?;
    world.equal("logs", "logs").await?;
    gateway
        .ok("DELETE", "/_plugins/_replication/logs/_verify", None)
        .await?;
    let (status, answer) = gateway
        .call("GET", "/_plugins/_replication/logs/_verify", None)
        .await?;
    ensure!(status == 404, "{answer}");
    Ok(())
}

/// Such as those of the translog, which are not copied from the leader.
async fn settings_of_the_follower_alone_are_no_difference(world: &World) -> Result<()> {
    let update = async |settings: Value| {
        let body = json!({"settings": settings});
        world
            .gateway
            .call("PUT", "/_plugins/_replication/logs/_update", Some(&body))
            .await
    };
    let durability = async || {
        let settings = world
            .follower
            .get("/logs/_settings?flat_settings=true")
            .await?;
        anyhow::Ok(settings["logs"]["settings"]["index.translog.durability"].clone())
    };
    update(json!({"index.translog.durability": "async"})).await?;
    ensure!(durability().await? == "async", "{}", durability().await?);
    let found = verify(world, &json!({})).await?;
    // The mapping still differs.
    ensure!(
        !found["metadata"].to_string().contains("setting"),
        "{found}"
    );
    update(json!({})).await?;
    ensure!(durability().await? == "request", "{}", durability().await?);
    for made_with in ["index.number_of_shards", "index.sort.field"] {
        let (status, answer) = update(json!({made_with: 5})).await?;
        ensure!(
            status == 400 && answer["error"]["reason"].to_string().contains(made_with),
            "{status} {answer}"
        );
    }
    Ok(())
}

/// Its version stands for an operation that is yet to come.
async fn what_the_leader_never_had_is_found(world: &World) -> Result<()> {
    world
        .leader
        .ok("PUT", "/none", Some(&index_body(1)))
        .await?;
    world.follow("none", "none").await?;
    let found = verify_index(world, "none", &json!({})).await?;
    ensure!(found["state"] == "equal", "{found}");
    world
        .follower
        .ok("PUT", "/none/_doc/foreign", Some(&json!({"status": 1})))
        .await?;
    let found = verify_index(world, "none", &json!({})).await?;
    ensure!(
        found["extra"] == json!({"count": 1, "ids": ["foreign"]}),
        "{found}"
    );
    Ok(())
}

/// The leader's agents would read on for nobody.
async fn questions_of_ended_verifications_are_withdrawn(world: &World) -> Result<()> {
    let path = "/_plugins/_replication/logs/_verify";
    world
        .gateway
        .ok("POST", path, Some(&json!({"documents_per_second": 100})))
        .await?;
    let kafka = topic_check::kafka(world.stack.kafka_bootstrap())?;
    let stop = CancellationToken::new();
    let _stops = stop.clone().drop_guard();
    let asked = ControlTopic::open(&kafka, follower_control_topic("shardline"), &stop).await?;
    let replies = ControlTopic::open(&kafka, leader_control_topic("shardline"), &stop).await?;
    let until = async |what: &str, wanted: bool| {
        wait::until(what, PATIENCE, async || {
            let (questions, replies) =
                (asked.all::<Question>().len(), replies.all::<Reply>().len());
            let is_so = if wanted {
                questions > 0 && replies > 0
            } else {
                questions + replies == 0
            };
            Ok(if is_so {
                Ok(())
            } else {
                Err(format!("{questions} questions, {replies} replies"))
            })
        })
        .await
    };
    until("the leader's agent to answer", true).await?;
    world.gateway.ok("DELETE", path, None).await?;
    until("questions and replies to be gone", false).await
}

async fn foreign_writes(world: &World, follower: &str) -> Result<u64> {
    let status = wait::status(&world.gateway, follower).await?;
    Ok(status["foreign_writes"].as_u64().unwrap_or_default())
}

async fn foreign_writes_are_counted(world: &World) -> Result<()> {
    world
        .leader
        .ok("PUT", "/counted", Some(&index_body(1)))
        .await?;
    for n in 0..20 {
        world
            .leader
            .ok(
                "PUT",
                &format!("/counted/_doc/{n}"),
                Some(&json!({"status": n})),
            )
            .await?;
    }
    world.follow("counted", "counted").await?;
    world.equal("counted", "counted").await?;
    assert_eq!(foreign_writes(world, "counted").await?, 0);

    // An agent that has just started does not judge at once.
    wait::until("a foreign write to be noticed", PATIENCE, async || {
        world
            .follower
            .ok("PUT", "/counted/_doc/foreign", Some(&json!({"status": 1})))
            .await?;
        let found = foreign_writes(world, "counted").await?;
        Ok(if found > 0 {
            Ok(())
        } else {
            Err(found.to_string())
        })
    })
    .await?;
    let before = rested(world).await?;
    world
        .follower
        .ok("PUT", "/counted/_doc/3", Some(&json!({"status": 77})))
        .await?;
    world.follower.ok("DELETE", "/counted/_doc/4", None).await?;
    world
        .follower
        .ok("PUT", "/counted/_doc/added", Some(&json!({"status": 77})))
        .await?;
    assert_eq!(rested(world).await?, before + 3);
    let admin = Client::new(format!(
        "http://127.0.0.1:{}",
        world.stack.ports().follower_agents[0].admin
    ))?;
    let metrics = admin.get("/metrics").await?;
    let wanted = format!(
        "shardline_follower_foreign_writes{{index=\"counted\",shard=\"0\"}} {}",
        before + 3
    );
    assert!(
        metrics.to_string().contains(&wanted.replace('"', "\\\"")),
        "{wanted} in {metrics}"
    );
    world
        .gateway
        .ok(
            "POST",
            "/_plugins/_replication/counted/_stop",
            Some(&json!({})),
        )
        .await?;
    Ok(())
}

/// The count when it no longer changes while replication itself writes on.
async fn rested(world: &World) -> Result<u64> {
    let mut last = (0, Instant::now());
    wait::until(
        "the count of foreign writes to rest",
        PATIENCE,
        async || {
            world
                .leader
                .ok("PUT", "/counted/_doc/own", Some(&json!({"status": 1})))
                .await?;
            let found = foreign_writes(world, "counted").await?;
            if found != last.0 {
                last = (found, Instant::now());
            }
            // Twice as long as it takes to ask the shard once more.
            Ok(if last.1.elapsed() > Duration::from_secs(11) {
                Ok(found)
            } else {
                Err(found.to_string())
            })
        },
    )
    .await
}

/// The leader's have been through the documents already.
async fn pipelines_of_templates_do_not_run(world: &World) -> Result<()> {
    let World {
        leader, follower, ..
    } = world;
    let pipeline = json!({"processors": [{"set": {"field": "seen", "value": true}}]});
    follower
        .ok("PUT", "/_ingest/pipeline/mark", Some(&pipeline))
        .await?;
    let settings = json!({"index.final_pipeline": "mark", "index.default_pipeline": "mark"});
    let template = json!({"index_patterns": ["piped*"], "template": {"settings": settings}});
    follower
        .ok("PUT", "/_index_template/piped", Some(&template))
        .await?;
    leader.ok("PUT", "/piped", Some(&index_body(1))).await?;
    leader
        .ok("PUT", "/piped/_doc/1", Some(&json!({"status": 1})))
        .await?;
    world.follow("piped", "piped").await?;
    world.equal("piped", "piped").await
}

/// As by an agent that was ended while it changed a setting for which an index has to be closed.
async fn a_closed_index_is_waited_for_and_opened(world: &World) -> Result<()> {
    let World {
        leader,
        follower,
        gateway,
        ..
    } = world;
    follower.ok("POST", "/piped/_close", None).await?;
    leader
        .ok("PUT", "/piped/_doc/2", Some(&json!({"status": 2})))
        .await?;
    wait::until(
        "the status to say why nothing is written",
        PATIENCE,
        async || {
            let status = wait::status(gateway, "piped").await?;
            let reason = status["held_up"][0]["reason"].as_str().unwrap_or_default();
            let is_said =
                reason.contains("index_closed_exception") && status["status"] == "SYNCING";
            Ok(if is_said {
                Ok(())
            } else {
                Err(status.to_string())
            })
        },
    )
    .await?;
    for call in ["_pause", "_resume"] {
        gateway
            .ok(
                "POST",
                &format!("/_plugins/_replication/piped/{call}"),
                Some(&json!({})),
            )
            .await?;
    }
    world.equal("piped", "piped").await
}

/// OpenSearch makes an index for a write to one that is not there.
async fn an_index_made_anew_is_not_followed(world: &World) -> Result<()> {
    let World {
        leader,
        follower,
        gateway,
        ..
    } = world;
    follower.ok("DELETE", "/piped", None).await?;
    leader
        .ok("PUT", "/piped/_doc/3", Some(&json!({"status": 3})))
        .await?;
    for _ in 0..2 {
        let status = wait::for_status(gateway, "piped", "PAUSED", PATIENCE).await?;
        ensure!(
            status["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("[piped] is gone")),
            "{status}"
        );
        gateway
            .call(
                "POST",
                "/_plugins/_replication/piped/_resume",
                Some(&json!({})),
            )
            .await?;
    }
    wait::for_status(gateway, "piped", "PAUSED", PATIENCE).await?;
    gateway
        .ok(
            "POST",
            "/_plugins/_replication/piped/_stop",
            Some(&json!({})),
        )
        .await?;
    follower.call("DELETE", "/piped", None).await?;
    world.follow("piped", "piped").await?;
    world.equal("piped", "piped").await
}
