//! The calls of the control API that change what is followed, and the errors they end with.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};
use shardline::contract::auto_follow::{RuleName, RuleRequest};
use shardline::contract::bulk::{BulkRequest, TaskStatus};
use shardline::contract::dead_letters::DeadLetterList;
use shardline::contract::request::{PauseRequest, ResumeRequest, StartRequest, UpdateRequest};
use shardline::contract::service::FollowedStatus;
use shardline::contract::stats::{AutoFollowStats, FollowerStats};
use shardline::contract::verify::{VerificationStatus, VerifyRequest};
use shardline::contract::{ApiError, ReplicationService, ReplicationStatus};
use shardline_common::bulk::BulkOperation;
use shardline_common::clock::now_ms;
use shardline_common::control::{
    AppliedMetadata, CatalogEntry, Entry, ExternalVersions, LeniencyRequest, ReplicationRoles,
    ShardRequest, StoppedSubscription, Subscription, SubscriptionState,
};
use shardline_common::leader_stats::LeaderStats;
use shardline_common::opensearch::OpenSearchError;
use shardline_common::repository::verification_path;
use shardline_common::types::{Epoch, IndexName};
use shardline_common::wildcard::wildcard_match;
use tracing::warn;
use uuid::Uuid;

use super::Subscriptions;
use super::held::Held;
use super::tasks::StartFailure;
use crate::control::bulk_tasks;
use crate::control::verify::{self, Verification};
use crate::control::{auto_follow, dead_letters, stats, status};
use crate::index::{
    Command, IndexAdmin, IndexLoad, LetterBox, Refusal, STOPPING, TransitionError, USER_INITIATED,
    check_settings, give_back_mapping, not_to_change, not_to_override, promote,
};
use crate::membership::copy_key;
use crate::progress::LoadState;

/// How long a call waits for all agents to comply: longer than it takes to notice that one is gone.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(25);
const WRITTEN_DOWN: &str = "written down";
/// For how long it is known that an index was stopped: an agent that comes back after longer holds
/// it read-only until it is stopped once more.
const STOPS_KEPT_MS: i64 = 90 * 24 * 3_600_000;

/// What a start asks for besides its index.
struct Wished {
    overrides: Map<String, Value>,
    repository: Option<String>,
    roles: Option<ReplicationRoles>,
}

impl Subscriptions {
    async fn do_start(
        &self,
        follower: IndexName,
        request: StartRequest,
        wait_for_restore: bool,
    ) -> Result<(), ApiError> {
        let leader_cluster = self.leaders.resolve(&request.leader_alias).await?;
        let leader_index = IndexName(request.leader_index);
        let entry = self
            .leaders
            .index(&leader_cluster, &leader_index, &request.leader_alias)
            .await?;
        if let Some(reason) = entry.denial(request.roles.as_ref()) {
            return Err(ApiError::security(reason));
        }
        let repository = request
            .repository
            .or_else(|| self.context.repository.clone());
        let repository = repository.filter(|repository| !repository.is_empty());
        self.follow(
            follower,
            &request.leader_alias,
            entry,
            Wished {
                overrides: request.settings.into_iter().collect(),
                repository,
                roles: request.roles,
            },
            wait_for_restore,
        )
        .await
    }

    /// Begins to follow a leader index that was found to exist.
    async fn follow(
        &self,
        follower: IndexName,
        leader_alias: &str,
        leader: CatalogEntry,
        wished: Wished,
        wait_for_restore: bool,
    ) -> Result<(), ApiError> {
        let Wished {
            overrides,
            repository,
            roles,
        } = wished;
        let _one_at_a_time = self.lock(&self.key(&follower)).await;
        if let Some(reason) = leader.refusal {
            return Err(ApiError::illegal_argument(reason));
        }
        if self.settings.start_is_blocked() {
            let reason = "[FORBIDDEN] Replication START block is set";
            return Err(ApiError::status_exception(
                http::StatusCode::FORBIDDEN,
                reason,
            ));
        }
        refuse_leaders_settings(&overrides)?;
        let index = IndexAdmin::new(self.context.opensearch.clone(), follower.clone(), overrides);
        if let Some(repository) = &repository {
            let verified = self
                .context
                .opensearch
                .post::<Value>(&verification_path(repository), &json!({}))
                .await;
            verified.map_err(|error| ApiError::from_cluster(&error))?;
        }
        let taken = index
            .exists()
            .await
            .map_err(|e| ApiError::from_cluster(&e))?
            || self.subscription(&follower).is_some()
            || self.held(&follower).is_some();
        if taken {
            return Err(ApiError::index_taken(&follower));
        }
        let subscription = Subscription {
            id: Uuid::new_v4().simple().to_string(),
            follower_cluster: self.cluster.clone(),
            follower_index: follower.clone(),
            leader_alias: leader_alias.to_owned(),
            leader_cluster: leader.cluster_uuid,
            leader_index: leader.index,
            leader_uuid: leader.uuid,
            state: SubscriptionState::Running,
            reason: USER_INITIATED.to_owned(),
            epoch: Epoch(0),
            settings: index.overrides.clone(),
            bootstrap: None,
            is_partial: false,
            repository,
            copy: None,
            roles,
        };
        // Those of an earlier index of that name.
        LetterBox::new(&self.context, &subscription)
            .clear()
            .await
            .map_err(|error| ApiError::unavailable(&error))?;
        self.context
            .begin(&subscription)
            .await
            .map_err(|error| transition_error(error, &follower))?;
        let outcome = self.started(&follower, wait_for_restore).await;
        if let Err(StartFailure::Refused(_)) = &outcome {
            // Nothing was made, so nothing is to be stopped by the user.
            self.remove(&subscription).await?;
        }
        outcome.map_err(StartFailure::into_api_error)
    }

    async fn do_stop(&self, follower: IndexName) -> Result<(), ApiError> {
        let _one_at_a_time = self.lock(&self.key(&follower)).await;
        self.take_up(&follower).await?;
        let subscription = self
            .subscription(&follower)
            .ok_or_else(|| refused(Refusal::NotInProgress, &follower))?;
        // It is forgotten last: a stop that is cut off, or fails, is asked for again.
        let halted = self.context.transition(&subscription, Command::Halt).await;
        halted.map_err(|error| transition_error(error, &follower))?;
        self.settled(&subscription, STOPPING).await?;
        // A copy may have become complete meanwhile.
        let subscription = self
            .subscription(&follower)
            .ok_or_else(|| refused(Refusal::NotInProgress, &follower))?;
        // Another agent that looks after the index by now may have begun anew.
        let claim = self.context.claim(&follower);
        let claim = claim.map_err(|error| transition_error(error, &follower))?;
        match &subscription.bootstrap {
            Some(id) => {
                let given_up = async {
                    self.give_up_copy(&subscription, id).await?;
                    give_back_mapping(&self.context, &subscription).await
                };
                given_up
                    .await
                    .map_err(|error| ApiError::from_cluster(&error))?;
            }
            None => self.give_back(&subscription).await?,
        }
        drop(claim);
        self.remove(&subscription).await
    }

    /// Gives the index what its leader's has and a follower has not.
    async fn give_back(&self, subscription: &Subscription) -> Result<(), ApiError> {
        let follower = &subscription.follower_index;
        match promote(&self.context, subscription).await {
            Err(error) if error.retryable() => return Err(ApiError::from_cluster(&error)),
            Err(error) => {
                warn!(
                    index = %follower, %error,
                    "the index does not get everything that its leader's has"
                );
            }
            Ok(()) => {}
        }
        self.give_back_aliases(subscription).await;
        Ok(())
    }

    async fn give_back_aliases(&self, subscription: &Subscription) {
        let follower = &subscription.follower_index;
        let write_aliases = self
            .context
            .applied(subscription)
            .map(|applied| applied.write_aliases)
            .unwrap_or_default();
        if !write_aliases.is_empty() {
            let index = IndexAdmin::new(
                self.context.opensearch.clone(),
                follower.clone(),
                Map::new(),
            );
            if let Err(error) = index.give_back(write_aliases).await {
                // Such as when another index is the write index by now.
                warn!(
                    index = %follower, %error,
                    "its aliases do not write to the index as they did on the leader"
                );
            }
        }
    }

    fn copy_under_way(&self, subscription: &Subscription, id: &str) -> Option<LoadState> {
        let files = self
            .context
            .requests
            .for_files(&subscription.leader_cluster, id);
        if files.is_some_and(|request| request.is_restoring) {
            return Some(LoadState {
                bootstrap: id.to_owned(),
                in_place: false,
            });
        }
        self.context
            .checkpoints
            .load_copy(&copy_key(&subscription.id, id))
            .unwrap_or_default()
    }

    /// Half a copy is of no use to anybody; an index that was whole before stays, with its
    /// settings.
    async fn give_up_copy(
        &self,
        subscription: &Subscription,
        id: &str,
    ) -> Result<(), OpenSearchError> {
        let copy = self.copy_under_way(subscription, id);
        let (name, overrides) = (
            subscription.follower_index.clone(),
            subscription.settings.clone(),
        );
        let index = IndexAdmin::new(self.context.opensearch.clone(), name, overrides);
        if subscription.is_partial || copy.is_some_and(|copy| !copy.in_place) {
            return index.delete().await;
        }
        match self.context.newest_metadata(subscription) {
            Some(metadata) if index.exists().await? => match index.finish_load(&metadata).await {
                // Such as a setting that it cannot have, or a block: no reason to keep the
                // replication.
                Err(error @ OpenSearchError::Refused { .. }) => {
                    warn!(
                        index = %index.name, %error,
                        "it does not get the settings that it had before the copy"
                    );
                    Ok(())
                }
                finished => finished,
            },
            _ => Ok(()),
        }
    }

    /// Removes a subscription; nobody follows it any more when this returns.
    async fn remove(&self, subscription: &Subscription) -> Result<(), ApiError> {
        let follower = &subscription.follower_index;
        self.write_down_stop(subscription).await?;
        let stopped = self.context.transition(subscription, Command::Stop).await;
        stopped.map_err(|error| transition_error(error, follower))?;
        let applied = AppliedMetadata::key_of(&subscription.follower_cluster, follower);
        let verification = Verification::key_of(&subscription.follower_cluster, follower);
        let leniency = LeniencyRequest::prefix_of(&subscription.follower_cluster, follower);
        let leniency = self
            .context
            .follower_table
            .below::<LeniencyRequest>(&leniency);
        let requests = leniency.iter().map(Entry::key);
        let versions = ExternalVersions::key_of(&subscription.follower_cluster, follower);
        for key in requests.chain([applied, verification, versions]) {
            self.context
                .follower_table
                .remove(&key)
                .await
                .map_err(|error| ApiError::unavailable(&error))?;
        }
        if let Some(id) = &subscription.bootstrap {
            let withdrawn = self
                .context
                .requests
                .withdraw(&subscription.leader_cluster, id)
                .await;
            withdrawn.map_err(|error| ApiError::unavailable(&error))?;
        }
        self.settled(subscription, WRITTEN_DOWN).await?;
        LetterBox::new(&self.context, subscription)
            .clear()
            .await
            .map_err(|error| ApiError::unavailable(&error))
    }

    /// A subscription that is not there any more was stopped only if this says so.
    async fn write_down_stop(&self, subscription: &Subscription) -> Result<(), ApiError> {
        let stopped = StoppedSubscription {
            follower_cluster: subscription.follower_cluster.clone(),
            follower_index: subscription.follower_index.clone(),
            id: subscription.id.clone(),
            stopped_ms: now_ms(),
        };
        let table = &self.context.follower_table;
        let written = table.publish(&stopped).await;
        written.map_err(|error| ApiError::unavailable(&error))?;
        let prefix = format!("{}/{}/", StoppedSubscription::KIND, self.cluster);
        for old in table.below::<StoppedSubscription>(&prefix) {
            if now_ms() - old.stopped_ms > STOPS_KEPT_MS {
                let removed = table.remove(&old.key()).await;
                removed.map_err(|error| ApiError::unavailable(&error))?;
            }
        }
        Ok(())
    }

    async fn do_pause(&self, follower: IndexName, request: PauseRequest) -> Result<(), ApiError> {
        let _one_at_a_time = self.lock(&self.key(&follower)).await;
        let current = self
            .subscription(&follower)
            .ok_or_else(|| refused(Refusal::NotInProgress, &follower))?;
        let paused = self
            .context
            .transition(
                &current,
                Command::Pause {
                    reason: Some(request.reason),
                },
            )
            .await;
        paused.map_err(|error| transition_error(error, &follower))?;
        self.settled(&current, WRITTEN_DOWN).await
    }

    /// Ends a pause for a reason that has passed, unless something else has happened to the index
    /// meanwhile.
    pub(crate) async fn reopen(&self, follower: &IndexName, reason: &str) -> Result<(), ApiError> {
        let _one_at_a_time = self.lock(&self.key(follower)).await;
        let paused = self
            .subscription(follower)
            .filter(|found| found.state == SubscriptionState::Paused && found.reason == reason);
        let Some(paused) = paused else {
            return Ok(());
        };
        let reason = reason.to_owned();
        self.run_again(&paused, Command::Reopen { reason }).await
    }

    async fn do_resume(&self, follower: IndexName) -> Result<(), ApiError> {
        let _one_at_a_time = self.lock(&self.key(&follower)).await;
        self.take_up(&follower).await?;
        let current = self
            .subscription(&follower)
            .ok_or_else(|| refused(Refusal::NotInProgress, &follower))?;
        if current.state != SubscriptionState::Paused {
            return Err(refused(Refusal::AlreadyRunning, &follower));
        }
        self.run_again(&current, Command::Resume).await
    }

    async fn run_again(&self, current: &Subscription, command: Command) -> Result<(), ApiError> {
        let follower = &current.follower_index;
        let cluster = self.leaders.resolve(&current.leader_alias).await?;
        let entry = self
            .leaders
            .index(&cluster, &current.leader_index, &current.leader_alias)
            .await?;
        if entry.uuid != current.leader_uuid {
            // The index of that name is another one now.
            return Err(ApiError::index_not_found(current.leader_index.as_str()));
        }
        // Those that were begun before anybody was asked have no roles, and go on.
        if current.roles.is_some()
            && let Some(reason) = entry.denial(current.roles.as_ref())
        {
            return Err(ApiError::security(reason));
        }
        // What shards asked before it was paused was for the cause of that.
        let table = &self.context.follower_table;
        for request in
            table.below::<ShardRequest>(&ShardRequest::prefix_of(&self.cluster, follower))
        {
            table
                .remove(&request.key())
                .await
                .map_err(|error| ApiError::unavailable(&error))?;
        }
        let resumed = self.context.transition(current, command).await;
        let now = resumed.map_err(|error| transition_error(error, follower))?;
        if now.is_none_or(|now| now.state != SubscriptionState::Running) {
            return Ok(());
        }
        self.started(follower, false)
            .await
            .map_err(StartFailure::into_api_error)
    }

    async fn do_update(&self, follower: IndexName, request: UpdateRequest) -> Result<(), ApiError> {
        let _one_at_a_time = self.lock(&self.key(&follower)).await;
        if let Some(roles) = request.roles {
            self.use_roles(&follower, roles).await?;
        }
        let Some(settings) = request.settings else {
            return Ok(());
        };
        let overrides: Map<_, _> = settings.into_iter().collect();
        let subscription = self
            .subscription(&follower)
            .ok_or_else(|| refused(Refusal::NotInProgress, &follower))?;
        refuse_leaders_settings(&overrides)?;
        if let Some(key) = not_to_change(&subscription.settings, &overrides) {
            let reason =
                format!("setting [{key}] can be given to _start only: an index is made with it");
            return Err(ApiError::illegal_argument(reason));
        }
        let index = IndexAdmin::new(
            self.context.opensearch.clone(),
            follower.clone(),
            overrides.clone(),
        );
        if let Some(copy) = subscription
            .bootstrap
            .as_ref()
            .and_then(|id| self.copy_under_way(&subscription, id))
        {
            index.loading(IndexLoad::of_documents(copy.in_place));
        }
        // The follower cluster is the judge of settings; only what it takes is kept.
        match self.context.newest_metadata(&subscription) {
            Some(metadata)
                if index
                    .exists()
                    .await
                    .map_err(|error| ApiError::from_cluster(&error))? =>
            {
                let claim = self.context.claim(&follower);
                let _claim = claim.map_err(|error| transition_error(error, &follower))?;
                let replaced = index
                    .replace_overrides(&subscription.settings, &metadata)
                    .await;
                replaced.map_err(|error| ApiError::from_cluster(&error))?;
            }
            _ => check_settings(&self.context.opensearch, &overrides)
                .await
                .map_err(|error| ApiError::from_cluster(&error))?,
        }
        let updated = self
            .context
            .transition(
                &subscription,
                Command::Update {
                    settings: overrides,
                },
            )
            .await;
        updated.map_err(|error| transition_error(error, &follower))?;
        Ok(())
    }

    /// Has the index followed under these roles from now on, if the leader lets it.
    async fn use_roles(
        &self,
        follower: &IndexName,
        roles: ReplicationRoles,
    ) -> Result<(), ApiError> {
        let current = self
            .subscription(follower)
            .ok_or_else(|| refused(Refusal::NotInProgress, follower))?;
        let entry = self
            .leaders
            .index(
                &current.leader_cluster,
                &current.leader_index,
                &current.leader_alias,
            )
            .await?;
        if let Some(reason) = entry.denial(Some(&roles)) {
            return Err(ApiError::security(reason));
        }
        let given = Command::UseRoles(roles);
        let updated = self.context.transition(&current, given).await;
        updated.map_err(|error| transition_error(error, follower))?;
        Ok(())
    }

    /// Waits until the task that the control topic asks for now has got going.
    async fn started(
        &self,
        follower: &IndexName,
        until_restored: bool,
    ) -> Result<(), StartFailure> {
        let now = *self.context.follower_table.changes().borrow();
        // It ends with the agent only.
        let _ = self.acted.subscribe().wait_for(|acted| *acted >= now).await;
        self.tasks.started(follower, until_restored).await
    }

    /// Waits until every agent does what the control topic says now about a subscription.
    async fn settled(&self, subscription: &Subscription, so_far: &str) -> Result<(), ApiError> {
        let now = *self.context.follower_table.changes().borrow();
        let slots = self.context.slots_of(subscription);
        let settled =
            tokio::time::timeout(SETTLE_TIMEOUT, self.context.group.acted_on(now, &slots)).await;
        settled.map_err(|_| {
            let seconds = SETTLE_TIMEOUT.as_secs();
            let reason = format!(
                "{so_far}, but not every follower agent has said within {seconds}s that it complies"
            );
            ApiError::status_exception(http::StatusCode::SERVICE_UNAVAILABLE, reason)
        })
    }
}

impl Subscriptions {
    /// The status of one index as [`ReplicationService::statuses`] has it; `None`: not followed.
    pub(in crate::control) fn followed_status(
        &self,
        follower: &IndexName,
    ) -> Option<FollowedStatus> {
        match self.subscription(follower) {
            Some(subscription) => Some(self.shown(&subscription, false)),
            None => {
                let held = self.held(follower)?;
                Some(Self::shown_of_held(follower, &held))
            }
        }
    }

    fn shown(&self, subscription: &Subscription, verbose: bool) -> FollowedStatus {
        let phase = self.phase(&subscription.follower_index);
        FollowedStatus {
            lag_details: status::lag(phase.as_ref()),
            status: self.status_in(subscription, phase, verbose),
        }
    }

    fn shown_of_held(follower: &IndexName, held: &Held) -> FollowedStatus {
        FollowedStatus {
            status: Self::status_of_held(follower, held.clone()),
            lag_details: None,
        }
    }
}

impl ReplicationService for Subscriptions {
    fn start(
        &self,
        follower: IndexName,
        request: StartRequest,
        wait: bool,
    ) -> BoxFuture<'_, Result<(), ApiError>> {
        self.do_start(follower, request, wait).boxed()
    }

    fn stop(&self, follower: IndexName) -> BoxFuture<'_, Result<(), ApiError>> {
        self.do_stop(follower).boxed()
    }

    fn pause(
        &self,
        follower: IndexName,
        request: PauseRequest,
    ) -> BoxFuture<'_, Result<(), ApiError>> {
        self.do_pause(follower, request).boxed()
    }

    fn resume(
        &self,
        follower: IndexName,
        _request: ResumeRequest,
    ) -> BoxFuture<'_, Result<(), ApiError>> {
        // `force_resume` makes no difference: what Kafka no longer has is copied anew either way.
        self.do_resume(follower).boxed()
    }

    fn update(
        &self,
        follower: IndexName,
        request: UpdateRequest,
    ) -> BoxFuture<'_, Result<(), ApiError>> {
        self.do_update(follower, request).boxed()
    }

    fn status(
        &self,
        follower: IndexName,
        verbose: bool,
    ) -> BoxFuture<'_, Result<ReplicationStatus, ApiError>> {
        std::future::ready(Ok(self.status_of(&follower, verbose))).boxed()
    }

    fn verify(
        &self,
        follower: IndexName,
        request: VerifyRequest,
    ) -> BoxFuture<'_, Result<String, ApiError>> {
        verify::begin(self, follower, request).boxed()
    }

    fn verification(&self, follower: &IndexName) -> Result<VerificationStatus, ApiError> {
        verify::last(self, follower).map(VerificationStatus::from)
    }

    fn forget_verification(&self, follower: IndexName) -> BoxFuture<'_, Result<(), ApiError>> {
        async move { verify::forget(self, &follower).await }.boxed()
    }

    fn dead_letters(&self, follower: &IndexName) -> Result<DeadLetterList, ApiError> {
        dead_letters::list(self, follower)
    }

    fn replay_dead_letters(&self, follower: IndexName) -> BoxFuture<'_, Result<usize, ApiError>> {
        async move { dead_letters::replay(self, &follower).await }.boxed()
    }

    fn statuses(&self, pattern: &str, verbose: bool) -> Vec<(IndexName, FollowedStatus)> {
        let mut statuses = Vec::new();
        for subscription in self.all() {
            if wildcard_match(pattern, subscription.follower_index.as_str()) {
                let shown = self.shown(&subscription, verbose);
                statuses.push((subscription.follower_index, shown));
            }
        }
        for (follower, held) in &*self.memory.held() {
            if wildcard_match(pattern, follower.as_str()) {
                statuses.push((follower.clone(), Self::shown_of_held(follower, held)));
            }
        }
        statuses.sort_by(|(one, _), (other, _)| one.cmp(other));
        statuses
    }

    fn create_rule(&self, rule: RuleRequest) -> BoxFuture<'_, Result<(), ApiError>> {
        auto_follow::create(self, rule).boxed()
    }

    fn delete_rule(&self, rule: RuleName) -> BoxFuture<'_, Result<(), ApiError>> {
        auto_follow::delete(self, rule).boxed()
    }

    fn begin_bulk(
        &self,
        operation: BulkOperation,
        request: BulkRequest,
    ) -> BoxFuture<'_, Result<String, ApiError>> {
        bulk_tasks::begin(self, &self.task_ids, operation, request).boxed()
    }

    fn bulk_status(
        &self,
        pattern: String,
    ) -> BoxFuture<'_, Result<Vec<(IndexName, ReplicationStatus)>, ApiError>> {
        bulk_tasks::status(self, pattern).boxed()
    }

    fn task_status(&self, id: &str) -> Result<TaskStatus, ApiError> {
        bulk_tasks::task_status(self, id)
    }

    fn cancel_task(&self, id: String) -> BoxFuture<'_, Result<(), ApiError>> {
        async move { bulk_tasks::cancel(self, &id).await }.boxed()
    }

    fn leader_stats(&self) -> LeaderStats {
        LeaderStats::of_cluster(
            &self.cluster,
            &self.context.leader_table,
            &self.context.follower_table,
        )
    }

    fn follower_stats(&self) -> FollowerStats {
        let mut stats = FollowerStats::default();
        for subscription in self.all() {
            let phase = self.phase(&subscription.follower_index);
            stats::add(&mut stats, &self.context.metrics, &subscription, phase);
        }
        stats
    }

    fn auto_follow_stats(&self) -> AutoFollowStats {
        auto_follow::stats(self)
    }

    fn followed(&self) -> Arc<HashSet<IndexName>> {
        self.followed_indices()
    }

    fn followed_aliases(&self) -> Arc<HashMap<String, Vec<IndexName>>> {
        self.aliases.get(&self.context, &self.cluster)
    }
}

/// A follower index with other values of these could not hold the leader's documents.
pub(crate) fn refuse_leaders_settings(overrides: &Map<String, Value>) -> Result<(), ApiError> {
    match not_to_override(overrides) {
        Some(key) => Err(ApiError::illegal_argument(format!(
            "setting [{key}] has to be the leader index's own"
        ))),
        None => Ok(()),
    }
}

fn transition_error(error: TransitionError, follower: &IndexName) -> ApiError {
    match error {
        TransitionError::Refused(refusal) => refused(refusal, follower),
        TransitionError::Control(error) => ApiError::unavailable(&error),
        TransitionError::Elsewhere => {
            let reason = format!("another follower agent looks after [{follower}] now; try again");
            ApiError::status_exception(http::StatusCode::SERVICE_UNAVAILABLE, reason)
        }
    }
}

fn refused(refusal: Refusal, follower: &IndexName) -> ApiError {
    match refusal {
        Refusal::NotInProgress => {
            ApiError::illegal_argument(format!("No replication in progress for index:{follower}"))
        }
        Refusal::AlreadyPaused => {
            ApiError::resource_already_exists(format!("Index {follower} is already paused"))
        }
        Refusal::AlreadyRunning => ApiError::resource_already_exists(format!(
            "Replication on Index {follower} is already running"
        )),
        Refusal::Failed => ApiError::illegal_state("Cannot pause when in FAILED state"),
        Refusal::Bootstrapping => ApiError::generic(format!(
            "Index is in restore phase currently for index: {follower}. You can pause after \
             restore completes."
        )),
    }
}
