//! What several shards may do at the same time, so that an agent's memory does not grow with their
//! number.

use shardline_common::late::noticing;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Shards whose translogs are read, a batch each, until Kafka's queue has it.
const TRANSLOG_READS_MAX: usize = 8;
/// Shards that are scanned, a page each, until Kafka's queue has it.
const SCAN_PAGES_MAX: usize = 8;

/// Whoever waits gets a turn in the order of asking.
pub struct FetchTurns {
    reads: Semaphore,
    pages: Semaphore,
}

/// One turn, which ends when it is dropped.
pub(crate) struct Turn<'a>(Option<SemaphorePermit<'a>>);

impl FetchTurns {
    /// A turn to read a translog, if one is free at this time.
    pub(super) fn try_read(&self) -> Option<Turn<'_>> {
        self.reads
            .try_acquire()
            .ok()
            .map(|permit| Turn(Some(permit)))
    }

    pub(crate) async fn read(&self) -> Turn<'_> {
        Turn(self.reads.acquire().await.ok())
    }

    pub(crate) async fn page(&self) -> Turn<'_> {
        Turn(self.pages.acquire().await.ok())
    }
}

impl Turn<'_> {
    pub(crate) fn end(&mut self) {
        self.0 = None;
    }

    /// Does what the turn is for. It ends if that takes long: Kafka or the cluster may not answer,
    /// and others may be able to go on.
    pub(crate) async fn through<T>(&mut self, work: impl Future<Output = T>) -> T {
        noticing(work, || self.end()).await
    }
}

impl Default for FetchTurns {
    fn default() -> Self {
        Self {
            reads: Semaphore::new(TRANSLOG_READS_MAX),
            pages: Semaphore::new(SCAN_PAGES_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::pin;
    use std::time::Duration;

    use futures::FutureExt;
    use futures::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_long_for_others_gives_the_turn_back() {
        let turns = FetchTurns::default();
        let stuck = async || turns.read().await.through(pending::<()>()).await;
        let mut all_stuck = pin!(join_all((0..TRANSLOG_READS_MAX).map(|_| stuck())));
        assert!(all_stuck.as_mut().now_or_never().is_none());
        assert!(turns.try_read().is_none());
        assert!(
            tokio::time::timeout(Duration::from_secs(10), all_stuck.as_mut())
                .await
                .is_err()
        );
        assert!(turns.try_read().is_some());
    }
}
