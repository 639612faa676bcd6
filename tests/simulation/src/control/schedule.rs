//! One schedule: what happens, when, and how it ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use follower_agent::{CheckpointStore, Metrics};
use parking_lot::Mutex;
use shardline_common::control::{Entry, ReplicationSettings};
use shardline_common::kafka::memory::Stored;
use shardline_common::topic::{follower_control_topic, leader_control_topic};
use shardline_common::types::{Offset, ShardId};
use tokio::time::{Instant, sleep};

use super::agents::{Follower, Leader};
use super::gateways::Gateways;
use super::oracle::Verb;
use super::plan::Plan;
use super::sabotage::Sabotage;
use super::users::{Call, Followers};
use super::world::{LEADER, PREFIX, World};

/// What an agent keeps over its restarts: its folder.
#[derive(Clone)]
pub struct Folders {
    pub stores: Vec<CheckpointStore>,
    pub metrics: Arc<Metrics>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    pub calls: u64,
    pub faults: u64,
}

pub struct Failure {
    pub violation: String,
}

pub struct Schedule {
    pub rng: Rng,
    pub world: Arc<World>,
    pub followers: Followers,
    gateways: Arc<Gateways>,
    leader: Option<Leader>,
    folders: Folders,
    /// How many agents have been started.
    started: u32,
    /// Whether a leader agent was killed.
    pub lost_leader: bool,
    pub calls: tokio::task::JoinSet<()>,
    pub outcome: Outcome,
}

impl Schedule {
    pub fn new(seed: u64, folders: Folders, sabotage: Option<Sabotage>, traced: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::draw(&mut rng, sabotage);
        let world = World::new(seed, plan, traced);
        let followers: Followers = Arc::new(Mutex::default());
        let gateways = Gateways::new(&world, &followers);
        Self {
            rng,
            world,
            followers,
            gateways,
            leader: None,
            folders,
            started: 0,
            lost_leader: false,
            calls: tokio::task::JoinSet::new(),
            outcome: Outcome::default(),
        }
    }

    pub async fn run(mut self) -> (Result<Outcome, Failure>, Vec<String>) {
        self.play().await;
        let mut oracle = self.world.oracle.lock();
        let trace = oracle.take_trace();
        match oracle.violation.take() {
            None => (Ok(self.outcome), trace),
            Some(violation) => (Err(Failure { violation }), trace),
        }
    }

    fn is_over(&self) -> bool {
        self.world.oracle.lock().violation.is_some()
    }

    async fn play(&mut self) {
        self.world.note(|| format!("{:?}", self.world.plan));
        self.begin().await;
        let end = Instant::now() + Duration::from_secs(self.world.plan.seconds);
        while Instant::now() < end && !self.is_over() {
            let pause = self.rng.u64(20..1_200);
            sleep(Duration::from_millis(pause)).await;
            self.happen().await;
            self.look();
        }
        if !self.is_over() {
            self.come_to_rest().await;
        }
    }

    async fn begin(&mut self) {
        let (indices, shards) = (self.world.plan.indices, self.world.plan.shards);
        self.world.cluster(LEADER, |leader| {
            for index in 0..indices {
                leader.make(&format!("books-{index}"), shards, Default::default());
            }
        });
        for _ in 0..self.rng.usize(0..10) {
            self.write();
        }
        self.start_leader();
        for cluster in self.world.plan.follower_clusters().collect::<Vec<_>>() {
            for number in 0..self.world.plan.agents {
                self.start_follower(&cluster, number).await;
            }
        }
        // They join.
        sleep(Duration::from_secs(5)).await;
        if self.world.plan.deletes_with_leader {
            self.set_delete_index();
        }
    }

    /// Users have put `replicate.delete_index` into the settings of every follower cluster.
    fn set_delete_index(&self) {
        let setting = "plugins.replication.replicate.delete_index".to_owned();
        for name in self.world.plan.follower_clusters() {
            let uuid = self.world.cluster(&name, |cluster| cluster.uuid.clone());
            let settings = ReplicationSettings {
                follower_cluster: uuid.as_str().into(),
                settings: BTreeMap::from([(setting.clone(), "true".to_owned())]),
            };
            let json = serde_json::to_vec(&settings).expect("it can be written");
            let entry = Stored::entry(&settings.key(), Some(&json));
            let topic = follower_control_topic(PREFIX);
            self.world.brokers.append(&topic, ShardId(0), entry);
        }
    }

    pub fn start_leader(&mut self) {
        self.started += 1;
        let name = format!("leader-agent-{}", self.started);
        self.leader = Some(Leader::start(&self.world, &name));
    }

    pub async fn start_follower(&mut self, cluster: &str, number: usize) {
        self.started += 1;
        let name = format!("{cluster}-agent-{number}-{}", self.started);
        let of_cluster = self.world.plan.follower_clusters();
        let of_cluster = of_cluster.take_while(|name| name != cluster).count();
        let place = of_cluster * self.world.plan.agents + number;
        let store = self.folders.stores[place].clone();
        let started = Follower::start(
            &self.world,
            &name,
            cluster,
            store,
            Arc::clone(&self.folders.metrics),
            &self.gateways,
        );
        let follower = started.await;
        self.followers.lock().extend(follower);
    }

    /// A client writes to the leader cluster.
    fn write(&mut self) {
        let plan = &self.world.plan;
        let index = format!("books-{}", self.rng.usize(0..plan.indices));
        let id = format!("{}-{}", self.rng.usize(0..plan.shards), self.rng.u32(0..5));
        let source = (self.rng.u32(0..4) > 0).then(|| format!("{{\"n\":{}}}", self.rng.u16(..)));
        self.world
            .cluster(LEADER, |leader| leader.write(&index, &id, source));
    }

    async fn happen(&mut self) {
        match self.rng.u32(0..10) {
            0..=3 => {
                for _ in 0..self.rng.usize(1..4) {
                    self.write();
                }
            }
            4..=6 => {
                self.outcome.calls += 1;
                let call = Call::draw(&mut self.rng, &self.world);
                self.make_room(&call);
                let made = call.make(Arc::clone(&self.world), Arc::clone(&self.followers));
                self.calls.spawn(async move { drop(made.await) });
            }
            7 => self.trouble_agents().await,
            8 => self.trouble_links(),
            _ => self.trouble_leader_indices(),
        }
    }

    /// A user who starts anew deletes what an earlier start has left.
    fn make_room(&self, call: &Call) {
        let key = self.world.key(&call.cluster, &call.follower);
        let is_free = {
            let oracle = self.world.oracle.lock();
            let is_followed = oracle.subscriptions.contains_key(&key);
            !is_followed && oracle.calls.get(&key).is_none_or(Vec::is_empty)
        };
        if call.verb == Verb::Start && is_free {
            self.world
                .cluster(&call.cluster, |cluster| cluster.delete(&call.follower));
        }
    }

    /// The leaders' control topic loses what stands in it, and whoever wrote that goes on.
    fn lose_catalogue(&mut self) {
        let topic = leader_control_topic(PREFIX);
        let entries = self.world.brokers.records(&topic, ShardId(0));
        let Some((offset, _)) = entries.last() else {
            return;
        };
        self.world
            .note(|| format!("{topic} loses all before {offset}"));
        self.outcome.faults += 1;
        self.world.brokers.truncate(&topic, ShardId(0), *offset);
        if self.world.plan.sabotage == Some(Sabotage::LostEntries) {
            let keys = entries.iter().filter_map(|(_, record)| record.key.as_ref());
            let keys = keys.filter(|key| key.starts_with(b"catalog/"));
            for key in keys.map(|key| String::from_utf8_lossy(key)) {
                let removal = Stored::entry(&key, None);
                self.world.brokers.append(&topic, ShardId(0), removal);
            }
        }
    }

    async fn trouble_agents(&mut self) {
        let plan = self.world.plan.clone();
        let kills = plan.agents_crash && self.rng.bool();
        if !kills && !plan.agents_restart {
            return;
        }
        self.outcome.faults += 1;
        if kills && self.rng.u32(0..4) == 0 {
            self.lost_leader = true;
            if let Some(leader) = self.leader.take() {
                leader.kill(&self.world);
            }
            return self.start_leader();
        }
        let victim = {
            let mut followers = self.followers.lock();
            if followers.is_empty() {
                return;
            }
            let victim = self.rng.usize(0..followers.len());
            followers.swap_remove(victim)
        };
        let cluster = victim.cluster.clone();
        let number = victim.name.rsplit('-').nth(1).and_then(|n| n.parse().ok());
        match kills {
            true => victim.kill(&self.world),
            false => victim.stop(&self.world),
        }
        self.start_follower(&cluster, number.unwrap_or(0)).await;
    }

    fn trouble_links(&mut self) {
        let plan = self.world.plan.clone();
        if plan.topics_get_lost && self.rng.u32(0..3) == 0 {
            return self.lose_catalogue();
        }
        let topic = follower_control_topic(PREFIX);
        if plan.control_is_compacted && self.rng.bool() {
            self.world.brokers.compact(&topic, ShardId(0), Offset(0));
            let topic = leader_control_topic(PREFIX);
            return self.world.brokers.compact(&topic, ShardId(0), Offset(0));
        }
        let names: Vec<String> = {
            let followers = self.followers.lock();
            followers.iter().map(|one| one.name.clone()).collect()
        };
        let Some(name) = self.rng.choice(names) else {
            return;
        };
        let length = Duration::from_millis(self.rng.u64(200..5_000));
        if plan.sessions_get_lost && self.rng.bool() {
            self.outcome.faults += 1;
            let length = length + Duration::from_secs(6);
            self.world
                .note(|| format!("{name} is cut from Kafka for {length:?}"));
            self.world.links().cut_from_kafka(&name, length);
        } else if plan.links_are_cut {
            self.outcome.faults += 1;
            self.world
                .note(|| format!("{name} is cut from its cluster for {length:?}"));
            self.world.links().cut_from_cluster(&name, length);
        }
    }

    fn trouble_leader_indices(&mut self) {
        let plan = self.world.plan.clone();
        let number = self.rng.usize(0..plan.indices);
        let index = format!("books-{number}");
        let uuid = self.world.cluster(LEADER, |leader| {
            let index = leader.indices.get(&index)?;
            Some((index.uuid.clone(), index.is_open))
        });
        let Some((uuid, is_open)) = uuid else {
            self.world.note(|| format!("{index} is made anew"));
            return self.world.cluster(LEADER, |leader| {
                leader.make(&index, plan.shards, Default::default());
            });
        };
        if plan.indices_are_deleted && self.rng.u32(0..3) == 0 {
            self.world.note(|| format!("{index} is deleted"));
            self.world.oracle.lock().is_deleted.insert(uuid);
            self.world.cluster(LEADER, |leader| leader.delete(&index));
        } else if plan.indices_close {
            self.world.note(|| format!("{index} is open: {}", !is_open));
            self.world.oracle.lock().was_closed.insert(uuid);
            self.world
                .cluster(LEADER, |leader| leader.set_open(&index, !is_open));
        }
    }

    /// Compares what the agents say with what the log says.
    pub fn look(&self) {
        let followers = self.followers.lock();
        for one in followers.iter() {
            let followed = one.engine.service().followed();
            let position = one.engine.position();
            self.world
                .check_followed(&one.name, &one.cluster, position, &followed);
        }
    }
}
