//! A wall clock that is set back while an agent runs.
//!
//! librdkafka's and RocksDB's threads wait for points of the wall clock (`pthread_cond_timedwait`),
//! so after it was set back by three hours their timers stand still for three hours, unless
//! something else wakes them.

use std::time::{Duration, Instant, SystemTime};

/// Timers may stand still for as long as this, and for an interval of looking.
const STEP_BACK_TOLERATED: Duration = Duration::from_secs(3);
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Milliseconds since the epoch, by the wall clock.
pub fn now_ms() -> i64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// Resolves when the wall clock was set back; by how much.
pub async fn set_back() -> Duration {
    let mut before = (SystemTime::now(), Instant::now());
    loop {
        tokio::time::sleep(CLOCK_CHECK_INTERVAL).await;
        let now = (SystemTime::now(), Instant::now());
        if let Some(step) = step_back(before, now) {
            return step;
        }
        before = now;
    }
}

/// The time by which the wall clock fell behind the time that has passed, if that is more than is
/// tolerated.
fn step_back(before: (SystemTime, Instant), now: (SystemTime, Instant)) -> Option<Duration> {
    let due = before.0 + now.1.duration_since(before.1);
    due.duration_since(now.0)
        .ok()
        .filter(|step| *step > STEP_BACK_TOLERATED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(passed: u64, wall_before: u64, wall_now: u64) -> Option<u64> {
        let (start, at) = (Instant::now(), |seconds| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
        });
        let now = (at(wall_now), start + Duration::from_secs(passed));
        step_back((at(wall_before), start), now).map(|step| step.as_secs())
    }

    #[test]
    fn only_a_clock_that_was_set_back_counts() {
        assert_eq!(step(1, 100, 101), None);
        assert_eq!(step(1, 20_000, 9_201), Some(10_800));
        // Looked at late: it had gone on by as much.
        assert_eq!(step(60, 100, 150), Some(10));
        assert_eq!(step(60, 100, 160), None);
        // Set forward, as after a machine was asleep.
        assert_eq!(step(1, 100, 10_900), None);
        // Corrected a little.
        assert_eq!(step(1, 100, 99), None);
    }
}
