//! The leader agents: one beside each node, running the real capture, hold and snapshot tasks.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use leader_agent::{
    Asking, Board, Context, FetchTurns, Files, Metrics, Origin, PartitionLog, Shard, Shipped,
    Spool, Standing, StateId, TranslogWatcher, copy_shard, hold_replica, redelivery_channel,
    ship_shard,
};
use parking_lot::Mutex;
use prometheus::Registry;
use shardline_common::config::KafkaConfig;
use shardline_common::control::Redelivery;
use shardline_common::kafka::Kafka;
use shardline_common::metadata::MetadataVersions;
use shardline_common::types::TopicName;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::log::AgentsLog;
use crate::place::SHARD;
use crate::world::{INDEX, Shared, UUID, Wire};

const HEARTBEAT: Duration = Duration::from_secs(5);
/// Of a copy: short, so that one takes several.
const STRETCH: i64 = 8;

/// What an agent does with its node's copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Ships,
    Holds,
}

pub struct LeaderAgent {
    pub role: Role,
    pub producer: u64,
    context: Arc<Context>,
    shard: Shard,
    shipped: watch::Receiver<Option<Shipped>>,
    metadata: watch::Sender<MetadataVersions>,
    asking: Asking,
    task: BoxFuture<'static, ()>,
    snapshot: Option<(TopicName, BoxFuture<'static, ()>)>,
}

impl LeaderAgent {
    pub fn start(world: &Shared, node: usize, role: Role) -> Self {
        let mut locked = world.lock();
        let producer = locked.kafka.id();
        let (translog, spool_folder) =
            (locked.group.translog_of(node), locked.group.spool_of(node));
        let limit = if locked.plan.spool_is_full {
            0
        } else {
            u64::MAX
        };
        let (topic, has_replicas) = (locked.topic.clone(), locked.plan.copies > 1);
        drop(locked);
        let log = Arc::new(AgentsLog {
            world: Arc::clone(world),
            producer,
        });
        let (log, board): (Arc<dyn PartitionLog>, Arc<dyn Board>) = (Arc::clone(&log) as _, log);
        let context = Arc::new(Context {
            opensearch: Wire::leader(world, node),
            state_id: StateId::new(Wire::leader(world, node)),
            kafka: unused_kafka(),
            cluster: "cluster".into(),
            board,
            log,
            watcher: TranslogWatcher::blind(),
            metrics: Metrics::register(&Registry::new()).expect("metrics are registered once"),
            turns: FetchTurns::default(),
            stretch: STRETCH,
            heartbeat: HEARTBEAT,
            cluster_seen: Mutex::new(Instant::now()),
            standing: Standing::default(),
            started: Instant::now(),
        });
        let shard = Shard {
            index: INDEX.into(),
            uuid: UUID.into(),
            shard: SHARD,
            number_of_shards: 1,
            has_replicas,
            topic,
        };
        let spool =
            Spool::open(&spool_folder, limit).and_then(|spool| spool.shard(&shard.uuid, SHARD));
        let files = Files {
            translog,
            spool: spool.expect("a spool can be made"),
        };
        let (shipped_sender, shipped) = watch::channel(None);
        let (metadata, newest) = watch::channel(MetadataVersions::default());
        let (asking, asked) = redelivery_channel();
        let (of_task, stop) = (
            (shard.clone(), Arc::clone(&context)),
            CancellationToken::new(),
        );
        let task: BoxFuture<'static, ()> = match role {
            Role::Ships => {
                let origin = Origin::Translog(files);
                Box::pin(ship_shard(
                    of_task.0,
                    origin,
                    of_task.1,
                    shipped_sender,
                    newest,
                    asked,
                    stop,
                ))
            }
            Role::Holds => Box::pin(hold_replica(of_task.0, files, of_task.1, stop)),
        };
        Self {
            role,
            producer,
            context,
            shard,
            shipped,
            metadata,
            asking,
            task,
            snapshot: None,
        }
    }

    /// The cluster manager's state reaches the agent.
    pub fn hears_of_cluster(&self) {
        *self.context.cluster_seen.lock() = Instant::now();
        self.metadata.send_modify(|versions| versions.mapping += 1);
    }

    /// Begins the copy that is asked for, if it is this agent's to make.
    pub fn copies_to(&mut self, topic: Option<&TopicName>) {
        if self.snapshot.as_ref().map(|(topic, _)| topic) == topic {
            return;
        }
        self.snapshot = topic.filter(|_| self.role == Role::Ships).map(|topic| {
            let (shard, context, shipped) = (
                self.shard.clone(),
                Arc::clone(&self.context),
                self.shipped.clone(),
            );
            let task = copy_shard(
                shard,
                topic.clone(),
                context,
                shipped,
                CancellationToken::new(),
            );
            (topic.clone(), Box::pin(task) as BoxFuture<'static, ()>)
        });
    }

    /// What a follower agent asks for comes through the control topic.
    pub fn is_asked(&mut self, redelivery: Option<&Redelivery>) {
        if self.role == Role::Ships {
            self.asking
                .pass_on(redelivery.map_or(&[], std::slice::from_ref));
        }
    }

    pub fn poll(&mut self, context: &mut std::task::Context<'_>) {
        let ended = self.task.as_mut().poll(context).is_ready();
        assert!(!ended, "a leader agent's task ended by itself");
        if let Some((_, task)) = &mut self.snapshot
            && task.as_mut().poll(context).is_ready()
        {
            *task = Box::pin(std::future::pending());
        }
    }
}

/// The parts of the leader agent that run here have the log instead.
fn unused_kafka() -> Kafka {
    thread_local! {
        static KAFKA: Kafka = Kafka::new(KafkaConfig {
            bootstrap_servers: "unused:1".to_owned(),
            topic_prefix: "shardline".to_owned(),
            replication_factor: 1,
            retention_hours: 1,
            properties: Default::default(),
            properties_files: Default::default(),
        })
        .expect("the settings are valid");
    }
    KAFKA.with(Kafka::clone)
}
