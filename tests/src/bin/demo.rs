//! `make demo`: the documented walk-through on real servers, with the calls that a user would type,
//! then a load that is compared document by document.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail, ensure};
use clap::Parser;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use shardline_dev::{BasePorts, Lifetime, Ports, Stack, StackOptions};
use shardline_tests::client::Client;
use shardline_tests::compare::compare;
use shardline_tests::load::{Load, by_query, index_body};
use shardline_tests::wait;

const LOAD_DOCUMENTS: u64 = 100_000;
const BULK: u64 = 1_000;
const PROBES: usize = 100;
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Parser)]
struct Arguments {
    /// Leave everything running at the end.
    #[arg(long)]
    keep: bool,
    /// Where data, logs and endpoints.json go.
    #[arg(long, default_value = "deploy/dev/run")]
    run_dir: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let lifetime = if arguments.keep {
        Lifetime::Detached
    } else {
        Lifetime::Owned
    };
    let ports = Ports::Fixed(BasePorts::default());
    title("Starting Kafka, two OpenSearch clusters and both agents");
    if shardline_dev::Endpoints::read(&arguments.run_dir)?.is_none() && arguments.run_dir.exists() {
        shardline_dev::wipe(&arguments.run_dir)?;
    }
    let options = StackOptions {
        ports,
        lifetime,
        ..StackOptions::new(&arguments.run_dir)
    };
    let stack = tokio::select! {
        stack = Stack::start(options) => stack?,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    };
    for process in stack.processes() {
        println!("  {:<18} {}", process.name(), process.url());
    }
    let outcome = tokio::select! {
        outcome = show(&stack) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    if outcome.is_ok() && arguments.keep {
        title("Left running");
        println!("  gateway and replication API  {}", stack.gateway_url());
        println!("  leader cluster               {}", stack.leader_url());
        println!(
            "  web page                     http://127.0.0.1:{}/",
            stack.ports().follower_agents[0].admin
        );
        println!("  stop it with                 deploy/dev/down --wipe");
        return Ok(());
    }
    stack.stop().await?;
    outcome
}

async fn show(stack: &Stack) -> Result<()> {
    let demo = Demo {
        leader: Client::new(stack.leader_url())?,
        gateway: Client::new(stack.gateway_url())?,
        transport: format!("127.0.0.1:{}", stack.ports().leader[0].transport),
    };
    demo.walk_through().await?;
    demo.idle_lag().await?;
    demo.load().await
}

struct Demo {
    leader: Client,
    gateway: Client,
    transport: String,
}

impl Demo {
    async fn walk_through(&self) -> Result<()> {
        let (leader, gateway) = (&self.leader, &self.gateway);
        title("The follower cluster learns of the leader");
        let alias = json!({"persistent": {"cluster": {"remote": {"my-connection-alias": {"seeds": [self.transport]}}}}});
        curl(gateway, "PUT", "/_cluster/settings", Some(alias), 200).await?;
        println!("  {}", first_call());

        title("An index on the leader, followed");
        curl(leader, "PUT", "/leader-01", None, 200).await?;
        let start = json!({"leader_alias": "my-connection-alias", "leader_index": "leader-01"});
        curl(
            gateway,
            "PUT",
            "/_plugins/_replication/follower-01/_start",
            Some(start),
            200,
        )
        .await?;
        let status = curl(
            gateway,
            "GET",
            "/_plugins/_replication/follower-01/_status",
            None,
            200,
        )
        .await?;
        expect(&status["syncing_details"]["leader_checkpoint"], &json!(-1))?;

        title("A document written to the leader is read from the follower");
        curl(
            leader,
            "PUT",
            "/leader-01/_doc/1",
            Some(json!({"The Shining": "Stephen King"})),
            201,
        )
        .await?;
        wait::caught_up(leader, "leader-01", gateway, "follower-01", PATIENCE).await?;
        let document = curl(gateway, "GET", "/follower-01/_doc/1", None, 200).await?;
        expect(
            &document["_source"],
            &json!({"The Shining": "Stephen King"}),
        )?;

        title("The follower index is read-only");
        curl(
            gateway,
            "PUT",
            "/follower-01/_doc/2",
            Some(json!({"It": "Stephen King"})),
            403,
        )
        .await?;

        title("Paused, the leader is written on");
        curl(
            gateway,
            "POST",
            "/_plugins/_replication/follower-01/_pause",
            Some(json!({})),
            200,
        )
        .await?;
        curl(
            leader,
            "PUT",
            "/leader-01/_doc/2",
            Some(json!({"It": "Stephen King"})),
            201,
        )
        .await?;
        let status = curl(
            gateway,
            "GET",
            "/_plugins/_replication/follower-01/_status",
            None,
            200,
        )
        .await?;
        expect(&status["status"], &json!("PAUSED"))?;
        curl(gateway, "GET", "/follower-01/_doc/2", None, 404).await?;

        title("Resumed, the follower catches up");
        curl(
            gateway,
            "POST",
            "/_plugins/_replication/follower-01/_resume",
            Some(json!({})),
            200,
        )
        .await?;
        wait::caught_up(leader, "leader-01", gateway, "follower-01", PATIENCE).await?;
        curl(gateway, "GET", "/follower-01/_doc/2", None, 200).await?;

        title("Stopped, it is an ordinary index");
        curl(
            gateway,
            "POST",
            "/_plugins/_replication/follower-01/_stop",
            Some(json!({})),
            200,
        )
        .await?;
        let status = curl(
            gateway,
            "GET",
            "/_plugins/_replication/follower-01/_status",
            None,
            200,
        )
        .await?;
        expect(&status["status"], &json!("REPLICATION NOT IN PROGRESS"))?;
        curl(
            gateway,
            "PUT",
            "/follower-01/_doc/3",
            Some(json!({"Carrie": "Stephen King"})),
            201,
        )
        .await?;
        Ok(())
    }

    async fn follow(&self, index: &str, body: &Value) -> Result<()> {
        self.leader
            .ok("PUT", &format!("/{index}"), Some(body))
            .await?;
        let start = json!({"leader_alias": "my-connection-alias", "leader_index": index});
        self.gateway
            .ok(
                "PUT",
                &format!("/_plugins/_replication/{index}/_start"),
                Some(&start),
            )
            .await?;
        Ok(())
    }

    async fn idle_lag(&self) -> Result<()> {
        title("Lag of single documents on an idle pair of two shards");
        let index = "quiet";
        let mapping = json!({"mappings": {"properties": {"n": {"type": "long"}}}, "settings": {"number_of_shards": 2}});
        self.follow(index, &mapping).await?;
        let mut lag = Histogram::<u64>::new(3)?;
        for n in 0..PROBES {
            tokio::time::sleep(Duration::from_millis(50)).await;
            lag.record(self.probe(index, &format!("p{n}"), json!({"n": n})).await?)?;
        }
        println!("  {PROBES} documents: {}", quantiles(&lag));
        Ok(())
    }

    /// Microseconds from the leader's answer to the follower's.
    async fn probe(&self, index: &str, id: &str, document: Value) -> Result<u64> {
        self.leader
            .ok("PUT", &format!("/{index}/_doc/{id}"), Some(&document))
            .await?;
        let written = Instant::now();
        let path = format!("/{index}/_doc/{id}?_source=false");
        loop {
            if self.gateway.call("GET", &path, None).await?.0 == 200 {
                return Ok(u64::try_from(written.elapsed().as_micros())?);
            }
            ensure!(
                written.elapsed() < PATIENCE,
                "document {id} did not arrive on the follower"
            );
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }

    async fn load(&self) -> Result<()> {
        title(
            "100,000 log documents on 3 shards, with updates, deletes, routing, and changes by query",
        );
        let index = "logs";
        self.follow(index, &index_body(3)).await?;
        let bar = ProgressBar::new(LOAD_DOCUMENTS);
        bar.set_style(ProgressStyle::with_template(
            "  {wide_bar} {pos}/{len} operations, {per_sec}",
        )?);
        let started = Instant::now();
        let mut lag = Histogram::<u64>::new(3)?;
        let writers = ["a", "b"].map(|prefix| self.write(index, prefix, &bar));
        let probes = async {
            for n in 0u64.. {
                lag.record(
                    self.probe(index, &format!("probe-{n}"), json!({"service": "probe"}))
                        .await?,
                )?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok::<_, anyhow::Error>(())
        };
        tokio::select! {
            written = futures::future::try_join_all(writers) => { written?; }
            failed = probes => failed?,
        }
        by_query(&self.leader, index).await?;
        let written = started.elapsed();
        wait::caught_up(&self.leader, index, &self.gateway, index, PATIENCE).await?;
        let followed = started.elapsed();
        bar.finish();
        println!(
            "  written in {:.1} s, followed after {:.1} s",
            written.as_secs_f64(),
            followed.as_secs_f64()
        );
        println!(
            "  {} single documents written meanwhile: {}",
            lag.len(),
            quantiles(&lag)
        );
        let difference = compare(&self.leader, index, &self.gateway, index).await?;
        println!("  {difference}");
        ensure!(difference.is_equal(), "leader and follower differ");
        Ok(())
    }

    async fn write(&self, index: &str, prefix: &str, bar: &ProgressBar) -> Result<()> {
        let mut load = Load::new(7, prefix);
        for _ in 0..LOAD_DOCUMENTS / 2 / BULK {
            self.leader
                .bulk(&format!("/{index}/_bulk"), load.bulk(BULK))
                .await?;
            bar.inc(BULK);
        }
        Ok(())
    }
}

fn title(text: &str) {
    println!("\n\x1b[1m{text}\x1b[0m");
}

/// Makes a call, and prints it as a user would type it, with the answer.
async fn curl(
    client: &Client,
    method: &str,
    path: &str,
    body: Option<Value>,
    expected: u16,
) -> Result<Value> {
    let data = body
        .as_ref()
        .map(|body| format!(" -H 'Content-Type: application/json' -d '{body}'"))
        .unwrap_or_default();
    println!("$ curl -X{method} '{}{path}'{data}", client.url());
    let (status, answer) = client.call(method, path, body.as_ref()).await?;
    println!("  {status} {answer}");
    std::io::stdout().flush()?;
    ensure!(status == expected, "expected status {expected}");
    Ok(answer)
}

/// How long after `make demo` was typed (`deploy/dev/demo` says when, in seconds since 1970) the
/// first call was answered.
fn first_call() -> String {
    let started = std::env::var("SHARDLINE_DEMO_STARTED")
        .ok()
        .and_then(|seconds| seconds.parse().ok());
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    match started
        .map(Duration::from_secs)
        .and_then(|started| now.checked_sub(started))
    {
        Some(after) => {
            format!(
                "the first call was answered {:.1} minutes after `make demo`",
                after.as_secs_f64() / 60.0
            )
        }
        None => "the first call was answered".into(),
    }
}

fn expect(found: &Value, expected: &Value) -> Result<()> {
    if found != expected {
        bail!("expected {expected}, found {found}");
    }
    Ok(())
}

fn quantiles(lag: &Histogram<u64>) -> String {
    let at = |quantile| lag.value_at_quantile(quantile) as f64 / 1000.0;
    format!(
        "p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        at(0.5),
        at(0.9),
        at(0.99),
        lag.max() as f64 / 1000.0
    )
}
