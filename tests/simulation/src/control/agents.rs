//! The agents: the real ones, over Kafka and clusters in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use follower_agent::{CheckpointStore, Engine, Metrics as FollowerMetrics, Parts, Slot};
use leader_agent::{CaptureConfig, Clients, Metrics as LeaderMetrics, Source};
use prometheus::Registry;
use shardline_common::config::KafkaConfig;
use shardline_common::kafka::Kafka;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::gateways::Gateways;
use super::sabotage::Sabotage;
use super::wire::Wire;
use super::world::{LEADER, PREFIX, World};

/// An agent of a follower cluster, from one start of it to its end.
pub struct Follower {
    pub name: String,
    pub cluster: String,
    pub engine: Arc<Engine>,
    /// Cancelled when its process has ended: whoever called it hears nothing any more.
    pub gone: CancellationToken,
    stop: CancellationToken,
}

pub fn kafka(world: &World, agent: &str) -> Kafka {
    let config = KafkaConfig {
        bootstrap_servers: "memory:1".to_owned(),
        topic_prefix: PREFIX.to_owned(),
        replication_factor: 1,
        retention_hours: 1,
        properties: BTreeMap::default(),
        properties_files: BTreeMap::default(),
    };
    Kafka::in_memory(world.brokers.client(agent), config).expect("the settings are valid")
}

impl Follower {
    /// Starts an agent; `None` if it was ended before it was there.
    pub async fn start(
        world: &Arc<World>,
        name: &str,
        cluster: &str,
        store: CheckpointStore,
        metrics: Arc<FollowerMetrics>,
        gateways: &Arc<Gateways>,
    ) -> Option<Self> {
        let (stop, gone) = (CancellationToken::new(), CancellationToken::new());
        let parts = Parts {
            opensearch: Wire::between(world, name, cluster),
            kafka: kafka(world, name),
            checkpoints: store,
            metrics,
            own_gateway: gateways.of(cluster),
            address: format!("http://{name}"),
            repository: None,
            share_within: Duration::from_secs(60),
            aliases: BTreeMap::new(),
        };
        let uuid = world.cluster(cluster, |cluster| cluster.uuid.clone());
        let started = Engine::start(parts, uuid.as_str().into(), stop.clone());
        let engine = Arc::new(started.await.expect("the agent can be put together")?);
        if world.plan.sabotage == Some(Sabotage::TwoOwners) {
            engine.slots().take(&(0..64).map(Slot).collect());
        }
        tokio::spawn({
            let engine = Arc::clone(&engine);
            async move { engine.run().await.expect("no task of the agent panics") }
        });
        Some(Self {
            name: name.to_owned(),
            cluster: cluster.to_owned(),
            engine,
            gone,
            stop,
        })
    }

    /// Its process is killed: nothing of it reaches anybody any more.
    pub fn kill(self, world: &World) {
        world.note(|| format!("{} is killed", self.name));
        world.links().end(&self.name);
        self.gone.cancel();
        self.stop.cancel();
    }

    /// It is told to stop.
    pub fn stop(self, world: &World) {
        world.note(|| format!("{} is stopped", self.name));
        self.gone.cancel();
        self.stop.cancel();
    }
}

/// The leader agent, from one start of it to its end.
pub struct Leader {
    name: String,
    stop: CancellationToken,
}

impl Leader {
    pub fn start(world: &Arc<World>, name: &str) -> Self {
        let stop = CancellationToken::new();
        let capture = CaptureConfig {
            source: Source::Poll,
            poll_seconds: 1,
            poll_sweep_seconds: 5,
            ..CaptureConfig::default()
        };
        let lives = {
            let (world, name, stop) = (Arc::clone(world), name.to_owned(), stop.clone());
            async move {
                while !stop.is_cancelled() {
                    let registry = Registry::new();
                    let metrics = LeaderMetrics::register(&registry);
                    let clients = Clients {
                        opensearch: Wire::between(&world, &name, LEADER),
                        kafka: kafka(&world, &name),
                    };
                    let metrics = metrics.expect("they are registered once");
                    let life =
                        leader_agent::work(clients, capture.clone(), metrics, stop.clone()).await;
                    if let Err(error) = life {
                        world.note(|| format!("{name} ends: {error:#}"));
                    }
                    // Whoever runs it starts it again.
                    sleep(Duration::from_secs(1)).await;
                }
            }
        };
        tokio::task::spawn_local(lives);
        Self {
            name: name.to_owned(),
            stop,
        }
    }

    pub fn kill(self, world: &World) {
        world.note(|| format!("{} is killed", self.name));
        world.links().end(&self.name);
        self.stop.cancel();
    }
}
