//! What a schedule is made of: drawn from its seed, so that each leaves out another part of what
//! can go wrong.

use fastrand::Rng;

use crate::sabotage::Sabotage;

#[derive(Clone, Debug)]
pub struct Plan {
    /// Copies of the leader's shard.
    pub copies: usize,
    /// How many documents there are to be written; few, so that writes meet.
    pub documents: usize,
    pub writes: usize,
    pub steps: usize,
    /// How many writes there are before anything captures them.
    pub head_start: usize,
    pub deletes_one_in: u32,
    pub mapping_changes: bool,
    pub leader_nodes_fail: bool,
    pub leader_agents_crash: bool,
    pub producers_fail: bool,
    pub flushes: bool,
    /// The spool lets go of what Kafka does not have.
    pub spool_is_full: bool,
    pub follower_agent_crashes: bool,
    pub checkpoints_get_lost: bool,
    pub requests_get_lost: bool,
    pub follower_is_busy: bool,
    pub follower_restarts: bool,
    pub retention: bool,
    /// Somebody else writes to the follower index, under a version of their own.
    pub foreign_write: bool,
    /// The log loses a record that it has acknowledged.
    pub log_loses_record: bool,
    /// The follower index refuses some documents, which become dead letters.
    pub refusals: bool,
}

impl Plan {
    pub fn draw(rng: &mut Rng, sabotage: Option<Sabotage>) -> Self {
        let mut some = |one_in: u32| rng.u32(0..one_in) == 0;
        let mut plan = Self {
            copies: 1,
            documents: 1,
            writes: 0,
            steps: 0,
            head_start: 0,
            deletes_one_in: 3,
            mapping_changes: some(2),
            leader_nodes_fail: some(2),
            leader_agents_crash: some(2),
            producers_fail: some(2),
            flushes: some(2),
            spool_is_full: some(4),
            follower_agent_crashes: some(2),
            checkpoints_get_lost: some(2),
            requests_get_lost: some(2),
            follower_is_busy: some(2),
            follower_restarts: some(2),
            retention: some(4),
            foreign_write: some(24),
            log_loses_record: some(24),
            refusals: false,
        };
        plan.copies = rng.usize(1..=3);
        plan.documents = rng.usize(1..=8);
        plan.writes = rng.usize(5..=60);
        plan.steps = rng.usize(200..=900);
        plan.head_start = if rng.u32(0..4) == 0 {
            rng.usize(0..plan.writes)
        } else {
            0
        };
        plan.deletes_one_in = rng.u32(2..=6);
        plan.refusals = rng.u32(0..4) == 0 && sabotage.is_none();
        match sabotage {
            None => {}
            Some(Sabotage::ForgottenDeadLetter) => {
                (plan.foreign_write, plan.log_loses_record) = (false, false);
                plan.refusals = true;
            }
            Some(Sabotage::AnyConflictIsApplied) => plan.foreign_write = true,
            Some(Sabotage::ForgottenTombstones) => {
                (plan.foreign_write, plan.log_loses_record) = (false, false);
                plan.requests_get_lost = true;
            }
            // What such a schedule would notice for other reasons is not to be taken for the
            // sabotage.
            Some(_) => (plan.foreign_write, plan.log_loses_record) = (false, false),
        }
        plan
    }
}
