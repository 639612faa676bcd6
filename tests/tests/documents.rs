//! On one real stack: documents of every kind arrive intact, the recorded answers of the control
//! API are reproduced, and bad input gets the answer that it should.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use shardline_tests::client::Client;
use shardline_tests::wait;
use shardline_tests::world::{ALIAS, World};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn one_stack_through_all_of_it() -> Result<()> {
    let world = World::start().await?;
    documents_of_every_kind_arrive_intact(&world).await?;
    both_agents_can_be_watched(&world).await?;
    recorded_answers_are_reproduced(&world).await?;
    settings_of_replication_count(&world).await?;
    metadata_follows(&world).await?;
    a_closed_leader_pauses_and_a_reopened_one_resumes(&world).await?;
    a_deleted_leader_pauses_for_good(&world).await?;
    a_bad_document_pauses_the_index_and_is_named(&world).await?;
    a_foreign_write_is_noticed(&world).await?;
    world.stop().await
}

async fn documents_of_every_kind_arrive_intact(world: &World) -> Result<()> {
    let settings = json!({"settings": {"number_of_shards": 3, "number_of_replicas": 0}});
    world.leader.ok("PUT", "/kinds", Some(&settings)).await?;
    world.follow("kinds", "kinds").await?;
    let put = async |id: &str, content_type: &str, source: Vec<u8>| {
        let id: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (status, answer) = world
            .leader
            .send(
                Method::PUT,
                &format!("/kinds/_doc/{id}"),
                Some((content_type, source)),
            )
            .await?;
        anyhow::ensure!(status == 201, "{status}: {answer}");
        Ok(())
    };
    let json_type = "application/json";
    put(
        "astral 😀 日本",
        json_type,
        r#"{"emoji":"😀","escaped":"\ud83d\ude00","text":"größe"}"#.into(),
    )
    .await?;
    put(&"x".repeat(512), json_type, b"{\"n\":1}".to_vec()).await?;
    put(
        "quote\" slash/ back\\ percent% plus+",
        json_type,
        b"{\"n\":2}".to_vec(),
    )
    .await?;
    put(
        "pretty",
        json_type,
        b"{\n  \"a\" : 1.10,\r\n  \"line\\nbreak\" : \"x\\ny\"\n}\n".to_vec(),
    )
    .await?;
    put(
        "digits",
        json_type,
        br#"{"big":1234567890123456789,"exact":0.1000,"tiny":1e-7}"#.to_vec(),
    )
    .await?;
    put("empty", json_type, b"{}".to_vec()).await?;
    put("cbor", "application/cbor", cbor()).await?;
    put(
        "smile",
        "application/smile",
        b":)\n\x03\xfa\x80a\xc2\xfb".to_vec(),
    )
    .await?;
    put(
        "yaml",
        "application/yaml",
        b"---\nq: 1\nr: [x, y]\n".to_vec(),
    )
    .await?;
    let large = json!({"blob": "0123456789abcdef".repeat(10 * 1024 * 1024 / 16)});
    let mapping =
        json!({"properties": {"blob": {"type": "keyword", "index": false, "doc_values": false}}});
    world
        .leader
        .ok("PUT", "/kinds/_mapping", Some(&mapping))
        .await?;
    put("ten megabytes", json_type, large.to_string().into_bytes()).await?;
    for (path, body) in [
        (
            "/kinds/_doc/external?version=78&version_type=external",
            json!({"v": 78}),
        ),
        (
            "/kinds/_doc/external?version=99&version_type=external",
            json!({"v": 99}),
        ),
        ("/kinds/_doc/routed?routing=somewhere", json!({"r": 1})),
        (
            "/kinds/_doc/routed-and-deleted?routing=elsewhere",
            json!({"r": 2}),
        ),
        ("/kinds/_doc/comes-back", json!({"life": 1})),
    ] {
        world.leader.ok("PUT", path, Some(&body)).await?;
    }
    world
        .leader
        .ok(
            "DELETE",
            "/kinds/_doc/routed-and-deleted?routing=elsewhere",
            None,
        )
        .await?;
    world
        .leader
        .ok("DELETE", "/kinds/_doc/comes-back", None)
        .await?;
    world
        .leader
        .ok("PUT", "/kinds/_doc/comes-back", Some(&json!({"life": 2})))
        .await?;
    for n in 0..20 {
        // Deletes with a routing that leads to another shard than the id alone.
        let path = format!("/kinds/_doc/d{n}?routing=r{n}");
        world
            .leader
            .ok("PUT", &path, Some(&json!({"n": n})))
            .await?;
        if n % 2 == 0 {
            world.leader.ok("DELETE", &path, None).await?;
        }
    }
    world.equal("kinds", "kinds").await?;
    let stored = world.follower.get("/kinds/_source/digits").await?;
    assert_eq!(
        stored.to_string(),
        r#"{"big":1234567890123456789,"exact":0.1000,"tiny":1e-7}"#
    );
    Ok(())
}

/// `{"i": -5, "f": 1.5, "l": ["x", "y"]}`, of indefinite length as Jackson writes it.
fn cbor() -> Vec<u8> {
    let mut bytes = vec![0xbf];
    bytes.extend(b"\x61i\x24\x61f\xfb\x3f\xf8\x00\x00\x00\x00\x00\x00\x61l\x82\x61x\x61y");
    bytes.push(0xff);
    bytes
}

async fn both_agents_can_be_watched(world: &World) -> Result<()> {
    let leader = Client::new(world.stack.process("leader-agent-1")?.url())?;
    let admin = world.stack.ports().follower_agents[0].admin;
    let follower = Client::new(format!("http://127.0.0.1:{admin}"))?;
    world
        .leader
        .ok("PUT", "/always-1/_doc/1", Some(&json!({"n": 1})))
        .await?;
    for (agent, series) in [
        (
            &leader,
            "shardline_leader_operations_total{index=\"kinds\",shard=\"0\"}",
        ),
        (
            &leader,
            "shardline_leader_operations_total{index=\"always-1\",shard=\"0\"} 1",
        ),
        (
            &leader,
            "shardline_leader_global_checkpoint{index=\"kinds\",shard=\"2\"}",
        ),
        (
            &follower,
            "shardline_follower_operations_total{index=\"kinds\",shard=\"0\"}",
        ),
        (
            &follower,
            "shardline_follower_lag_operations{index=\"kinds\",shard=\"1\"} 0",
        ),
        (
            &follower,
            "shardline_follower_lag_seconds{index=\"kinds\",shard=\"1\"} 0",
        ),
    ] {
        wait::until(series, PATIENCE, async || {
            let metrics = agent.get("/metrics").await?;
            let metrics = metrics.as_str().unwrap_or_default().to_owned();
            Ok(if metrics.contains(series) {
                Ok(())
            } else {
                Err(metrics)
            })
        })
        .await?;
    }
    for agent in [&leader, &follower] {
        assert_eq!(agent.get("/health").await?, "ok\n");
        assert_eq!(agent.get("/ready").await?, "ready\n");
    }
    assert!(
        follower
            .get("/")
            .await?
            .as_str()
            .is_some_and(|page| page.contains("<title>Shardline</title>"))
    );
    assert_eq!(
        follower.get("/page/indices").await?["rows"][0]["index"],
        "kinds"
    );
    Ok(())
}

/// Replays `control-api.jsonl`, recorded from the plugin: the same status, fields, types and words.
async fn recorded_answers_are_reproduced(world: &World) -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/control-api.jsonl");
    let recorded: Vec<Value> = std::fs::read_to_string(file)?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    for index in ["leader-01", "l-err", "l-life", "l-ro", "l-st"] {
        let body = json!({"settings": {"number_of_shards": 1, "number_of_replicas": 0}});
        world
            .leader
            .ok("PUT", &format!("/{index}"), Some(&body))
            .await?;
    }
    world
        .leader
        .ok("PUT", "/l-life/_doc/1", Some(&json!({"n": 1})))
        .await?;
    for n in 0..3 {
        let document = json!({"n": n, "title": format!("doc {n}")});
        world
            .leader
            .ok("PUT", &format!("/l-ro/_doc/{n}"), Some(&document))
            .await?;
    }
    for n in 0..5 {
        world
            .leader
            .ok("PUT", &format!("/l-st/_doc/{n}"), Some(&json!({"n": n})))
            .await?;
    }
    world.follower.ok("PUT", "/f-exists", None).await?;
    let leader_agent = Client::new(world.stack.process("leader-agent-1")?.url())?;
    let mut differences = Vec::new();
    for entry in &recorded {
        let (scenario, step) = (
            entry["scenario"].as_str().unwrap_or_default(),
            entry["step"].as_str().unwrap_or_default(),
        );
        let path = entry["path"].as_str().unwrap_or_default();
        prepare(world, scenario, step).await?;
        let body = match &entry["request"] {
            Value::Null => None,
            Value::String(text) => Some(text.clone().into_bytes()),
            object => Some(as_recorded(object)?),
        };
        let content_type = if path.ends_with("_bulk") {
            "application/x-ndjson"
        } else {
            "application/json"
        };
        let method: Method = entry["method"].as_str().unwrap_or_default().parse()?;
        // The leader's own statistics are its agents' to give.
        let server = if path.ends_with("leader_stats") {
            &leader_agent
        } else {
            &world.gateway
        };
        let (status, answer) = server
            .send(method, path, body.map(|body| (content_type, body)))
            .await?;
        let (found, expected) = (
            comparable(answer, path),
            comparable(entry["body"].clone(), path),
        );
        if entry["status"] != status || found != expected {
            differences.push(format!(
                "{scenario}/{step}: {} {expected}\n  here: {status} {found}",
                entry["status"]
            ));
        }
        finish(world, scenario, step).await?;
    }
    anyhow::ensure!(
        differences.is_empty(),
        "{} answers differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
    for index in ["f-life", "f-ro", "f-st", "f-err"] {
        let _ = world
            .gateway
            .call(
                "POST",
                &format!("/_plugins/_replication/{index}/_stop"),
                Some(&json!({})),
            )
            .await?;
    }
    Ok(())
}

/// Bodies were sent with a space behind each comma and colon, which shows in the positions of parse
/// errors.
fn as_recorded(body: &Value) -> Result<Vec<u8>> {
    struct Spaced;
    impl serde_json::ser::Formatter for Spaced {
        fn begin_object_key<W: ?Sized + std::io::Write>(
            &mut self,
            writer: &mut W,
            first: bool,
        ) -> std::io::Result<()> {
            if first {
                Ok(())
            } else {
                writer.write_all(b", ")
            }
        }
        fn begin_object_value<W: ?Sized + std::io::Write>(
            &mut self,
            writer: &mut W,
        ) -> std::io::Result<()> {
            writer.write_all(b": ")
        }
    }
    let mut bytes = Vec::new();
    serde::Serialize::serialize(
        body,
        &mut serde_json::Serializer::with_formatter(&mut bytes, Spaced),
    )?;
    Ok(bytes)
}

/// What happened on the leader, unrecorded, before a step; and what has to be true for the answer
/// to be the recorded one.
async fn prepare(world: &World, scenario: &str, step: &str) -> Result<()> {
    match (scenario, step) {
        ("seed_flow", "read follower") => {
            world
                .leader
                .ok(
                    "PUT",
                    "/leader-01/_doc/1",
                    Some(&json!({"The Shining": "Stephen King"})),
                )
                .await?;
            wait::caught_up(
                &world.leader,
                "leader-01",
                &world.gateway,
                "follower-01",
                PATIENCE,
            )
            .await
        }
        ("seed_flow", "status resumed") => {
            wait::caught_up(
                &world.leader,
                "leader-01",
                &world.gateway,
                "follower-01",
                PATIENCE,
            )
            .await
        }
        ("start_errors", "good") => {
            // The recording cleaned up here. An index into which nothing came goes with the stop.
            world
                .gateway
                .ok(
                    "POST",
                    "/_plugins/_replication/f-err/_stop",
                    Some(&json!({})),
                )
                .await?;
            let (status, answer) = world.follower.call("DELETE", "/f-err", None).await?;
            ensure!(matches!(status, 200 | 404), "{status} {answer}");
            Ok(())
        }
        ("stats", "start") => {
            // Nothing but `f-life`, which is paused, was followed at this point of the recording.
            for index in ["kinds", "f-err", "f-ro"] {
                world
                    .gateway
                    .ok(
                        "POST",
                        &format!("/_plugins/_replication/{index}/_stop"),
                        Some(&json!({})),
                    )
                    .await?;
            }
            Ok(())
        }
        ("stats", "leader stats") => {
            let leader_agent = Client::new(world.stack.process("leader-agent-1")?.url())?;
            wait::until("the statistics to be shared", PATIENCE, async || {
                let stats = leader_agent
                    .get("/_plugins/_replication/leader_stats")
                    .await?;
                let done = stats["num_replicated_indices"] == 2 && stats["operations_read"] == 6;
                Ok(if done { Ok(()) } else { Err(stats.to_string()) })
            })
            .await
        }
        ("stats", "status verbose") => {
            wait::caught_up(&world.leader, "l-st", &world.gateway, "f-st", PATIENCE).await
        }
        ("read_only", "update by query") => {
            // In the recording the documents were not visible to searches yet.
            Ok(())
        }
        ("read_only", "search") => {
            wait::caught_up(&world.leader, "l-ro", &world.gateway, "f-ro", PATIENCE).await?;
            world.follower.ok("POST", "/f-ro/_refresh", None).await?;
            Ok(())
        }
        _ => Ok(()),
    }
}

async fn finish(world: &World, scenario: &str, step: &str) -> Result<()> {
    if (scenario, step) == ("read_only", "start") {
        // By-query calls were recorded before any refresh; there is none until somebody searches.
        let never = json!({"settings": {"index.refresh_interval": "-1"}});
        world
            .gateway
            .ok("PUT", "/_plugins/_replication/f-ro/_update", Some(&never))
            .await?;
    }
    Ok(())
}

/// Takes out what differs from run to run.
fn comparable(mut answer: Value, path: &str) -> Value {
    let variable: &[&str] = match path {
        // Sizes and times; that they are there and are numbers is looked at in `strip`.
        path if path.ends_with("_stats") => &[
            "translog_size_bytes",
            "bytes_read",
            "total_read_time_translog_millis",
            "total_write_time_millis",
        ],
        path if path.contains("_plugins") => &[],
        _ => &[
            "took",
            "_primary_term",
            "_version",
            "_seq_no",
            "_shards",
            "max_score",
            "_score",
        ],
    };
    strip(&mut answer, variable);
    answer
}

fn strip(value: &mut Value, keys: &[&str]) {
    match value {
        Value::Object(object) => {
            for key in keys {
                if let Some(value) = object.get_mut(*key) {
                    *value = if value.is_number() {
                        json!("some number")
                    } else {
                        Value::Null
                    };
                }
            }
            object.values_mut().for_each(|value| strip(value, keys));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| strip(item, keys)),
        _ => {}
    }
}

async fn settings_of_replication_count(world: &World) -> Result<()> {
    let path = "/_plugins/_replication/tuned/_start";
    let body = json!({"leader_alias": ALIAS, "leader_index": "tuned", "settings": {"index.number_of_shards": 3}});
    world
        .leader
        .ok(
            "PUT",
            "/tuned",
            Some(&json!({"settings": {"number_of_replicas": 0}})),
        )
        .await?;
    let (status, answer) = world.gateway.call("PUT", path, Some(&body)).await?;
    let words = "setting [index.number_of_shards] has to be the leader index's own";
    assert_eq!((status, &answer["error"]["reason"]), (400, &json!(words)));

    let set = async |operations: Value, writers: Value| {
        let settings = json!({"persistent": {
            "plugins.replication.follower.index.ops_batch_size": operations,
            "plugins.replication.follower.concurrent_writers_per_shard": writers,
        }});
        world
            .gateway
            .ok("PUT", "/_cluster/settings", Some(&settings))
            .await
    };
    // Of the whole cluster; nothing else is written at this time.
    let requests = async || {
        let usage = world.follower.get("/_nodes/usage/rest_actions").await?;
        let nodes = usage["nodes"].as_object().into_iter().flatten();
        Ok::<_, anyhow::Error>(
            nodes
                .filter_map(|(_, node)| node["rest_actions"]["bulk_action"].as_u64())
                .sum::<u64>(),
        )
    };
    let read_only = async |on: Value| {
        let settings = json!({"persistent": {"cluster.blocks.read_only": on}});
        world
            .gateway
            .ok("PUT", "/_cluster/settings", Some(&settings))
            .await
    };
    world.follow("tuned", "tuned").await?;
    read_only(json!(true)).await?;
    let body = json!({"leader_alias": ALIAS, "leader_index": "tuned"});
    let (status, answer) = world
        .gateway
        .call("PUT", "/_plugins/_replication/tuned-2/_start", Some(&body))
        .await?;
    let words = "index [tuned-2] blocked by: [FORBIDDEN/6/cluster read-only (api)];";
    assert_eq!(
        (status, &answer["error"]["reason"]),
        (403, &json!(words)),
        "{answer}"
    );
    for action in ["_pause", "_resume", "_pause"] {
        world
            .gateway
            .ok(
                "POST",
                &format!("/_plugins/_replication/tuned/{action}"),
                Some(&json!({})),
            )
            .await?;
    }
    read_only(Value::Null).await?;

    let documents: String = (0..320)
        .map(|n| format!("{{\"index\":{{\"_id\":\"{n}\"}}}}\n{{\"n\":{n}}}\n"))
        .collect();
    world.leader.bulk("/tuned/_bulk", documents).await?;
    set(json!(16), json!(5)).await?;
    let before = requests().await?;
    world
        .gateway
        .ok(
            "POST",
            "/_plugins/_replication/tuned/_resume",
            Some(&json!({})),
        )
        .await?;
    world.equal("tuned", "tuned").await?;
    let sent = requests().await? - before;
    assert!((20..40).contains(&sent), "{sent}");
    set(Value::Null, Value::Null).await?;
    world
        .gateway
        .ok(
            "POST",
            "/_plugins/_replication/tuned/_stop",
            Some(&json!({})),
        )
        .await?;
    Ok(())
}

async fn metadata_follows(world: &World) -> Result<()> {
    let body = json!({
        "settings": {"number_of_shards": 2, "number_of_replicas": 0, "analysis": {"analyzer": {"mine": {"type": "custom", "tokenizer": "whitespace"}}}},
        "mappings": {"dynamic": "strict", "properties": {"t": {"type": "text", "analyzer": "mine"}}},
        "aliases": {"read": {"filter": {"term": {"t": "x"}}}, "write": {"is_write_index": true}},
    });
    world.leader.ok("PUT", "/meta", Some(&body)).await?;
    world.follow("meta", "meta").await?;
    world
        .leader
        .ok(
            "PUT",
            "/meta/_mapping",
            Some(&json!({"properties": {"n": {"type": "long"}}})),
        )
        .await?;
    for n in 0..10 {
        world
            .leader
            .ok(
                "PUT",
                &format!("/meta/_doc/{n}"),
                Some(&json!({"t": "x", "n": n})),
            )
            .await?;
    }
    world.equal("meta", "meta").await?;
    world
        .leader
        .ok(
            "PUT",
            "/meta/_settings",
            Some(&json!({"index": {"refresh_interval": "7s"}})),
        )
        .await?;
    world.leader.ok("DELETE", "/meta/_alias/read", None).await?;
    wait::until("the follower's metadata", PATIENCE, async || {
        let settings = world
            .follower
            .get("/meta/_settings?flat_settings=true")
            .await?;
        let aliases = world.follower.get("/meta/_alias").await?;
        let interval = &settings["meta"]["settings"]["index.refresh_interval"];
        let done = interval == "7s" && aliases["meta"]["aliases"] == json!({"write": {}});
        Ok(if done {
            Ok(())
        } else {
            Err(format!("{interval} {aliases}"))
        })
    })
    .await?;
    let mappings = |index: Value| index["meta"]["mappings"].clone();
    assert_eq!(
        mappings(world.follower.get("/meta").await?),
        mappings(world.leader.get("/meta").await?)
    );
    Ok(())
}

async fn a_closed_leader_pauses_and_a_reopened_one_resumes(world: &World) -> Result<()> {
    world.leader.ok("POST", "/meta/_close", None).await?;
    let paused = wait::for_status(&world.gateway, "meta", "PAUSED", PATIENCE).await?;
    assert!(
        paused["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("IndexClosedException")),
        "{paused}"
    );
    world.leader.ok("POST", "/meta/_open", None).await?;
    wait::for_status(&world.gateway, "meta", "SYNCING", PATIENCE).await?;
    world
        .leader
        .ok(
            "PUT",
            "/meta/_doc/reopened?wait_for_active_shards=1",
            Some(&json!({"n": 1})),
        )
        .await?;
    world.equal("meta", "meta").await
}

async fn a_deleted_leader_pauses_for_good(world: &World) -> Result<()> {
    world.leader.ok("DELETE", "/meta", None).await?;
    let paused = wait::for_status(&world.gateway, "meta", "PAUSED", PATIENCE).await?;
    assert!(
        paused["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("IndexNotFoundException")),
        "{paused}"
    );
    let (status, _) = world
        .gateway
        .call(
            "POST",
            "/_plugins/_replication/meta/_resume",
            Some(&json!({})),
        )
        .await?;
    assert_eq!(status, 404);
    assert_eq!(world.follower.get("/meta/_count").await?["count"], 11);
    world
        .gateway
        .ok(
            "POST",
            "/_plugins/_replication/meta/_stop",
            Some(&json!({})),
        )
        .await?;
    // From now on the alias writes to it as it did to the leader's.
    assert_eq!(
        world.follower.get("/meta/_alias").await?["meta"]["aliases"],
        json!({"write": {"is_write_index": true}})
    );
    Ok(())
}

async fn a_bad_document_pauses_the_index_and_is_named(world: &World) -> Result<()> {
    let body = json!({"mappings": {"dynamic": false, "properties": {"n": {"type": "long"}}}});
    world.leader.ok("PUT", "/poison", Some(&body)).await?;
    world.follow("poison", "poison").await?;
    world
        .leader
        .ok("PUT", "/poison/_doc/good-one", Some(&json!({"n": 1})))
        .await?;
    world.equal("poison", "poison").await?;
    // Behind the gateway's back the follower becomes stricter than the leader, in what OpenSearch
    // cannot ignore.
    let strict = json!({"properties": {"b": {"type": "boolean"}}});
    world
        .follower
        .ok("PUT", "/poison/_mapping", Some(&strict))
        .await?;
    world
        .leader
        .ok(
            "PUT",
            "/poison/_doc/bad-one",
            Some(&json!({"n": 2, "b": "no boolean"})),
        )
        .await?;
    let paused = wait::for_status(&world.gateway, "poison", "PAUSED", PATIENCE).await?;
    assert!(
        paused["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("[bad-one]")),
        "{paused}"
    );
    Ok(())
}

async fn a_foreign_write_is_noticed(world: &World) -> Result<()> {
    world
        .leader
        .ok("PUT", "/foreign/_doc/1", Some(&json!({"n": 1})))
        .await?;
    world.follow("foreign", "foreign").await?;
    wait::caught_up(
        &world.leader,
        "foreign",
        &world.gateway,
        "foreign",
        PATIENCE,
    )
    .await?;
    let path = "/foreign/_doc/1?version=1000000&version_type=external";
    world
        .follower
        .ok("PUT", path, Some(&json!({"n": 77})))
        .await?;
    world
        .leader
        .ok("PUT", "/foreign/_doc/1", Some(&json!({"n": 2})))
        .await?;
    let paused = wait::for_status(&world.gateway, "foreign", "PAUSED", PATIENCE).await?;
    assert!(
        paused["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("something else writes")),
        "{paused}"
    );
    Ok(())
}
