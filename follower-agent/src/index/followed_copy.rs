//! One copy of a leader index in a follower index, as its shards' tasks share it: where they go on,
//! what metadata the follower index has, and how they ask the agent that looks after the index.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use shardline_common::clock::now_ms;
use shardline_common::control::{
    AppliedMetadata, Ask, Capture, Entry, IndexCopy, ShardRequest, Subscription,
};
use shardline_common::kafka::{ControlError, Kafka, Reach, TopicError, Watermarks};
use shardline_common::metadata::{IndexMetadata, MetadataVersions, copied_aliases, write_aliases};
use shardline_common::opensearch::OpenSearchError;
use shardline_common::record::{FrameId, Record};
use shardline_common::shard_stats::history;
use shardline_common::standstill::{Cause, StandstillReason};
use shardline_common::types::{
    ClusterUuid, IndexName, IndexUuid, Offset, SeqNo, ShardId, TopicName,
};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::admin::{Found, IndexAdmin};
use super::aliases::{Keeping, RefusedAliases};
use super::context::AgentContext;
use super::letter_box::LetterBox;
use super::settings::ControlSettings;
use crate::membership::{Committed, Partition, Slot, copy_key};
use crate::progress::{
    Checkpoint, CheckpointError, CheckpointStore, IndexProgress, ShardProgress, Source, furthest,
};
use crate::read::{ShardRecords, StreamError};
use crate::shard::{Observed, ShardError, ShardPorts};
use crate::write::Limits;

pub(crate) struct FollowedCopy {
    pub context: Arc<AgentContext>,
    pub cluster: ClusterUuid,
    pub subscription: String,
    /// Of the leader's descriptor of the index, in the control topic.
    descriptor: String,
    pub copy: IndexCopy,
    /// Under which positions of this copy are kept.
    pub key: String,
    pub topic: TopicName,
    pub follower: IndexAdmin,
    pub kafka: Kafka,
    pub dead_letters: LetterBox,
    pub checkpoints: CheckpointStore,
    pub progress: Arc<IndexProgress>,
    /// What each follower shard said of itself, as last asked.
    pub observations: watch::Sender<HashMap<ShardId, Observed>>,
    /// Cancelled once the follower index is found to be gone, or to be another one.
    pub gone: CancellationToken,
    /// Held while metadata is brought over.
    pub applying: Mutex<()>,
    /// Whether the index is being loaded with a copy, by this agent alone.
    pub is_copied: AtomicBool,
    pub aliases: Keeping,
    /// Whether this agent has relaxed the index's mapping, and how thoroughly.
    pub relaxed: parking_lot::Mutex<Option<bool>>,
    /// Whether it is known if an earlier agent has left the mapping relaxed.
    pub has_looked_for_leniency: AtomicBool,
}

impl FollowedCopy {
    pub(crate) fn new(
        context: Arc<AgentContext>,
        subscription: &Subscription,
        copy: IndexCopy,
        topic: TopicName,
        follower: IndexAdmin,
        progress: Arc<IndexProgress>,
    ) -> Self {
        let dead_letters = LetterBox::new(&context, subscription).of(topic.clone());
        Self {
            cluster: subscription.follower_cluster.clone(),
            subscription: subscription.id.clone(),
            descriptor: Capture::key_of(&subscription.leader_cluster, &subscription.leader_uuid),
            key: copy_key(&subscription.id, &copy.id),
            copy,
            topic,
            follower,
            kafka: context.kafka.clone(),
            dead_letters,
            checkpoints: context.checkpoints.clone(),
            progress,
            observations: watch::Sender::default(),
            gone: CancellationToken::new(),
            applying: Mutex::new(()),
            is_copied: AtomicBool::new(false),
            aliases: Keeping::default(),
            relaxed: parking_lot::Mutex::new(None),
            has_looked_for_leniency: AtomicBool::new(false),
            context,
        }
    }

    /// As they are now.
    pub(crate) fn settings(&self) -> ControlSettings {
        ControlSettings::new(self.context.follower_table.clone(), self.cluster.clone())
    }

    fn partition(&self, shard: ShardId) -> Partition {
        (self.topic.clone(), shard)
    }

    /// Where a shard goes on: from RocksDB's checkpoint or the one committed to Kafka, whichever is
    /// further; else from where this copy was made; else, with none, from the topic's beginning.
    pub(crate) async fn recover(&self, shard: ShardId) -> Result<Option<Checkpoint>, ShardError> {
        self.forget_leniency(shard).await?;
        let partition = self.partition(shard);
        let mut committed = self
            .context
            .group
            .committed(std::slice::from_ref(&partition))
            .await?;
        let committed = committed.remove(&partition).unwrap_or_default();
        let in_kafka = committed
            .0
            .get(&self.key)
            .and_then(|position| position.checkpoint.clone());
        let in_rocksdb = self.checkpoints.load(&self.key, shard)?;
        self.begin_reports(&partition, Slot::of_shard(&self.topic, shard), committed);
        let chosen = furthest(in_rocksdb.clone(), in_kafka);
        let source = match chosen {
            Some(_) if chosen == in_rocksdb => "RocksDB",
            Some(_) => "Kafka",
            None => "the copy",
        };
        let chosen = chosen.or_else(|| self.copy.from.get(shard.0 as usize).cloned());
        info!(
            index = %self.follower.name, %shard, source, found = chosen.is_some(),
            "position recovered"
        );
        Ok(chosen)
    }

    /// RocksDB first, Kafka behind it: what is committed never runs ahead.
    pub(crate) fn save(
        &self,
        shard: ShardId,
        checkpoint: &Checkpoint,
    ) -> Result<(), CheckpointError> {
        self.checkpoints.save(&self.key, shard, checkpoint)?;
        self.context
            .positions
            .reached(&self.partition(shard), &self.key, checkpoint.clone());
        Ok(())
    }

    fn begin_reports(&self, partition: &Partition, slot: Slot, found: Committed) {
        let subscriptions = self.context.subscription_ids();
        let progress = Arc::clone(&self.progress);
        self.context
            .positions
            .begin(partition, slot, found, &subscriptions, &self.key, progress);
    }

    /// Commits the progress of loading a shard, for the other agents' status, until the guard is
    /// dropped.
    pub(super) fn report_on(
        &self,
        bootstrap_topic: &TopicName,
        shard: ShardId,
    ) -> impl Drop + use<> {
        let partition = (bootstrap_topic.clone(), shard);
        self.begin_reports(
            &partition,
            Slot::of_index(&self.follower.name),
            Committed::default(),
        );
        Reporting {
            context: Arc::clone(&self.context),
            partition,
        }
    }

    /// The metadata that the follower index has.
    pub(crate) fn applied(&self) -> Option<AppliedMetadata> {
        let key = AppliedMetadata::key_of(&self.cluster, &self.follower.name);
        let applied = self.context.follower_table.get::<AppliedMetadata>(&key);
        applied
            .filter(|found| found.subscription == self.subscription && found.copy == self.copy.id)
    }

    fn applied_versions(&self) -> MetadataVersions {
        self.applied()
            .map(|applied| applied.versions)
            .unwrap_or_default()
    }

    /// Whether an index of the follower's name is the one that holds this copy.
    pub(super) fn is_copy(&self, uuid: &IndexUuid) -> bool {
        self.applied()
            .and_then(|applied| applied.index_uuid)
            .is_none_or(|known| known == *uuid)
    }

    /// Whether it was written down for this subscription that the index with this uuid was made.
    pub(crate) fn is_noted(&self, uuid: &IndexUuid) -> bool {
        let key = AppliedMetadata::key_of(&self.cluster, &self.follower.name);
        let applied = self.context.follower_table.get::<AppliedMetadata>(&key);
        applied.is_some_and(|found| {
            found.subscription == self.subscription && found.index_uuid.as_ref() == Some(uuid)
        })
    }

    /// The follower index, if it is the one that holds this copy.
    pub(crate) async fn found(&self) -> Result<Option<Found>, OpenSearchError> {
        Ok(self
            .follower
            .found()
            .await?
            .filter(|found| self.is_copy(&found.uuid)))
    }

    /// Writes down that the follower index has been made with this metadata.
    pub(super) async fn note_made(
        &self,
        metadata: &IndexMetadata,
        refused_aliases: RefusedAliases,
    ) -> Result<(), ShardError> {
        self.note(metadata, None, Some(refused_aliases)).await
    }

    /// Forgets which index holds the copy, since another one is about to.
    pub(super) async fn forget_made(&self) -> Result<(), ControlError> {
        self.context
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
        refused_aliases: Option<RefusedAliases>,
    ) -> Result<(), ShardError> {
        let (mut versions, mut settings) = (metadata.versions, metadata.settings.clone());
        let mut write_aliases = write_aliases(&metadata.aliases);
        let mut aliases: BTreeSet<String> = metadata.aliases.keys().cloned().collect();
        let found = self.follower.found().await.map_err(ShardError::Metadata)?;
        let own_versions = found.as_ref().map(|found| found.versions);
        let index_uuid = before.as_ref().and_then(|before| before.index_uuid.clone());
        let index_uuid = index_uuid.or_else(|| found.map(|found| found.uuid));
        let is_settled = refused_aliases
            .as_ref()
            .is_some_and(RefusedAliases::is_empty);
        let mut wanted_aliases = (!is_settled).then(|| copied_aliases(&metadata.aliases));
        let mut refused_aliases = refused_aliases.unwrap_or_default();
        let mut leniency = None;
        if let Some(before) = before {
            if before.versions.aliases >= versions.aliases {
                write_aliases = before.write_aliases;
                aliases = before.aliases;
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
            own_versions,
            settings,
            write_aliases,
            aliases,
            wanted_aliases,
            refused_aliases,
            leniency,
        };
        Ok(self.context.follower_table.publish(&applied).await?)
    }

    /// Tells all agents' gateways of aliases before they are made: a write through one of them
    /// would change this index. Those that it is made with are in the leader's description.
    async fn announce_aliases(&self, metadata: &IndexMetadata) -> Result<(), ShardError> {
        let Some(mut applied) = self.applied() else {
            return Ok(());
        };
        let known = applied.aliases.len();
        applied.aliases.extend(metadata.aliases.keys().cloned());
        if applied.aliases.len() > known {
            self.context.follower_table.publish(&applied).await?;
        }
        Ok(())
    }

    /// Brings metadata over that the follower index does not have yet: the agent that holds the
    /// index's slot does it, for all shards, so that older metadata never comes after newer.
    pub(crate) async fn apply_metadata(
        &self,
        shard: ShardId,
        metadata: &IndexMetadata,
    ) -> Result<(), ShardError> {
        while metadata.versions.newer_than(self.applied_versions()) {
            let Some(claim) = self
                .context
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
            self.announce_aliases(metadata).await?;
            let before = self.applied();
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

    /// Brings all metadata over anew if the follower index shows an earlier state of its own than
    /// it had when the last was brought over: it was put back.
    pub(crate) async fn make_up_for_metadata(&self) -> Result<(), ShardError> {
        let Some(applied) = self.applied() else {
            return Ok(());
        };
        let found = self.found().await.map_err(ShardError::Metadata)?;
        let (Some(had), Some(found)) = (applied.own_versions, found) else {
            return Ok(());
        };
        if !had.newer_than(found.versions) {
            return Ok(());
        }
        let Some(metadata) = self.newest_metadata() else {
            return Ok(());
        };
        warn!(
            index = %self.follower.name,
            ?had,
            now = ?found.versions,
            "the follower index was put back: its metadata is brought over anew"
        );
        let _one_at_a_time = self.applying.lock().await;
        let applied = self.applied();
        let leniency = applied
            .as_ref()
            .and_then(|applied| applied.leniency.clone());
        self.follower
            .apply(&metadata, MetadataVersions::default(), leniency.as_ref())
            .await
            .map_err(ShardError::Metadata)?;
        let wanted = copied_aliases(&metadata.aliases);
        let refused = self.follower.set_aliases(&wanted).await;
        let refused = refused.map_err(ShardError::Metadata)?;
        self.note(&metadata, applied, Some(refused)).await
    }

    /// What the leader agents said last, with newer settings if the stream has brought them.
    fn newest_metadata(&self) -> Option<IndexMetadata> {
        let mut metadata = self.announced_metadata()?;
        if let Some(applied) = self.applied()
            && applied.versions.settings > metadata.versions.settings
            && !applied.settings.is_empty()
        {
            metadata.versions.settings = applied.versions.settings;
            metadata.settings = applied.settings;
        }
        Some(metadata)
    }

    /// Asks the agent that looks after the index, and waits until it has taken the request up.
    pub(crate) async fn ask(&self, shard: ShardId, ask: Ask) -> Result<(), ControlError> {
        let request = ShardRequest {
            follower_cluster: self.cluster.clone(),
            follower_index: self.follower.name.clone(),
            shard,
            subscription: self.subscription.clone(),
            copy: self.copy.id.clone(),
            ask,
        };
        let (key, table) = (request.key(), &self.context.follower_table);
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
    pub(crate) fn requests(&self) -> Vec<ShardRequest> {
        self.context
            .follower_table
            .below(&ShardRequest::prefix_of(&self.cluster, &self.follower.name))
    }
}

impl ShardPorts for FollowedCopy {
    type Records = ShardRecords;

    fn name(&self) -> &IndexName {
        &self.follower.name
    }

    fn topic(&self) -> &TopicName {
        &self.topic
    }

    fn progress(&self, shard: ShardId) -> &ShardProgress {
        &self.progress.shards[shard.0 as usize]
    }

    fn observations(&self) -> watch::Receiver<HashMap<ShardId, Observed>> {
        self.observations.subscribe()
    }

    async fn own_history(
        &self,
        shard: ShardId,
        acknowledged: SeqNo,
    ) -> Result<Option<Observed>, ShardError> {
        let (opensearch, name) = (&self.follower.opensearch, &self.follower.name);
        let asked = async {
            // The manager's word that the copy's index is there; that it is gone, or another one,
            // is found elsewhere.
            match self.found().await? {
                Some(found) if !found.is_closed => {}
                _ => return Ok(None),
            }
            history(opensearch, name, shard).await
        };
        let said = asked.await.map_err(ShardError::Shards)?;
        Ok(said.map(|(history, numbers)| Observed {
            history: Some(history),
            max_seq_no: numbers.max_seq_no,
            global_checkpoint: numbers.global_checkpoint,
            acknowledged,
        }))
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
        self.context
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
    ) -> Result<ShardRecords, StreamError> {
        let streams = if *topic == self.topic {
            &self.context.streams
        } else {
            &self.context.copies
        };
        let stream = streams.open(topic, shard, known).await?;
        let progress = Arc::clone(&self.progress);
        Ok(stream.telling(move |waits| {
            let words = "partitions that are far behind are read a few at a time";
            let reason = waits.then(|| StandstillReason::new(Cause::Turn, now_ms(), words));
            progress.shards[shard.0 as usize].set_standing(Source::Turn, reason);
        }))
    }
}

struct Reporting {
    context: Arc<AgentContext>,
    partition: Partition,
}

impl Drop for Reporting {
    fn drop(&mut self) {
        self.context.positions.end(&self.partition);
    }
}
