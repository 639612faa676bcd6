//! An hour of lag, in this agent's memory: one kilobyte for each index, five megabytes at most.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use shardline::contract::service::FollowedStatus;
use shardline_common::types::IndexName;

/// Time between two samples.
pub(super) const INTERVAL: Duration = Duration::from_secs(30);
/// An hour of samples.
const SAMPLES_MAX: usize = 120;
/// Further indices have no history of their own; what is kept of all together counts them.
const INDICES_MAX: usize = 5_000;
/// Stands for a lag that is not known.
const UNKNOWN: u32 = u32::MAX;

/// The lag at one time, in 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    millis: u32,
    operations: u32,
}

impl Sample {
    const NONE: Self = Self {
        millis: UNKNOWN,
        operations: UNKNOWN,
    };

    fn of(status: &FollowedStatus) -> Self {
        let bounded = |value: i64| {
            let most = u64::from(UNKNOWN - 1);
            u32::try_from(u64::try_from(value).unwrap_or_default().min(most)).unwrap_or(UNKNOWN)
        };
        let Some(lag) = status.lag_details else {
            return Self::NONE;
        };
        Self {
            millis: bounded(lag.millis),
            operations: lag.operations.map_or(UNKNOWN, bounded),
        }
    }

    /// With another index's: the longer time, and both counts.
    fn joined(self, other: Self) -> Self {
        let known = |value: u32| (value != UNKNOWN).then_some(value);
        let both = |one: u32, two: u32, join: fn(u32, u32) -> u32| match (known(one), known(two)) {
            (Some(one), Some(two)) => join(one, two).min(UNKNOWN - 1),
            (one, two) => one.or(two).unwrap_or(UNKNOWN),
        };
        Self {
            millis: both(self.millis, other.millis, u32::max),
            operations: both(self.operations, other.operations, u32::saturating_add),
        }
    }
}

/// The last hour, oldest first.
#[derive(Clone, Debug, Default)]
struct Samples(VecDeque<Sample>);

impl Samples {
    fn push(&mut self, sample: Sample) {
        if self.0.len() == SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }
}

#[derive(Debug, Default)]
struct Kept {
    all: Samples,
    indices: HashMap<IndexName, Samples>,
    /// Milliseconds since the epoch.
    taken_ms: i64,
}

/// What the page draws; `null` where the lag was not known.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub(super) struct Shown {
    /// When the last sample was taken, in milliseconds since the epoch.
    taken_ms: i64,
    interval_ms: u64,
    millis: Vec<Option<u32>>,
    operations: Vec<Option<u32>>,
}

#[derive(Debug, Default)]
pub(super) struct History(Mutex<Kept>);

impl History {
    /// Takes a sample of each index; what is no longer followed is forgotten.
    pub(super) fn take(&self, statuses: &[(IndexName, FollowedStatus)], now_ms: i64) {
        let mut kept = self.0.lock();
        let mut before = std::mem::take(&mut kept.indices);
        let mut all = Sample::NONE;
        for (index, status) in statuses {
            let sample = Sample::of(status);
            all = all.joined(sample);
            if kept.indices.len() < INDICES_MAX {
                let mut samples = before.remove(index).unwrap_or_default();
                samples.push(sample);
                kept.indices.insert(index.clone(), samples);
            }
        }
        kept.all.push(all);
        kept.taken_ms = now_ms;
    }

    /// Of one index; `None`: of all together.
    pub(super) fn shown(&self, index: Option<&IndexName>) -> Shown {
        let kept = self.0.lock();
        let none = Samples::default();
        let samples = match index {
            None => &kept.all,
            Some(index) => kept.indices.get(index).unwrap_or(&none),
        };
        let values = |of: fn(&Sample) -> u32| {
            let values = samples.0.iter().map(of);
            values
                .map(|value| (value != UNKNOWN).then_some(value))
                .collect()
        };
        Shown {
            taken_ms: kept.taken_ms,
            interval_ms: u64::try_from(INTERVAL.as_millis()).unwrap_or_default(),
            millis: values(|sample| sample.millis),
            operations: values(|sample| sample.operations),
        }
    }
}

#[cfg(test)]
mod tests {
    use shardline::contract::ReplicationStatus;
    use shardline::contract::service::LagDetails;

    use super::*;

    fn status(millis: i64, operations: Option<i64>) -> FollowedStatus {
        FollowedStatus {
            status: ReplicationStatus::not_in_progress(),
            lag_details: Some(LagDetails { operations, millis }),
        }
    }

    #[test]
    fn an_hour_is_kept_and_no_more() {
        let history = History::default();
        let of = |millis| [("a".into(), status(millis, Some(1)))];
        for millis in 0..500 {
            history.take(&of(millis), millis);
        }
        let shown = history.shown(Some(&"a".into()));
        assert_eq!(shown.millis.len(), SAMPLES_MAX);
        assert_eq!(shown.millis.last(), Some(&Some(499)));
        assert_eq!(shown.taken_ms, 499);
        history.take(&[], 500);
        assert!(history.shown(Some(&"a".into())).millis.is_empty());
        assert_eq!(history.shown(None).millis.last(), Some(&None));
    }

    #[test]
    fn indices_add_up_and_their_number_is_bounded() {
        let history = History::default();
        let many: Vec<(IndexName, FollowedStatus)> = (0..INDICES_MAX + 10)
            .map(|n| (format!("i-{n}").as_str().into(), status(n as i64, None)))
            .chain([("z".into(), status(1, Some(i64::MAX)))])
            .collect();
        history.take(&many, 1);
        assert_eq!(history.0.lock().indices.len(), INDICES_MAX);
        let all = history.shown(None);
        assert_eq!(all.millis, [Some(INDICES_MAX as u32 + 9)]);
        assert_eq!(all.operations, [Some(UNKNOWN - 1)]);
    }
}
