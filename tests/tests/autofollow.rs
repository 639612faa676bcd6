//! Many indices by one call on a real stack. Auto-follow: existing and new indices, failures and
//! their retries, rules that survive, and many small indices at once while the API goes on
//! answering. Then bulk tasks on all of these, and the same from the command line.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use shardline_tests::client::Client;
use shardline_tests::ctl::{ctl, ctl_ok};
use shardline_tests::wait;
use shardline_tests::world::{ALIAS, World};

const PATIENCE: Duration = Duration::from_secs(120);
/// How many small indices are made; the number in the requirements is 300.
const INDICES: &str = "SHARDLINE_AUTOFOLLOW_INDICES";
const RULES: &str = "/_plugins/_replication/_autofollow";

#[tokio::test(flavor = "multi_thread")]
async fn rules_follow_what_matches() -> Result<()> {
    let world = World::start().await?;
    rules_are_checked(&world).await?;
    existing_and_new_indices_are_followed(&world).await?;
    failures_are_listed_and_tried_again(&world).await?;
    rules_survive_a_restart_and_end_when_deleted(&world).await?;
    many_small_indices(&world).await?;
    bulk_tasks(&world).await?;
    indices_go_with_their_leaders(&world).await?;
    the_command_line_does_all_of_it(&world).await?;
    world.stop().await
}

async fn make_index(world: &World, index: &str, settings: Value) -> Result<()> {
    let mut body = json!({"settings": {"number_of_shards": 1, "number_of_replicas": 0}});
    for (key, value) in settings.as_object().into_iter().flatten() {
        body["settings"][key] = value.clone();
    }
    world
        .leader
        .ok("PUT", &format!("/{index}"), Some(&body))
        .await?;
    Ok(())
}

async fn make_rule(world: &World, name: &str, pattern: &str) -> Result<()> {
    let rule = json!({"leader_alias": ALIAS, "name": name, "pattern": pattern});
    world.gateway.ok("POST", RULES, Some(&rule)).await?;
    Ok(())
}

async fn delete_rule(world: &World, name: &str) -> Result<()> {
    world
        .gateway
        .ok(
            "DELETE",
            RULES,
            Some(&json!({"leader_alias": ALIAS, "name": name})),
        )
        .await?;
    Ok(())
}

async fn syncing(world: &World, follower: &str) -> Result<Value> {
    wait::for_status(&world.gateway, follower, "SYNCING", PATIENCE).await
}

async fn status(world: &World, follower: &str) -> Result<String> {
    Ok(wait::status(&world.gateway, follower).await?["status"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

/// The statistics of one rule, once they are as wanted.
async fn rule_stats(world: &World, rule: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    wait::until(&format!("the statistics of {rule}"), PATIENCE, async || {
        let stats = world
            .gateway
            .get("/_plugins/_replication/autofollow_stats")
            .await?;
        let found = stats["autofollow_stats"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one["name"] == rule)
            .cloned();
        Ok(found.filter(&wanted).ok_or(stats.to_string()))
    })
    .await
}

async fn rules_are_checked(world: &World) -> Result<()> {
    let rule = |name: &str| json!({"leader_alias": ALIAS, "name": name, "pattern": "never-*"});
    let call =
        async |method: &str, body: Value| world.gateway.call(method, RULES, Some(&body)).await;
    let (status, answer) = call(
        "POST",
        json!({"leader_alias": "nobody", "name": "r", "pattern": "x"}),
    )
    .await?;
    assert_eq!(
        (status, &answer["error"]["reason"]),
        (404, &json!("no such remote cluster: [nobody]"))
    );
    let mut bad = rule("bad-settings");
    bad["settings"] = json!({"index.number_of_replicas": 0, "index.bogus": 1});
    let (status, answer) = call("POST", bad).await?;
    assert!(
        status == 400 && answer.to_string().contains("unknown setting [index.bogus]"),
        "{status} {answer}"
    );

    make_rule(world, "checked", "never-*").await?;
    let (status, answer) = call("POST", rule("checked")).await?;
    let words = "Exisiting autofollow replication rule cannot be recreated/updated";
    assert_eq!(
        (status, &answer["error"]["type"]),
        (500, &json!("exception"))
    );
    assert_eq!(answer["error"]["reason"], words);
    let inner = format!("task with id {{autofollow:{ALIAS}:checked}} already exist");
    assert_eq!(answer["error"]["caused_by"]["reason"], inner);
    delete_rule(world, "checked").await?;
    let (status, answer) =
        call("DELETE", json!({"leader_alias": ALIAS, "name": "checked"})).await?;
    let words = format!("Autofollow replication rule {ALIAS}:checked does not exist");
    assert_eq!((status, &answer["error"]["reason"]), (500, &json!(words)));
    let (status, answer) = world.gateway.call("GET", RULES, None).await?;
    assert_eq!(status, 405, "{answer}");
    Ok(())
}

async fn existing_and_new_indices_are_followed(world: &World) -> Result<()> {
    make_index(world, "logs-old", json!({})).await?;
    make_index(world, "logs-taken", json!({})).await?;
    make_index(world, "logs-hidden", json!({"hidden": true})).await?;
    make_index(world, "other", json!({})).await?;
    world
        .leader
        .ok("PUT", "/logs-old/_doc/1", Some(&json!({"n": 1})))
        .await?;
    world.follower.ok("PUT", "/logs-taken", None).await?;
    let rule = json!({"leader_alias": ALIAS, "name": "logs", "pattern": "logs-*", "settings": {"index.refresh_interval": "3s"}});
    world.gateway.ok("POST", RULES, Some(&rule)).await?;
    syncing(world, "logs-old").await?;
    world.equal("logs-old", "logs-old").await?;
    let settings = world
        .follower
        .get("/logs-old/_settings?flat_settings=true")
        .await?;
    assert_eq!(
        settings["logs-old"]["settings"]["index.refresh_interval"],
        "3s"
    );
    make_index(world, "logs-new", json!({})).await?;
    syncing(world, "logs-new").await?;
    let stats = rule_stats(world, "logs", |stats| {
        stats["num_success_start_replication"] == 2
    })
    .await?;
    assert_eq!(
        (
            &stats["failed_indices"],
            &stats["num_failed_start_replication"]
        ),
        (&json!([]), &json!(0))
    );
    let taken = &stats["failures"]["logs-taken"];
    assert_eq!(
        (&taken["reason"], &taken["attempts"]),
        (
            &json!("Cant use same index again for replication. Delete the index:logs-taken"),
            &json!(0)
        )
    );
    for index in ["logs-taken", "logs-hidden", "other"] {
        assert_eq!(
            status(world, index).await?,
            "REPLICATION NOT IN PROGRESS",
            "{index}"
        );
    }
    // By an alias, under another name.
    let rule = json!({"leader_alias": ALIAS, "name": "aliased", "pattern": "everything", "follower_index_pattern": "copy-of-{{leader_index}}"});
    world.gateway.ok("POST", RULES, Some(&rule)).await?;
    world
        .leader
        .ok("PUT", "/other/_alias/everything", None)
        .await?;
    syncing(world, "copy-of-other").await?;
    delete_rule(world, "aliased").await
}

async fn failures_are_listed_and_tried_again(world: &World) -> Result<()> {
    let block = |on: Value| json!({"persistent": {"plugins.replication.follower.block.start": on}});
    world
        .gateway
        .ok("PUT", "/_cluster/settings", Some(&block(json!(true))))
        .await?;
    make_index(world, "logs-blocked", json!({})).await?;
    let failed = json!(["logs-blocked"]);
    let stats = rule_stats(world, "logs", |stats| stats["failed_indices"] == failed).await?;
    assert_eq!(
        stats["failures"]["logs-blocked"]["reason"],
        "[FORBIDDEN] Replication START block is set"
    );
    assert_eq!(stats["num_failed_start_replication"], 1);
    world
        .gateway
        .ok("PUT", "/_cluster/settings", Some(&block(Value::Null)))
        .await?;
    syncing(world, "logs-blocked").await?;
    rule_stats(world, "logs", |stats| stats["failed_indices"] == json!([])).await?;

    // One that somebody else follows meanwhile is no failure any more.
    world
        .gateway
        .ok("PUT", "/_cluster/settings", Some(&block(json!(true))))
        .await?;
    make_index(world, "logs-by-hand", json!({})).await?;
    rule_stats(world, "logs", |stats| {
        stats["failed_indices"] == json!(["logs-by-hand"])
    })
    .await?;
    world
        .gateway
        .ok("PUT", "/_cluster/settings", Some(&block(Value::Null)))
        .await?;
    world.follow("logs-by-hand", "logs-by-hand").await?;
    let stats = rule_stats(world, "logs", |stats| stats["failed_indices"] == json!([])).await?;
    tokio::time::sleep(Duration::from_secs(8)).await;
    let later = rule_stats(world, "logs", |_| true).await?;
    assert_eq!(
        later["last_execution_time"], stats["last_execution_time"],
        "the rule has nothing to do"
    );
    Ok(())
}

async fn rules_survive_a_restart_and_end_when_deleted(world: &World) -> Result<()> {
    world.stack.process("follower-agent-1")?.kill().await?;
    world.stack.restart("follower-agent-1").await?;
    make_index(world, "logs-after-restart", json!({})).await?;
    syncing(world, "logs-after-restart").await?;
    rule_stats(world, "logs", |stats| {
        stats["num_success_start_replication"] == 4
    })
    .await?;

    delete_rule(world, "logs").await?;
    make_rule(world, "metrics", "metrics-*").await?;
    make_index(world, "logs-too-late", json!({})).await?;
    make_index(world, "metrics-1", json!({})).await?;
    syncing(world, "metrics-1").await?;
    assert_eq!(
        status(world, "logs-too-late").await?,
        "REPLICATION NOT IN PROGRESS"
    );
    assert_eq!(status(world, "logs-new").await?, "SYNCING");
    delete_rule(world, "metrics").await
}

/// Makes many indices as fast as the leader can, and asks the API all the while.
async fn many_small_indices(world: &World) -> Result<()> {
    let count = std::env::var(INDICES)
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(30);
    make_rule(world, "many", "many-*").await?;
    let started = Instant::now();
    let names: Vec<String> = (0..count).map(|n| format!("many-{n:04}")).collect();
    let making = async {
        let indices = futures::stream::iter(&names).map(|index| async move {
            make_index(world, index, json!({})).await?;
            world
                .leader
                .ok("PUT", &format!("/{index}/_doc/1"), Some(&json!({"n": 1})))
                .await?;
            Ok::<_, anyhow::Error>(Instant::now())
        });
        indices.buffered(4).try_collect::<Vec<Instant>>().await
    };
    let mut answers: Vec<Duration> = Vec::new();
    let watching = async {
        let mut reached: Vec<Option<Instant>> = vec![None; count];
        while reached.iter().any(Option::is_none) {
            ensure!(
                started.elapsed() < PATIENCE + Duration::from_secs(count as u64),
                "not all are followed: {reached:?}"
            );
            for (name, reached) in names
                .iter()
                .zip(&mut reached)
                .filter(|(_, reached)| reached.is_none())
            {
                let asked = Instant::now();
                let status = status(world, name).await?;
                answers.push(asked.elapsed());
                if status == "SYNCING" {
                    *reached = Some(Instant::now());
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(reached)
    };
    let (made, reached) = tokio::try_join!(making, watching)?;
    let mut delays: Vec<Duration> = made
        .iter()
        .zip(reached)
        .filter_map(|(made, reached)| reached.map(|at| at.saturating_duration_since(*made)))
        .collect();
    delays.sort();
    answers.sort();
    let at = |times: &[Duration], part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!(
        "{count} indices: made in {:?}, all SYNCING {:?} after the first was begun; from made to SYNCING: median {:?}, last {:?}; \
         {} calls of _status meanwhile: median {:?}, 99% {:?}, slowest {:?}",
        made.iter()
            .max()
            .map(|last| *last - started)
            .unwrap_or_default(),
        started.elapsed(),
        at(&delays, 0.5),
        at(&delays, 1.0),
        answers.len(),
        at(&answers, 0.5),
        at(&answers, 0.99),
        at(&answers, 1.0),
    );
    for name in &names {
        wait::caught_up(&world.leader, name, &world.gateway, name, PATIENCE).await?;
    }
    Ok(())
}

async fn bulk(world: &World, operation: &str, body: Value) -> Result<Value> {
    let path = format!("/_plugins/_replication/_bulk_{operation}");
    let task = world.gateway.ok("POST", &path, Some(&body)).await?["task_id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let path = format!("/_plugins/_replication/_task_status/{task}");
    wait::until(&format!("bulk {operation}"), PATIENCE, async || {
        let status = world.gateway.get(&path).await?;
        Ok(if status["num_pending"] == 0 {
            Ok(status)
        } else {
            Err(status.to_string())
        })
    })
    .await
}

async fn bulk_tasks(world: &World) -> Result<()> {
    delete_rule(world, "many").await?;
    let count = |status: &Value| {
        status["indices"]
            .as_object()
            .map_or(0, serde_json::Map::len)
    };
    let of_all = async |pattern: &str| {
        world
            .gateway
            .get(&format!(
                "/_plugins/_replication/_bulk_status?pattern={pattern}"
            ))
            .await
    };
    let all = count(&of_all("many-*").await?);
    let body = json!({"pattern": "many-*", "filters": {"exclude_index": ["many-0000"]}});
    let paused = bulk(world, "pause", body.clone()).await?;
    assert_eq!(
        (&paused["num_success"], &paused["failed_indices"]),
        (&json!(all - 1), &json!([])),
        "{paused}"
    );
    let statuses = of_all("many-*").await?;
    assert_eq!(statuses["indices"]["many-0000"]["status"], "SYNCING");
    assert_eq!(statuses["indices"]["many-0001"]["reason"], "bulk_pause");
    // What is there already is listed, and the rest done.
    let resumed = bulk(world, "resume", json!({"pattern": "many-*"})).await?;
    assert_eq!(
        (&resumed["num_success"], &resumed["num_failed"]),
        (&json!(all - 1), &json!(1)),
        "{resumed}"
    );
    assert_eq!(
        resumed["failed_indices"][0]["failure_reason"],
        "Replication on Index many-0000 is already running"
    );
    let stopped = bulk(world, "stop", json!({"pattern": "many-*"})).await?;
    assert_eq!(stopped["num_success"], all, "{stopped}");
    assert_eq!(
        status(world, "many-0001").await?,
        "REPLICATION NOT IN PROGRESS"
    );

    for index in ["bulk-1", "bulk-2"] {
        make_index(world, index, json!({})).await?;
        world
            .leader
            .ok("PUT", &format!("/{index}/_doc/1"), Some(&json!({"n": 1})))
            .await?;
    }
    let started = bulk(
        world,
        "start",
        json!({"leader_alias": ALIAS, "pattern": "bulk-*"}),
    )
    .await?;
    assert_eq!(
        (&started["num_success"], &started["operation_type"]),
        (&json!(2), &json!("bulk_start_replication"))
    );
    world.equal("bulk-1", "bulk-1").await?;

    let (code, answer) = world
        .gateway
        .call("GET", "/_plugins/_replication/_task_status/no:1", None)
        .await?;
    assert_eq!(
        (code, &answer["error"]["reason"]),
        (404, &json!("Task no:1 not found or already completed"))
    );
    let none = json!({"pattern": "nothing-*"});
    let (code, answer) = world
        .gateway
        .call("POST", "/_plugins/_replication/_bulk_stop", Some(&none))
        .await?;
    assert_eq!(
        (code, &answer["error"]["reason"]),
        (
            404,
            &json!("No indices found matching pattern: [nothing-*]")
        )
    );
    Ok(())
}

async fn indices_go_with_their_leaders(world: &World) -> Result<()> {
    let setting =
        |on: bool| json!({"persistent": {"plugins.replication.replicate.delete_index": on}});
    world
        .gateway
        .ok("PUT", "/_cluster/settings", Some(&setting(true)))
        .await?;
    world.leader.ok("DELETE", "/bulk-1", None).await?;
    wait::until("bulk-1 to go", PATIENCE, async || {
        let (code, answer) = world.follower.call("GET", "/bulk-1", None).await?;
        Ok(if code == 404 {
            Ok(())
        } else {
            Err(answer.to_string())
        })
    })
    .await?;
    assert_eq!(
        status(world, "bulk-1").await?,
        "REPLICATION NOT IN PROGRESS"
    );
    // As it was: the other one is kept.
    world
        .gateway
        .ok("PUT", "/_cluster/settings", Some(&setting(false)))
        .await?;
    world.leader.ok("DELETE", "/bulk-2", None).await?;
    wait::for_status(&world.gateway, "bulk-2", "PAUSED", PATIENCE).await?;
    world.follower.ok("GET", "/bulk-2", None).await?;
    Ok(())
}

async fn the_command_line_does_all_of_it(world: &World) -> Result<()> {
    for index in ["cli-1", "cli-2"] {
        make_index(world, index, json!({})).await?;
        world
            .leader
            .ok("PUT", &format!("/{index}/_doc/1"), Some(&json!({"n": 1})))
            .await?;
    }
    let run = async |command: &str| ctl_ok(&world.gateway, command).await;
    let start =
        format!("start cli-1 --leader-alias {ALIAS} --setting index.refresh_interval=5s --wait");
    assert_eq!(run(&start).await?, "cli-1 is synchronised\n");
    world.equal("cli-1", "cli-1").await?;
    let table = run("status cli-* --shards").await?;
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let leader = format!("{ALIAS}:cli-1");
    assert_eq!(
        lines[0],
        [
            "INDEX", "LEADER", "STATUS", "LAG", "BEHIND", "PROGRESS", "REASON"
        ],
        "{table}"
    );
    assert_eq!(
        lines[1][..6],
        ["cli-1", &leader, "SYNCING", "0", "0", "ms"],
        "{table}"
    );
    assert_eq!(lines[4], ["[cli-1][0]", "0", "0", "0"], "{table}");
    assert_eq!(
        run("pause cli-1 --reason maintenance").await?,
        "cli-1 is paused\n"
    );
    let statuses: Value = serde_json::from_str(&run("--json status").await?)?;
    assert_eq!(
        statuses["indices"]["cli-1"]["reason"], "maintenance",
        "{statuses}"
    );

    let refused = ctl(&world.gateway, "pause cli-1").await?;
    let words =
        "error: Index cli-1 is already paused (resource_already_exists_exception, status 400)\n";
    assert_eq!(
        (
            refused.success,
            refused.stdout.as_str(),
            refused.stderr.as_str()
        ),
        (false, "", words)
    );
    let refused = ctl(&world.gateway, "--json resume no-such-index").await?;
    let answer: Value = serde_json::from_str(&refused.stdout)?;
    assert_eq!((refused.success, &answer["status"]), (false, &json!(400)));
    assert!(
        run("status no-such-index")
            .await?
            .contains("REPLICATION NOT IN PROGRESS")
    );
    let nobody = ctl(&Client::new("http://127.0.0.1:1")?, "status").await?;
    assert!(
        !nobody.success
            && nobody
                .stderr
                .starts_with("error: http://127.0.0.1:1 does not answer"),
        "{nobody:?}"
    );

    assert_eq!(run("resume cli-1 --wait").await?, "cli-1 is synchronised\n");
    run("update cli-1 --setting index.refresh_interval=9s").await?;
    let settings = world
        .follower
        .get("/cli-1/_settings?flat_settings=true")
        .await?;
    assert_eq!(
        settings["cli-1"]["settings"]["index.refresh_interval"],
        "9s"
    );
    run(&format!(
        "autofollow create by-hand --leader-alias {ALIAS} --pattern cli-*"
    ))
    .await?;
    syncing(world, "cli-2").await?;
    assert!(
        run("autofollow list")
            .await?
            .contains(&format!("by-hand  {ALIAS}  cli-*"))
    );
    run(&format!(
        "autofollow delete by-hand --leader-alias {ALIAS} --yes"
    ))
    .await?;
    assert!(run("stats follower").await?.contains("cli-2"));
    assert!(run("stats leader").await?.starts_with("INDEX"));

    let done = run("bulk pause cli-* --exclude cli-2 --wait --yes").await?;
    assert!(
        done.contains("bulk_pause_replication  cli-*       1       0"),
        "{done}"
    );
    let partly = ctl(&world.gateway, "bulk pause cli-* --wait --yes").await?;
    assert_eq!(
        partly.stderr,
        "error: of 2 indices 1 failed and 0 were cancelled\n"
    );
    assert!(
        partly.stdout.contains("Index cli-1 is already paused"),
        "{partly:?}"
    );
    let begun: Value = serde_json::from_str(&run("bulk resume cli-* --json --yes").await?)?;
    let id = begun["task_id"].as_str().unwrap_or_default();
    assert!(
        run(&format!("task status {id} --wait"))
            .await?
            .contains("bulk_resume_replication")
    );
    let over = ctl(&world.gateway, &format!("task cancel {id}")).await?;
    assert!(
        over.stderr.contains("not found or already completed"),
        "{over:?}"
    );
    assert_eq!(
        run("stop cli-1 --yes").await?,
        "cli-1 is no longer followed\n"
    );
    assert_eq!(status(world, "cli-1").await?, "REPLICATION NOT IN PROGRESS");
    run("bulk stop cli-2 --wait --yes").await?;
    Ok(())
}
