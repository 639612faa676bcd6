//! Judges a document while both sides are in use, by what the leader had before and after the
//! follower was looked at. Pure.

use shardline_common::types::SeqNo;
use shardline_common::verify::Fingerprint;

/// What one side has of a document.
pub(crate) type State = Option<Fingerprint>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Equal,
    /// The leader has it, the follower has not.
    Missing,
    /// The follower has it, the leader has not.
    Extra,
    Different,
    /// It is changing: to be looked at again.
    Unclear,
}

/// What was seen of a document, in this order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    /// The leader's last operation some time before.
    pub floor: SeqNo,
    /// The leader's.
    pub before: State,
    /// The follower's, when it had applied everything that the leader had done when `before` was
    /// seen.
    pub follower: State,
    /// The leader's.
    pub after: State,
    /// The leader's last operation.
    pub newest: SeqNo,
}

impl Sight {
    pub(crate) fn judge(self) -> Verdict {
        let Self {
            floor,
            before,
            follower,
            after,
            newest,
        } = self;
        if follower == before || follower == after {
            return Verdict::Equal;
        }
        match (before, follower, after) {
            // The leader has not had such an operation.
            (_, Some(follower), None) if follower.seq_no > newest => Verdict::Extra,
            (_, Some(follower), Some(_)) if follower.seq_no > newest => Verdict::Different,
            // What had been written by then was deleted by then.
            (None, Some(follower), None) if follower.seq_no <= floor => Verdict::Extra,
            (Some(before), None, Some(after)) if before == after => Verdict::Missing,
            (Some(before), Some(_), Some(after)) if before == after => Verdict::Different,
            // One of the states in between, of which nobody kept a fingerprint.
            _ => Verdict::Unclear,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state(seq_no: i64) -> State {
        Some(Fingerprint {
            seq_no: SeqNo(seq_no),
            hash: seq_no as u64,
        })
    }

    proptest! {
        /// A follower that shows any state of the leader's that it may show is never found
        /// different.
        #[test]
        fn there_is_no_false_alarm(
            deleted in prop::collection::vec(any::<bool>(), 1..40),
            steps in prop::collection::vec(0usize..8, 5),
        ) {
            // Operation n of the shard writes or deletes the document.
            let history: Vec<State> =
                (0..).zip(&deleted).map(|(n, deleted)| if *deleted { None } else { state(n) }).collect();
            let mut now = 0;
            let mut later = |step: usize| {
                now = (now + steps[step]).min(history.len() - 1);
                now
            };
            let (floor, before, shown, after, newest) = (later(0), later(1), later(2), later(3), later(4));
            let sight = Sight {
                floor: SeqNo(floor as i64),
                before: history[before],
                follower: history[shown],
                after: history[after],
                newest: SeqNo(newest as i64),
            };
            let verdict = sight.judge();
            prop_assert!(matches!(verdict, Verdict::Equal | Verdict::Unclear), "{sight:?} \
                {verdict:?}");
        }
    }

    #[test]
    fn what_rests_and_is_not_the_same_is_found() {
        let judge = |before, follower, after| {
            Sight {
                floor: SeqNo(9),
                before,
                follower,
                after,
                newest: SeqNo(20),
            }
            .judge()
        };
        assert_eq!(judge(state(3), None, state(3)), Verdict::Missing);
        assert_eq!(judge(None, state(3), None), Verdict::Extra);
        assert_eq!(judge(None, state(10), None), Verdict::Unclear);
        assert_eq!(judge(None, state(21), None), Verdict::Extra);
        assert_eq!(judge(state(3), state(4), state(3)), Verdict::Different);
        assert_eq!(judge(state(3), state(21), state(5)), Verdict::Different);
        assert_eq!(judge(None, None, None), Verdict::Equal);
        assert_eq!(judge(state(3), None, state(5)), Verdict::Unclear);
    }
}
