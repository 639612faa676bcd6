//! What an agent's shards may have on its way to Kafka together. What Kafka does not take for a
//! while is counted apart, so that partitions that are stuck do not take the room of the others.
//!
//! A partition without a leader, or with too few in-sync replicas, keeps its records in
//! librdkafka's queue until it takes them: they cannot be taken back one by one. So their number is
//! kept small instead. A partition with a batch that is late gets no other one; and while any is
//! late, a partition of which nothing has arrived of late has to show that it takes a small record
//! first (see [`Partition::is_doubted`]).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{AcquireError, Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How much may be on its way, in KiB. One larger batch takes all of it.
const IN_FLIGHT_KIB_MAX: u32 = 12 * 1024;
/// How much of it may be late without taking room from the rest, in KiB. What is late and on its
/// way together is below `queue.buffering.max.kbytes`.
const LATE_KIB_MAX: usize = 96 * 1024;
/// After this a batch is late.
pub(super) const LATE_AFTER: Duration = Duration::from_secs(5);
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The room that batches take until Kafka has them.
#[derive(Clone)]
pub(super) struct Budget(Arc<Shared>);

struct Shared {
    in_time: Arc<Semaphore>,
    late: Arc<Semaphore>,
    /// In the order in which they were handed over.
    batches: Mutex<VecDeque<Weak<Batch>>>,
    /// Batches that are late now.
    late_batches: AtomicUsize,
}

/// A batch on its way; it is dropped when Kafka has all of it, or has refused it.
pub(super) struct Batch {
    kib: u32,
    handed_over: Instant,
    is_late: AtomicBool,
    room: Mutex<Option<OwnedSemaphorePermit>>,
    partition: Arc<State>,
    shared: Arc<Shared>,
}

/// One partition, as a session that sends to it knows it.
#[derive(Clone)]
pub(super) struct Partition {
    state: Arc<State>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct State {
    late: AtomicUsize,
    /// When a batch has arrived last.
    arrived: Mutex<Option<Instant>>,
    changed: Notify,
}

impl Budget {
    /// Batches are looked at until the last clone is gone.
    pub(super) fn start() -> Self {
        let shared = Arc::new(Shared {
            in_time: Arc::new(Semaphore::new(IN_FLIGHT_KIB_MAX as usize)),
            late: Arc::new(Semaphore::new(LATE_KIB_MAX)),
            batches: Mutex::default(),
            late_batches: AtomicUsize::new(0),
        });
        let watched = Arc::downgrade(&shared);
        tokio::spawn(async move {
            while let Some(shared) = watched.upgrade() {
                shared.note_late();
                drop(shared);
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        });
        Self(shared)
    }

    pub(super) fn partition(&self) -> Partition {
        Partition {
            state: Arc::default(),
            shared: Arc::clone(&self.0),
        }
    }
}

impl Partition {
    /// Waits for room for a batch, and for the partition to take what is late. A batch takes its
    /// room until it is dropped, whether or not anybody waits for that: so shards that hold parts
    /// of the budget never wait for each other.
    pub(super) async fn room_for(&self, bytes: usize) -> Result<Arc<Batch>, AcquireError> {
        self.until_in_time().await;
        let kib = u32::try_from(bytes.div_ceil(1024))
            .unwrap_or(IN_FLIGHT_KIB_MAX)
            .min(IN_FLIGHT_KIB_MAX);
        let room = Arc::clone(&self.shared.in_time)
            .acquire_many_owned(kib)
            .await?;
        let batch = Arc::new(Batch {
            kib,
            handed_over: Instant::now(),
            is_late: AtomicBool::new(false),
            room: Mutex::new(Some(room)),
            partition: Arc::clone(&self.state),
            shared: Arc::clone(&self.shared),
        });
        let mut batches = self.shared.batches.lock();
        while batches
            .front()
            .is_some_and(|batch| batch.strong_count() == 0)
        {
            batches.pop_front();
        }
        batches.push_back(Arc::downgrade(&batch));
        Ok(batch)
    }

    /// Whether a batch of this partition is late.
    pub(super) fn is_late(&self) -> bool {
        self.state.late.load(Relaxed) > 0
    }

    /// Whether this partition may be as stuck as others are: nothing has arrived there of late.
    pub(super) fn is_doubted(&self) -> bool {
        let has_arrived = |at: Instant| at.elapsed() < LATE_AFTER;
        self.shared.late_batches.load(Relaxed) > 0
            && !self.state.arrived.lock().is_some_and(has_arrived)
    }

    async fn until_in_time(&self) {
        loop {
            let changed = self.state.changed.notified();
            if !self.is_late() {
                return;
            }
            changed.await;
        }
    }
}

impl Shared {
    fn note_late(&self) {
        let due: Vec<Weak<Batch>> = {
            let mut batches = self.batches.lock();
            let is_due = |batch: &Weak<Batch>| {
                batch
                    .upgrade()
                    .is_none_or(|batch| batch.handed_over.elapsed() >= LATE_AFTER)
            };
            let until = batches.iter().take_while(|batch| is_due(batch)).count();
            batches.drain(..until).collect()
        };
        let without_room = due
            .into_iter()
            .filter(|batch| batch.upgrade().is_some_and(|batch| !batch.note_late()));
        for batch in without_room.collect::<Vec<_>>().into_iter().rev() {
            self.batches.lock().push_front(batch);
        }
    }
}

impl Batch {
    /// Counts the batch as late; whether there was room for it among these.
    fn note_late(&self) -> bool {
        if !self.is_late.swap(true, Relaxed) {
            self.partition.late.fetch_add(1, Relaxed);
            self.shared.late_batches.fetch_add(1, Relaxed);
        }
        let room = Arc::clone(&self.shared.late).try_acquire_many_owned(self.kib);
        let has_room = room.is_ok();
        if let Ok(room) = room {
            *self.room.lock() = Some(room);
        }
        has_room
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        *self.partition.arrived.lock() = Some(Instant::now());
        if *self.is_late.get_mut() {
            self.partition.late.fetch_sub(1, Relaxed);
            self.shared.late_batches.fetch_sub(1, Relaxed);
        }
        self.partition.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const ALL: usize = IN_FLIGHT_KIB_MAX as usize * 1024;

    #[tokio::test(start_paused = true)]
    async fn what_is_late_leaves_its_room_to_other_partitions() {
        let budget = Budget::start();
        let (stuck, well) = (budget.partition(), budget.partition());
        let late = stuck.room_for(ALL).await.unwrap();
        assert!(well.room_for(1).now_or_never().is_none());
        let small = tokio::time::timeout(LATE_AFTER * 2, well.room_for(1)).await;
        assert!(small.is_ok() && stuck.is_late() && !well.is_late());
        // The stuck one gets no more, and one that nothing is known of has to show itself.
        let other = budget.partition();
        assert!(stuck.room_for(1).now_or_never().is_none() && other.is_doubted());
        drop(small);
        assert!(!well.is_doubted() && stuck.is_doubted());
        drop(late);
        assert!(!stuck.is_late() && !other.is_doubted());
        assert!(stuck.room_for(ALL).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_late_is_bounded() {
        let budget = Budget::start();
        let mut late = Vec::new();
        for _ in 0..=LATE_KIB_MAX / IN_FLIGHT_KIB_MAX as usize {
            let partition = budget.partition();
            let batch = tokio::time::timeout(LATE_AFTER * 2, partition.room_for(ALL)).await;
            late.push(batch.unwrap().unwrap());
        }
        let well = budget.partition();
        let waits = tokio::time::timeout(LATE_AFTER * 10, well.room_for(1)).await;
        assert!(waits.is_err());
        late.pop();
        assert!(well.room_for(1).now_or_never().is_some());
    }
}
