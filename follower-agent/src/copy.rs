//! One copy of a leader index in a follower index, as its shards' tasks share it: where they go on,
//! what metadata the follower index has, and how they ask the agent that looks after the index.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use shardline_common::control::{
    AppliedMetadata, Ask, Capture, Entry, IndexCopy, ShardRequest, Subscription,
};
use shardline_common::kafka::{ControlError, Kafka, Reach, TopicError, Watermarks};
use shardline_common::metadata::{IndexMetadata, MetadataVersions, copied_aliases, write_aliases};
use shardline_common::opensearch::OpenSearchError;
use shardline_common::record::{FrameId, Record};
use shardline_common::types::{
    ClusterUuid, IndexName, IndexUuid, Offset, SeqNo, ShardId, TopicName,
};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::aliases::{Keeping, Refused};
use crate::apply::pipeline::Limits;
use crate::checkpoint::{Checkpoint, CheckpointError, CheckpointStore, furthest};
use crate::dead_letters::LetterBox;
use crate::followed::Shared;
use crate::index::{FollowerIndex, Found};
use crate::ports::FollowedIndex;
use crate::positions::{Committed, Partition, copy_key};
use crate::progress::{IndexProgress, ShardProgress};
use crate::settings::ControlSettings;
use crate::shard::ShardError;
use crate::slots::Slot;
use crate::stream::{PartitionStream, StreamError};

pub struct Index {
    pub shared: Arc<Shared>,
    pub(crate) cluster: ClusterUuid,
    pub(crate) subscription: String,
    /// Of the leader's descriptor of the index, in the control topic.
    descriptor: String,
    pub copy: IndexCopy,
    /// Under which positions of this copy are kept.
    pub key: String,
    pub topic: TopicName,
    pub follower: FollowerIndex,
    pub kafka: Kafka,
    pub dead_letters: LetterBox,
    pub checkpoints: CheckpointStore,
    pub progress: Arc<IndexProgress>,
    /// The highest number that each follower shard has given to an operation, as last asked.
    pub given_away: watch::Sender<HashMap<ShardId, SeqNo>>,
    /// Cancelled once the follower index is found to be gone, or to be another one.
    pub gone: CancellationToken,
    /// Held while metadata is brought over.
    pub(crate) applying: Mutex<()>,
    /// Whether the index is being loaded with a copy, by this agent alone.
    pub(crate) is_copied: AtomicBool,
    pub(crate) aliases: Keeping,
    /// Whether this agent has relaxed the index's mapping, and how thoroughly.
    pub(crate) relaxed: parking_lot::Mutex<Option<bool>>,
    /// Whether it is known if an earlier agent has left the mapping relaxed.
    pub(crate) has_looked_for_leniency: AtomicBool,
}

impl Index {
    pub fn new(
        shared: Arc<Shared>,
        subscription: &Subscription,
        copy: IndexCopy,
        topic: TopicName,
        follower: FollowerIndex,
        progress: Arc<IndexProgress>,
    ) -> Self {
        let dead_letters = shared.letter_box(subscription).of(topic.clone());
        Self {
            cluster: subscription.follower_cluster.clone(),
            subscription: subscription.id.clone(),
            descriptor: Capture::key_of(&subscription.leader_cluster, &subscription.leader_uuid),
            key: copy_key(&subscription.id, &copy.id),
            copy,
            topic,
            follower,
            kafka: shared.kafka.clone(),
            dead_letters,
            checkpoints: shared.checkpoints.clone(),
            progress,
            given_away: watch::Sender::default(),
            gone: CancellationToken::new(),
            applying: Mutex::new(()),
            is_copied: AtomicBool::new(false),
            aliases: Keeping::default(),
            relaxed: parking_lot::Mutex::new(None),
            has_looked_for_leniency: AtomicBool::new(false),
            shared,
        }
    }

    /// As they are now.
    pub fn settings(&self) -> ControlSettings {
        ControlSettings::new(self.shared.follower_table.clone(), self.cluster.clone())
    }

    fn partition(&self, shard: ShardId) -> Partition {
        (self.topic.clone(), shard)
    }

    /// Where a shard goes on: from RocksDB's checkpoint or the one committed to Kafka, whichever is
    /// further; else from where this copy was made; else, with none, from the topic's beginning.
    pub async fn recover(&self, shard: ShardId) -> Result<Option<Checkpoint>, ShardError> {
        self.forget_leniency(shard).await?;
        let partition = self.partition(shard);
        let mut committed = self
            .shared
            .group
            .committed(std::slice::from_ref(&partition))
            .await?;
        let committed = committed.remove(&partition).unwrap_or_default();
        let in_kafka = committed
            .0
            .get(&self.key)
            .and_then(|position| position.checkpoint);
        let in_rocksdb = self.checkpoints.load(&self.key, shard)?;
        self.begin_reports(&partition, Slot::of_shard(&self.topic, shard), committed);
        let chosen = furthest(in_rocksdb, in_kafka);
        let source = match chosen {
            Some(_) if chosen == in_rocksdb => "RocksDB",
            Some(_) => "Kafka",
            None => "the copy",
        };
        let chosen = chosen.or_else(|| self.copy.from.get(shard.0 as usize).copied());
        info!(index = %self.follower.name, %shard, source, found = chosen.is_some(), "position recovered");
        Ok(chosen)
    }

    /// RocksDB first, Kafka behind it: what is committed never runs ahead.
    pub fn save(&self, shard: ShardId, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
        self.checkpoints.save(&self.key, shard, checkpoint)?;
        self.shared
            .positions
            .reached(&self.partition(shard), &self.key, *checkpoint);
        Ok(())
    }

    fn begin_reports(&self, partition: &Partition, slot: Slot, found: Committed) {
        let subscriptions = self.shared.subscription_ids();
        let progress = Arc::clone(&self.progress);
        self.shared
            .positions
            .begin(partition, slot, found, &subscriptions, &self.key, progress);
    }

    /// Commits the progress of loading a shard, for the other agents' status, until the guard is
    /// dropped.
    pub fn report_on(&self, bootstrap_topic: &TopicName, shard: ShardId) -> impl Drop + use<> {
        let partition = (bootstrap_topic.clone(), shard);
        self.begin_reports(
            &partition,
            Slot::of_index(&self.follower.name),
            Committed::default(),
        );
        Reporting {
            shared: Arc::clone(&self.shared),
            partition,
        }
    }

    /// The metadata that the follower index has.
    pub(crate) fn applied(&self) -> Option<AppliedMetadata> {
        let key = AppliedMetadata::key_of(&self.cluster, &self.follower.name);
        let applied = self.shared.follower_table.get::<AppliedMetadata>(&key);
        applied
            .filter(|found| found.subscription == self.subscription && found.copy == self.copy.id)
    }

    fn applied_versions(&self) -> MetadataVersions {
        self.applied()
            .map(|applied| applied.versions)
            .unwrap_or_default()
    }

    /// Whether an index of the follower's name is the one that holds this copy.
    pub fn is_copy(&self, uuid: &IndexUuid) -> bool {
        self.applied()
            .and_then(|applied| applied.index_uuid)
            .is_none_or(|known| known == *uuid)
    }

    /// The follower index, if it is the one that holds this copy.
    pub async fn found(&self) -> Result<Option<Found>, OpenSearchError> {
        Ok(self
            .follower
            .found()
            .await?
            .filter(|found| self.is_copy(&found.uuid)))
    }

    /// Writes down that the follower index has been made with this metadata.
    pub async fn note_made(
        &self,
        metadata: &IndexMetadata,
        refused_aliases: Refused,
    ) -> Result<(), ShardError> {
        self.note(metadata, None, Some(refused_aliases)).await
    }

    /// Forgets which index holds the copy, since another one is about to.
    pub async fn forget_made(&self) -> Result<(), ControlError> {
        self.shared
            .follower_table
            .remove(&AppliedMetadata::key_of(&self.cluster, &self.follower.name))
            .await
    }

    /// Writes down what metadata the follower index has now, and which index it is; with the
    /// aliases that were refused, or without any if they are still to be brought over.
    async fn note(
        &self,
        metadata: &IndexMetadata,
        before: Option<AppliedMetadata>,
        refused_aliases: Option<Refused>,
    ) -> Result<(), ShardError> {
        let (mut versions, mut settings) = (metadata.versions, metadata.settings.clone());
        let mut write_aliases = write_aliases(&metadata.aliases);
        let mut index_uuid = before.as_ref().and_then(|before| before.index_uuid.clone());
        if index_uuid.is_none() {
            index_uuid = self
                .follower
                .found()
                .await
                .map_err(ShardError::Metadata)?
                .map(|found| found.uuid);
        }
        let is_settled = refused_aliases.as_ref().is_some_and(Refused::is_empty);
        let mut wanted_aliases = (!is_settled).then(|| copied_aliases(&metadata.aliases));
        let mut refused_aliases = refused_aliases.unwrap_or_default();
        let mut leniency = None;
        if let Some(before) = before {
            if before.versions.aliases >= versions.aliases {
                write_aliases = before.write_aliases;
                wanted_aliases = before.wanted_aliases;
                refused_aliases = before.refused_aliases;
            }
            leniency = before.leniency.map(|leniency| {
                if versions.mapping > before.versions.mapping {
                    leniency.behind(&metadata.mappings)
                } else {
                    leniency
                }
            });
            if before.versions.settings > versions.settings {
                settings = before.settings;
            }
            versions = versions.union(before.versions);
        }
        let applied = AppliedMetadata {
            follower_cluster: self.cluster.clone(),
            follower_index: self.follower.name.clone(),
            subscription: self.subscription.clone(),
            copy: self.copy.id.clone(),
            index_uuid,
            versions,
            settings,
            write_aliases,
            wanted_aliases,
            refused_aliases,
            leniency,
        };
        Ok(self.shared.follower_table.publish(&applied).await?)
    }

    /// Brings metadata over that the follower index does not have yet: the agent that holds the
    /// index's slot does it, for all shards, so that older metadata never comes after newer.
    pub async fn apply_metadata(
        &self,
        shard: ShardId,
        metadata: &IndexMetadata,
    ) -> Result<(), ShardError> {
        while metadata.versions.newer_than(self.applied_versions()) {
            let Some(claim) = self
                .shared
                .slots
                .try_claim(Slot::of_index(&self.follower.name))
            else {
                self.ask(shard, Ask::Metadata(Box::new(metadata.clone())))
                    .await?;
                continue;
            };
            tokio::select! {
                biased;
                () = claim.lost().cancelled() => {}
                applied = self.apply_here(metadata) => return applied,
            }
        }
        Ok(())
    }

    async fn apply_here(&self, metadata: &IndexMetadata) -> Result<(), ShardError> {
        {
            let _one_at_a_time = self.applying.lock().await;
            let before = self.applied();
            let applied = before.as_ref().map(|before| before.versions);
            let applied = applied.unwrap_or_default();
            if !metadata.versions.newer_than(applied) {
                return Ok(());
            }
            let leniency = before.as_ref().and_then(|before| before.leniency.clone());
            let leniency = leniency.map(|leniency| leniency.behind(&metadata.mappings));
            self.follower
                .apply(metadata, applied, leniency.as_ref())
                .await
                .map_err(ShardError::Metadata)?;
            let mut refused = None;
            if metadata.versions.aliases > applied.aliases && !self.aliases.is_kept() {
                let wanted = copied_aliases(&metadata.aliases);
                let set = self.follower.set_aliases(&wanted).await;
                refused = Some(set.map_err(ShardError::Metadata)?);
            }
            self.note(metadata, before, refused).await?;
        }
        self.aliases.changed();
        Ok(self.relax_copy(&metadata.mappings).await?)
    }

    /// Asks the agent that looks after the index, and waits until it has taken the request up.
    pub async fn ask(&self, shard: ShardId, ask: Ask) -> Result<(), ControlError> {
        let request = ShardRequest {
            follower_cluster: self.cluster.clone(),
            follower_index: self.follower.name.clone(),
            shard,
            subscription: self.subscription.clone(),
            copy: self.copy.id.clone(),
            ask,
        };
        let (key, table) = (request.key(), &self.shared.follower_table);
        let mut changes = table.changes();
        table.publish(&request).await?;
        while table.get::<ShardRequest>(&key).is_some() {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        Ok(())
    }

    /// What is asked for this index.
    pub fn requests(&self) -> Vec<ShardRequest> {
        self.shared
            .follower_table
            .below(&ShardRequest::prefix_of(&self.cluster, &self.follower.name))
    }
}

impl FollowedIndex for Index {
    type Records = PartitionStream;

    fn name(&self) -> &IndexName {
        &self.follower.name
    }

    fn topic(&self) -> &TopicName {
        &self.topic
    }

    fn progress(&self, shard: ShardId) -> &ShardProgress {
        &self.progress.shards[shard.0 as usize]
    }

    fn given_away(&self) -> watch::Receiver<HashMap<ShardId, SeqNo>> {
        self.given_away.subscribe()
    }

    fn limits(&self) -> Limits {
        Limits {
            requests: self.settings().writers(),
            operations: self.settings().batch_operations(),
        }
    }

    fn checkpoints(&self) -> &CheckpointStore {
        &self.checkpoints
    }

    fn key(&self) -> &str {
        &self.key
    }

    async fn recover(&self, shard: ShardId) -> Result<Option<Checkpoint>, ShardError> {
        Self::recover(self, shard).await
    }

    fn save(&self, shard: ShardId, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
        Self::save(self, shard, checkpoint)
    }

    fn announced_metadata(&self) -> Option<IndexMetadata> {
        self.shared
            .leader_table
            .get::<Capture>(&self.descriptor)
            .map(|capture| capture.metadata)
    }

    async fn apply_metadata(
        &self,
        shard: ShardId,
        metadata: &IndexMetadata,
    ) -> Result<(), ShardError> {
        Self::apply_metadata(self, shard, metadata).await
    }

    async fn watermarks(
        &self,
        topic: &TopicName,
        shard: ShardId,
    ) -> Result<Watermarks, TopicError> {
        self.kafka.watermarks(topic, shard).await
    }

    async fn reach(&self, topic: &TopicName, shard: ShardId) -> Result<Option<Reach>, TopicError> {
        self.kafka.reach(topic, shard).await
    }

    async fn first_records(&self, shard: ShardId) -> Result<Vec<(Offset, Record)>, TopicError> {
        self.kafka.first_records(&self.topic, shard).await
    }

    async fn redelivered(
        &self,
        shard: ShardId,
        frame: FrameId,
        up_to: SeqNo,
    ) -> Result<(), ShardError> {
        Ok(self.dead_letters.redelivered(shard, frame, up_to).await?)
    }

    async fn open(
        &self,
        topic: &TopicName,
        shard: ShardId,
        known: Range<Offset>,
    ) -> Result<PartitionStream, StreamError> {
        let streams = if *topic == self.topic {
            &self.shared.streams
        } else {
            &self.shared.copies
        };
        streams.open(topic, shard, known).await
    }
}

struct Reporting {
    shared: Arc<Shared>,
    partition: Partition,
}

impl Drop for Reporting {
    fn drop(&mut self) {
        self.shared.positions.end(&self.partition);
    }
}
