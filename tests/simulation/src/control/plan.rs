//! What a schedule is made of: drawn from its seed, so that each leaves out another part of what
//! can go wrong.

use fastrand::Rng;

use super::sabotage::Sabotage;

#[derive(Clone, Debug)]
pub struct Plan {
    /// How many follower clusters there are, and agents of each.
    pub followers: usize,
    pub agents: usize,
    pub indices: usize,
    pub shards: usize,
    /// How many seconds things go wrong.
    pub seconds: u64,
    pub kafka_is_slow: bool,
    pub requests_are_slow: bool,
    pub messages_get_lost: bool,
    pub agents_crash: bool,
    pub agents_restart: bool,
    pub links_are_cut: bool,
    pub sessions_get_lost: bool,
    pub control_is_compacted: bool,
    pub indices_close: bool,
    pub indices_are_deleted: bool,
    pub topics_get_lost: bool,
    /// `plugins.replication.replicate.delete_index`.
    pub deletes_with_leader: bool,
    pub sabotage: Option<Sabotage>,
}

impl Plan {
    pub fn draw(rng: &mut Rng, sabotage: Option<Sabotage>) -> Self {
        let mut some = |one_in: u32| rng.u32(0..one_in) == 0;
        let mut plan = Self {
            followers: 1,
            agents: 2,
            indices: 2,
            shards: 1,
            seconds: 60,
            kafka_is_slow: some(2),
            requests_are_slow: some(2),
            messages_get_lost: some(2),
            agents_crash: some(2),
            agents_restart: some(3),
            links_are_cut: some(2),
            sessions_get_lost: some(2),
            control_is_compacted: some(2),
            indices_close: some(3),
            indices_are_deleted: some(3),
            topics_get_lost: some(4),
            deletes_with_leader: some(4),
            sabotage,
        };
        plan.followers = if rng.u32(0..4) == 0 { 2 } else { 1 };
        plan.agents = rng.usize(1..=3);
        plan.indices = rng.usize(1..=3);
        plan.shards = rng.usize(1..=2);
        plan.seconds = rng.u64(20..=90);
        if let Some(sabotage) = sabotage {
            sabotage.prepare(&mut plan);
        }
        plan
    }

    pub fn follower_clusters(&self) -> impl Iterator<Item = String> + use<> {
        (0..self.followers).map(|number| format!("follower-{number}"))
    }
}
