//! What several shards may do at the same time, so that an agent's memory, and what it asks of its node, does not grow with
//! their number.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Shards whose translogs are read, a batch each, until Kafka's queue has it.
const READS: usize = 8;
/// Shards that are scanned. Copies take long and wait for each other; a resync, with which a followed shard stands still, does
/// not wait for them.
const SNAPSHOTS: usize = 8;
const RESYNCS: usize = 8;

/// Whoever waits gets a turn in the order of asking.
pub struct Turns {
    reads: Semaphore,
    snapshots: Semaphore,
    resyncs: Semaphore,
}

/// Ends when it is dropped.
pub type Turn<'a> = Option<SemaphorePermit<'a>>;

impl Turns {
    /// Unless others have all turns at this time.
    pub fn try_read(&self) -> Turn<'_> {
        self.reads.try_acquire().ok()
    }

    pub async fn read(&self) -> Turn<'_> {
        self.reads.acquire().await.ok()
    }

    pub async fn snapshot(&self) -> Turn<'_> {
        self.snapshots.acquire().await.ok()
    }

    pub async fn resync(&self) -> Turn<'_> {
        self.resyncs.acquire().await.ok()
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self { reads: Semaphore::new(READS), snapshots: Semaphore::new(SNAPSHOTS), resyncs: Semaphore::new(RESYNCS) }
    }
}
