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

use super::chance;
use super::sabotage::Sabotage;
use super::schedule::{Failure, Folders, Outcome, Schedule};

/// Folders of agents that a schedule has at most.
const FOLDERS: usize = 6;

/// What schedules need that is made once.
pub struct Runner {
    folder: tempfile::TempDir,
    folders: Folders,
}

impl Runner {
    pub fn new() -> Self {
        // In memory, where there is such a place.
        let memory = Path::new("/dev/shm");
        let made = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let folder = made.expect("a folder can be made");
        let open = |number: usize| {
            let path = folder.path().join(number.to_string());
            CheckpointStore::open(&path).expect("RocksDB can be opened")
        };
        let folders = Folders {
            stores: (0..FOLDERS).map(open).collect(),
            metrics: Arc::new(
                Metrics::register(&Registry::new()).expect("metrics are registered once"),
            ),
        };
        Self { folder, folders }
    }

    /// Runs a schedule on a thread of its own, whose chance is the seed's; gives its trace, too,
    /// if it is wanted.
    pub fn run(
        &self,
        seed: u64,
        sabotage: Option<Sabotage>,
        traced: bool,
    ) -> (Result<Outcome, Failure>, Vec<String>) {
        debug_assert!(self.folder.path().exists());
        let folders = self.folders.clone();
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
        let ended = thread.expect("a thread can be made").join();
        match ended {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) | Err(panic) => {
                let said = panic.downcast_ref::<String>().cloned();
                let said =
                    said.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                let violation = format!("panic: {}", said.unwrap_or_default());
                (Err(Failure { violation }), Vec::new())
            }
        }
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
            "seed {}: {}\nreplay: SHARDLINE_SIM_SEED={} cargo test --package shardline-simulation --test control schedules",
            self.seed, self.violation, self.seed
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
                    match runner.run(seed, sabotage, false).0 {
                        Ok(outcome) => {
                            let mut total = total.lock();
                            total.calls += outcome.calls;
                            total.faults += outcome.faults;
                        }
                        Err(Failure { violation }) => {
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
    let Outcome { calls, faults } = total.into_inner();
    Report {
        schedules: next.load(Relaxed).min(count),
        calls,
        faults,
        took: started.elapsed(),
        failure: failure.into_inner(),
    }
}
