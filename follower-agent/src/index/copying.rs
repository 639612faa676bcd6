//! The part of an index's task that copies the leader's index: asks for a snapshot, and loads it
//! from its topic or restores it from a repository.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use futures::future::try_join_all;
use shardline_common::control::{Capture, Checkpoint, Entry, IndexCopy, Subscription};
use shardline_common::metadata::IndexMetadata;
use shardline_common::repository::SnapshotRequest;
use shardline_common::topic::bootstrap_topic;
use shardline_common::types::{Epoch, ShardId};
use tokio_util::sync::CancellationToken;

use super::admin::{Found, IndexAdmin, IndexLoad};
use super::copy_standstill;
use super::followed_copy::FollowedCopy;
use super::phase::Phase;
use super::restore::{self, Restore, RestoreError, Restored};
use super::state::Command;
use super::task::{End, IndexTask};
use crate::progress::{IndexProgress, LoadState};
use crate::shard;

impl IndexTask {
    /// Writes down that the index is to be copied anew, so that a crash from here on does not
    /// forget it.
    pub(super) async fn ask_for_copy(
        &self,
        index: &FollowedCopy,
        stop: &CancellationToken,
    ) -> Result<(), End> {
        let requests = &self.context.requests;
        if let Some(given_up) = &self.subscription.bootstrap {
            requests
                .withdraw(&self.subscription.leader_cluster, given_up)
                .await?;
        }
        let is_empty = !index.follower.exists().await? || index.follower.is_empty().await?;
        let id = match &self.subscription.repository {
            Some(repository) if is_empty => {
                requests
                    .ask_for_files(&self.subscription, repository)
                    .await?
            }
            _ => {
                // An index that was copied before, or holds anything, wants a snapshot that is
                // newer than what it met.
                let may_share = is_empty && self.subscription.epoch == Epoch(0);
                requests
                    .ask(&self.subscription, &index.topic, may_share)
                    .await?
            }
        };
        self.context
            .transition(
                &self.subscription,
                Command::Bootstrap {
                    id,
                    is_partial: is_empty,
                },
            )
            .await?;
        stop.cancelled().await;
        Ok(())
    }

    /// Fills the follower index from the snapshot that was asked for.
    pub(super) async fn copy(
        &self,
        id: &str,
        capture: &Capture,
        stop: &CancellationToken,
    ) -> Result<(), End> {
        let progress = Arc::new(IndexProgress::new(capture.metadata.number_of_shards));
        let copy = IndexCopy {
            id: id.to_owned(),
            from: Vec::new(),
            is_restored: false,
        };
        let index = self.index(&copy, capture, progress);
        index.is_copied.store(true, Relaxed);
        for shard in &index.progress.shards {
            shard.loaded.store(false, Relaxed);
        }
        self.phase
            .send_replace(Phase::Bootstrapping(Arc::clone(&index.progress)));
        let is_restore = self
            .context
            .requests
            .for_files(&self.subscription.leader_cluster, id)
            .is_some();
        tokio::select! {
            copied = self.copy_while_held(id, &index, &capture.metadata, stop) => copied,
            // Every agent shows it.
            () = restore::show(&index), if is_restore => Ok(()),
        }
    }

    async fn copy_while_held(
        &self,
        id: &str,
        index: &Arc<FollowedCopy>,
        metadata: &IndexMetadata,
        stop: &CancellationToken,
    ) -> Result<(), End> {
        while let Some(claim) = self.hold(stop).await {
            let copied = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = claim.lost().cancelled() => continue,
                copied = self.copy_once(id, index, metadata) => copied,
            };
            drop(claim);
            let command = match copied {
                // The snapshot was not read before its topic's retention ended.
                Err(End::Shard { error, .. }) if error.needs_copy() => {
                    return self.ask_for_copy(index, stop).await;
                }
                Err(End::Restore(RestoreError::Unclear) | End::NotAsked) => {
                    return self.ask_for_copy(index, stop).await;
                }
                copied => copied?,
            };
            let is_restored = matches!(command, Command::Restored { .. });
            self.context.transition(&self.subscription, command).await?;
            // The request for a topic stays for others to share, until it is tidied away.
            if is_restored {
                self.context
                    .requests
                    .withdraw(&self.subscription.leader_cluster, id)
                    .await?;
            }
            stop.cancelled().await;
            break;
        }
        Ok(())
    }

    async fn copy_once(
        &self,
        id: &str,
        index: &Arc<FollowedCopy>,
        metadata: &IndexMetadata,
    ) -> Result<Command, End> {
        // Nobody writes to the index any more, on whatever agent.
        let now = *self.context.follower_table.changes().borrow();
        self.context
            .group
            .acted_on(now, &self.context.slots_of(&self.subscription))
            .await;
        let (requests, leader) = (&self.context.requests, &self.subscription.leader_cluster);
        match requests.for_files(leader, id) {
            Some(request) => self.restore(&request, index, metadata).await,
            None if requests.is_asked(leader, id) => Ok(Command::Bootstrapped {
                from: self.load(id, index, metadata).await?,
            }),
            None if self
                .latest()
                .is_some_and(|latest| latest.bootstrap.as_deref() == Some(id)) =>
            {
                Err(End::NotAsked)
            }
            // It has been copied: another task is about to follow it.
            None => std::future::pending().await,
        }
    }

    /// The subscription as it is now.
    fn latest(&self) -> Option<Subscription> {
        let latest = self
            .context
            .follower_table
            .get::<Subscription>(&self.subscription.key());
        latest.filter(|latest| latest.id == self.subscription.id)
    }

    /// Restores the files of a snapshot.
    async fn restore(
        &self,
        request: &SnapshotRequest,
        index: &Arc<FollowedCopy>,
        metadata: &IndexMetadata,
    ) -> Result<Command, End> {
        index.checkpoints.forget(&self.subscription.id)?;
        index.dead_letters.clear().await?;
        let restore = Restore {
            index,
            request,
            metadata,
        };
        let restored = restore.run(self.subscription.epoch).await;
        if let Err(error) = &restored
            && !error.retryable()
            && !matches!(error, RestoreError::Unclear)
        {
            restore.give_up().await?;
        }
        let Restored { from, epoch } = restored?;
        let applied = index.apply_metadata(ShardId(0), metadata).await;
        applied.map_err(|error| self.shard_end(ShardId(0), error))?;
        self.finish_load(index, metadata).await?;
        Ok(Command::Restored { from, epoch })
    }

    /// Loads every shard; gives the positions from which their streams go on.
    async fn load(
        &self,
        id: &str,
        index: &Arc<FollowedCopy>,
        metadata: &IndexMetadata,
    ) -> Result<Vec<Checkpoint>, End> {
        let context = &self.context;
        let copy = self.begin_copy(index, metadata, id).await?;
        let topic = bootstrap_topic(&index.topic, id);
        let loads = (0..metadata.number_of_shards).map(ShardId).map(|shard| {
            let destination = self.destination(index, metadata, shard);
            let load = shard::load(Arc::clone(index), destination, topic.clone(), copy.in_place);
            let reported = index.report_on(&topic, shard);
            async move {
                let _reported = reported;
                load.await.map_err(|error| self.shard_end(shard, error))?;
                let saved = context.checkpoints.load(&index.key, shard)?;
                saved.ok_or_else(|| {
                    End::Asked(format!(
                        "the checkpoint behind the snapshot of shard {shard} is gone"
                    ))
                })
            }
        });
        let leader = &self.subscription.leader_cluster;
        let from = tokio::select! {
            from = try_join_all(loads) => from?,
            () = copy_standstill::show(index, leader, &topic) => Vec::new(),
        };
        if index.found().await?.is_none() {
            return Err(End::IndexGone(index.follower.name.clone()));
        }
        index.tell_external_versions().await;
        self.finish_load(index, metadata).await?;
        Ok(from)
    }

    async fn finish_load(&self, index: &FollowedCopy, metadata: &IndexMetadata) -> Result<(), End> {
        // The user's settings may have been changed since this task began, and so may the leader's.
        let metadata = self
            .context
            .newest_metadata(&self.subscription)
            .unwrap_or_else(|| metadata.clone());
        let overrides = self.latest().map_or_else(
            || self.subscription.settings.clone(),
            |latest| latest.settings,
        );
        let follower = IndexAdmin::new(
            self.context.opensearch.clone(),
            index.follower.name.clone(),
            overrides,
        );
        follower.finish_load(&metadata).await?;
        let tightened = index.tighten().await;
        tightened.map_err(|error| self.shard_end(ShardId(0), error.into()))
    }

    /// Makes the index ready for a copy, or finds a copy that was broken off.
    async fn begin_copy(
        &self,
        index: &FollowedCopy,
        metadata: &IndexMetadata,
        id: &str,
    ) -> Result<LoadState, End> {
        let found = index.follower.found().await?;
        let is_other = |found: &Found| {
            !index.is_copy(&found.uuid) || found.number_of_shards != metadata.number_of_shards
        };
        if found.as_ref().is_some_and(is_other) {
            return Err(End::IndexGone(index.follower.name.clone()));
        }
        let exists = found.is_some();
        let broken_off = index.checkpoints.load_copy(&index.key)?;
        if let Some(copy) = broken_off.filter(|copy| exists && copy.bootstrap == id) {
            index
                .follower
                .loading(IndexLoad::of_documents(copy.in_place));
            return Ok(copy);
        }
        index.checkpoints.forget(&self.subscription.id)?;
        index.dead_letters.clear().await?;
        let in_place = exists && !index.follower.is_empty().await?;
        let load = IndexLoad::of_documents(in_place);
        if exists {
            let applied = index.apply_metadata(ShardId(0), metadata).await;
            applied.map_err(|error| self.shard_end(ShardId(0), error))?;
            index.follower.begin_load(load).await?;
        } else {
            index.follower.loading(load);
            self.create(index, metadata).await?;
        }
        let relaxed = index.relax_copy(&metadata.mappings).await;
        relaxed.map_err(|error| self.shard_end(ShardId(0), error.into()))?;
        let copy = LoadState {
            bootstrap: id.to_owned(),
            in_place,
        };
        index.checkpoints.save_copy(&index.key, &copy)?;
        Ok(copy)
    }
}
