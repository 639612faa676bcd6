//! Runs schedules, on as many threads as there are cores, and reports the first that goes wrong.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use follower_agent::{CheckpointStore, Metrics};
use parking_lot::Mutex;
use prometheus::Registry;

use crate::sabotage::Sabotage;
use crate::schedule::{Failure, Outcome, Schedule};

/// What schedules need that is made once.
pub struct Runner {
    folder: tempfile::TempDir,
    store: CheckpointStore,
    metrics: Arc<Metrics>,
}

impl Runner {
    pub fn new() -> Self {
        // In memory, where there is such a place: schedules make many small files.
        let memory = Path::new("/dev/shm");
        let made = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let folder = made.expect("a folder can be made");
        let store = CheckpointStore::open(&folder.path().join("checkpoints"))
            .expect("RocksDB can be opened");
        let metrics =
            Arc::new(Metrics::register(&Registry::new()).expect("metrics are registered once"));
        Self {
            folder,
            store,
            metrics,
        }
    }

    pub fn run(
        &self,
        seed: u64,
        sabotage: Option<Sabotage>,
        traced: bool,
    ) -> Result<Outcome, Failure> {
        let folder = self.folder.path().join(seed.to_string());
        let schedule = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build();
            runtime.expect("a runtime can be made").block_on(async {
                Schedule::new(
                    seed,
                    &folder,
                    self.store.clone(),
                    Arc::clone(&self.metrics),
                    sabotage,
                    traced,
                )
                .run()
                .await
            })
        };
        let outcome =
            std::panic::catch_unwind(AssertUnwindSafe(schedule)).unwrap_or_else(|panic| {
                let said = panic.downcast_ref::<String>().cloned();
                let said =
                    said.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                Err(Failure {
                    violation: format!("panic: {}", said.unwrap_or_default()),
                    trace: Vec::new(),
                })
            });
        let _ = std::fs::remove_dir_all(folder);
        outcome
    }

    /// Everything that happened in a schedule.
    pub fn trace(&self, seed: u64) -> Vec<String> {
        let folder = self.folder.path().join(seed.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        runtime.expect("a runtime can be made").block_on(async {
            let schedule = Schedule::new(
                seed,
                &folder,
                self.store.clone(),
                Arc::clone(&self.metrics),
                None,
                true,
            );
            schedule.traced().await
        })
    }
}

/// The first schedule that went wrong.
pub struct Found {
    pub seed: u64,
    pub violation: String,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: {}\nreplay: SHARDLINE_SIM_SEED={} cargo test --package shardline-simulation schedules",
            self.seed, self.violation, self.seed
        )
    }
}

pub struct Report {
    pub schedules: u64,
    total: Outcome,
    took: Duration,
    pub failure: Option<Found>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome {
            operations,
            copies,
            foreign_writes_noticed,
            faults,
        } = self.total;
        write!(
            f,
            "{} schedules in {:.0?}: {operations} operations, {faults} faults, {copies} copies, {foreign_writes_noticed} \
             foreign writes noticed",
            self.schedules, self.took
        )
    }
}

/// Runs seeds from `first` on, until one fails, `count` are done or the time is over.
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
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let runner = Runner::new();
                while !stop.load(Relaxed) && time.is_none_or(|time| started.elapsed() < time) {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= count {
                        return;
                    }
                    let seed = first + number;
                    match runner.run(seed, sabotage, false) {
                        Ok(outcome) => total.lock().add(outcome),
                        Err(Failure { violation, .. }) => {
                            stop.store(true, Relaxed);
                            let mut failure = failure.lock();
                            if failure.as_ref().is_none_or(|found| found.seed > seed) {
                                *failure = Some(Found { seed, violation });
                            }
                        }
                    }
                }
            });
        }
    });
    let schedules = next.load(Relaxed).min(count);
    Report {
        schedules,
        total: total.into_inner(),
        took: started.elapsed(),
        failure: failure.into_inner(),
    }
}

pub fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, not a number"))
    })
}
