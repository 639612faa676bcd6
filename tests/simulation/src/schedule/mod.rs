//! One schedule: a seed decides what happens next, step by step, and then everything comes to rest
//! and is compared.

mod agents;

use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use follower_agent::{CheckpointStore, Metrics};

use crate::calls::Target;
use crate::follower_side::FollowerSide;
use crate::leader_agents::LeaderAgent;
use crate::sabotage::Sabotage;
use crate::world::{Shared, World};

/// Rounds in which a world without faults has to come to rest; half a second passes in each.
const ROUNDS: usize = 2_000;

/// A user who sees that dead letters are left replays them again.
const ROUNDS_BETWEEN_REPLAYS: usize = 50;

/// What a schedule saw.
#[derive(Default, Clone, Copy, Debug)]
pub struct Outcome {
    pub operations: u64,
    pub copies: u64,
    pub foreign_writes_noticed: u64,
    pub faults: u64,
}

impl Outcome {
    pub fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.copies += other.copies;
        self.foreign_writes_noticed += other.foreign_writes_noticed;
        self.faults += other.faults;
    }
}

/// How a schedule went wrong.
pub struct Failure {
    pub violation: String,
    pub trace: Vec<String>,
}

pub struct Schedule {
    world: Shared,
    agents: Vec<Option<LeaderAgent>>,
    follower: FollowerSide,
    /// Whether leader agents have begun to work.
    is_captured: bool,
    writes_left: usize,
    /// What somebody else wrote to, and how far the leader had settled then.
    foreign: Option<(String, i64)>,
    faults: u64,
}

/// What can happen next.
#[derive(Clone, Copy, Debug)]
enum Event {
    Group,
    Write,
    Call,
    Deliver,
    Report,
    Fetch,
    Time,
    Commit,
    Role,
    Flush,
    StartAgent,
    StartFollower,
    KillLeaderAgent,
    KillFollowerAgent,
    LeaderNode,
    ProducerFailure,
    Retention,
    Forget,
    FollowerRestart,
    ForeignWrite,
    LostRecord,
    Redrive,
    Replay,
}

impl Schedule {
    pub fn new(
        seed: u64,
        folder: &Path,
        store: CheckpointStore,
        metrics: Arc<Metrics>,
        sabotage: Option<Sabotage>,
        traced: bool,
    ) -> Self {
        // Retries wait for random times.
        fastrand::seed(seed);
        let world = World::new(seed, folder, sabotage, traced);
        let plan = world.lock().plan.clone();
        let follower = FollowerSide::new(&world, store, &format!("{seed:032}"), metrics);
        let agents = (0..plan.copies).map(|_| None).collect();
        Self {
            world,
            agents,
            follower,
            is_captured: false,
            writes_left: plan.writes,
            foreign: None,
            faults: 0,
        }
    }

    /// Everything that happens.
    pub async fn traced(self) -> Vec<String> {
        let world = Arc::clone(&self.world);
        match self.run().await {
            Ok(_) => world.lock().trace.take().unwrap_or_default(),
            Err(failure) => failure.trace,
        }
    }

    pub async fn run(mut self) -> Result<Outcome, Failure> {
        let steps = self.world.lock().plan.steps;
        let plan = format!("{:?}", self.world.lock().plan);
        self.world.lock().note(|| plan);
        for _ in 0..steps {
            let event = self.choose();
            self.happen(event).await;
            self.poll().await;
            self.failed()?;
        }
        self.world.lock().note(|| "calm".to_owned());
        self.world.lock().is_calm = true;
        let mut round = 0;
        self.world.lock().follower.refuses = false;
        while !self.is_at_rest() {
            if round % ROUNDS_BETWEEN_REPLAYS == 0 {
                self.world.lock().replay_letters();
            }
            self.calm_round().await;
            self.failed()?;
            round += 1;
            if round > ROUNDS {
                let unfinished = self.unfinished();
                self.world
                    .lock()
                    .checks
                    .fail(format!("no rest is reached: {unfinished}"));
            }
        }
        self.compare();
        self.failed()?;
        let operations = self.world.lock().group.history.len() as u64;
        let noticed = u64::from(self.follower.paused.is_some());
        self.end();
        let copies = u64::from(self.follower.copies);
        Ok(Outcome {
            operations,
            copies,
            foreign_writes_noticed: noticed,
            faults: self.faults,
        })
    }

    /// Nothing of the schedule is left in the store.
    fn end(&mut self) {
        self.follower.lose_checkpoints();
    }

    fn failed(&mut self) -> Result<(), Failure> {
        let violation = self.world.lock().checks.violation.clone();
        match violation {
            None => Ok(()),
            Some(violation) => {
                self.end();
                Err(Failure {
                    violation,
                    trace: self.world.lock().trace.take().unwrap_or_default(),
                })
            }
        }
    }

    async fn poll(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let redelivery = self.world.lock().redelivery.clone();
        for agent in self.agents.iter_mut().flatten() {
            agent.copies_to(self.follower.wanted_copy());
            agent.is_asked(redelivery.as_ref());
            agent.poll(&mut context);
        }
        self.follower.poll(&mut context);
        // A task may do only so much before it yields to tokio.
        tokio::task::yield_now().await;
    }

    fn choose(&mut self) -> Event {
        use Event::*;
        let mut world = self.world.lock();
        let plan = &world.plan;
        let when = |planned: bool, weight: u32| if planned { weight } else { 0 };
        let weights = [
            (Group, 30),
            (Write, 8),
            (Call, 40),
            (Deliver, 25),
            (Report, 10),
            (Fetch, 15),
            (Time, 14),
            (Commit, 2),
            (Role, 3),
            (Flush, when(plan.flushes, 2)),
            (StartAgent, 3),
            (StartFollower, 3),
            (KillLeaderAgent, when(plan.leader_agents_crash, 1)),
            (KillFollowerAgent, when(plan.follower_agent_crashes, 1)),
            (LeaderNode, when(plan.leader_nodes_fail, 2)),
            (ProducerFailure, when(plan.producers_fail, 1)),
            (Retention, when(plan.retention, 1)),
            (Forget, when(plan.follower_restarts, 1)),
            (FollowerRestart, when(plan.follower_restarts, 1)),
            (
                ForeignWrite,
                when(plan.foreign_write && self.foreign.is_none(), 1),
            ),
            (
                LostRecord,
                when(plan.log_loses_record && !world.checks.is_log_damaged, 1),
            ),
            (Replay, when(plan.refusals, 2)),
            (
                Redrive,
                when(world.sabotage == Some(Sabotage::RedrivenOperation), 2),
            ),
        ];
        let mut at = world
            .rng
            .u32(0..weights.iter().map(|(_, weight)| weight).sum());
        for (event, weight) in weights {
            if at < weight {
                return event;
            }
            at -= weight;
        }
        Time
    }

    async fn happen(&mut self, event: Event) {
        match event {
            Event::Time => {
                let millis = {
                    let mut world = self.world.lock();
                    if world.rng.u32(0..4) == 0 {
                        1000
                    } else {
                        world.rng.u64(1..200)
                    }
                };
                self.pass(Duration::from_millis(millis)).await;
            }
            Event::Forget => self.long_quiet().await,
            Event::Call => self.call(),
            Event::StartAgent | Event::Role => self.assign_roles(event),
            Event::KillLeaderAgent => self.kill_leader_agent(),
            Event::KillFollowerAgent => self.kill_follower_agent(),
            Event::StartFollower => {
                if self.is_captured && !self.follower.is_running() {
                    self.world
                        .lock()
                        .note(|| "follower agent starts".to_owned());
                    self.follower.start();
                }
            }
            Event::Commit => {
                if self.follower.is_running() {
                    self.follower.commit();
                }
            }
            Event::ForeignWrite => self.foreign_write(),
            Event::Write => self.write(),
            event => self.within_world(event),
        }
    }

    /// Events that concern nobody but the world.
    fn within_world(&mut self, event: Event) {
        let world = &mut *self.world.lock();
        match event {
            Event::Group => {
                for _ in 0..world.rng.usize(1..5) {
                    world.group.step(&mut world.rng);
                }
            }
            Event::Flush => {
                let node = world.rng.usize(0..world.plan.copies);
                world.group.flush(node);
                world.note(|| format!("flush of node {node}"));
            }
            Event::Deliver => {
                let producers: Vec<u64> = world.kafka.producers.keys().copied().collect();
                if let Some(producer) = world.rng.choice(producers) {
                    for _ in 0..world.rng.usize(1..8) {
                        world.deliver(producer);
                    }
                }
            }
            Event::Report => {
                let producers: Vec<u64> = world.kafka.producers.keys().copied().collect();
                if let Some(producer) = world.rng.choice(producers) {
                    world.kafka.report(producer);
                }
            }
            Event::Fetch => {
                let fetches: Vec<u64> = world.kafka.fetches.keys().copied().collect();
                if let Some(fetch) = world.rng.choice(fetches) {
                    let more = world.rng.i64(1..20);
                    let fetched = world.kafka.fetches[&fetch].fetched;
                    world.kafka.fetch_up_to(fetch, fetched + more);
                }
            }
            Event::ProducerFailure => {
                let producers: Vec<u64> = world.kafka.producers.keys().copied().collect();
                if let Some(producer) = world.rng.choice(producers) {
                    self.faults += 1;
                    world.note(|| format!("producer {producer} fails"));
                    world.kafka.fail(producer);
                }
            }
            Event::Retention => {
                let topic = world.topic.clone();
                let partition = world.kafka.partition(&topic);
                let (low, end) = (partition.low, partition.end());
                if end > low + 1 {
                    let low = world.rng.i64(low..end);
                    world.kafka.partition(&topic).low = low;
                    self.faults += 1;
                    world.note(|| format!("retention removes what is before {low}"));
                }
            }
            Event::FollowerRestart => {
                self.faults += 1;
                world.note(|| "follower cluster restarts".to_owned());
                for mut call in world
                    .calls
                    .extract_if(.., |call| call.target == Target::Follower)
                {
                    call.finish(false);
                }
                world.follower.forget_deletions(true);
                world.scans.lose_all();
            }
            Event::LeaderNode => self.faults += u64::from(world.leader_node()),
            Event::LostRecord => world.lose_record(),
            Event::Redrive => world.redrive(),
            Event::Replay => {
                world.follower.refuses = world.rng.bool();
                world.replay_letters();
            }
            _ => {}
        }
    }

    fn write(&mut self) {
        let mut world = self.world.lock();
        if self.writes_left == 0 || !world.group.is_serving() {
            return;
        }
        self.writes_left -= 1;
        let documents = world.plan.documents;
        let id = format!("d{}", world.rng.usize(0..documents));
        let deletes_one_in = world.plan.deletes_one_in;
        let deletes = world.rng.u32(0..deletes_one_in) == 0;
        let needs_mapping = world.plan.mapping_changes && world.rng.u32(0..8) == 0;
        world.write(id, deletes, needs_mapping);
        let (written, head_start) = (world.plan.writes - self.writes_left, world.plan.head_start);
        self.is_captured |= written >= head_start;
    }

    /// Somebody else writes to a document of the follower index; the leader changes it afterwards,
    /// so that it shows.
    fn foreign_write(&mut self) {
        let mut world = self.world.lock();
        if !self.follower.is_following() || !world.group.is_serving() {
            return;
        }
        let version = (i64::from(self.follower.place.epoch.0) + 5) << 44;
        let documents = world.plan.documents;
        let id = format!("d{}", world.rng.usize(0..documents));
        world.note(|| format!("foreign write to {id}"));
        world.write_foreign(&id, version);
        world.checks.foreign.insert(id.clone());
        world.write(id.clone(), false, false);
        self.foreign = Some((id, world.group.settled()));
        self.faults += 1;
    }

    /// A call takes effect or is answered; or one of both does not happen.
    fn call(&mut self) {
        let mut world = self.world.lock();
        if world.calls.is_empty() {
            return;
        }
        let count = world.calls.len();
        let mut call = {
            let at = world.rng.usize(0..count);
            world.calls.remove(at)
        };
        let loses = world.plan.requests_get_lost;
        if call.is_abandoned() {
            // Whoever asked is gone. It may be under way all the same, for a while, or not.
            match world.rng.u32(0..30) {
                _ if call.is_stale() => {}
                0 => world.take_effect(&mut call, "late"),
                1 => {}
                _ => world.calls.push(call),
            }
            return;
        }
        if !call.has_taken_effect() {
            if world.goes_wrong(loses, 8) {
                world.note(|| format!("no answer: {}", call.label));
                call.finish(false);
                if world.rng.bool() {
                    world.calls.push(call);
                }
                return;
            }
            world.take_effect(&mut call, "");
            if world.rng.u32(0..4) == 0 {
                world.calls.push(call);
                return;
            }
        }
        let is_lost = world.goes_wrong(loses, 30);
        if is_lost {
            world.note(|| format!("answer lost: {}", call.label));
        }
        drop(world);
        call.finish(!is_lost);
    }

    async fn pass(&mut self, duration: Duration) {
        {
            let mut world = self.world.lock();
            world.calls.retain(|call| !call.is_stale());
            world.note(|| format!("{} ms pass", duration.as_millis()));
        }
        tokio::time::advance(duration).await;
        for (node, agent) in self.agents.iter().enumerate() {
            if let Some(agent) = agent
                && self.role_of(node).is_some()
            {
                agent.hears_of_cluster();
            }
        }
    }

    /// Nothing happens for as long as the follower index remembers deletions.
    async fn long_quiet(&mut self) {
        {
            let mut world = self.world.lock();
            world.group.settle();
            world.calls.retain(|call| !call.is_abandoned());
        }
        for _ in 0..8 {
            self.pass(crate::index::GC_DELETES / 8 + Duration::from_secs(1))
                .await;
            self.poll().await;
            self.finish_calls();
            self.poll().await;
        }
        self.world.lock().follower.forget_deletions(false);
    }

    /// All calls are answered, except those that nobody waits for any more.
    fn finish_calls(&mut self) {
        let mut world = self.world.lock();
        for mut call in std::mem::take(&mut world.calls) {
            if !call.is_abandoned() {
                if !call.has_taken_effect() {
                    world.take_effect(&mut call, "");
                }
                call.finish(true);
            }
        }
    }

    async fn calm_round(&mut self) {
        {
            let world = &mut *self.world.lock();
            world.group.drop_dead();
            if !world.group.is_serving() && !world.group.fail_over(&mut world.rng, true) {
                world.group.restart_primary();
            }
            while let Some(node) = world.group.down() {
                world.group.rejoin(&mut world.rng, node);
            }
            world.group.settle();
            world
                .kafka
                .producers
                .retain(|_, producer| !producer.is_orphan);
        }
        while self.writes_left > 0 {
            self.write();
        }
        self.is_captured = true;
        for node in 0..self.agents.len() {
            if self.agents[node].as_ref().map(|agent| agent.role) != self.role_of(node) {
                self.start_agent(node);
            }
        }
        if !self.follower.is_running() {
            self.follower.start();
        }
        for _ in 0..4 {
            self.poll().await;
            self.finish_calls();
            let mut world = self.world.lock();
            let producers: Vec<u64> = world.kafka.producers.keys().copied().collect();
            for producer in producers {
                while world.deliver(producer) {}
                while world.kafka.report(producer) {}
            }
            let fetches: Vec<u64> = world.kafka.fetches.keys().copied().collect();
            for fetch in fetches {
                world.kafka.fetch_up_to(fetch, i64::MAX);
            }
        }
        self.follower.commit();
        self.pass(Duration::from_millis(500)).await;
    }

    fn is_at_rest(&self) -> bool {
        self.follower.paused.is_some() || self.unfinished().is_empty()
    }

    /// What keeps the schedule from its end.
    fn unfinished(&self) -> String {
        let mut world = self.world.lock();
        let (settled, written) = (
            world.group.settled(),
            world.group.primary().ops.len() as i64 - 1,
        );
        if self.writes_left > 0 || !self.is_captured || settled < written {
            return format!("{settled} of {written} operations are settled");
        }
        let topic = world.topic.clone();
        let shipped = world
            .kafka
            .partition(&topic)
            .reach()
            .map_or(-1, |reach| reach.seq_no.0);
        let applied = self.follower.place.progress.shards[0]
            .follower_checkpoint()
            .0;
        match self.follower.is_following() {
            _ if shipped < settled => format!("{shipped} of {settled} operations are in the log"),
            false => "the follower agent does not follow".to_owned(),
            true if applied < settled => {
                format!("{applied} of {settled} operations are in the follower index")
            }
            true if !world.letters.is_empty() => {
                format!("there are dead letters: {:?}", world.letters)
            }
            true => String::new(),
        }
    }

    fn compare(&mut self) {
        let mut world = self.world.lock();
        match (&self.follower.paused, &self.foreign) {
            // The schedule ends there: a user is to decide.
            (Some(_), _) => {}
            (None, Some((id, settled))) if self.follower.copies == 0 => {
                // Only a later write of the leader shows it; otherwise it is for a verification to
                // find.
                if world.group.changed_since(id, *settled) {
                    world
                        .checks
                        .fail(format!("nobody noticed that somebody else wrote to {id}"));
                }
            }
            _ => {
                if let Some(difference) = world.difference(self.follower.place.epoch) {
                    world.checks.fail(difference);
                }
            }
        }
    }
}
