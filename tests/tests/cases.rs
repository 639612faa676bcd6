//! Small inputs that failed once, each with others of its kind: what a follower index is made of,
//! documents of an earlier mapping, limits, aliases, pipelines, versions.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Map, Value, json};
use shardline_tests::client::Client;
use shardline_tests::wait;
use shardline_tests::world::{ALIAS, World};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long aliases and settings may come behind documents.
const SOON: Duration = Duration::from_secs(20);

fn settings() -> Value {
    json!({"number_of_shards": 1, "number_of_replicas": 0})
}

/// So that the translog no longer reaches back, and the index has to be copied.
async fn flush(world: &World, index: &str) -> Result<()> {
    for _ in 0..2 {
        let path = format!("/{index}/_flush?force=true&wait_if_ongoing=true");
        world.leader.ok("POST", &path, None).await?;
    }
    Ok(())
}

async fn create(world: &World, index: &str, body: &Value) -> Result<()> {
    let path = format!("/{index}");
    world.leader.ok("PUT", &path, Some(body)).await?;
    Ok(())
}

async fn put(world: &World, index: &str, documents: &[(&str, Value)]) -> Result<()> {
    for (id, source) in documents {
        let path = format!("/{index}/_doc/{id}");
        world.leader.ok("PUT", &path, Some(source)).await?;
    }
    Ok(())
}

async fn mapping(client: &Client, index: &str) -> Result<Value> {
    let answer = client.get(&format!("/{index}/_mapping")).await?;
    Ok(answer[index]["mappings"].clone())
}

async fn flat_settings(client: &Client, index: &str) -> Result<Map<String, Value>> {
    let answer = client
        .get(&format!("/{index}/_settings?flat_settings=true"))
        .await?;
    answer[index]["settings"]
        .as_object()
        .cloned()
        .context("settings")
}

async fn same_mapping(world: &World, index: &str) -> Result<()> {
    let (leader, follower) = (
        mapping(&world.leader, index).await?,
        mapping(&world.follower, index).await?,
    );
    ensure!(
        leader == follower,
        "{index}: the leader's {leader}, the follower's {follower}"
    );
    Ok(())
}

async fn aliases(client: &Client, index: &str) -> Result<Map<String, Value>> {
    let answer = client.get(&format!("/{index}/_alias")).await?;
    answer[index]["aliases"]
        .as_object()
        .cloned()
        .context("aliases")
}

async fn verified_equal(world: &World, index: &str) -> Result<()> {
    let path = format!("/_plugins/_replication/{index}/_verify");
    world.gateway.ok("POST", &path, Some(&json!({}))).await?;
    let verdict = wait::until("a verdict", PATIENCE, async || {
        let verdict = world.gateway.get(&path).await?;
        let is_done =
            !["comparing", "repairing"].contains(&verdict["state"].as_str().unwrap_or(""));
        Ok(if is_done {
            Ok(verdict)
        } else {
            Err(verdict.to_string())
        })
    })
    .await?;
    ensure!(verdict["state"] == "equal", "{index}: {verdict}");
    Ok(())
}

async fn stop(world: &World, index: &str) -> Result<()> {
    let path = format!("/_plugins/_replication/{index}/_stop");
    world.gateway.ok("POST", &path, Some(&json!({}))).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_an_earlier_mapping() -> Result<()> {
    let world = World::start().await?;
    let cases = earlier_mappings();
    for case in &cases {
        copied(&world, case).await.context(case.name)?;
    }
    for case in &cases {
        streamed(&world, case).await.context(case.name)?;
    }
    what_cannot_be_ignored_is_said(&world).await?;
    world.stop().await
}

/// Documents that fit the first mapping, and a change after which they do not.
struct Earlier {
    name: &'static str,
    mapping: Value,
    old: Vec<(&'static str, Value)>,
    change: Value,
    new: Vec<(&'static str, Value)>,
}

fn strict_below() -> Earlier {
    Earlier {
        name: "strict-below",
        mapping: json!({"properties": {
            "o": {"dynamic": "false", "properties": {"a": {"type": "long"}}},
            "n": {"type": "nested", "dynamic": "false", "properties": {
                "b": {"type": "keyword"},
            }},
        }}),
        old: vec![(
            "old",
            json!({"o": {"a": 1, "z": "?"}, "n": [{"b": "x", "y": 1}]}),
        )],
        change: json!({"properties": {
            "o": {"type": "object", "dynamic": "strict"},
            "n": {"type": "nested", "dynamic": "strict"},
        }}),
        new: vec![("new", json!({"o": {"a": 2}, "n": [{"b": "y"}]}))],
    }
}

fn earlier_mappings() -> Vec<Earlier> {
    let malformed = |ignored: bool| {
        json!({"properties": {
            "when": {"type": "date", "ignore_malformed": ignored},
            "address": {"type": "ip", "ignore_malformed": ignored},
            "size": {"type": "scaled_float", "scaling_factor": 10, "ignore_malformed": ignored},
        }})
    };
    vec![
        Earlier {
            name: "strict",
            mapping: json!({"dynamic": "false", "properties": {"a": {"type": "long"}}}),
            old: vec![(
                "old",
                json!({"a": 1, "note": "free text", "deep": {"x": [1, "y"]}}),
            )],
            change: json!({"dynamic": "strict"}),
            new: vec![("new", json!({"a": 2}))],
        },
        strict_below(),
        Earlier {
            name: "typed",
            mapping: json!({"dynamic": "false", "properties": {"a": {"type": "long"}}}),
            old: vec![
                ("old1", json!({"a": 1, "size": "XL"})),
                ("old2", json!({"when": "soon", "at": "somewhere"})),
            ],
            change: json!({"properties": {
                "size": {"type": "integer"}, "when": {"type": "date"}, "at": {"type": "geo_point"},
            }}),
            new: vec![("new", json!({"size": 4, "when": "2026-01-02", "at": "1,2"}))],
        },
        Earlier {
            name: "malformed",
            mapping: malformed(true),
            old: vec![(
                "old",
                json!({"when": "yesterday", "address": "home", "size": "big"}),
            )],
            change: malformed(false),
            new: vec![(
                "new",
                json!({"when": "2026-01-02", "address": "::1", "size": 1.5}),
            )],
        },
        Earlier {
            name: "coerced",
            mapping: json!({"properties": {
                "n": {"type": "long"}, "k": {"type": "keyword", "ignore_above": 10},
            }}),
            old: vec![("old", json!({"n": "5", "k": "k".repeat(40_000)}))],
            change: json!({"properties": {
                "n": {"type": "long", "coerce": false}, "k": {"type": "keyword"},
            }}),
            new: vec![("new", json!({"n": 6, "k": "short"}))],
        },
    ]
}

async fn copied(world: &World, case: &Earlier) -> Result<()> {
    let index = format!("copied-{}", case.name);
    let body = json!({"settings": settings(), "mappings": case.mapping});
    create(world, &index, &body).await?;
    put(world, &index, &case.old).await?;
    let path = format!("/{index}/_mapping");
    world.leader.ok("PUT", &path, Some(&case.change)).await?;
    put(world, &index, &case.new).await?;
    flush(world, &index).await?;
    world.follow(&index, &index).await?;
    world.equal(&index, &index).await?;
    if case.name != "typed" {
        // Of shapes it stays said that they are not to be malformed.
        same_mapping(world, &index).await?;
        verified_equal(world, &index).await?;
    }
    stop(world, &index).await
}

/// The leader's agent is held up while the mapping changes, so that it comes before the documents.
async fn streamed(world: &World, case: &Earlier) -> Result<()> {
    let index = format!("streamed-{}", case.name);
    let body = json!({"settings": settings(), "mappings": case.mapping});
    create(world, &index, &body).await?;
    world.follow(&index, &index).await?;
    put(world, &index, &case.new).await?;
    world.equal(&index, &index).await?;
    let agent = world.stack.process("leader-agent-1")?;
    agent.signal(Signal::SIGSTOP)?;
    let changed = async {
        put(world, &index, &case.old).await?;
        let path = format!("/{index}/_mapping");
        world.leader.ok("PUT", &path, Some(&case.change)).await?;
        put(world, &index, &case.new).await
    };
    let changed = changed.await;
    agent.signal(Signal::SIGCONT)?;
    changed?;
    world.equal(&index, &index).await?;
    if case.name != "typed" {
        same_mapping(world, &index).await?;
        verified_equal(world, &index).await?;
    }
    stop(world, &index).await
}

async fn what_cannot_be_ignored_is_said(world: &World) -> Result<()> {
    let cases = [
        ("flag", json!("perhaps"), json!({"type": "boolean"})),
        (
            "object",
            json!("text"),
            json!({"properties": {"x": {"type": "long"}}}),
        ),
    ];
    for (name, value, field) in cases {
        let index = format!("conflict-{name}");
        let body = json!({"settings": settings(), "mappings": {"dynamic": "false"}});
        create(world, &index, &body).await?;
        put(world, &index, &[("old", json!({"field": value}))]).await?;
        let change = json!({"properties": {"field": field}});
        let path = format!("/{index}/_mapping");
        world.leader.ok("PUT", &path, Some(&change)).await?;
        flush(world, &index).await?;
        world.follow(&index, &index).await?;
        let status = wait::for_status(&world.gateway, &index, "PAUSED", PATIENCE).await?;
        let reason = status["reason"].as_str().unwrap_or_default();
        ensure!(
            reason.contains("document [old]") && reason.contains("snapshot repository"),
            "{status}"
        );
        stop(world, &index).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_follower_index_is_made_of() -> Result<()> {
    let world = World::start().await?;
    templates_shape_no_follower(&world).await?;
    a_template_that_cannot_be_shut_out(&world).await?;
    a_template_that_was_left_is_removed(&world).await?;
    limits_below_what_is_mapped(&world).await?;
    the_leaders_search_pipeline_stays_behind(&world).await?;
    replicas_that_expand_by_themselves(&world).await?;
    world.stop().await
}

fn shaping_templates() -> [(&'static str, Value); 3] {
    let given = json!({
        "settings": {
            "index.refresh_interval": "17s",
            "index.mapping.total_fields.limit": 50,
            "index.translog.durability": "async",
        },
        "mappings": {"dynamic": "strict", "properties": {
            "code": {"type": "keyword"}, "only_here": {"type": "ip"},
        }},
        "aliases": {"from-template": {}},
    });
    let mut legacy = given.clone();
    legacy["index_patterns"] = json!(["legacy-*"]);
    legacy["order"] = json!(900);
    [
        (
            "/_index_template/shaping",
            json!({"index_patterns": ["shaped-*"], "priority": 900, "template": given}),
        ),
        ("/_template/shaping", legacy),
        (
            "/_index_template/streaming",
            json!({"index_patterns": ["stream-*"], "priority": 900, "data_stream": {}}),
        ),
    ]
}

async fn templates_shape_no_follower(world: &World) -> Result<()> {
    let templates = shaping_templates();
    for (path, template) in &templates {
        world.follower.ok("PUT", path, Some(template)).await?;
    }
    for index in ["shaped-empty", "legacy-empty", "stream-empty"] {
        let body = json!({"settings": settings()});
        create(world, index, &body).await?;
    }
    for index in ["shaped-full", "legacy-full", "stream-full"] {
        let body =
            json!({"settings": settings(), "mappings": {"properties": {"code": {"type": "long"}}}});
        create(world, index, &body).await?;
        put(world, index, &[("1", json!({"code": 5, "other": "x"}))]).await?;
    }
    for kind in ["shaped", "legacy", "stream"] {
        for filled in ["empty", "full"] {
            let index = format!("{kind}-{filled}");
            world.follow(&index, &index).await?;
            put(world, &index, &[("2", json!({"code": 6, "other": "y"}))]).await?;
            world.equal(&index, &index).await?;
            same_mapping(world, &index).await?;
            ensure!(
                aliases(&world.follower, &index).await?.is_empty(),
                "{index}"
            );
            let settings = flat_settings(&world.follower, &index).await?;
            let foreign = ["index.refresh_interval", "index.mapping.total_fields.limit"];
            ensure!(
                foreign.iter().all(|key| !settings.contains_key(*key))
                    && settings["index.translog.durability"] == "request",
                "{settings:?}"
            );
            stop(world, &index).await?;
        }
    }
    let left = world.follower.get("/_index_template").await?;
    ensure!(!left.to_string().contains("shardline-making"), "{left}");
    for (path, _) in &templates {
        world.follower.ok("DELETE", path, None).await?;
    }
    Ok(())
}

/// By one that has the highest priority itself.
async fn a_template_that_cannot_be_shut_out(world: &World) -> Result<()> {
    let patterns = ["insists-*"];
    let template =
        |given: Value| json!({"index_patterns": patterns, "priority": i64::MAX, "template": given});
    let given = json!({
        "settings": {
            "index.refresh_interval": "17s",
            "index.routing.allocation.total_shards_per_node": 9,
        },
        "aliases": {"insisted": {}},
    });
    let path = "/_index_template/insisting";
    world
        .follower
        .ok("PUT", path, Some(&template(given)))
        .await?;
    for index in ["insists-little", "insists-much"] {
        let body =
            json!({"settings": settings(), "mappings": {"properties": {"a": {"type": "long"}}}});
        create(world, index, &body).await?;
        put(world, index, &[("1", json!({"a": 1}))]).await?;
    }
    world.follow("insists-little", "insists-little").await?;
    world.equal("insists-little", "insists-little").await?;
    same_mapping(world, "insists-little").await?;
    let settings = flat_settings(&world.follower, "insists-little").await?;
    ensure!(
        !settings.contains_key("index.refresh_interval")
            && !settings.contains_key("index.routing.allocation.total_shards_per_node")
            && aliases(&world.follower, "insists-little").await?.is_empty(),
        "{settings:?}"
    );
    stop(world, "insists-little").await?;

    let given = json!({"mappings": {"properties": {"only_here": {"type": "ip"}}}});
    world
        .follower
        .ok("PUT", path, Some(&template(given)))
        .await?;
    let start = json!({"leader_alias": ALIAS, "leader_index": "insists-much"});
    let (status, answer) = world
        .gateway
        .call(
            "PUT",
            "/_plugins/_replication/insists-much/_start",
            Some(&start),
        )
        .await?;
    let reason = answer["error"]["reason"].as_str().unwrap_or_default();
    ensure!(
        status == 400 && reason.contains("[insisting]") && reason.contains("its mapping"),
        "{status} {answer}"
    );
    let (status, _) = world.follower.call("GET", "/insists-much", None).await?;
    ensure!(status == 404, "the index is there");
    world.follower.ok("DELETE", path, None).await?;
    Ok(())
}

/// As by an agent that was ended while it made an index.
async fn a_template_that_was_left_is_removed(world: &World) -> Result<()> {
    for index in ["left-1", "left-2"] {
        let template = json!({
            "index_patterns": [index], "priority": i64::MAX, "template": {},
            "_meta": {"made_ms": 1},
        });
        let path = format!("/_index_template/shardline-making-{index}");
        world.follower.ok("PUT", &path, Some(&template)).await?;
    }
    world.stack.restart("follower-agent-1").await?;
    wait::until("the templates to be removed", PATIENCE, async || {
        let left = world.follower.get("/_index_template").await?.to_string();
        Ok(if left.contains("shardline-making") {
            Err(left)
        } else {
            Ok(())
        })
    })
    .await
}

async fn limits_below_what_is_mapped(world: &World) -> Result<()> {
    let inner = json!({"type": "nested", "properties": {"c": {"type": "long"}}});
    let nested = json!({"type": "nested", "properties": {"b": inner}});
    let mapping = json!({"properties": {
        "a": nested, "longer_name": {"type": "long"}, "f": {"type": "long"},
    }});
    let limits = [
        (
            "total-fields",
            json!({"index.mapping.total_fields.limit": 2}),
        ),
        ("depth", json!({"index.mapping.depth.limit": 1})),
        (
            "nested",
            json!({
                "index.mapping.nested_fields.limit": 1,
                "index.mapping.field_name_length.limit": 3,
            }),
        ),
    ];
    for (name, limit) in limits {
        let index = format!("limit-{name}");
        let body = json!({"settings": settings(), "mappings": mapping});
        create(world, &index, &body).await?;
        put(world, &index, &[("1", json!({"f": 1, "longer_name": 2}))]).await?;
        let path = format!("/{index}/_settings");
        world.leader.ok("PUT", &path, Some(&limit)).await?;
        world.follow(&index, &index).await?;
        world.equal(&index, &index).await?;
        same_mapping(world, &index).await?;
        // A parameter of a field changes, beyond the limit still.
        let raise = limit.as_object().context("limits")?;
        let raise: Map<String, Value> = raise.keys().map(|key| (key.clone(), json!(50))).collect();
        world
            .leader
            .ok("PUT", &path, Some(&Value::Object(raise)))
            .await?;
        let change = json!({"properties": {"f": {"type": "long", "ignore_malformed": true}}});
        world
            .leader
            .ok("PUT", &format!("/{index}/_mapping"), Some(&change))
            .await?;
        world.leader.ok("PUT", &path, Some(&limit)).await?;
        put(world, &index, &[("2", json!({"f": "none"}))]).await?;
        world.equal(&index, &index).await?;
        same_mapping(world, &index).await?;
        let settings = flat_settings(&world.follower, &index).await?;
        for (key, value) in limit.as_object().context("limits")? {
            let value = value.to_string();
            ensure!(
                settings[key].as_str() == Some(&*value),
                "{index}: {settings:?}"
            );
        }
        stop(world, &index).await?;
    }
    Ok(())
}

async fn the_leaders_search_pipeline_stays_behind(world: &World) -> Result<()> {
    // Processors are a module's, which the dev stack goes without.
    let pipeline = json!({"description": "does nothing", "request_processors": []});
    for name in ["kept", "missing"] {
        world
            .leader
            .ok("PUT", &format!("/_search/pipeline/{name}"), Some(&pipeline))
            .await?;
    }
    world
        .follower
        .ok("PUT", "/_search/pipeline/kept", Some(&pipeline))
        .await?;
    for name in ["kept", "missing"] {
        let index = format!("piped-{name}");
        let mut body = json!({"settings": settings()});
        body["settings"]["index.search.default_pipeline"] = json!(name);
        create(world, &index, &body).await?;
        put(
            world,
            &index,
            &[("1", json!({"n": 1})), ("2", json!({"n": 2}))],
        )
        .await?;
        flush(world, &index).await?;
        world.follow(&index, &index).await?;
        wait::caught_up(&world.leader, &index, &world.gateway, &index, PATIENCE).await?;
        world
            .gateway
            .ok("POST", &format!("/{index}/_refresh"), None)
            .await?;
        let found = world.gateway.get(&format!("/{index}/_search")).await?;
        ensure!(
            found["hits"]["total"]["value"] == 2
                && found["hits"]["hits"][0]["_source"]["n"] != Value::Null,
            "{found}"
        );
        verified_equal(world, &index).await?;
        stop(world, &index).await?;
        let settings = flat_settings(&world.follower, &index).await?;
        let given = settings.get("index.search.default_pipeline");
        let expected = (name == "kept").then(|| json!(name));
        ensure!(given == expected.as_ref(), "{settings:?}");
    }
    Ok(())
}

async fn replicas_that_expand_by_themselves(world: &World) -> Result<()> {
    let expands = json!({"index.auto_expand_replicas": "0-all"});
    let cases = [
        (
            "expands-own",
            json!({"number_of_shards": 1, "auto_expand_replicas": "0-1"}),
            json!({}),
        ),
        (
            "expands-given",
            json!({"number_of_shards": 1, "number_of_replicas": 1}),
            expands,
        ),
    ];
    for (index, of_leader, overrides) in cases {
        create(world, index, &json!({"settings": of_leader})).await?;
        put(world, index, &[("1", json!({"n": 1}))]).await?;
        let start = json!({"leader_alias": ALIAS, "leader_index": index, "settings": overrides});
        let path = format!("/_plugins/_replication/{index}/_start");
        world.gateway.ok("PUT", &path, Some(&start)).await?;
        world.equal(index, index).await?;
        let own = |settings: &Map<String, Value>| settings["index.number_of_replicas"] == "0";
        for seconds in ["2s", "3s"] {
            let change = json!({"index.refresh_interval": seconds});
            world
                .leader
                .ok("PUT", &format!("/{index}/_settings"), Some(&change))
                .await?;
            wait::until("the setting", SOON, async || {
                let settings = flat_settings(&world.follower, index).await?;
                let has_come = settings.get("index.refresh_interval") == Some(&json!(seconds));
                Ok(if has_come && own(&settings) {
                    Ok(())
                } else {
                    Err(format!("{settings:?}"))
                })
            })
            .await?;
        }
        verified_equal(world, index).await?;
        stop(world, index).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_aliases_and_versions() -> Result<()> {
    let world = World::start().await?;
    small_result_windows(&world).await?;
    a_scan_that_is_refused_is_said(&world).await?;
    an_alias_whose_name_is_taken(&world).await?;
    aliases_that_swap(&world).await?;
    versions_of_users_are_said(&world).await?;
    world.stop().await
}

async fn small_result_windows(world: &World) -> Result<()> {
    for (window, documents) in [(5_000, 6_000), (50, 2_000), (1, 60)] {
        let index = format!("window-{window}");
        let mut body = json!({"settings": settings()});
        body["settings"]["max_result_window"] = json!(window);
        create(world, &index, &body).await?;
        let lines: String = (0..documents)
            .map(|n| format!("{{\"index\":{{\"_id\":\"{n}\"}}}}\n{{\"n\":{n}}}\n"))
            .collect();
        world.leader.bulk(&format!("/{index}/_bulk"), lines).await?;
        flush(world, &index).await?;
        world.follow(&index, &index).await?;
        wait::caught_up(&world.leader, &index, &world.gateway, &index, PATIENCE).await?;
        verified_equal(world, &index).await?;
        stop(world, &index).await?;
    }
    Ok(())
}

/// Searches on the leader index fail, as its pipeline is gone.
async fn a_scan_that_is_refused_is_said(world: &World) -> Result<()> {
    let index = "unread";
    create(world, index, &json!({"settings": settings()})).await?;
    put(world, index, &[("1", json!({"n": 1}))]).await?;
    flush(world, index).await?;
    let gone = json!({"index.search.default_pipeline": "gone"});
    let path = format!("/{index}/_settings");
    world.leader.ok("PUT", &path, Some(&gone)).await?;
    world.follow(index, index).await?;
    wait::until("the reason in the status", PATIENCE, async || {
        let status = wait::status(&world.gateway, index).await?;
        let reason = status["held_up"][0]["reason"].as_str().unwrap_or_default();
        Ok(if reason.contains("Pipeline gone is not defined") {
            Ok(())
        } else {
            Err(status.to_string())
        })
    })
    .await?;
    stop(world, index).await
}

async fn an_alias_whose_name_is_taken(world: &World) -> Result<()> {
    world.follower.ok("PUT", "/taken-1", None).await?;
    world.follower.ok("PUT", "/taken-2", None).await?;
    // One that is there at the start, and one that comes.
    let body = json!({"settings": settings(), "aliases": {"taken-1": {}, "free-1": {}}});
    world.leader.ok("PUT", "/named", Some(&body)).await?;
    put(world, "named", &[("1", json!({"n": 1}))]).await?;
    world.follow("named", "named").await?;
    world.equal("named", "named").await?;
    let actions = json!({"actions": [
        {"add": {"index": "named", "alias": "taken-2", "filter": {"term": {"n": 1}}}},
        {"add": {"index": "named", "alias": "free-2"}},
    ]});
    world.leader.ok("POST", "/_aliases", Some(&actions)).await?;
    put(world, "named", &[("2", json!({"n": 2}))]).await?;
    world.equal("named", "named").await?;
    wait::until("both to be named", SOON, async || {
        let status = wait::status(&world.gateway, "named").await?;
        let refused = status["refused_aliases"].to_string();
        let has_all = refused.contains("taken-1") && refused.contains("taken-2");
        let has = aliases(&world.follower, "named").await?;
        let is_right = status["status"] == "SYNCING"
            && has.contains_key("free-1")
            && has.contains_key("free-2");
        Ok(if has_all && is_right {
            Ok(())
        } else {
            Err(format!("{status} {has:?}"))
        })
    })
    .await?;
    for index in ["taken-1", "taken-2"] {
        world
            .follower
            .ok("DELETE", &format!("/{index}"), None)
            .await?;
    }
    let wanted = aliases(&world.leader, "named").await?;
    wait::until("the aliases", SOON, async || {
        let has = aliases(&world.follower, "named").await?;
        let status = wait::status(&world.gateway, "named").await?;
        let is_quiet = status.get("refused_aliases").is_none();
        Ok(if has == wanted && is_quiet {
            Ok(())
        } else {
            Err(format!("{has:?} {status}"))
        })
    })
    .await?;
    stop(world, "named").await
}

async fn aliases_that_swap(world: &World) -> Result<()> {
    for index in ["swap-1", "swap-2"] {
        create(world, index, &json!({"settings": settings()})).await?;
        put(world, index, &[(index, json!({"n": 1}))]).await?;
        world.follow(index, index).await?;
        world.equal(index, index).await?;
    }
    let add = json!({"actions": [
        {"add": {"index": "swap-1", "alias": "current"}},
        {"add": {"index": "swap-2", "alias": "other"}},
    ]});
    world.leader.ok("POST", "/_aliases", Some(&add)).await?;
    let is_of = async |alias: &str, index: &str| is_of(world, alias, index).await;
    wait::until("the aliases", SOON, async || {
        let is_there = is_of("current", "swap-1").await? && is_of("other", "swap-2").await?;
        Ok(if is_there {
            Ok(())
        } else {
            Err("not there".to_owned())
        })
    })
    .await?;
    for round in 0..6 {
        let (from, to) = if round % 2 == 0 {
            ("swap-1", "swap-2")
        } else {
            ("swap-2", "swap-1")
        };
        let swap = json!({"actions": [
            {"remove": {"index": from, "alias": "current"}},
            {"add": {"index": to, "alias": "current"}},
            {"remove": {"index": to, "alias": "other"}},
            {"add": {"index": from, "alias": "other"}},
        ]});
        world.leader.ok("POST", "/_aliases", Some(&swap)).await?;
        wait::until("the swap", SOON, async || {
            for alias in ["current", "other"] {
                let (status, answer) = world
                    .gateway
                    .call("GET", &format!("/{alias}/_count"), None)
                    .await?;
                // Never of none, and never of both.
                assert_eq!(
                    (status, &answer["count"]),
                    (200, &json!(1)),
                    "{alias} in round {round}"
                );
            }
            let is_swapped = is_of("current", to).await? && is_of("other", from).await?;
            Ok(if is_swapped {
                Ok(())
            } else {
                Err("not swapped".to_owned())
            })
        })
        .await?;
    }
    for index in ["swap-1", "swap-2"] {
        stop(world, index).await?;
    }
    Ok(())
}

/// Whether an alias is this index's; of several it never is.
async fn is_of(world: &World, alias: &str, index: &str) -> Result<bool> {
    let path = format!("/_alias/{alias}");
    let (status, found) = world.follower.call("GET", &path, None).await?;
    if status == 200 {
        let indices = found.as_object().context("indices")?;
        ensure!(indices.len() == 1, "{alias} is of several: {found}");
    }
    Ok(status == 200 && found.get(index).is_some())
}

async fn versions_of_users_are_said(world: &World) -> Result<()> {
    for (index, is_copied) in [("versions-copied", true), ("versions-streamed", false)] {
        create(world, index, &json!({"settings": settings()})).await?;
        let path = format!("/{index}/_doc/order?version=1700000000&version_type=external");
        world
            .leader
            .ok("PUT", &path, Some(&json!({"v": 1})))
            .await?;
        if is_copied {
            flush(world, index).await?;
        }
        world.follow(index, index).await?;
        wait::until("the status to say so", SOON, async || {
            let status = wait::status(&world.gateway, index).await?;
            Ok(
                if status["external_versions"] == json!({"id": "order", "version": 1_700_000_000}) {
                    Ok(())
                } else {
                    Err(status.to_string())
                },
            )
        })
        .await?;
        let url = format!(
            "{}/_plugins/_replication/{index}/_stop",
            world.gateway.url()
        );
        let answer = reqwest::Client::new()
            .post(url)
            .header("content-type", "application/json")
            .body("{}")
            .send()
            .await?;
        let warning = answer.headers().get("warning").context("no warning")?;
        ensure!(
            warning.to_str()?.contains("version_type=external"),
            "{warning:?}"
        );
    }
    Ok(())
}
