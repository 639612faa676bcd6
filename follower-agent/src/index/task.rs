//! The task of one followed index on one agent. It works for one state of the subscription: when
//! that changes, the task is ended and another one begins.
//!
//! The agent that holds the index's slot looks after the index: makes it, copies it anew, brings
//! metadata over, changes its subscription. Each shard is followed by the agent that holds the
//! shard's slot, and by nobody while the index is made or copied.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use shardline_common::clock::now_ms;
use shardline_common::control::{Ask, Capture, Entry, IndexCopy, Subscription};
use shardline_common::kafka::ControlError;
use shardline_common::metadata::IndexMetadata;
use shardline_common::opensearch::OpenSearchError;
use shardline_common::standstill::{Cause, StandstillReason};
use shardline_common::types::{IndexName, ShardId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;
use uuid::Uuid;

use super::admin::IndexAdmin;
use super::context::{AgentContext, TransitionError};
use super::followed_copy::FollowedCopy;
use super::phase::{Phase, Waits};
use super::restore::RestoreError;
use super::state::Command;
use super::{observe, shard_task};
use crate::membership::{Claim, Slot};
use crate::progress::{CheckpointError, IndexProgress};
use crate::shard::ShardError;
use crate::write::{Destination, Lenience, Spread, Target};

/// How long the leader's agents may take to announce the index before that is worth a word.
const CAPTURE_PATIENCE: Duration = Duration::from_secs(15);

/// Why the task ended by itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("[{follower}][{shard}] - {error}")]
    Shard {
        follower: String,
        shard: ShardId,
        error: Box<ShardError>,
    },
    #[error("the follower index could not be made: {0}")]
    Refused(Arc<OpenSearchError>),
    #[error(
        "an index [{0}] is there that this replication did not make: it is left as it is. Delete \
         it, or stop and follow under another name; then resume"
    )]
    NotMade(IndexName),
    #[error(transparent)]
    Transition(#[from] TransitionError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    OpenSearch(#[from] OpenSearchError),
    #[error(
        "the follower index [{0}] was deleted while it was loaded, or is another one: delete what \
         is there, and resume"
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
    pub(crate) fn retryable(&self) -> bool {
        match self {
            Self::Shard { error, .. } => error.retryable(),
            Self::OpenSearch(error) => error.retryable(),
            Self::Transition(TransitionError::Control(_) | TransitionError::Elsewhere) => true,
            Self::Restore(error) => error.retryable(),
            Self::Control(_) | Self::NotAsked => true,
            // The agent's user may be let in again.
            Self::Refused(error) => error.retryable(),
            Self::Checkpoint(CheckpointError::Access { .. }) => true,
            Self::NotMade(_)
            | Self::Transition(_)
            | Self::Checkpoint(_)
            | Self::IndexGone(_)
            | Self::Asked(_) => false,
        }
    }
}

pub(crate) struct IndexTask {
    pub context: Arc<AgentContext>,
    pub subscription: Subscription,
    pub phase: watch::Sender<Phase>,
    pub waits: Waits,
}

impl IndexTask {
    /// Follows until stopped, or until it cannot go on.
    pub(crate) async fn run(&self, stop: CancellationToken) -> Result<(), End> {
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
        let mut announced = std::pin::pin!(self.announced());
        if let Ok(capture) = tokio::time::timeout(CAPTURE_PATIENCE, &mut announced).await {
            return capture;
        }
        let words = "no leader agent has announced that it captures the leader index";
        let silent = StandstillReason::new(Cause::LeaderAgentSilent, now_ms(), words);
        self.waits.say(Some(silent));
        let capture = announced.await;
        self.waits.say(None);
        capture
    }

    async fn announced(&self) -> Capture {
        let mut changes = self.context.leader_table.changes();
        loop {
            changes.mark_unchanged();
            if let Some(capture) = self.context.capture(&self.subscription) {
                return capture;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(super) fn index(
        &self,
        copy: &IndexCopy,
        capture: &Capture,
        progress: Arc<IndexProgress>,
    ) -> Arc<FollowedCopy> {
        let (context, subscription) = (&self.context, &self.subscription);
        let (name, overrides) = (
            subscription.follower_index.clone(),
            subscription.settings.clone(),
        );
        let follower = IndexAdmin::new(context.opensearch.clone(), name, overrides);
        Arc::new(FollowedCopy::new(
            Arc::clone(context),
            subscription,
            copy.clone(),
            capture.topic.clone(),
            follower,
            progress,
        ))
    }

    /// Waits until this agent holds the index's slot; none when stopped before.
    pub(super) async fn hold(&self, stop: &CancellationToken) -> Option<Claim> {
        tokio::select! {
            claim = self.context.slots.claim(Slot::of_index(&self.subscription.follower_index)) => Some(claim),
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
        self.phase.send_if_modified(|phase| {
            let was_refused = matches!(phase, Phase::Refused(_));
            if was_refused {
                *phase = Phase::Starting;
            }
            was_refused
        });
        while let Some(claim) = self.hold(stop).await {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = claim.lost().cancelled() => continue,
                made = self.make_index(&index, &capture.metadata) => made?,
            }
            drop(claim);
            // This changes the subscription, which ends this task.
            self.context
                .transition(&self.subscription, Command::Made { copy })
                .await?;
            stop.cancelled().await;
            break;
        }
        Ok(())
    }

    async fn make_index(&self, index: &FollowedCopy, metadata: &IndexMetadata) -> Result<(), End> {
        let Some(found) = index.follower.found().await? else {
            return self.create(index, metadata).await;
        };
        index.follower.let_templates_in().await;
        // It may be there from an attempt that was broken off; or somebody else made it meanwhile.
        if !index.is_noted(&found.uuid) {
            let is_own = index.follower.is_as_made(&found, metadata);
            if !is_own || !index.follower.is_empty().await? {
                return Err(End::NotMade(index.follower.name.clone()));
            }
        }
        let applied = index.apply_metadata(ShardId(0), metadata).await;
        applied.map_err(|error| self.shard_end(ShardId(0), error))
    }

    pub(super) async fn create(
        &self,
        index: &FollowedCopy,
        metadata: &IndexMetadata,
    ) -> Result<(), End> {
        let refused_aliases = match index.follower.make(metadata).await {
            Err(error) if !error.retryable() || error.is_denied() => {
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
        index: &FollowedCopy,
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

    async fn serve_until_copy(&self, index: &FollowedCopy) -> Result<(), End> {
        let table = &self.context.follower_table;
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
                        info!(
                            index = %index.follower.name, shard = %request.shard, reason,
                            "copying the index anew"
                        );
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

    pub(super) fn destination(
        &self,
        index: &Arc<FollowedCopy>,
        metadata: &IndexMetadata,
        shard: ShardId,
    ) -> Destination {
        let partition_size = metadata
            .settings
            .get("index.routing_partition_size")
            .and_then(Value::as_str);
        Destination {
            opensearch: self.context.opensearch.clone(),
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
            metrics: Arc::clone(&self.context.metrics),
            progress: Arc::clone(&index.progress),
            memory: Arc::clone(&self.context.memory),
            dead_letters: Arc::new(index.dead_letters.clone()),
            lenience: Arc::clone(index) as Arc<dyn Lenience>,
            lenient: Arc::default(),
        }
    }

    pub(super) fn shard_end(&self, shard: ShardId, error: ShardError) -> End {
        End::Shard {
            follower: self.subscription.follower_index.to_string(),
            shard,
            error: Box::new(error),
        }
    }
}
