//! What every followed index needs of its agent: the clusters, the control topics, and what the
//! agent owns.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use serde::Deserialize;
use shardline_common::control::{AppliedMetadata, Capture, Entry, Subscription};
use shardline_common::kafka::{ControlError, ControlTopic, Derived, Kafka};
use shardline_common::lease::Lease;
use shardline_common::metadata::IndexMetadata;
use shardline_common::opensearch::OpenSearch;
use shardline_common::types::{IndexName, ShardId, TopicName};
use tokio::sync::Mutex;

use super::snapshot_requests::SnapshotRequests;
use super::state::{self, Command, Refusal};
use crate::membership::{Claim, Group, Positions, Slot, Slots};
use crate::metrics::Metrics;
use crate::progress::CheckpointStore;
use crate::read::Streams;
use crate::write::Memory;

/// What every followed index needs of its agent.
pub(crate) struct AgentContext {
    /// Writes only while the lease lasts.
    pub opensearch: OpenSearch,
    pub kafka: Kafka,
    pub streams: Streams,
    /// Of bootstrap topics.
    pub copies: Streams,
    pub checkpoints: CheckpointStore,
    pub slots: Arc<Slots>,
    pub positions: Arc<Positions>,
    pub group: Arc<Group>,
    pub lease: Lease,
    pub leader_table: ControlTopic,
    pub follower_table: ControlTopic,
    pub requests: SnapshotRequests,
    /// The snapshot repository of followers that do not name one.
    pub repository: Option<String>,
    pub dead_letters: ControlTopic,
    /// See [`Self::subscription_ids`].
    pub subscription_ids: Derived<HashSet<String>>,
    /// What the batches of all shards share.
    pub memory: Arc<Memory>,
    pub metrics: Arc<Metrics>,
    /// Held while a subscription is read, changed and written.
    pub changing: Mutex<()>,
}

/// Why a subscription was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransitionError {
    #[error("the subscription's state refuses it: {0:?}")]
    Refused(Refusal),
    #[error("another follower agent looks after the index now")]
    Elsewhere,
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl AgentContext {
    /// Applies a command to a subscription and writes the outcome into the control topic. With
    /// `id`, only while it still is that subscription. Only the agent that holds the index's slot
    /// may, so that no two changes cross.
    pub(crate) async fn transition(
        &self,
        current: &Subscription,
        command: Command,
    ) -> Result<Option<Subscription>, TransitionError> {
        let key = current.key();
        let _held = self.changing.lock().await;
        let _claim = self.claim(&current.follower_index)?;
        let latest = self
            .follower_table
            .get::<Subscription>(&key)
            .filter(|found| found.id == current.id);
        let next = state::apply(latest.as_ref(), command).map_err(TransitionError::Refused)?;
        match &next {
            Some(next) => self.follower_table.publish(next).await?,
            None => self.follower_table.remove(&key).await?,
        }
        Ok(next)
    }

    /// The right to change a follower index or its entries, for as long as this is held.
    pub(crate) fn claim(&self, follower: &IndexName) -> Result<Claim, TransitionError> {
        let claim = self.slots.try_claim(Slot::of_index(follower));
        claim
            .filter(|_| self.lease.is_valid())
            .ok_or(TransitionError::Elsewhere)
    }

    /// Writes down a new subscription.
    pub(crate) async fn begin(&self, subscription: &Subscription) -> Result<(), TransitionError> {
        let _held = self.changing.lock().await;
        let _claim = self.claim(&subscription.follower_index)?;
        Ok(self.follower_table.publish(subscription).await?)
    }

    /// The leader's descriptor of a subscription's index; its agents write it once they have seen
    /// the subscription.
    pub(crate) fn capture(&self, subscription: &Subscription) -> Option<Capture> {
        self.leader_table.get(&Capture::key_of(
            &subscription.leader_cluster,
            &subscription.leader_uuid,
        ))
    }

    /// The ids of all subscriptions, from memory while these do not change.
    pub(crate) fn subscription_ids(&self) -> Arc<HashSet<String>> {
        let id = |subscription: Subscription| subscription.id;
        self.subscription_ids.get(&self.follower_table, |all| {
            all.into_iter().map(id).collect()
        })
    }

    /// The replication topic of a subscription's leader index.
    pub(crate) fn topic(&self, subscription: &Subscription) -> Option<TopicName> {
        let key = Capture::key_of(&subscription.leader_cluster, &subscription.leader_uuid);
        self.leader_table
            .part::<CaptureTopic>(&key)
            .map(|found| found.topic)
    }

    /// What metadata a subscription's follower index has.
    pub(crate) fn applied(&self, subscription: &Subscription) -> Option<AppliedMetadata> {
        let key =
            AppliedMetadata::key_of(&subscription.follower_cluster, &subscription.follower_index);
        self.follower_table
            .get::<AppliedMetadata>(&key)
            .filter(|applied| applied.subscription == subscription.id)
    }

    /// The leader's metadata, with newer settings than the descriptor's if the stream or a copy has
    /// brought them.
    pub(crate) fn newest_metadata(&self, subscription: &Subscription) -> Option<IndexMetadata> {
        let mut metadata = self.capture(subscription)?.metadata;
        if let Some(applied) = self.applied(subscription)
            && applied.versions.settings > metadata.versions.settings
            && !applied.settings.is_empty()
        {
            metadata.versions.settings = applied.versions.settings;
            metadata.settings = applied.settings;
        }
        Some(metadata)
    }

    /// The slots of everybody who may write to a subscription's index.
    pub(crate) fn slots_of(&self, subscription: &Subscription) -> BTreeSet<Slot> {
        let mut slots = BTreeSet::from([Slot::of_index(&subscription.follower_index)]);
        if let Some(capture) = self.capture(subscription) {
            let shards = (0..capture.metadata.number_of_shards).map(ShardId);
            slots.extend(shards.map(|shard| Slot::of_shard(&capture.topic, shard)));
        }
        slots
    }
}

/// What of a [`Capture`] is needed often: the rest may be a large mapping.
#[derive(Deserialize)]
struct CaptureTopic {
    topic: TopicName,
}
