//! Deterministic simulation of the control plane: several agents' real code over Kafka and clusters
//! in memory, driven by a seed.
//!
//! `SHARDLINE_SIM_SEED` runs one seed, and with `SHARDLINE_SIM_TRACE` prints what happened;
//! `SHARDLINE_SIM_SECONDS` runs new seeds for that long. What is simulated and checked:
//! `docs/reliability.md`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod agents;
mod chance;
mod checks;
mod cluster;
mod ending;
mod gateways;
mod oracle;
mod plan;
mod rest;
mod runner;
mod sabotage;
mod schedule;
mod users;
mod wire;
mod world;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use runner::{SABOTAGE, SEED, TRACE, process, search};
use sabotage::Sabotage;

/// Seeds of an ordinary run: the same each time.
const SEEDS: u64 = 300;
/// Within as many seeds each sabotage is to be noticed.
const SEEDS_TO_NOTICE: u64 = 300;

fn number_from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some((text.parse()).unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")))
}

fn run_one(seed: u64) {
    let sabotage = std::env::var(SABOTAGE).ok();
    let sabotage = sabotage.map(|name| {
        Sabotage::named(&name).unwrap_or_else(|| panic!("{SABOTAGE} is {name:?}, which is none"))
    });
    let is_traced = std::env::var_os(TRACE).is_some();
    if is_traced {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .init();
    }
    let (run, trace) = runner::run(seed, sabotage, is_traced);
    // A line of its own: the harness has not ended its own yet.
    println!("\n{}", trace.join("\n"));
    println!("{}", runner::tell(&run));
    if let Err(failure) = run {
        panic!("seed {seed}: {}", failure.violation);
    }
}

#[test]
fn schedules_keep_the_invariants() {
    if let Some(seed) = number_from_environment(SEED) {
        return run_one(seed);
    }
    let report = match number_from_environment("SHARDLINE_SIM_SECONDS") {
        Some(seconds) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let time = Some(Duration::from_secs(seconds));
            search(now.as_secs() << 20, u64::MAX, time, None)
        }
        None => search(0, SEEDS, None, None),
    };
    println!("{report}");
    if let Some(failure) = report.failure {
        panic!("{failure}");
    }
}

/// All that happens in a schedule.
fn trace_of(seed: u64) -> Vec<String> {
    let run = process(seed, None).env(TRACE, "1").output().unwrap();
    let said = String::from_utf8(run.stdout).unwrap();
    let lines = said.lines().map(str::to_owned);
    // Behind it stands how long the test took.
    lines
        .take_while(|line| !line.starts_with("test result"))
        .collect()
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [1, 2, 3] {
        let (first, second) = (trace_of(seed), trace_of(seed));
        let differs = first.iter().zip(&second).find(|(one, other)| one != other);
        assert!(differs.is_none(), "seed {seed}: {differs:?}");
        assert!(
            first.len() > 10 && first.len() == second.len(),
            "seed {seed}"
        );
    }
}

fn is_noticed(sabotage: Sabotage) {
    let report = search(0, SEEDS_TO_NOTICE, None, Some(sabotage));
    let failure = report
        .failure
        .unwrap_or_else(|| panic!("{SEEDS_TO_NOTICE} schedules noticed nothing of {sabotage:?}"));
    println!(
        "{sabotage:?} after {} schedules: {}",
        report.schedules, failure.violation
    );
}

#[test]
fn two_agents_that_act_for_one_index_are_noticed() {
    is_noticed(Sabotage::TwoOwners);
}

#[test]
fn a_lease_that_never_ends_is_noticed() {
    is_noticed(Sabotage::EndlessLease);
}

#[test]
fn a_missing_index_taken_for_a_deleted_one_is_noticed() {
    is_noticed(Sabotage::MissingIsDeleted);
}

#[test]
fn a_missing_catalogue_entry_taken_for_a_deletion_is_noticed() {
    is_noticed(Sabotage::LostEntries);
}

#[test]
fn an_agent_that_complies_too_late_is_noticed() {
    is_noticed(Sabotage::ComplyTooEarly);
}

#[test]
fn a_lost_nonce_is_noticed() {
    is_noticed(Sabotage::LostNonce);
}
