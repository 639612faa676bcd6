//! The follower agent's side of a followed index: the real checkpoint store and committed
//! positions, over the simulated log and follower index.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::task::Poll;

use follower_agent::{
    Checkpoint, CheckpointError, CheckpointStore, IndexAdmin, IndexProgress, Limits, Observed,
    Positioned, Positions, Records, ShardError, ShardPorts, ShardProgress, Slot, StreamError,
    copy_key, furthest,
};
use shardline_common::kafka::{Reach, TopicError, Watermarks};
use shardline_common::metadata::IndexMetadata;
use shardline_common::record::{FrameId, Record};
use shardline_common::types::{Epoch, IndexName, Offset, SeqNo, ShardId, TopicName};
use tokio::sync::watch;

use crate::calls::{Target, call};
use crate::letters::Letters;
use crate::log::{Stream, ask, away};
use crate::world::{FOLLOWER_INDEX, Shared, Wire};

pub const SHARD: ShardId = ShardId(0);

pub struct Place {
    world: Shared,
    pub store: CheckpointStore,
    pub positions: Arc<Positions>,
    pub progress: Arc<IndexProgress>,
    pub subscription: String,
    key: String,
    pub epoch: Epoch,
    name: IndexName,
    topic: TopicName,
    /// Where the copy's stream begins.
    from: Option<Checkpoint>,
    follower: IndexAdmin,
    observations: watch::Sender<HashMap<ShardId, Observed>>,
}

impl Place {
    pub fn new(world: &Shared, store: CheckpointStore, subscription: &str, epoch: Epoch) -> Self {
        let name = IndexName::from(FOLLOWER_INDEX);
        Self {
            world: Arc::clone(world),
            store,
            positions: Arc::default(),
            progress: Arc::new(IndexProgress::new(1)),
            subscription: subscription.to_owned(),
            key: copy_key(subscription, &epoch.to_string()),
            epoch,
            topic: world.lock().topic.clone(),
            from: None,
            follower: IndexAdmin::new(Wire::follower(world), name.clone(), serde_json::Map::new()),
            name,
            observations: watch::Sender::default(),
        }
    }

    pub fn going_on_from(self, checkpoint: Option<Checkpoint>) -> Self {
        Self {
            from: checkpoint,
            ..self
        }
    }

    pub fn all_progress(&self) -> Arc<IndexProgress> {
        Arc::clone(&self.progress)
    }

    pub fn key_of_copy(&self) -> &str {
        &self.key
    }

    /// The same for another agent, which has its own checkpoints.
    pub fn moved(&self) -> Self {
        Self {
            from: self.from.clone(),
            ..Self::new(
                &self.world,
                self.store.clone(),
                &self.subscription,
                self.epoch,
            )
        }
    }
}

impl ShardPorts for Place {
    type Records = PartitionRecords;

    fn name(&self) -> &IndexName {
        &self.name
    }

    fn topic(&self) -> &TopicName {
        &self.topic
    }

    fn progress(&self, _: ShardId) -> &ShardProgress {
        &self.progress.shards[0]
    }

    fn observations(&self) -> watch::Receiver<HashMap<ShardId, Observed>> {
        self.observations.subscribe()
    }

    async fn own_history(
        &self,
        _: ShardId,
        acknowledged: SeqNo,
    ) -> Result<Option<Observed>, ShardError> {
        let numbers = |index: &crate::index::FollowerIndex| Observed {
            history: Some(index.history.clone()),
            max_seq_no: SeqNo(index.operations),
            global_checkpoint: SeqNo(index.operations),
            acknowledged,
        };
        Ok(Some(numbers(&self.world.lock().follower)))
    }

    fn limits(&self) -> Limits {
        Limits {
            requests: 2,
            operations: 5_000,
        }
    }

    fn checkpoints(&self) -> &CheckpointStore {
        &self.store
    }

    fn key(&self) -> &str {
        &self.key
    }

    async fn recover(&self, shard: ShardId) -> Result<Option<Checkpoint>, ShardError> {
        let asked = call(
            &self.world,
            Target::Log,
            "committed positions".to_owned(),
            |world| world.committed.clone(),
        );
        let committed = asked.await.ok_or_else(|| away(&self.topic))?;
        let in_kafka = committed
            .0
            .get(&self.key)
            .and_then(|position| position.checkpoint.clone());
        let in_rocksdb = self.store.load(&self.key, shard)?;
        let (partition, subscriptions) = (
            (self.topic.clone(), shard),
            HashSet::from([self.subscription.clone()]),
        );
        self.positions.begin(
            &partition,
            Slot(0),
            committed,
            &subscriptions,
            &self.key,
            Arc::clone(&self.progress),
        );
        Ok(furthest(in_rocksdb, in_kafka).or_else(|| self.from.clone()))
    }

    fn save(&self, shard: ShardId, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
        let mut world = self.world.lock();
        world.note(|| format!("checkpoint {checkpoint:?}"));
        world.check_checkpoint(self.epoch, checkpoint);
        drop(world);
        self.store.save(&self.key, shard, checkpoint)?;
        self.positions
            .reached(&(self.topic.clone(), shard), &self.key, checkpoint.clone());
        Ok(())
    }

    fn announced_metadata(&self) -> Option<IndexMetadata> {
        self.world.lock().announced.clone()
    }

    async fn redelivered(
        &self,
        _: ShardId,
        frame: FrameId,
        up_to: SeqNo,
    ) -> Result<(), ShardError> {
        Ok(Letters(Arc::clone(&self.world))
            .redelivered(frame, up_to)
            .await?)
    }

    async fn apply_metadata(&self, _: ShardId, metadata: &IndexMetadata) -> Result<(), ShardError> {
        let applied = self
            .world
            .lock()
            .applied
            .get(&self.key)
            .copied()
            .unwrap_or_default();
        if metadata.versions.newer_than(applied) {
            self.follower
                .apply(metadata, applied, None)
                .await
                .map_err(ShardError::Metadata)?;
            self.world
                .lock()
                .applied
                .insert(self.key.clone(), applied.union(metadata.versions));
        }
        Ok(())
    }

    async fn watermarks(&self, topic: &TopicName, _: ShardId) -> Result<Watermarks, TopicError> {
        ask(&self.world, topic, "offsets", |partition| partition.marks()).await
    }

    async fn reach(&self, topic: &TopicName, _: ShardId) -> Result<Option<Reach>, TopicError> {
        ask(&self.world, topic, "reach", |partition| partition.reach()).await
    }

    async fn first_records(&self, _: ShardId) -> Result<Vec<(Offset, Record)>, TopicError> {
        ask(&self.world, &self.topic, "first records", |partition| {
            partition.first()
        })
        .await
    }

    async fn open(
        &self,
        topic: &TopicName,
        _: ShardId,
        known: Range<Offset>,
    ) -> Result<PartitionRecords, StreamError> {
        Ok(PartitionRecords {
            topic: topic.clone(),
            stream: Stream::open(&self.world, topic, known.start),
        })
    }
}

pub struct PartitionRecords {
    topic: TopicName,
    stream: Stream,
}

impl PartitionRecords {
    fn lost(&self) -> StreamError {
        StreamError::PositionLost {
            topic: self.topic.clone(),
            shard: SHARD,
            offset: self.stream.position(),
        }
    }
}

impl Records for PartitionRecords {
    async fn next(&mut self) -> Result<Positioned, StreamError> {
        let next = std::future::poll_fn(|context| self.stream.poll(Some(context.waker()))).await;
        next.map_err(|()| self.lost())
    }

    fn ready(&mut self) -> Option<Result<Positioned, StreamError>> {
        match self.stream.poll(None) {
            Poll::Ready(next) => Some(next.map_err(|()| self.lost())),
            Poll::Pending => None,
        }
    }

    fn put_down(&mut self) {}
}
