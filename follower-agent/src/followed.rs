//! The task of one followed index: makes the follower index, keeps its shards' tasks, copies the index anew when the
//! log cannot go on, and says when it cannot go on itself.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures::future::try_join_all;
use serde_json::Value;
use shardline_common::control::{BootstrapRequest, Capture, Entry, Subscription};
use shardline_common::kafka::{ControlError, ControlTopic, Kafka};
use shardline_common::metadata::{IndexMetadata, MetadataVersions};
use shardline_common::opensearch::{OpenSearch, OpenSearchError};
use shardline_common::topic::bootstrap_topic;
use shardline_common::types::{SeqNo, ShardId};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::apply::batch::Target;
use crate::apply::pipeline::Destination;
use crate::apply::routing::Spread;
use crate::bootstrap;
use crate::checkpoint::{CheckpointError, CheckpointStore, Copy};
use crate::index::{FollowerIndex, Load};
use crate::metrics::Metrics;
use crate::progress::IndexProgress;
use crate::shard::{self, Index, ShardError};
use crate::state::{self, Command, Refusal};
use crate::stream::Streams;

/// How often a question that nobody can answer yet is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// What every followed index needs of its agent.
pub struct Shared {
    pub opensearch: OpenSearch,
    pub kafka: Kafka,
    pub streams: Streams,
    pub checkpoints: CheckpointStore,
    pub leader_table: ControlTopic,
    pub follower_table: ControlTopic,
    pub metrics: Arc<Metrics>,
    /// Held while a subscription is read, changed and written.
    pub changing: Mutex<()>,
}

/// Why a subscription was not changed.
#[derive(Debug, thiserror::Error)]
pub enum TransitionError {
    #[error("the subscription's state refuses it: {0:?}")]
    Refused(Refusal),
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl Shared {
    /// Applies a command to a subscription and writes the outcome into the control topic. With `id`, only while it
    /// still is that subscription.
    pub async fn transition(
        &self,
        key: &str,
        id: Option<&str>,
        command: Command,
    ) -> Result<Option<Subscription>, TransitionError> {
        let _held = self.changing.lock().await;
        let current = self.follower_table.get::<Subscription>(key).filter(|found| id.is_none_or(|id| found.id == id));
        let next = state::apply(current.as_ref(), command).map_err(TransitionError::Refused)?;
        match &next {
            Some(next) => self.follower_table.publish(next).await?,
            None => self.follower_table.remove(key).await?,
        }
        Ok(next)
    }
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
    Shard { follower: String, shard: ShardId, error: Box<ShardError> },
    #[error("the follower index [{0}] is gone")]
    IndexGone(String),
    #[error("the follower index could not be made: {0}")]
    Refused(Arc<OpenSearchError>),
    #[error(transparent)]
    Transition(#[from] TransitionError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    OpenSearch(#[from] OpenSearchError),
}

impl End {
    /// Whether trying again later may help.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Shard { error, .. } => error.retryable(),
            Self::OpenSearch(error) => error.retryable(),
            Self::Control(_) | Self::Transition(TransitionError::Control(_)) => true,
            Self::IndexGone(_) | Self::Refused(_) | Self::Transition(_) => false,
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
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), End> {
        let capture = tokio::select! {
            capture = self.capture() => capture,
            () = stop.cancelled() => return Ok(()),
        };
        let metadata = capture.metadata.clone();
        loop {
            let progress = Arc::new(IndexProgress::new(metadata.number_of_shards));
            let index = Arc::new(self.index(&capture, Arc::clone(&progress)));
            if self.subscription.bootstrap.is_some() {
                for shard in &progress.shards {
                    shard.loaded.store(false, Relaxed);
                }
                self.phase.send_replace(Phase::Bootstrapping(Arc::clone(&progress)));
                let loaded = tokio::select! {
                    loaded = self.bootstrap(&index, &capture) => loaded,
                    () = stop.cancelled() => return Ok(()),
                };
                match loaded {
                    // The snapshot was not read before its topic's retention ended.
                    Err(End::Shard { error, .. }) if error.needs_copy() => {
                        self.begin_bootstrap(&index).await?;
                        continue;
                    }
                    loaded => loaded?,
                }
            } else {
                tokio::select! {
                    made = self.make_index(&index, &metadata) => made?,
                    () = stop.cancelled() => return Ok(()),
                }
            }
            self.phase.send_replace(Phase::Syncing(progress));
            match self.follow_shards(&index, &metadata, &stop).await {
                Err((shard, error)) if error.needs_copy() => {
                    info!(index = %self.subscription.follower_index, %shard, %error, "copying the index anew");
                    self.begin_bootstrap(&index).await?;
                }
                Err((shard, error)) => {
                    return Err(self.shard_end(shard, error));
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    /// The leader's descriptor of the index; its agents write it once they have seen the subscription.
    async fn capture(&self) -> Capture {
        let key = Capture::key_of(&self.subscription.leader_cluster, &self.subscription.leader_uuid);
        let mut changes = self.shared.leader_table.changes();
        loop {
            changes.mark_unchanged();
            if let Some(capture) = self.shared.leader_table.get::<Capture>(&key) {
                return capture;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn index(&self, capture: &Capture, progress: Arc<IndexProgress>) -> Index {
        let subscription = &self.subscription;
        let versions = self.shared.checkpoints.load_versions(&subscription.id).unwrap_or_else(|error| {
            warn!(%error, "the applied metadata's versions are unknown; applying all of it");
            None
        });
        Index {
            subscription: subscription.id.clone(),
            topic: capture.topic.clone(),
            follower: FollowerIndex::new(
                self.shared.opensearch.clone(),
                subscription.follower_index.clone(),
                subscription.settings.clone(),
            ),
            kafka: self.shared.kafka.clone(),
            streams: self.shared.streams.clone(),
            checkpoints: self.shared.checkpoints.clone(),
            progress,
            versions: Mutex::new(versions.unwrap_or_default()),
        }
    }

    /// Makes the follower index if this is the subscription's beginning; it is an error for it to be gone later.
    async fn make_index(&self, index: &Index, metadata: &IndexMetadata) -> Result<(), End> {
        loop {
            match self.try_make_index(index, metadata).await {
                Err(End::OpenSearch(error)) if error.retryable() => {
                    warn!(index = %index.follower.name, %error, "the follower cluster is not available");
                    tokio::time::sleep(RETRY).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_make_index(&self, index: &Index, metadata: &IndexMetadata) -> Result<(), End> {
        if index.follower.exists().await? {
            return Ok(());
        }
        if self.has_checkpoints(index, metadata) {
            return Err(End::IndexGone(index.follower.name.to_string()));
        }
        match index.follower.create(metadata).await {
            Ok(()) => self.made_with(index, metadata).await,
            Err(error) if error.retryable() => Err(error.into()),
            Err(error) => {
                let error = Arc::new(error);
                self.phase.send_replace(Phase::Refused(Arc::clone(&error)));
                Err(End::Refused(error))
            }
        }
    }

    /// Notes that the follower index has this metadata.
    async fn made_with(&self, index: &Index, metadata: &IndexMetadata) -> Result<(), End> {
        *index.versions.lock().await = metadata.versions;
        let saved = index.checkpoints.save_versions(&index.subscription, metadata.versions);
        saved.map_err(|error| self.shard_end(ShardId(0), error.into()))
    }

    fn has_checkpoints(&self, index: &Index, metadata: &IndexMetadata) -> bool {
        (0..metadata.number_of_shards).map(ShardId).any(|shard| {
            let saved = index.checkpoints.load(&index.subscription, shard);
            saved.is_ok_and(|saved| saved.is_some_and(|saved| saved.seq_no > SeqNo::NONE))
        })
    }

    async fn follow_shards(
        &self,
        index: &Arc<Index>,
        metadata: &IndexMetadata,
        stop: &CancellationToken,
    ) -> Result<(), (ShardId, ShardError)> {
        let all = stop.child_token();
        let shards = (0..metadata.number_of_shards).map(ShardId).map(|shard| {
            let destination = self.destination(metadata, shard);
            let (index, stop) = (Arc::clone(index), all.clone());
            let task = tokio::spawn(async move { shard::follow(index, destination, stop).await });
            let all = all.clone();
            async move {
                let outcome = match task.await {
                    Ok(outcome) => outcome,
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                };
                if outcome.is_err() {
                    all.cancel();
                }
                outcome.map_err(|error| (shard, error))
            }
        });
        // All are waited for, so that none writes on when the first error is reported.
        let outcomes = futures::future::join_all(shards).await;
        outcomes.into_iter().collect()
    }

    fn destination(&self, metadata: &IndexMetadata, shard: ShardId) -> Destination {
        let partition_size = metadata.settings.get("index.routing_partition_size").and_then(Value::as_str);
        Destination {
            opensearch: self.shared.opensearch.clone(),
            index: self.subscription.follower_index.clone(),
            target: Target {
                shard,
                epoch: self.subscription.epoch,
                spread: Spread {
                    number_of_shards: metadata.number_of_shards,
                    routing_num_shards: metadata.routing_num_shards.max(metadata.number_of_shards),
                    partition_size: partition_size.and_then(|size| size.parse().ok()).unwrap_or(1),
                },
            },
            metrics: Arc::clone(&self.shared.metrics),
        }
    }

    /// Writes down that the index is to be copied anew, so that a crash from here on does not forget it.
    async fn begin_bootstrap(&mut self, index: &Index) -> Result<(), End> {
        if let Some(given_up) = &self.subscription.bootstrap {
            let key = BootstrapRequest::key_of(&self.subscription.leader_cluster, given_up);
            self.shared.follower_table.remove(&key).await?;
        }
        let id = Uuid::new_v4().simple().to_string();
        let command = Command::Bootstrap { id: id.clone() };
        let request = BootstrapRequest {
            leader_cluster: self.subscription.leader_cluster.clone(),
            leader_uuid: self.subscription.leader_uuid.clone(),
            topic: bootstrap_topic(&index.topic, &id),
            id,
        };
        self.shared.follower_table.publish(&request).await?;
        self.transition(command).await
    }

    async fn transition(&mut self, command: Command) -> Result<(), End> {
        let (key, id) = (self.subscription.key(), self.subscription.id.as_str());
        if let Some(next) = self.shared.transition(&key, Some(id), command).await? {
            self.subscription = next;
        }
        Ok(())
    }

    /// Fills the follower index from the snapshot that was asked for.
    async fn bootstrap(&mut self, index: &Arc<Index>, capture: &Capture) -> Result<(), End> {
        let metadata = &capture.metadata;
        let id = self.subscription.bootstrap.clone().unwrap_or_default();
        let topic = bootstrap_topic(&index.topic, &id);
        let copy = self.begin_copy(index, metadata, &id).await?;
        let loads = (0..metadata.number_of_shards).map(ShardId).map(|shard| {
            let load =
                bootstrap::load(Arc::clone(index), self.destination(metadata, shard), topic.clone(), copy.in_place);
            let follower = self.subscription.follower_index.to_string();
            async move { load.await.map_err(|error| End::Shard { follower, shard, error: Box::new(error) }) }
        });
        try_join_all(loads).await?;
        index.follower.finish_load(metadata).await?;
        self.transition(Command::Bootstrapped).await?;
        let key = BootstrapRequest::key_of(&self.subscription.leader_cluster, &id);
        self.shared.follower_table.remove(&key).await?;
        Ok(())
    }

    /// Makes the index ready for a copy, or finds a copy that was broken off.
    async fn begin_copy(&self, index: &Index, metadata: &IndexMetadata, id: &str) -> Result<Copy, End> {
        let failed = |error: CheckpointError| self.shard_end(ShardId(0), error.into());
        let exists = index.follower.exists().await?;
        let broken_off = index.checkpoints.load_copy(&index.subscription).map_err(failed)?;
        if let Some(copy) = broken_off.filter(|copy| exists && copy.bootstrap == id) {
            index.follower.loading(if copy.in_place { Load::InPlace } else { Load::Fresh });
            return Ok(copy);
        }
        index.checkpoints.forget(&index.subscription).map_err(failed)?;
        *index.versions.lock().await = MetadataVersions::default();
        let in_place = exists && !index.follower.is_empty().await?;
        let load = if in_place { Load::InPlace } else { Load::Fresh };
        if exists {
            index.apply_metadata(metadata).await.map_err(|error| self.shard_end(ShardId(0), error))?;
            index.follower.begin_load(load).await?;
        } else {
            index.follower.loading(load);
            match index.follower.create(metadata).await {
                Err(error) if !error.retryable() => {
                    let error = Arc::new(error);
                    self.phase.send_replace(Phase::Refused(Arc::clone(&error)));
                    return Err(End::Refused(error));
                }
                outcome => outcome?,
            }
            self.made_with(index, metadata).await?;
        }
        let copy = Copy { bootstrap: id.to_owned(), in_place };
        index.checkpoints.save_copy(&index.subscription, &copy).map_err(failed)?;
        Ok(copy)
    }

    fn shard_end(&self, shard: ShardId, error: ShardError) -> End {
        End::Shard { follower: self.subscription.follower_index.to_string(), shard, error: Box::new(error) }
    }
}
