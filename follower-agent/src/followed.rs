//! The task of one followed index on one agent. It works for one state of the subscription: when
//! that changes, the task is ended and another one begins.
//!
//! The agent that holds the index's slot looks after the index: makes it, copies it anew, brings
//! metadata over, changes its subscription. Each shard is followed by the agent that holds the
//! shard's slot, and by nobody while the index is made or copied.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use futures::future::join_all;
use serde::Deserialize;
use serde_json::Value;
use shardline_common::control::{AppliedMetadata, Ask, Capture, Entry, IndexCopy, Subscription};
use shardline_common::kafka::{ControlError, ControlTopic, Derived, Kafka};
use shardline_common::lease::Lease;
use shardline_common::metadata::IndexMetadata;
use shardline_common::opensearch::{OpenSearch, OpenSearchError};
use shardline_common::types::{IndexName, ShardId, TopicName};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::info;
use uuid::Uuid;

use crate::apply::batch::Target;
use crate::apply::bulk::Destination;
use crate::apply::lenient::Lenience;
use crate::apply::pipeline::Memory;
use crate::apply::routing::Spread;
use crate::checkpoint::{CheckpointError, CheckpointStore};
use crate::copy::Index;
use crate::group::Group;
use crate::index::FollowerIndex;
use crate::metrics::Metrics;
use crate::observe;
use crate::positions::Positions;
use crate::progress::IndexProgress;
use crate::requests::Requests;
use crate::restore::RestoreError;
use crate::shard::ShardError;
use crate::shard_task;
use crate::slots::{Claim, Slot, Slots};
use crate::state::{self, Command, Refusal};
use crate::stream::Streams;

/// What every followed index needs of its agent.
pub struct Shared {
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
    pub requests: Requests,
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
pub enum TransitionError {
    #[error("the subscription's state refuses it: {0:?}")]
    Refused(Refusal),
    #[error("another follower agent looks after the index now")]
    Elsewhere,
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl Shared {
    /// Applies a command to a subscription and writes the outcome into the control topic. With
    /// `id`, only while it still is that subscription. Only the agent that holds the index's slot
    /// may, so that no two changes cross.
    pub async fn transition(
        &self,
        current: &Subscription,
        command: Command,
    ) -> Result<Option<Subscription>, TransitionError> {
        let key = current.key();
        let _held = self.changing.lock().await;
        let claim = self
            .slots
            .try_claim(Slot::of_index(&current.follower_index));
        let _claim = claim
            .filter(|_| self.lease.is_valid())
            .ok_or(TransitionError::Elsewhere)?;
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

    /// Writes down a new subscription.
    pub async fn begin(&self, subscription: &Subscription) -> Result<(), TransitionError> {
        let _held = self.changing.lock().await;
        let claim = self
            .slots
            .try_claim(Slot::of_index(&subscription.follower_index));
        let _claim = claim
            .filter(|_| self.lease.is_valid())
            .ok_or(TransitionError::Elsewhere)?;
        Ok(self.follower_table.publish(subscription).await?)
    }

    /// The leader's descriptor of a subscription's index; its agents write it once they have seen
    /// the subscription.
    pub fn capture(&self, subscription: &Subscription) -> Option<Capture> {
        self.leader_table.get(&Capture::key_of(
            &subscription.leader_cluster,
            &subscription.leader_uuid,
        ))
    }

    /// The ids of all subscriptions, from memory while these do not change.
    pub fn subscription_ids(&self) -> Arc<HashSet<String>> {
        let id = |subscription: Subscription| subscription.id;
        self.subscription_ids.get(&self.follower_table, |all| {
            all.into_iter().map(id).collect()
        })
    }

    /// The replication topic of a subscription's leader index.
    pub fn topic(&self, subscription: &Subscription) -> Option<TopicName> {
        let key = Capture::key_of(&subscription.leader_cluster, &subscription.leader_uuid);
        self.leader_table
            .part::<CaptureTopic>(&key)
            .map(|found| found.topic)
    }

    /// What metadata a subscription's follower index has.
    pub fn applied(&self, subscription: &Subscription) -> Option<AppliedMetadata> {
        let key =
            AppliedMetadata::key_of(&subscription.follower_cluster, &subscription.follower_index);
        self.follower_table
            .get::<AppliedMetadata>(&key)
            .filter(|applied| applied.subscription == subscription.id)
    }

    /// The leader's metadata, with newer settings than the descriptor's if the stream or a copy has
    /// brought them.
    pub fn newest_metadata(&self, subscription: &Subscription) -> Option<IndexMetadata> {
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
    pub fn slots_of(&self, subscription: &Subscription) -> BTreeSet<Slot> {
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

/// What a followed index is doing.
#[derive(Clone, Debug)]
pub enum Phase {
    /// Waiting for the leader's agents, or making the follower index.
    Starting,
    Bootstrapping(Arc<IndexProgress>),
    Syncing(Arc<IndexProgress>),
    /// The follower cluster refused to make the index.
    Refused(Arc<OpenSearchError>),
}

/// Why the task ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum End {
    #[error("[{follower}][{shard}] - {error}")]
    Shard {
        follower: String,
        shard: ShardId,
        error: Box<ShardError>,
    },
    #[error("the follower index could not be made: {0}")]
    Refused(Arc<OpenSearchError>),
    #[error(transparent)]
    Transition(#[from] TransitionError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    OpenSearch(#[from] OpenSearchError),
    #[error(
        "the follower index [{0}] was deleted while it was loaded, or is another one: delete what is there, and resume"
    )]
    IndexGone(IndexName),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error("the copy under way is asked for by no request")]
    NotAsked,
    /// A shard's agent asked for it, with this reason.
    #[error("{0}")]
    Asked(String),
}

impl End {
    /// Whether trying again later may help.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Shard { error, .. } => error.retryable(),
            Self::OpenSearch(error) => error.retryable(),
            Self::Transition(TransitionError::Control(_) | TransitionError::Elsewhere) => true,
            Self::Restore(error) => error.retryable(),
            Self::Control(_) | Self::NotAsked => true,
            Self::Refused(_)
            | Self::Transition(_)
            | Self::Checkpoint(_)
            | Self::IndexGone(_)
            | Self::Asked(_) => false,
        }
    }
}

pub struct Followed {
    pub shared: Arc<Shared>,
    pub subscription: Subscription,
    pub phase: watch::Sender<Phase>,
}

impl Followed {
    /// Follows until stopped, or until it cannot go on.
    pub async fn run(self, stop: CancellationToken) -> Result<(), End> {
        let capture = tokio::select! {
            capture = self.capture() => capture,
            () = stop.cancelled() => return Ok(()),
        };
        match (&self.subscription.bootstrap, &self.subscription.copy) {
            (Some(id), _) => self.copy(id, &capture, &stop).await,
            (None, None) => self.make(&capture, &stop).await,
            (None, Some(copy)) => self.follow(copy, &capture, &stop).await,
        }
    }

    async fn capture(&self) -> Capture {
        let mut changes = self.shared.leader_table.changes();
        loop {
            changes.mark_unchanged();
            if let Some(capture) = self.shared.capture(&self.subscription) {
                return capture;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(crate) fn index(
        &self,
        copy: &IndexCopy,
        capture: &Capture,
        progress: Arc<IndexProgress>,
    ) -> Arc<Index> {
        let (shared, subscription) = (&self.shared, &self.subscription);
        let (name, overrides) = (
            subscription.follower_index.clone(),
            subscription.settings.clone(),
        );
        let follower = FollowerIndex::new(shared.opensearch.clone(), name, overrides);
        Arc::new(Index::new(
            Arc::clone(shared),
            subscription,
            copy.clone(),
            capture.topic.clone(),
            follower,
            progress,
        ))
    }

    /// Waits until this agent holds the index's slot; none when stopped before.
    pub(crate) async fn hold(&self, stop: &CancellationToken) -> Option<Claim> {
        tokio::select! {
            claim = self.shared.slots.claim(Slot::of_index(&self.subscription.follower_index)) => Some(claim),
            () = stop.cancelled() => None,
        }
    }

    /// Makes the follower index: the beginning of a subscription.
    async fn make(&self, capture: &Capture, stop: &CancellationToken) -> Result<(), End> {
        let id = Uuid::new_v4().simple().to_string();
        let copy = IndexCopy {
            id,
            from: Vec::new(),
            is_restored: false,
        };
        let progress = Arc::new(IndexProgress::new(capture.metadata.number_of_shards));
        let index = self.index(&copy, capture, progress);
        while let Some(claim) = self.hold(stop).await {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = claim.lost().cancelled() => continue,
                made = self.make_index(&index, &capture.metadata) => made?,
            }
            drop(claim);
            // This changes the subscription, which ends this task.
            self.shared
                .transition(&self.subscription, Command::Made { copy })
                .await?;
            stop.cancelled().await;
            break;
        }
        Ok(())
    }

    async fn make_index(&self, index: &Index, metadata: &IndexMetadata) -> Result<(), End> {
        // It may be there from an attempt that was broken off.
        if index.follower.exists().await? {
            index.follower.let_templates_in().await;
            let applied = index.apply_metadata(ShardId(0), metadata).await;
            return applied.map_err(|error| self.shard_end(ShardId(0), error));
        }
        self.create(index, metadata).await
    }

    pub(crate) async fn create(&self, index: &Index, metadata: &IndexMetadata) -> Result<(), End> {
        let refused_aliases = match index.follower.make(metadata).await {
            Err(error) if !error.retryable() => {
                let error = Arc::new(error);
                self.phase.send_replace(Phase::Refused(Arc::clone(&error)));
                return Err(End::Refused(error));
            }
            outcome => outcome?,
        };
        index
            .note_made(metadata, refused_aliases)
            .await
            .map_err(|error| self.shard_end(ShardId(0), error))
    }

    /// Follows the shards whose slots this agent holds, and looks after the index while it holds
    /// that one's.
    async fn follow(
        &self,
        copy: &IndexCopy,
        capture: &Capture,
        stop: &CancellationToken,
    ) -> Result<(), End> {
        let shards = capture.metadata.number_of_shards;
        // Unless the copy is another one, the shards go on where they were.
        let known = match &*self.phase.borrow() {
            Phase::Syncing(known) if known.shards.len() == shards as usize => {
                Some(Arc::clone(known))
            }
            _ => None,
        };
        let progress = known.unwrap_or_else(|| Arc::new(IndexProgress::new(shards)));
        let index = self.index(copy, capture, progress);
        self.phase
            .send_replace(Phase::Syncing(Arc::clone(&index.progress)));
        let all = stop.child_token();
        let shards = (0..shards).map(ShardId).map(|shard| {
            let task = shard_task::run(
                Arc::clone(&index),
                self.destination(&index, &capture.metadata, shard),
                all.clone(),
            );
            let task = tokio::spawn(task);
            async move {
                if let Err(error) = task.await {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        });
        let served = async {
            let served = self.serve_requests(&index, &all).await;
            all.cancel();
            served
        };
        // All shards are waited for, so that none writes on when the index is to be copied or
        // paused.
        let (_, asked, ()) = tokio::join!(join_all(shards), served, observe::run(&index, &all));
        match asked? {
            Some(()) => self.ask_for_copy(&index, stop).await,
            None => Ok(()),
        }
    }

    /// Takes up what the shards' agents ask, until stopped; or until the index is to be copied or
    /// cannot go on.
    async fn serve_requests(
        &self,
        index: &Index,
        stop: &CancellationToken,
    ) -> Result<Option<()>, End> {
        while let Some(claim) = self.hold(stop).await {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(None),
                () = claim.lost().cancelled() => {}
                served = self.serve_until_copy(index) => return served.map(Some),
                () = index.keep_aliases() => {}
            }
        }
        Ok(None)
    }

    async fn serve_until_copy(&self, index: &Index) -> Result<(), End> {
        let table = &self.shared.follower_table;
        let mut changes = table.changes();
        loop {
            changes.mark_unchanged();
            for request in index.requests() {
                let key = request.key();
                if request.subscription != self.subscription.id || request.copy != index.copy.id {
                    table.remove(&key).await?;
                    continue;
                }
                match request.ask {
                    Ask::Metadata(metadata) => {
                        let applied = index.apply_metadata(request.shard, &metadata).await;
                        applied.map_err(|error| self.shard_end(request.shard, error))?;
                        table.remove(&key).await?;
                    }
                    // Removed first: should it be forgotten then, it is asked again.
                    Ask::Copy { reason } => {
                        table.remove(&key).await?;
                        info!(index = %index.follower.name, shard = %request.shard, reason, "copying the index anew");
                        return Ok(());
                    }
                    Ask::Pause { reason } => {
                        table.remove(&key).await?;
                        return Err(End::Asked(reason));
                    }
                }
            }
            let served = index.serve_leniency().await;
            served.map_err(|error| self.shard_end(ShardId(0), error.into()))?;
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(crate) fn destination(
        &self,
        index: &Arc<Index>,
        metadata: &IndexMetadata,
        shard: ShardId,
    ) -> Destination {
        let partition_size = metadata
            .settings
            .get("index.routing_partition_size")
            .and_then(Value::as_str);
        Destination {
            opensearch: self.shared.opensearch.clone(),
            index: self.subscription.follower_index.clone(),
            target: Target {
                shard,
                epoch: self.subscription.epoch,
                spread: Spread {
                    number_of_shards: metadata.number_of_shards,
                    routing_num_shards: metadata.routing_num_shards.max(metadata.number_of_shards),
                    partition_size: partition_size
                        .and_then(|size| size.parse().ok())
                        .unwrap_or(1),
                },
            },
            metrics: Arc::clone(&self.shared.metrics),
            progress: Arc::clone(&index.progress),
            memory: Arc::clone(&self.shared.memory),
            dead_letters: Arc::new(index.dead_letters.clone()),
            lenience: Arc::clone(index) as Arc<dyn Lenience>,
            lenient: Arc::default(),
        }
    }

    pub(crate) fn shard_end(&self, shard: ShardId, error: ShardError) -> End {
        End::Shard {
            follower: self.subscription.follower_index.to_string(),
            shard,
            error: Box::new(error),
        }
    }
}
