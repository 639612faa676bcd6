//! One fault at a time under a load that remembers what was acknowledged: what was lost, what came
//! back, what changed places, and how long it took until the follower had everything again.

pub mod clock;
pub mod disk;
pub mod ledger;
pub mod proxy;

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio_util::sync::CancellationToken;

use crate::compare::compare;
use crate::load::index_body;
use crate::wait;
use crate::world::World;
use ledger::Ledger;

/// How long the load runs before the fault and after the recovery.
const QUIET: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(180);
const SHARDS: u32 = 2;

/// Whether the topic is to hold the index's whole history afterwards.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Whole,
    /// Records are gone: followers copy the index anew.
    Cut,
}

/// What a fault did.
#[derive(Default)]
pub struct Outcome {
    pub fault: String,
    pub operations: u64,
    pub lost: usize,
    pub resurrected: usize,
    pub diverged: usize,
    /// Violations of order in the topic, in words.
    pub reordered: Option<String>,
    pub repeated: Option<u64>,
    pub recovery: Duration,
    /// Why there is nothing to tell.
    pub failure: Option<String>,
}

impl Outcome {
    pub const HEADER: &str = "| fault | operations | lost | resurrected | diverged | reordered | repeated in the log | recovery |\n\
                              |---|---|---|---|---|---|---|---|";

    pub fn is_good(&self) -> bool {
        self.failure.is_none()
            && self.reordered.is_none()
            && self.lost + self.resurrected + self.diverged == 0
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(failure) = &self.failure {
            return write!(f, "| {} | **failed**: {failure} |", self.fault);
        }
        let repeated = self
            .repeated
            .map_or_else(|| "copied anew".to_owned(), |repeated| repeated.to_string());
        let reordered = self.reordered.as_deref().unwrap_or("0");
        write!(
            f,
            "| {} | {} | {} | {} | {} | {reordered} | {repeated} | {:.1} s |",
            self.fault,
            self.operations,
            self.lost,
            self.resurrected,
            self.diverged,
            self.recovery.as_secs_f64()
        )
    }
}

/// Follows a new index, writes into it, lets `fault` happen and be over, and looks at what became
/// of everything.
pub async fn trial(
    world: &World,
    number: usize,
    name: &str,
    stream: Stream,
    fault: impl AsyncFnOnce(&World, &str) -> Result<()>,
) -> Outcome {
    match run(world, number, stream, fault).await {
        Ok(outcome) => Outcome {
            fault: name.to_owned(),
            ..outcome
        },
        Err(error) => Outcome {
            fault: name.to_owned(),
            failure: Some(format!("{error:#}")),
            ..Outcome::default()
        },
    }
}

async fn run(
    world: &World,
    number: usize,
    stream: Stream,
    fault: impl AsyncFnOnce(&World, &str) -> Result<()>,
) -> Result<Outcome> {
    let index = format!("fault-{number}");
    let mut body = index_body(SHARDS);
    body["settings"]["number_of_replicas"] = (world.stack.ports().leader.len() - 1).min(1).into();
    world
        .leader
        .ok(
            "PUT",
            &format!("/{index}?wait_for_active_shards=all"),
            Some(&body),
        )
        .await?;
    world.follow(&index, &index).await?;
    wait::for_status(&world.gateway, &index, "SYNCING", PATIENCE).await?;

    let mut ledger = Ledger::new(&world.leader, &index, number as u64);
    let stop = CancellationToken::new();
    let faults = async {
        let _stop = stop.clone().drop_guard();
        tokio::time::sleep(QUIET).await;
        fault(world, &index).await?;
        let healed = Instant::now();
        wait::until("the leader to answer", PATIENCE, async || {
            Ok(world
                .leader
                .get(&format!("/{index}/_stats?level=shards"))
                .await
                .map_err(|error| error.to_string()))
        })
        .await?;
        wait::caught_up(&world.leader, &index, &world.gateway, &index, PATIENCE).await?;
        let recovery = healed.elapsed();
        tokio::time::sleep(QUIET).await;
        Ok::<_, anyhow::Error>(recovery)
    };
    let (recovery, ()) = tokio::join!(faults, ledger.write_until(&stop));
    let recovery = recovery?;
    wait::caught_up(&world.leader, &index, &world.gateway, &index, PATIENCE).await?;

    let kept = ledger.check(&world.follower).await?;
    let difference = compare(&world.leader, &index, &world.follower, &index).await?;
    let (mut reordered, mut repeated) = (None, None);
    if stream == Stream::Whole {
        match world.check_topic(&index).await {
            Ok(report) => repeated = Some(report.repeated),
            Err(error) => reordered = Some(format!("{error:#}")),
        }
    }
    ensure!(ledger.acknowledged() > 0, "nothing was acknowledged");
    world
        .gateway
        .ok(
            "POST",
            &format!("/_plugins/_replication/{index}/_stop"),
            Some(&serde_json::json!({})),
        )
        .await?;
    for client in [&world.leader, &world.follower] {
        client.ok("DELETE", &format!("/{index}"), None).await?;
    }
    Ok(Outcome {
        operations: ledger.acknowledged(),
        lost: kept.lost + difference.missing.len(),
        resurrected: kept.resurrected + difference.extra.len(),
        diverged: kept.other + difference.different.len(),
        reordered,
        repeated,
        recovery,
        ..Outcome::default()
    })
}
