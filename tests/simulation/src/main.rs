//! Deterministic simulation: the agents' real code against a simulated leader, log and follower
//! index, driven by a seed.
//!
//! `SHARDLINE_SIM_SEED` runs one seed and prints what happened; `SHARDLINE_SIM_SECONDS` runs new
//! seeds for that long. What is simulated and checked: `docs/reliability.md`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod calls;
mod check;
mod events;
mod files;
mod follower_side;
mod group;
mod index;
mod leader_agents;
mod leader_rest;
mod letters;
mod log;
mod place;
mod plan;
mod runner;
mod sabotage;
mod schedule;
mod world;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use runner::{Runner, number_from_environment, search};
use sabotage::Sabotage;

/// Seeds of an ordinary run: the same each time.
const SEEDS: u64 = 3_000;
/// Within as many seeds each sabotage is to be noticed.
const SEEDS_TO_NOTICE: u64 = 4_000;
/// For the one that needs an old write to arrive behind a deletion.
const SEEDS_TO_NOTICE_FORGETTING: u64 = 30_000;

#[test]
fn schedules_keep_the_invariants() {
    if let Some(seed) = number_from_environment("SHARDLINE_SIM_SEED") {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .init();
        let run = Runner::new().run(seed, None, true);
        match run {
            Ok(outcome) => println!("seed {seed}: {outcome:?}"),
            Err(failure) => panic!(
                "seed {seed}\n{}\n{}",
                failure.trace.join("\n"),
                failure.violation
            ),
        }
        return;
    }
    let report = match number_from_environment("SHARDLINE_SIM_SECONDS") {
        Some(seconds) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            search(
                now.as_secs() << 20,
                u64::MAX,
                Some(Duration::from_secs(seconds)),
                None,
            )
        }
        None => search(0, SEEDS, None, None),
    };
    println!("{report}");
    if let Some(failure) = report.failure {
        panic!("{failure}");
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [1, 2, 3] {
        let (first, second) = (Runner::new().trace(seed), Runner::new().trace(seed));
        assert!(
            first.len() > 100 && first == second,
            "seed {seed} went differently the second time"
        );
    }
}

fn is_noticed(sabotage: Sabotage) {
    let seeds = if sabotage == Sabotage::ForgottenTombstones {
        SEEDS_TO_NOTICE_FORGETTING
    } else {
        SEEDS_TO_NOTICE
    };
    let report = search(0, seeds, None, Some(sabotage));
    let failure = report
        .failure
        .unwrap_or_else(|| panic!("{seeds} schedules noticed nothing of {sabotage:?}"));
    println!(
        "{sabotage:?} after {} schedules: {}",
        report.schedules, failure.violation
    );
}

#[test]
fn shipping_above_the_global_checkpoint_is_noticed() {
    is_noticed(Sabotage::AboveGlobalCheckpoint);
}

#[test]
fn a_skipped_term_check_is_noticed() {
    is_noticed(Sabotage::NoTerms);
}

#[test]
fn dropped_metadata_is_noticed() {
    is_noticed(Sabotage::NoMetadata);
}

#[test]
fn records_taken_for_delivered_are_noticed() {
    is_noticed(Sabotage::ShippedBeforeDelivered);
}

#[test]
fn a_checkpoint_before_its_writes_is_noticed() {
    is_noticed(Sabotage::CommitBeforeWrite);
}

#[test]
fn the_leaders_versions_are_noticed() {
    is_noticed(Sabotage::LeaderVersion);
}

#[test]
fn forgotten_deletions_are_noticed() {
    is_noticed(Sabotage::ForgottenTombstones);
}

#[test]
fn a_conflict_with_somebody_elses_write_is_noticed() {
    is_noticed(Sabotage::AnyConflictIsApplied);
}

#[test]
fn a_forgotten_dead_letter_is_noticed() {
    is_noticed(Sabotage::ForgottenDeadLetter);
}

#[test]
fn an_operation_driven_again_is_noticed() {
    is_noticed(Sabotage::RedrivenOperation);
}
