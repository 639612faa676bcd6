//! Which records of a partition are next, which are repeats, and where something is missing. Pure.

use shardline_common::types::SeqNo;

/// Follows the sequence numbers of one partition. "Nothing is skipped" is decided here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracker {
    last: SeqNo,
}

/// What to do with an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Apply,
    /// Seen before: a producer started again from the partition's tail, or two overlapped.
    Repeat,
}

/// Operations that should be here are not: the shard must not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("operations {from} to {to} are missing from the partition")]
pub struct Hole {
    pub from: SeqNo,
    pub to: SeqNo,
}

impl Tracker {
    /// Starts behind `last`.
    pub fn after(last: SeqNo) -> Self {
        Self { last }
    }

    /// The last operation that was passed on.
    pub fn last(&self) -> SeqNo {
        self.last
    }

    pub fn operation(&mut self, seq_no: SeqNo) -> Result<Verdict, Hole> {
        if seq_no <= self.last {
            return Ok(Verdict::Repeat);
        }
        if seq_no > self.last.next() {
            return Err(Hole {
                from: self.last.next(),
                to: SeqNo(seq_no.0 - 1),
            });
        }
        self.last = seq_no;
        Ok(Verdict::Apply)
    }

    /// A record that is no operation says how far the partition reaches before it.
    pub fn marker(&self, reached: SeqNo) -> Result<(), Hole> {
        if reached > self.last {
            Err(Hole {
                from: self.last.next(),
                to: reached,
            })
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever a partition holds, the operations passed on are 0, 1, 2, … without a hole or a
        /// repeat.
        #[test]
        fn operations_pass_once_and_in_order(seq_nos in prop::collection::vec(0i64..30, 0..200)) {
            let mut tracker = Tracker::after(SeqNo::NONE);
            let mut passed = Vec::new();
            for seq_no in seq_nos {
                match tracker.operation(SeqNo(seq_no)) {
                    Ok(Verdict::Apply) => passed.push(seq_no),
                    Ok(Verdict::Repeat) => prop_assert!(passed.contains(&seq_no)),
                    Err(hole) => prop_assert!(hole.from == tracker.last().next() && seq_no > hole.to.0),
                }
            }
            prop_assert_eq!(&passed, &(0..passed.len() as i64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_marker_ahead_of_what_was_seen_is_a_hole() {
        let tracker = Tracker::after(SeqNo(4));
        assert_eq!(tracker.marker(SeqNo(4)), Ok(()));
        assert_eq!(
            tracker.marker(SeqNo(6)),
            Err(Hole {
                from: SeqNo(5),
                to: SeqNo(6)
            })
        );
    }
}
