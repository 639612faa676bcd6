//! Notices writes of others to a follower shard by its own sequence numbers. Pure.
//!
//! The follower cluster numbers every operation on a shard without gaps and tells the number of
//! each write in its answer. So a number that was given away, and that none of this replication's
//! writes got, is somebody else's.
//!
//! Answers that were lost leave numbers that nobody claims. What is found unclaimed for a while
//! after that is forgiven: better to miss a foreign write than to raise a false alarm.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use shardline_common::types::SeqNo;
use tokio::time::Instant;

/// For how long after a lost answer unclaimed numbers are forgiven: longer than a request may wait
/// in the follower cluster.
const DOUBT: Duration = Duration::from_secs(30);

/// The numbers of one follower shard.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Up to here every number has been judged; unknown until the shard was asked.
    judged: Option<i64>,
    /// Numbers above `judged` that this replication's writes got.
    claimed: BTreeSet<i64>,
    /// The highest number that is known to have been given away.
    highest: i64,
    /// Requests started, and finished in the same order.
    started: u64,
    finished: u64,
    /// Numbers up to the second can be judged once so many requests have finished: later ones get
    /// higher numbers.
    due: VecDeque<(u64, i64)>,
    forgive_until: Instant,
    foreign: u64,
}

impl Ledger {
    /// `foreign` is how many foreign writes were counted before. An agent that has just started
    /// does not know the fate of requests that were under way when the shard was followed last.
    pub(crate) fn new(foreign: u64, now: Instant) -> Self {
        Self {
            judged: None,
            claimed: BTreeSet::new(),
            highest: SeqNo::NONE.0,
            started: 0,
            finished: 0,
            due: VecDeque::new(),
            forgive_until: now + DOUBT,
            foreign,
        }
    }

    /// Writes of others that were counted.
    pub(crate) fn foreign(&self) -> u64 {
        self.foreign
    }

    pub(super) fn request_started(&mut self) {
        self.started += 1;
    }

    /// The oldest request has finished: these numbers are its writes'. `doubtful` if an answer to
    /// it was lost.
    pub(super) fn request_finished(&mut self, own: &[SeqNo], doubtful: bool, now: Instant) {
        self.finished += 1;
        if doubtful {
            self.forgive(now);
        }
        let above = self.judged.unwrap_or(SeqNo::NONE.0);
        self.claimed.extend(
            own.iter()
                .map(|seq_no| seq_no.0)
                .filter(|seq_no| *seq_no > above),
        );
        match own.iter().max() {
            Some(highest) => self.highest_assigned(*highest, now),
            None => self.judge(now),
        }
    }

    /// Numbers up to this one have been given away; every request that may have got one of them has
    /// been started.
    pub(crate) fn highest_assigned(&mut self, highest: SeqNo, now: Instant) {
        if highest.0 > self.highest {
            self.highest = highest.0;
            match self.due.back_mut() {
                Some((started, up_to)) if *started == self.started => *up_to = highest.0,
                _ => self.due.push_back((self.started, highest.0)),
            }
        }
        self.judge(now);
    }

    /// Writes whose answers are not looked at were under way.
    pub(super) fn forgive(&mut self, now: Instant) {
        self.forgive_until = self.forgive_until.max(now + DOUBT);
    }

    fn judge(&mut self, now: Instant) {
        while let Some(&(requests, up_to)) = self.due.front() {
            if requests > self.finished {
                return;
            }
            self.due.pop_front();
            let later = self.claimed.split_off(&(up_to + 1));
            let claimed = std::mem::replace(&mut self.claimed, later);
            if let Some(judged) = self.judged.filter(|_| now >= self.forgive_until) {
                // What was claimed lies above `judged`.
                let unclaimed = (up_to - judged).max(0) as u64 - claimed.len() as u64;
                self.foreign += unclaimed;
            }
            self.judged = Some(self.judged.map_or(up_to, |judged| judged.max(up_to)));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// A request with so many writes is sent.
        Start(usize),
        /// The follower shard carries out a write of a request under way.
        Carry(usize),
        /// The oldest request under way is answered; writes not carried out yet are so before.
        Finish,
        /// Somebody else writes.
        Foreign,
        /// The shard is asked for its highest number.
        Ask,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0usize..6).prop_map(Step::Start),
            6 => (0usize..4).prop_map(Step::Carry),
            3 => Just(Step::Finish),
            1 => Just(Step::Foreign),
            2 => Just(Step::Ask),
        ];
        prop::collection::vec(step, 0..120)
    }

    #[derive(Default)]
    struct Request {
        waiting: usize,
        own: Vec<SeqNo>,
    }

    fn number(next: &mut i64) -> SeqNo {
        *next += 1;
        SeqNo(*next - 1)
    }

    fn finish(
        ledger: &mut Ledger,
        under_way: &mut VecDeque<Request>,
        next: &mut i64,
        now: Instant,
    ) {
        if let Some(mut request) = under_way.pop_front() {
            request
                .own
                .extend((0..request.waiting).map(|_| number(next)));
            ledger.request_finished(&request.own, false, now);
        }
    }

    proptest! {
        /// However requests overlap: every foreign write is counted, and nothing else.
        #[test]
        fn foreign_writes_are_told_from_own_ones(steps in steps()) {
            let (start, mut next) = (Instant::now(), 0i64);
            let now = start + DOUBT;
            let mut ledger = Ledger::new(0, start);
            // Known from the beginning: nothing has been written.
            ledger.judged = Some(-1);
            let mut under_way: VecDeque<Request> = VecDeque::new();
            let mut foreign = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Start(writes) => {
                        ledger.request_started();
                        under_way.push_back(Request { waiting: writes, own: Vec::new() });
                    }
                    Step::Carry(which) => {
                        if let Some(request) = under_way.get_mut(which).filter(|request| request.waiting > 0) {
                            request.waiting -= 1;
                            request.own.push(number(&mut next));
                        }
                    }
                    Step::Finish => finish(&mut ledger, &mut under_way, &mut next, now),
                    Step::Foreign => { foreign.insert(number(&mut next)); }
                    Step::Ask => ledger.highest_assigned(SeqNo(next - 1), now),
                }
                prop_assert!(ledger.foreign() <= foreign.len() as u64);
            }
            while !under_way.is_empty() {
                finish(&mut ledger, &mut under_way, &mut next, now);
            }
            ledger.highest_assigned(SeqNo(next - 1), now);
            prop_assert_eq!(ledger.foreign(), foreign.len() as u64);
        }
    }

    #[test]
    fn a_lost_answer_is_forgiven_for_a_while() {
        let start = Instant::now();
        let mut ledger = Ledger::new(3, start);
        ledger.highest_assigned(SeqNo(9), start);
        let later = start + DOUBT;
        ledger.request_started();
        ledger.request_finished(&[SeqNo(12)], true, later);
        assert_eq!(ledger.foreign(), 3);
        ledger.highest_assigned(SeqNo(13), later + DOUBT);
        assert_eq!(ledger.foreign(), 4);
    }

    #[test]
    fn what_was_there_before_is_not_foreign() {
        let start = Instant::now();
        let mut ledger = Ledger::new(0, start);
        ledger.highest_assigned(SeqNo(99), start + DOUBT);
        ledger.highest_assigned(SeqNo(99), start + DOUBT);
        assert_eq!(ledger.foreign(), 0);
        ledger.highest_assigned(SeqNo(100), start + DOUBT);
        assert_eq!(ledger.foreign(), 1);
    }
}
