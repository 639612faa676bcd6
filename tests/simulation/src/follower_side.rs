//! The follower agent: the real tasks that follow a shard or load a copy of it, and what the agent
//! that looks after the index does when a shard cannot go on.

use std::sync::Arc;

use follower_agent::{
    ApplyError, CheckpointStore, Committed, Destination, Metrics, ShardError, Spread,
    Target as WriteTarget, follow, load,
};
use futures::future::BoxFuture;
use shardline_common::topic::bootstrap_topic;
use shardline_common::types::{Epoch, TopicName};
use tokio_util::sync::CancellationToken;

use crate::letters::{Letters, Never};
use crate::place::{Place, SHARD};
use crate::world::{FOLLOWER_INDEX, Shared, Wire};

/// What the subscription says: it outlives the agent.
#[derive(Clone)]
enum Stage {
    Following,
    Loading(TopicName),
}

pub struct FollowerSide {
    world: Shared,
    metrics: Arc<Metrics>,
    stage: Stage,
    pub place: Arc<Place>,
    task: Option<BoxFuture<'static, Result<(), ShardError>>>,
    /// Why the index is paused.
    pub paused: Option<ShardError>,
    pub copies: u32,
}

impl FollowerSide {
    pub fn new(
        world: &Shared,
        store: CheckpointStore,
        subscription: &str,
        metrics: Arc<Metrics>,
    ) -> Self {
        let place = Arc::new(Place::new(world, store, subscription, Epoch(0)));
        let world = Arc::clone(world);
        Self {
            world,
            metrics,
            stage: Stage::Following,
            place,
            task: None,
            paused: None,
            copies: 0,
        }
    }

    pub fn is_running(&self) -> bool {
        self.task.is_some()
    }

    pub fn is_following(&self) -> bool {
        matches!(self.stage, Stage::Following) && self.task.is_some()
    }

    /// The copy that the leader agents are asked for.
    pub fn wanted_copy(&self) -> Option<&TopicName> {
        match &self.stage {
            Stage::Loading(topic) => Some(topic),
            Stage::Following => None,
        }
    }

    pub fn start(&mut self) {
        if self.paused.is_some() {
            return;
        }
        let spread = Spread {
            number_of_shards: 1,
            routing_num_shards: 1024,
            partition_size: 1,
        };
        let destination = Destination {
            opensearch: Wire::follower(&self.world),
            index: FOLLOWER_INDEX.into(),
            target: WriteTarget {
                shard: SHARD,
                epoch: self.place.epoch,
                spread,
            },
            metrics: Arc::clone(&self.metrics),
            progress: self.place.all_progress(),
            memory: Arc::default(),
            dead_letters: Arc::new(Letters(Arc::clone(&self.world))),
            lenience: Arc::new(Never),
            lenient: Arc::default(),
        };
        let place = Arc::clone(&self.place);
        self.task = Some(match &self.stage {
            Stage::Following => Box::pin(follow(place, destination, CancellationToken::new())),
            Stage::Loading(topic) => Box::pin(load(place, destination, topic.clone(), true)),
        });
    }

    /// The agent is gone. Another one, or the same anew, begins with the checkpoints in its folder.
    pub fn crash(&mut self) {
        self.task = None;
        self.place = Arc::new(self.place.moved());
    }

    /// Its folder is gone, too.
    pub fn lose_checkpoints(&mut self) {
        self.place
            .store
            .forget(&self.place.subscription)
            .expect("checkpoints can be removed");
    }

    /// What has changed is committed to Kafka.
    pub fn commit(&mut self) {
        for (_, committed) in self.place.positions.changed() {
            if let Some((_, metadata)) = committed.encode() {
                self.world.lock().committed = Committed::parse(&metadata);
            }
        }
    }

    pub fn poll(&mut self, context: &mut std::task::Context<'_>) {
        let Some(task) = &mut self.task else { return };
        let std::task::Poll::Ready(ended) = task.as_mut().poll(context) else {
            return;
        };
        self.task = None;
        let mut world = self.world.lock();
        match ended {
            Ok(()) => {
                let loaded = self
                    .place
                    .store
                    .load(self.place.key_of_copy(), SHARD)
                    .expect("a checkpoint can be read");
                world.note(|| format!("copy loaded, the stream begins with {loaded:?}"));
                drop(world);
                self.stage = Stage::Following;
                self.place = Arc::new(self.place.moved().going_on_from(loaded));
            }
            Err(error) if error.needs_copy() => {
                world.note(|| format!("the index is copied anew: {error}"));
                world.checks.scanned = true;
                world.letters.clear();
                drop(world);
                self.copies += 1;
                let epoch = Epoch(self.place.epoch.0 + 1);
                let (store, subscription) =
                    (self.place.store.clone(), self.place.subscription.clone());
                store
                    .forget(&subscription)
                    .expect("checkpoints can be removed");
                self.place = Arc::new(Place::new(&self.world, store, &subscription, epoch));
                let topic = bootstrap_topic(&self.world.lock().topic, &self.copies.to_string());
                self.stage = Stage::Loading(topic);
            }
            Err(error) => {
                world.note(|| format!("paused: {error}"));
                let is_foreign =
                    matches!(error, ShardError::Apply(ApplyError::ForeignWrite { .. }));
                // Without checkpoints, what the log has lost again since it was applied cannot be
                // told from what others write.
                let is_of_nobody = world.checks.is_log_damaged && world.plan.checkpoints_get_lost;
                if !(is_foreign && (world.plan.foreign_write || is_of_nobody)) {
                    world
                        .checks
                        .fail(format!("the follower agent paused the index: {error}"));
                }
                drop(world);
                self.paused = Some(error);
                return;
            }
        }
        self.start();
    }
}
