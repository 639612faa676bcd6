//! Runs schedules, each in a process of its own and as many at once as there are cores, and reports
//! the first that goes wrong.
//!
//! A process of its own, because tokio counts the runtimes of a process, and what `select!` looks
//! at first follows from that: so a seed goes the same way whatever ran before it.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fastrand::Rng;
use follower_agent::{CheckpointStore, Metrics};
use parking_lot::Mutex;
use prometheus::Registry;

use super::chance;
use super::plan::Plan;
use super::sabotage::Sabotage;
use super::schedule::{Failure, Folders, Outcome, Schedule};

/// The test that runs one seed in its process, and what it is told.
const ONE: &str = "schedules_keep_the_invariants";
pub const SEED: &str = "SHARDLINE_SIM_SEED";
pub const SABOTAGE: &str = "SHARDLINE_SIM_SABOTAGE";
/// Set: all that happens is printed.
pub const TRACE: &str = "SHARDLINE_SIM_TRACE";
/// How the line begins that says what came of it.
const KEPT: &str = "kept: ";
const BROKEN: &str = "broken: ";

/// Runs a schedule on a thread of its own, whose chance is the seed's; gives its trace, too, if it
/// is wanted.
pub fn run(
    seed: u64,
    sabotage: Option<Sabotage>,
    traced: bool,
) -> (Result<Outcome, Failure>, Vec<String>) {
    // In memory, where there is such a place.
    let memory = Path::new("/dev/shm");
    let made = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    let folder = made.expect("a folder can be made");
    let plan = Plan::draw(&mut Rng::with_seed(seed), sabotage);
    let open = |number: usize| {
        let path = folder.path().join(number.to_string());
        CheckpointStore::open(&path).expect("RocksDB can be opened")
    };
    let metrics = Metrics::register(&Registry::new()).expect("metrics are registered once");
    let folders = Folders {
        stores: (0..plan.followers * plan.agents).map(open).collect(),
        metrics: Arc::new(metrics),
    };
    let schedule = move || {
        chance::seed(seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        let local = tokio::task::LocalSet::new();
        let schedule = async {
            chance::begin_clock();
            Schedule::new(seed, folders, sabotage, traced).run().await
        };
        local.block_on(&runtime.expect("a runtime can be made"), schedule)
    };
    let caught = move || std::panic::catch_unwind(AssertUnwindSafe(schedule));
    let thread = std::thread::Builder::new()
        .stack_size(8 << 20)
        .spawn(caught);
    match thread.expect("a thread can be made").join() {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) | Err(panic) => {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let violation = format!("panic: {}", said.unwrap_or_default());
            (Err(Failure { violation }), Vec::new())
        }
    }
}

/// What the process of one seed says of it.
pub fn tell(run: &Result<Outcome, Failure>) -> String {
    match run {
        Ok(Outcome { calls, faults }) => format!("{KEPT}{calls} {faults}"),
        Err(Failure { violation }) => format!("{BROKEN}{}", violation.replace('\n', " ")),
    }
}

/// A process that runs one seed.
pub fn process(seed: u64, sabotage: Option<Sabotage>) -> Command {
    let mut process = Command::new(std::env::current_exe().expect("this executable is known"));
    process
        .args(["--exact", ONE, "--nocapture"])
        .env(SEED, seed.to_string())
        .env("RUST_BACKTRACE", "0")
        .env_remove(TRACE)
        .env_remove(SABOTAGE);
    if let Some(sabotage) = sabotage {
        process.env(SABOTAGE, format!("{sabotage:?}"));
    }
    process
}

fn run_in_process(seed: u64, sabotage: Option<Sabotage>) -> Result<Outcome, Failure> {
    let ended = process(seed, sabotage).output();
    let said = ended.expect("a process can be started").stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    let number = |text: Option<&str>| text?.parse().ok();
    for line in said.lines() {
        if let Some(counts) = line.strip_prefix(KEPT) {
            let mut counts = counts.split(' ');
            if let (Some(calls), Some(faults)) = (number(counts.next()), number(counts.next())) {
                return Ok(Outcome { calls, faults });
            }
        } else if let Some(violation) = line.strip_prefix(BROKEN) {
            let violation = violation.to_owned();
            return Err(Failure { violation });
        }
    }
    let violation = format!("its process ended without a word: {said}");
    Err(Failure { violation })
}

/// The first schedule that went wrong.
pub struct Found {
    pub seed: u64,
    pub violation: String,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, violation } = self;
        write!(
            f,
            "seed {seed}: {violation}\nreplay: {TRACE}=1 {SEED}={seed} cargo test --package \
             shardline-simulation --test control {ONE} -- --nocapture"
        )
    }
}

pub struct Report {
    pub schedules: u64,
    calls: u64,
    faults: u64,
    took: Duration,
    pub failure: Option<Found>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} schedules in {:.0?}: {} calls, {} faults",
            self.schedules, self.took, self.calls, self.faults
        )
    }
}

/// Runs seeds from `first` on, until one fails, `count` are done or the time is over. With a
/// sabotage, until one fails by that.
pub fn search(
    first: u64,
    count: u64,
    time: Option<Duration>,
    sabotage: Option<Sabotage>,
) -> Report {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (total, failure) = (Mutex::new(Outcome::default()), Mutex::new(None::<Found>));
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        while !stop.load(Relaxed) && time.is_none_or(|time| started.elapsed() < time) {
            let number = next.fetch_add(1, Relaxed);
            if number >= count {
                return;
            }
            let seed = first + number;
            match run_in_process(seed, sabotage) {
                Ok(outcome) => {
                    let mut total = total.lock();
                    total.calls += outcome.calls;
                    total.faults += outcome.faults;
                }
                Err(Failure { violation }) => {
                    if sabotage.is_some_and(|sabotage| !sabotage.is_told_by(&violation)) {
                        continue;
                    }
                    stop.store(true, Relaxed);
                    let mut failure = failure.lock();
                    if failure.as_ref().is_none_or(|found| found.seed > seed) {
                        *failure = Some(Found { seed, violation });
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let Outcome { calls, faults } = total.into_inner();
    Report {
        schedules: next.load(Relaxed).min(count),
        calls,
        faults,
        took: started.elapsed(),
        failure: failure.into_inner(),
    }
}
