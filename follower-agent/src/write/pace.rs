//! How hard a shard may press the follower cluster: halved whenever that refuses for overload, and
//! raised again step by step while it does not. Pure.

/// From 1, full speed, down to [`LEAST`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pace(f64);

const LEAST: f64 = 1.0 / 64.0;
const STEP: f64 = 1.0 / 16.0;
/// A request is not made smaller than this many operations, however overloaded the cluster is.
const LEAST_OPERATIONS: u64 = 10;

impl Default for Pace {
    fn default() -> Self {
        Self(1.0)
    }
}

impl Pace {
    pub(crate) fn share(self) -> f64 {
        self.0
    }

    pub(super) fn overloaded(&mut self) {
        self.0 = (self.0 / 2.0).max(LEAST);
    }

    pub(super) fn went_through(&mut self) {
        self.0 = (self.0 + STEP).min(1.0);
    }

    /// Of so many requests that may be under way at once, how many are now; at least one.
    pub(crate) fn requests(self, most: usize) -> usize {
        ((most as f64 * self.0) as usize).max(1)
    }

    /// Of so many operations that a request may have, how many it gets now: fewer only where a
    /// single request is too much already.
    pub(crate) fn operations(self, most: u64, requests: usize) -> u64 {
        let of_one = (requests as f64 * self.0).min(1.0);
        ((most as f64 * of_one) as u64).max(LEAST_OPERATIONS.min(most))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_become_fewer_before_they_become_smaller() {
        let mut pace = Pace::default();
        assert_eq!((pace.requests(4), pace.operations(1_000, 4)), (4, 1_000));
        let seen: Vec<_> = (0..4)
            .map(|_| {
                pace.overloaded();
                (pace.requests(4), pace.operations(1_000, 4))
            })
            .collect();
        assert_eq!(seen, [(2, 1_000), (1, 1_000), (1, 500), (1, 250)]);
    }

    proptest! {
        #[test]
        fn something_is_always_under_way_and_full_speed_comes_back(outcomes: Vec<bool>, most in 1usize..20, operations in 1u64..6_000) {
            let mut pace = Pace::default();
            for overloaded in outcomes {
                if overloaded { pace.overloaded() } else { pace.went_through() }
                prop_assert!((1..=most).contains(&pace.requests(most)));
                prop_assert!((1..=operations).contains(&pace.operations(operations, most)));
            }
            (0..16).for_each(|_| pace.went_through());
            prop_assert_eq!((pace.requests(most), pace.operations(operations, most)), (most, operations));
        }
    }
}
