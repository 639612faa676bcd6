//! What an operator sees: metrics, alerts and dashboards against a real Prometheus, on a healthy
//! pair and while each of several things is in the way.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use shardline_tests::ctl::ctl_ok;
use shardline_tests::load::{Load, index_body};
use shardline_tests::prometheus::{Prometheus, promtool, root};
use shardline_tests::wait;
use shardline_tests::world::World;

const PATIENCE: Duration = Duration::from_secs(90);
/// Within which a cause has to show everywhere.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);

/// Every query of the dashboards, for the index `copy`.
fn dashboards() -> Result<Vec<String>> {
    let mut queries = Vec::new();
    for file in ["fleet.json", "index.json"] {
        let text = std::fs::read_to_string(root().join("deploy/grafana").join(file))?;
        let board: Value = serde_json::from_str(&text)?;
        let panels = board["panels"].as_array().context("panels")?;
        for target in panels
            .iter()
            .filter_map(|panel| panel["targets"].as_array())
        {
            let expressions = target.iter().filter_map(|target| target["expr"].as_str());
            queries.extend(expressions.map(|query| query.replace("$index", "copy")));
        }
    }
    Ok(queries)
}

/// Writes now and then, until it is dropped.
async fn write(world: &World) -> Result<()> {
    let mut load = Load::new(7, "w");
    loop {
        world.leader.bulk("/books/_bulk", load.bulk(20)).await?;
        tokio::time::sleep(PAUSE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_quiet_and_fire_as_they_should() -> Result<()> {
    promtool(&["check", "rules", "shardline.rules.yml"], "").await?;
    promtool(&["test", "rules", "tests/rules.test.yml"], "").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_shows_everywhere() -> Result<()> {
    let world = World::start().await?;
    let books = Some(index_body(2));
    world.leader.ok("PUT", "/books", books.as_ref()).await?;
    world.follow("books", "copy").await?;
    wait::for_status(&world.gateway, "copy", "SYNCING", PATIENCE).await?;
    let prometheus = Prometheus::start(&world.stack).await?;
    let watched = async {
        healthy(&world, &prometheus).await?;
        for cause in causes() {
            shows(&world, &prometheus, &cause).await?;
        }
        gone(&world, &prometheus).await?;
        anyhow::Ok(())
    };
    tokio::select! {
        written = write(&world) => written?,
        watched = watched => watched?,
    }
    prometheus.stop().await?;
    world.stop().await
}

async fn healthy(world: &World, prometheus: &Prometheus) -> Result<()> {
    for query in dashboards()? {
        wait::until(&query, PATIENCE, async || {
            world.gateway.get("/copy/_search").await?;
            let samples = prometheus.query(&query).await?;
            Ok(if samples.is_empty() {
                Err("no data".to_owned())
            } else {
                Ok(())
            })
        })
        .await?;
    }
    let ports = world.stack.ports();
    for admin in [ports.leader_agents[0], ports.follower_agents[0].admin] {
        let text = reqwest::get(format!("http://127.0.0.1:{admin}/metrics")).await?;
        let said = promtool(&["check", "metrics"], &text.text().await?).await?;
        ensure!(said.is_empty(), "promtool check metrics: {said}");
    }
    let alerts = prometheus.query("ALERTS").await?;
    ensure!(alerts.is_empty(), "alerts of a healthy pair: {alerts:?}");
    Ok(())
}

type Act = for<'a> fn(&'a World) -> BoxFuture<'a, Result<()>>;

/// Something that is in the way, how it comes and how it goes.
struct Cause {
    name: &'static str,
    begin: Act,
    end: Act,
}

async fn set_block(world: &World, value: Value) -> Result<()> {
    let body = json!({"index.blocks.write": value});
    let settings = world.follower.ok("PUT", "/copy/_settings", Some(&body));
    settings.await.map(drop)
}

fn causes() -> Vec<Cause> {
    vec![
        Cause {
            name: "follower_cluster_blocked",
            begin: |world| set_block(world, json!(true)).boxed(),
            end: |world| set_block(world, Value::Null).boxed(),
        },
        Cause {
            name: "follower_index_closed",
            begin: |world| {
                let closed = world.follower.ok("POST", "/copy/_close", None);
                closed.map(|closed| closed.map(drop)).boxed()
            },
            end: |world| {
                let opened = world.follower.ok("POST", "/copy/_open", None);
                opened.map(|opened| opened.map(drop)).boxed()
            },
        },
        Cause {
            name: "leader_agent_silent",
            begin: |world| async { world.stack.process("leader-agent-1")?.kill().await }.boxed(),
            end: |world| world.stack.restart("leader-agent-1").boxed(),
        },
        Cause {
            name: "follower_cluster_away",
            begin: |world| async { world.stack.process("follower-1")?.kill().await }.boxed(),
            end: |world| world.stack.restart("follower-1").boxed(),
        },
        Cause {
            name: "kafka_away",
            begin: |world| async { world.stack.process("kafka-1")?.kill().await }.boxed(),
            end: |world| world.stack.restart("kafka-1").boxed(),
        },
    ]
}

/// The causes that the status names.
fn told(status: &Value) -> BTreeSet<&str> {
    let shards = status["held_up"].as_array().into_iter().flatten();
    let whole = std::iter::once(&status["standstill"]);
    let causes = shards.chain(whole);
    causes.filter_map(|why| why["cause"].as_str()).collect()
}

/// A cause shows in the status, on the command line, as a metric and as an alert that is pending;
/// and in none of them once it has ended.
async fn shows(world: &World, prometheus: &Prometheus, cause: &Cause) -> Result<()> {
    let name = cause.name;
    (cause.begin)(world).await.context(name)?;
    let metric = format!("shardline_follower_standstill{{index=\"copy\",cause=\"{name}\"}}");
    let alert = format!("ALERTS{{alertname=\"ShardlineStandstill\",cause=\"{name}\"}}");
    wait::until(name, SHOWN_WITHIN, async || {
        let status = wait::status(&world.gateway, "copy").await?;
        let series = prometheus.query(&metric).await?;
        let alerts = prometheus.query(&alert).await?;
        let shows = told(&status).contains(name) && !series.is_empty() && !alerts.is_empty();
        Ok(if shows {
            Ok(())
        } else {
            Err(format!("{status} {series:?} {alerts:?}"))
        })
    })
    .await?;
    let printed = ctl_ok(&world.gateway, "status copy").await?;
    ensure!(printed.contains(name), "{name}: {printed}");
    (cause.end)(world).await.context(name)?;
    wait::until(&format!("{name} to end"), PATIENCE, async || {
        let status = wait::status(&world.gateway, "copy").await?;
        let series = prometheus.query("shardline_follower_standstill").await?;
        let is_over = told(&status).is_empty() && series.is_empty();
        Ok(if is_over {
            Ok(())
        } else {
            Err(format!("{status} {series:?}"))
        })
    })
    .await
}

/// The follower index is deleted behind the agent's back: it pauses, and says why.
async fn gone(world: &World, prometheus: &Prometheus) -> Result<()> {
    world.follower.ok("DELETE", "/copy", None).await?;
    wait::until("the index to be paused", SHOWN_WITHIN, async || {
        let status = wait::status(&world.gateway, "copy").await?;
        let query = "ALERTS{alertname=\"ShardlineAutoPaused\",index=\"copy\"}";
        let alerts = prometheus.query(query).await?;
        let reason = status["reason"].as_str().unwrap_or_default();
        let shows = reason.contains("is gone") && !alerts.is_empty();
        Ok(if shows {
            Ok(())
        } else {
            Err(format!("{status} {alerts:?}"))
        })
    })
    .await
}
