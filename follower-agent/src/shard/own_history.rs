//! Notices that a follower shard's own data went back: that it lost operations which it had
//! acknowledged, as when a node's disk is put back to an older copy, or a shard is emptied by
//! force. The index's uuid stays, and every checkpoint is then ahead of what is there. Pure.
//!
//! The shard numbers every operation, in one history. So a history of another name, a highest
//! number below one that was acknowledged, or a number that is given a second time are each proof.

use std::collections::VecDeque;

use shardline_common::control::OwnHistory;
use shardline_common::types::SeqNo;

/// What a follower shard's primary said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    pub history: Option<String>,
    pub max_seq_no: SeqNo,
    /// Up to here its operations are durable on every copy in sync.
    pub global_checkpoint: SeqNo,
    /// What was known to be acknowledged before it was asked.
    pub acknowledged: SeqNo,
}

/// Why a follower shard is known to have lost what it had acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WentBack {
    #[error(
        "the follower shard's data is not what was written: its history is [{now}] and was \
         [{before}], as after an allocation by force"
    )]
    OtherHistory { before: String, now: String },
    #[error(
        "the follower shard's data went back: it is at its own operation {now}, and had \
         acknowledged {before}"
    )]
    Behind { before: SeqNo, now: SeqNo },
    #[error(
        "the follower shard's data went back: it gave its own number {given} again, and had \
         acknowledged {before}"
    )]
    GivenAgain { before: SeqNo, given: SeqNo },
}

/// What is known of one follower shard's own history.
#[derive(Debug)]
pub(crate) struct Witness {
    own: OwnHistory,
    /// Of each request under way, oldest first, what was acknowledged before it was sent: its
    /// writes get higher numbers.
    floors: VecDeque<SeqNo>,
}

impl Witness {
    pub(crate) fn of(saved: Option<OwnHistory>) -> Self {
        Self {
            own: saved.unwrap_or_default(),
            floors: VecDeque::new(),
        }
    }

    /// What is to be kept with the checkpoint.
    pub(crate) fn own(&self) -> Option<OwnHistory> {
        (self.own != OwnHistory::default()).then(|| self.own.clone())
    }

    pub(crate) fn acknowledged(&self) -> SeqNo {
        self.own.acknowledged
    }

    pub(crate) fn request_started(&mut self) {
        self.floors.push_back(self.own.acknowledged);
    }

    /// The oldest request has finished: its writes got these numbers.
    pub(crate) fn request_finished(&mut self, given: &[SeqNo]) -> Result<(), WentBack> {
        let before = self.floors.pop_front().unwrap_or(SeqNo::NONE);
        if let Some(&given) = given.iter().find(|given| **given <= before) {
            return Err(WentBack::GivenAgain { before, given });
        }
        let highest = given.iter().max().copied().unwrap_or(SeqNo::NONE);
        self.own.acknowledged = self.own.acknowledged.max(highest);
        Ok(())
    }

    pub(crate) fn observed(&mut self, seen: &Observed) -> Result<(), WentBack> {
        match (&self.own.uuid, &seen.history) {
            (Some(before), Some(now)) if before != now => {
                let (before, now) = (before.clone(), now.clone());
                return Err(WentBack::OtherHistory { before, now });
            }
            (None, Some(now)) => self.own.uuid = Some(now.clone()),
            _ => {}
        }
        if seen.max_seq_no < seen.acknowledged {
            let (before, now) = (seen.acknowledged, seen.max_seq_no);
            return Err(WentBack::Behind { before, now });
        }
        self.own.acknowledged = self.own.acknowledged.max(seen.global_checkpoint);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn observed(history: &str, max_seq_no: i64, acknowledged: SeqNo) -> Observed {
        Observed {
            history: Some(history.to_owned()),
            max_seq_no: SeqNo(max_seq_no),
            global_checkpoint: SeqNo(max_seq_no),
            acknowledged,
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// A request is sent, and gets so many numbers at some later time.
        Send(u8),
        /// The shard works off one write of the request at this place.
        Number(usize),
        Finish,
        Ask,
        /// An answer to a question that was asked before what was done since.
        AskLate,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0u8..4).prop_map(Step::Send),
            (0usize..3).prop_map(Step::Number),
            Just(Step::Finish),
            Just(Step::Ask),
            Just(Step::AskLate),
        ];
        prop::collection::vec(step, 0..60)
    }

    /// A shard and two requests at a time, whose writes may get their numbers in any order.
    struct Model {
        witness: Witness,
        next: i64,
        under_way: VecDeque<(u8, Vec<SeqNo>)>,
        late: Option<Observed>,
    }

    impl Model {
        fn do_step(&mut self, step: &Step) -> Result<(), WentBack> {
            match step {
                Step::Send(writes) if self.under_way.len() < 2 => {
                    self.witness.request_started();
                    self.under_way.push_back((*writes, Vec::new()));
                }
                Step::Number(which) => {
                    if let Some((left, got)) = self.under_way.get_mut(*which)
                        && *left > 0
                    {
                        *left -= 1;
                        got.push(SeqNo(self.next));
                        self.next += 1;
                    }
                }
                Step::Finish => {
                    if let Some((left, mut got)) = self.under_way.pop_front() {
                        got.extend((0..i64::from(left)).map(|n| SeqNo(self.next + n)));
                        self.next += i64::from(left);
                        self.witness.request_finished(&got)?;
                    }
                }
                Step::Ask => {
                    let seen = observed("h", self.next - 1, self.witness.acknowledged());
                    self.witness.observed(&seen)?;
                }
                Step::AskLate => {
                    let seen = observed("h", self.next - 1, self.witness.acknowledged());
                    if let Some(late) = self.late.replace(seen) {
                        self.witness.observed(&late)?;
                    }
                }
                Step::Send(_) => {}
            }
            Ok(())
        }
    }

    proptest! {
        /// A shard that loses nothing raises no alarm; one that loses something that it had
        /// acknowledged does, by the next question or the next write.
        #[test]
        fn only_what_was_acknowledged_and_lost_is_told(
            before in steps(), lost in 1i64..5, by_writing in any::<bool>(),
        ) {
            let mut model = Model {
                witness: Witness::of(None), next: 0, under_way: VecDeque::new(), late: None,
            };
            for step in &before {
                prop_assert_eq!(model.do_step(step), Ok(()));
            }
            while !model.under_way.is_empty() {
                prop_assert_eq!(model.do_step(&Step::Finish), Ok(()));
            }
            let acknowledged = model.witness.acknowledged();
            model.next = (acknowledged.0 + 1 - lost).max(0);
            if acknowledged == SeqNo::NONE {
                return Ok(());
            }
            let saved = model.witness.own();
            model.witness = Witness::of(saved);
            let told = if by_writing {
                model.do_step(&Step::Send(1)).and_then(|()| model.do_step(&Step::Finish))
            } else {
                model.do_step(&Step::Ask)
            };
            prop_assert!(told.is_err(), "{:?}", model.witness);
        }
    }

    #[test]
    fn another_history_is_told_whatever_its_numbers() {
        let mut witness = Witness::of(None);
        assert_eq!(witness.observed(&observed("a", 9, SeqNo::NONE)), Ok(()));
        assert_eq!(witness.acknowledged(), SeqNo(9));
        let mut later = Witness::of(witness.own());
        assert!(matches!(
            later.observed(&observed("b", 99, SeqNo(9))),
            Err(WentBack::OtherHistory { .. })
        ));
    }

    /// As written by the build before, and as that one reads what is written now.
    #[test]
    fn checkpoints_are_read_in_both_directions() {
        use shardline_common::control::Checkpoint;
        let earlier = r#"{"seq_no": 4, "offset": 7, "highest": 5}"#;
        let earlier: Checkpoint = serde_json::from_str(earlier).unwrap();
        assert_eq!(earlier.own, None);
        let own = Some(OwnHistory {
            uuid: Some("h".to_owned()),
            acknowledged: SeqNo(3),
        });
        let now = serde_json::to_value(Checkpoint { own, ..earlier }).unwrap();
        let wanted =
            serde_json::json!({"seq_no": 4, "offset": 7, "highest": 5, "own": {"h": "h", "a": 3}});
        assert_eq!(now, wanted);
    }
}
