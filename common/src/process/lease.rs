//! A permission to write that ends by itself unless it is renewed in time.
//!
//! A lease ends by whichever of three clocks reaches its end first. The monotonic clock stands
//! still while the machine is suspended. The boot-time clock runs on then, but not while a virtual
//! machine is paused by its host or goes on from a snapshot. The wall clock is put right after
//! either.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// A point in time by all three clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    monotonic: Instant,
    others: OtherClocks,
}

/// What the clocks besides the monotonic one show.
#[derive(Clone, Copy, Debug)]
pub struct OtherClocks {
    /// Since the machine was started, suspended time included.
    pub boot: Duration,
    /// Since 1970.
    pub wall: Duration,
}

impl OtherClocks {
    fn of_the_machine() -> Self {
        let wall = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        // Linux has this clock since 2.6.39. Without it the wall clock alone shows a suspension.
        let boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
        Self { boot, wall }
    }
}

/// Makes a lease that has ended, and what renews it.
pub fn lease() -> (LeaseKeeper, Lease) {
    lease_by(OtherClocks::of_the_machine)
}

/// The same with other clocks than the machine's, for time that is simulated.
pub fn lease_by(clocks: fn() -> OtherClocks) -> (LeaseKeeper, Lease) {
    let now = Moment {
        monotonic: Instant::now(),
        others: clocks(),
    };
    let (end, ends) = watch::channel(now);
    (LeaseKeeper { end, clocks }, Lease { ends, clocks })
}

pub struct LeaseKeeper {
    end: watch::Sender<Moment>,
    clocks: fn() -> OtherClocks,
}

impl LeaseKeeper {
    pub fn now(&self) -> Moment {
        now(self.clocks)
    }

    /// The lease lasts at least for `duration` from `since`, a moment before the permission was
    /// asked for.
    pub fn extend(&self, since: Moment, duration: Duration) {
        let until = Moment {
            monotonic: since.monotonic + duration,
            others: OtherClocks {
                boot: since.others.boot + duration,
                wall: since.others.wall + duration,
            },
        };
        self.end.send_if_modified(|end| {
            let is_later = until.monotonic > end.monotonic;
            if is_later {
                *end = until;
            }
            is_later
        });
    }

    /// The lease ends now.
    pub fn end(&self) {
        self.end.send_replace(self.now());
    }

    /// Ends a lease whose end has passed by a clock that [`Lease::ended`] does not wait for, so
    /// that what is under way is given up: to be called about once a second.
    pub fn check(&self) {
        let now = self.now();
        let slept = {
            let end = self.end.borrow();
            now.monotonic < end.monotonic && has_passed(&end, &now)
        };
        if slept {
            tracing::warn!("the lease ended while the machine stood still, or its clock was set");
            self.end();
        }
    }
}

#[derive(Clone, Debug)]
pub struct Lease {
    ends: watch::Receiver<Moment>,
    clocks: fn() -> OtherClocks,
}

impl Lease {
    pub fn is_valid(&self) -> bool {
        self.over_for().is_none()
    }

    /// For how long the lease has been over; none while it lasts.
    pub fn over_for(&self) -> Option<Duration> {
        let end = *self.ends.borrow();
        has_passed(&end, &now(self.clocks)).then(|| end.monotonic.elapsed())
    }

    /// Resolves when the lease has ended without being renewed before.
    pub async fn ended(&self) {
        let mut ends = self.ends.clone();
        loop {
            let end = *ends.borrow_and_update();
            if has_passed(&end, &now(self.clocks)) {
                return;
            }
            tokio::select! {
                () = sleep_until(end.monotonic) => {}
                changed = ends.changed() => if changed.is_err() { return },
            }
        }
    }
}

fn now(clocks: fn() -> OtherClocks) -> Moment {
    Moment {
        monotonic: Instant::now(),
        others: clocks(),
    }
}

fn has_passed(end: &Moment, now: &Moment) -> bool {
    now.monotonic >= end.monotonic
        || now.others.boot >= end.others.boot
        || now.others.wall >= end.others.wall
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_lease_lasts_as_long_as_it_is_renewed() {
        let (keeper, lease) = lease();
        assert!(!lease.is_valid());
        let start = keeper.now();
        keeper.extend(start, Duration::from_millis(20));
        let ended = tokio::spawn({
            let lease = lease.clone();
            async move { lease.ended().await }
        });
        keeper.extend(start, Duration::from_millis(80));
        keeper.extend(start, Duration::from_millis(40));
        ended.await.unwrap();
        assert!(start.monotonic.elapsed() >= Duration::from_millis(80));
        assert!(!lease.is_valid());
    }

    #[tokio::test]
    async fn a_lease_can_end_early() {
        let (keeper, lease) = lease();
        keeper.extend(keeper.now(), HOUR);
        assert!(lease.is_valid());
        keeper.end();
        lease.ended().await;
        assert!(!lease.is_valid());
    }

    /// The monotonic clock stands still while the machine is suspended; what is due by the
    /// boot-time clock is over all the same, also for an answer that was asked for before and
    /// comes after.
    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_while_the_machine_is_suspended() {
        static BOOT: AtomicU64 = AtomicU64::new(100);
        let clocks = || OtherClocks {
            boot: Duration::from_secs(BOOT.load(Ordering::Relaxed)),
            wall: Duration::ZERO,
        };
        ends_although_the_monotonic_clock_stands(clocks, &BOOT).await;
    }

    /// Neither clock of the machine runs on while a virtual one is paused by its host.
    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_while_a_virtual_machine_is_paused() {
        static WALL: AtomicU64 = AtomicU64::new(100);
        let clocks = || OtherClocks {
            boot: Duration::ZERO,
            wall: Duration::from_secs(WALL.load(Ordering::Relaxed)),
        };
        ends_although_the_monotonic_clock_stands(clocks, &WALL).await;
    }

    async fn ends_although_the_monotonic_clock_stands(
        clocks: fn() -> OtherClocks,
        clock: &AtomicU64,
    ) {
        let (keeper, lease) = lease_by(clocks);
        let duration = Duration::from_secs(5);
        keeper.extend(keeper.now(), duration);
        assert!(lease.is_valid());
        let (waits, asked) = (lease.clone(), keeper.now());
        let ended = tokio::spawn(async move { waits.ended().await });
        tokio::task::yield_now().await;
        clock.fetch_add(300, Ordering::Relaxed);
        assert!(!lease.is_valid());
        keeper.extend(asked, duration + Duration::from_millis(1));
        assert!(!lease.is_valid());
        keeper.check();
        ended.await.unwrap();
        keeper.extend(keeper.now(), duration);
        assert!(lease.is_valid());
    }
}
