//! Of a partition that is behind, librdkafka keeps megabytes in memory. So these take turns: the
//! others wait, with nothing fetched.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// In bytes, as what a partition has that is not read yet. One that is near its end needs no turn.
pub(super) const NEAR: i64 = 256 * 1024;
pub(super) const FAR_BEHIND: i64 = 4 * 1024 * 1024;
/// How many partitions that are farther behind may be read at the same time.
pub(super) const TURNS: usize = 6;
/// What those between the two may have together when they are opened, in bytes.
const SHORT_TURNS: usize = 64 * 1024 * 1024;
/// With many partitions, one that is followed counts as far behind earlier: together they may be so
/// much behind, in bytes, but each of them at least [`LEAST_FAR`].
const FOLLOWED: i64 = 64 * 1024 * 1024;
pub(super) const LEAST_FAR: i64 = 512 * 1024;
/// What a Kafka record is taken to weigh before the first ones are read, in bytes: operations are
/// packed up to so much (`capture.pack_bytes`). Documents can be larger.
pub(super) const A_RECORD: i64 = 32 * 1024;
/// A record counts for so much of the mean of those before it.
pub(super) const OF_THE_MEAN: i64 = 8;
/// When a turn is over, if others wait. What is fetched and not read by then is fetched again.
const TURN: Duration = Duration::from_secs(10);
pub(super) const BYTES_OF_A_TURN: i64 = 16 * FAR_BEHIND;
/// A turn in which nothing comes, such as from a broker that is away. The next one of the partition
/// may be twice as long: a large record, or a slow broker, takes its time.
pub(super) const SILENT_TURN: Duration = Duration::from_secs(2);
pub(super) const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// What partitions wait for that are behind.
pub(super) struct FetchTurns {
    /// In bytes. Many partitions are a little behind when an agent starts.
    short: Arc<Semaphore>,
    /// Of partitions that are far behind when they are opened. They do not hold up those that fall
    /// behind later.
    pub returning: Arc<Semaphore>,
    fallen_behind: Arc<Semaphore>,
    pub waiting: IntGauge,
}

/// What a turn is for: partitions that are less behind have turns of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distance {
    Short,
    /// Of one that was near its end before, or not.
    Far {
        was_near: bool,
    },
}

impl FetchTurns {
    /// `waiting` counts who waits.
    pub(crate) fn new(waiting: IntGauge) -> Self {
        let of = |turns| Arc::new(Semaphore::new(turns));
        Self {
            short: of(SHORT_TURNS),
            returning: of(TURNS),
            fallen_behind: of(TURNS),
            waiting,
        }
    }

    fn of(&self, distance: Distance) -> Arc<Semaphore> {
        Arc::clone(match distance {
            Distance::Short => &self.short,
            Distance::Far { was_near: false } => &self.returning,
            Distance::Far { was_near: true } => &self.fallen_behind,
        })
    }

    /// Waits for a turn of a partition that is so many bytes behind, in the order of asking.
    pub(crate) fn wait(&self, distance: Distance, behind: i64) -> BoxFuture<'static, Option<Turn>> {
        let weight = match distance {
            Distance::Short => u32::try_from(behind).unwrap_or(u32::MAX),
            Distance::Far { .. } => 1,
        };
        let (permit, waiting) = (
            self.of(distance).acquire_many_owned(weight),
            Counted::new(&self.waiting),
        );
        Box::pin(async move {
            let _waiting = waiting;
            Some(Turn::begin(distance, permit.await.ok()?))
        })
    }

    /// A turn at once, unless others wait.
    pub(super) fn try_far(&self, was_near: bool) -> Option<Turn> {
        let distance = Distance::Far { was_near };
        Some(Turn::begin(
            distance,
            self.of(distance).try_acquire_owned().ok()?,
        ))
    }
}

/// From where on a partition that is followed is far behind, with so many of them.
pub(super) fn far_behind(partitions: usize) -> i64 {
    let partitions = i64::try_from(partitions).unwrap_or(i64::MAX);
    (FOLLOWED / partitions.max(1)).clamp(LEAST_FAR, FAR_BEHIND)
}

/// Ends when it is dropped.
pub(super) struct Turn {
    pub distance: Distance,
    _permit: OwnedSemaphorePermit,
    pub since: Instant,
    /// Read in it.
    pub bytes: i64,
}

impl Turn {
    fn begin(distance: Distance, permit: OwnedSemaphorePermit) -> Self {
        Self {
            distance,
            _permit: permit,
            since: Instant::now(),
            bytes: 0,
        }
    }

    /// When it is over if others wait. `patience` is for one in which nothing comes.
    pub(crate) fn end(&self, patience: Duration) -> Instant {
        self.since + if self.bytes == 0 { patience } else { TURN }
    }

    pub(crate) fn is_over(&self, patience: Duration) -> bool {
        self.end(patience) <= Instant::now() || self.bytes >= BYTES_OF_A_TURN
    }

    /// How long the next turn of the partition may be in which nothing comes.
    pub(super) fn next_patience(&self, patience: Duration) -> Duration {
        if self.bytes == 0 {
            (patience * 2).min(LONGEST_SILENCE)
        } else {
            SILENT_TURN
        }
    }
}

/// Is counted until it is dropped.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
