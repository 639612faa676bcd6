//! All that is outside the agents: Kafka, the clusters, the links between them and the agents, and
//! what is decided by the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use parking_lot::Mutex;
use serde_json::Value;
use shardline_common::kafka::memory::{Act, Brokers, Conduct, Fate, Place, Stored};
use tokio::time::Instant;

use super::cluster::Cluster;
use super::oracle::Oracle;
use super::plan::Plan;
use super::sabotage::Sabotage;

pub const PREFIX: &str = "shardline";
/// The leader cluster.
pub const LEADER: &str = "leader";

pub struct World {
    pub plan: Plan,
    pub brokers: Brokers,
    links: Arc<Links>,
    clusters: Mutex<BTreeMap<String, Cluster>>,
    pub oracle: Arc<Mutex<Oracle>>,
}

/// What becomes of messages.
pub struct Links {
    rng: Mutex<Rng>,
    plan: Plan,
    state: Mutex<State>,
    began: Instant,
    oracle: Arc<Mutex<Oracle>>,
}

#[derive(Default)]
struct State {
    /// From here on everything arrives, soon.
    is_calm: bool,
    gone: BTreeSet<String>,
    /// Until when an agent has no way to Kafka, or to its cluster.
    cut_from_kafka: BTreeMap<String, Instant>,
    cut_from_cluster: BTreeMap<String, Instant>,
}

impl World {
    pub fn new(seed: u64, plan: Plan, traced: bool) -> Arc<Self> {
        let oracle = Arc::new(Mutex::new(Oracle::new(traced)));
        let links = Arc::new(Links {
            rng: Mutex::new(Rng::with_seed(seed ^ 0x11ed)),
            plan: plan.clone(),
            state: Mutex::default(),
            began: Instant::now(),
            oracle: Arc::clone(&oracle),
        });
        let brokers = Brokers::new(Arc::clone(&links) as Arc<dyn Conduct>);
        let names = plan.follower_clusters().chain([LEADER.to_owned()]);
        let clusters = names.map(|name| (name.clone(), Cluster::new(&name)));
        Arc::new(Self {
            clusters: Mutex::new(clusters.collect()),
            plan,
            brokers,
            links,
            oracle,
        })
    }

    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Looks at a cluster, or changes it.
    pub fn cluster<T>(&self, name: &str, act: impl FnOnce(&mut Cluster) -> T) -> T {
        let mut clusters = self.clusters.lock();
        act(clusters.get_mut(name).expect("a cluster of the world"))
    }

    pub fn note(&self, event: impl FnOnce() -> String) {
        self.oracle.lock().note(event);
    }
}

impl Links {
    pub fn calm_down(&self) {
        let mut state = self.state.lock();
        state.is_calm = true;
        state.cut_from_kafka.clear();
        state.cut_from_cluster.clear();
    }

    pub fn is_calm(&self) -> bool {
        self.state.lock().is_calm
    }

    /// Since the schedule began.
    pub fn seconds(&self) -> u64 {
        self.began.elapsed().as_secs()
    }

    pub fn end(&self, agent: &str) {
        self.state.lock().gone.insert(agent.to_owned());
    }

    pub fn cut_from_kafka(&self, agent: &str, length: Duration) {
        let until = Instant::now() + length;
        let mut state = self.state.lock();
        state.cut_from_kafka.insert(agent.to_owned(), until);
    }

    pub fn cut_from_cluster(&self, agent: &str, length: Duration) {
        let until = Instant::now() + length;
        let mut state = self.state.lock();
        state.cut_from_cluster.insert(agent.to_owned(), until);
    }

    /// What becomes of a request to the agent's cluster.
    pub fn of_request(&self, agent: &str) -> Fate {
        let state = self.state.lock();
        let until = state.cut_from_cluster.get(agent);
        if state.gone.contains(agent) || until.is_some_and(|until| *until > Instant::now()) {
            return Fate::LOST;
        }
        let is_calm = state.is_calm;
        drop(state);
        self.draw(is_calm, self.plan.requests_are_slow)
    }

    fn draw(&self, is_calm: bool, is_slow: bool) -> Fate {
        let mut rng = self.rng.lock();
        let mut length = || {
            let most = if is_slow && !is_calm && rng.u32(0..20) == 0 {
                4_900
            } else {
                30
            };
            Some(Duration::from_micros(rng.u64(100..most * 1_000)))
        };
        let (there, back) = (length(), length());
        let loses = !is_calm && self.plan.messages_get_lost && rng.u32(0..60) == 0;
        match (loses, loses && rng.bool()) {
            (true, true) => Fate::LOST,
            (true, false) => Fate { there, back: None },
            (false, _) => Fate { there, back },
        }
    }
}

impl Conduct for Links {
    fn fate(&self, client: &str, act: Act) -> Fate {
        let state = self.state.lock();
        let until = state.cut_from_kafka.get(client);
        let until = until.filter(|_| self.is_fencing() || act != Act::Commit);
        if state.gone.contains(client) || until.is_some_and(|until| *until > Instant::now()) {
            return Fate::LOST;
        }
        let is_calm = state.is_calm;
        drop(state);
        let is_slow = self.plan.kafka_is_slow && act != Act::Heartbeat;
        self.draw(is_calm, is_slow)
    }

    fn is_gone(&self, client: &str) -> bool {
        self.state.lock().gone.contains(client)
    }

    fn arrives(&self, _: &str, record: Stored) -> Stored {
        if self.plan.sabotage != Some(Sabotage::LostNonce) {
            return record;
        }
        let key = record.key.clone().unwrap_or_default();
        let value = record.value.clone().unwrap_or_default();
        match serde_json::from_slice::<Value>(&value) {
            Ok(mut answer) if key.starts_with(b"refreshed/") => {
                answer["nonce"] = Value::from("another");
                Stored {
                    value: Some(answer.to_string().into()),
                    ..record
                }
            }
            _ => record,
        }
    }

    fn commits(&self, _: &str, metadata: String) -> String {
        if self.plan.sabotage != Some(Sabotage::ComplyTooEarly) {
            return metadata;
        }
        match serde_json::from_str::<Value>(&metadata) {
            Ok(mut holder) if holder.get("acted").is_some() => {
                holder["acted"] = Value::from(i64::MAX);
                holder.to_string()
            }
            _ => metadata,
        }
    }

    fn is_fencing(&self) -> bool {
        self.plan.sabotage != Some(Sabotage::EndlessLease)
    }

    fn appended(&self, client: &str, place: &Place, record: &Stored) {
        self.oracle.lock().appended(client, place, record);
    }
}
