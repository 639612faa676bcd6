//! Carries out the control API: changes subscriptions, and keeps a task for each one that runs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use serde_json::{Map, Value, json};
use shardline_common::bulk::BulkOperation;
use shardline_common::control::{AppliedMetadata, CatalogEntry, Subscription, SubscriptionState};
use shardline_common::kafka::ControlTopic;
use shardline_common::leader_stats::LeaderStats;
use shardline_common::opensearch::{OpenSearch, OpenSearchError};
use shardline_common::repository::verification_path;
use shardline_common::topic::bootstrap_topic;
use shardline_common::types::{ClusterUuid, Epoch, IndexName, Offset, ShardId};
use shardline_common::wildcard::wildcard_match;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::api::auto_follow::{RuleName, RuleRequest};
use crate::api::bulk::{BulkRequest, TaskStatus};
use crate::api::request::{PauseRequest, ResumeRequest, StartRequest, UpdateRequest};
use crate::api::service::FollowedStatus;
use crate::api::stats::{AutoFollowStats, FollowerStats};
use crate::api::{ApiError, ReplicationService, ReplicationStatus};
use crate::bulk::{self, TaskIds};
use crate::checkpoint::Copy;
use crate::dead_letters::{self, DeadLetter};
use crate::followed::{Followed, Phase, Shared, TransitionError};
use crate::index::{FollowerIndex, not_to_override};
use crate::leaders::{Leaders, from_cluster, from_control};
use crate::locks::EntryLocks;
use crate::own_gateway::OwnGateway;
use crate::positions::copy_key;
use crate::settings::ControlSettings;
use crate::slots::{Slot, Slots};
use crate::state::{Command, Refusal, USER_INITIATED};
use crate::verify::{self, Verification, VerifyRequest};
use crate::{auto_follow, stats, status};

/// How long `_start` and `_resume` wait for the index to get going, as the plugin does.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a call waits for all agents to comply: longer than it takes to notice that one is gone.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(25);
const PROGRESS_POLL: Duration = Duration::from_millis(50);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(5);

pub struct Replication {
    shared: Arc<Shared>,
    leaders: Leaders,
    cluster: ClusterUuid,
    running: Mutex<HashMap<IndexName, Running>>,
    /// Subscriptions that this agent may keep something of: by id, with the number of shards if it is known.
    known: Mutex<HashMap<String, (IndexName, u32)>>,
    /// The control topic's position up to which the tasks are as it says.
    acted: watch::Sender<Offset>,
    /// The followed indices, and the control topic's position that this was true at.
    followed: RwLock<(Offset, Arc<HashSet<IndexName>>)>,
    /// Held by a call that changes what is followed.
    calls: EntryLocks,
    settings: ControlSettings,
    own_gateway: OwnGateway,
    task_ids: TaskIds,
    stop: CancellationToken,
}

struct Running {
    /// What the task works for; another state of it is another task's.
    subscription: Subscription,
    stop: CancellationToken,
    task: JoinHandle<()>,
    phase: watch::Sender<Phase>,
}

impl Replication {
    /// `acted` is told how far the tasks are with the control topic.
    pub fn new(
        shared: Arc<Shared>,
        leaders: Leaders,
        settings: ControlSettings,
        own_gateway: OwnGateway,
        cluster: ClusterUuid,
        acted: watch::Sender<Offset>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let followed = RwLock::new((Offset(-1), Arc::default()));
        let task_ids = TaskIds::default();
        let (running, known, calls) = (Mutex::default(), Mutex::default(), EntryLocks::default());
        Arc::new(Self {
            shared,
            leaders,
            cluster,
            running,
            known,
            acted,
            followed,
            calls,
            settings,
            own_gateway,
            task_ids,
            stop,
        })
    }

    pub fn cluster(&self) -> &ClusterUuid {
        &self.cluster
    }

    pub fn leaders(&self) -> &Leaders {
        &self.leaders
    }

    pub fn settings(&self) -> &ControlSettings {
        &self.settings
    }

    pub fn own_gateway(&self) -> &OwnGateway {
        &self.own_gateway
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What follower agents have written.
    pub fn follower_table(&self) -> &ControlTopic {
        &self.shared.follower_table
    }

    /// Held by whoever changes an entry of the control topic.
    pub async fn lock(&self, key: &str) -> OwnedMutexGuard<()> {
        self.calls.lock(key).await
    }

    /// The follower cluster.
    pub fn opensearch(&self) -> &OpenSearch {
        &self.shared.opensearch
    }

    /// Keeps a task for each subscription that runs, in the state in which the control topic has it.
    pub async fn run(&self) {
        let mut changes = self.shared.follower_table.changes();
        loop {
            let position = *changes.borrow_and_update();
            self.follow_control().await;
            self.acted.send_replace(position);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = self.stop.cancelled() => return,
            }
        }
    }

    async fn follow_control(&self) {
        let subscriptions = self.subscriptions();
        let wanted: HashMap<&IndexName, &Subscription> = subscriptions
            .iter()
            .filter(|subscription| subscription.state == SubscriptionState::Running)
            .map(|subscription| (&subscription.follower_index, subscription))
            .collect();
        let is_other = |running: &Running| {
            let found = wanted.get(&running.subscription.follower_index);
            !found.is_some_and(|found| same_work(found, &running.subscription))
        };
        let other: Vec<Running> =
            self.running.lock().extract_if(|_, running| is_other(running)).map(|(_, r)| r).collect();
        let mut phases = HashMap::new();
        for running in &other {
            running.stop.cancel();
            phases.insert(running.subscription.id.clone(), running.phase.clone());
        }
        end(other).await;
        for (follower, subscription) in wanted {
            if !self.running.lock().contains_key(follower) {
                let phase = phases.remove(&subscription.id);
                self.spawn(subscription.clone(), phase.unwrap_or_else(|| watch::Sender::new(Phase::Starting)));
            }
        }
        self.forget_stopped(&subscriptions);
    }

    /// Forgets what this agent kept for subscriptions that are no more.
    fn forget_stopped(&self, subscriptions: &[Subscription]) {
        let mut known = self.known.lock();
        let ids: HashSet<&str> = subscriptions.iter().map(|subscription| subscription.id.as_str()).collect();
        for (id, (follower, shards)) in known.extract_if(|id, _| !ids.contains(id.as_str())) {
            if let Err(error) = self.shared.checkpoints.forget(&id) {
                warn!(index = %follower, %error, "checkpoints of a stopped index stay behind; they do no harm");
            }
            self.shared.metrics.forget(follower.as_str(), shards);
            info!(index = %follower, "no longer followed");
        }
        for subscription in subscriptions {
            let (_, shards) =
                known.entry(subscription.id.clone()).or_insert_with(|| (subscription.follower_index.clone(), 0));
            if *shards == 0 {
                let capture = self.shared.capture(subscription);
                *shards = capture.map_or(0, |capture| capture.metadata.number_of_shards);
            }
        }
    }

    /// Waits until every agent does what the control topic says now about a subscription.
    async fn settled(&self, subscription: &Subscription) -> Result<(), ApiError> {
        let now = *self.shared.follower_table.changes().borrow();
        let slots = self.shared.slots_of(subscription);
        let settled = tokio::time::timeout(SETTLE_TIMEOUT, self.shared.group.acted_on(now, &slots)).await;
        settled.map_err(|_| {
            let seconds = SETTLE_TIMEOUT.as_secs();
            let reason =
                format!("written down, but not every follower agent has said within {seconds}s that it complies");
            ApiError::status_exception(http::StatusCode::SERVICE_UNAVAILABLE, reason)
        })
    }

    pub fn slots(&self) -> &Slots {
        &self.shared.slots
    }

    /// Whether this agent looks after an index: makes it, copies it, and changes its subscription.
    pub fn looks_after(&self, follower: &IndexName) -> bool {
        self.shared.slots.holds(Slot::of_index(follower))
    }

    /// Takes over what other agents report of the shards that they have.
    pub async fn hear_others(&self) {
        let mut partitions = HashMap::new();
        for running in self.running.lock().values() {
            let subscription = &running.subscription;
            let Some(capture) = self.shared.capture(subscription) else { continue };
            let phase = running.phase.borrow().clone();
            let (topic, copy, progress) = match (&phase, &subscription.bootstrap, &subscription.copy) {
                (_, Some(id), _) if self.shared.requests.for_files(&subscription.leader_cluster, id).is_some() => {
                    continue;
                }
                (Phase::Bootstrapping(progress), Some(id), _) => (bootstrap_topic(&capture.topic, id), id, progress),
                (Phase::Syncing(progress), None, Some(copy)) => (capture.topic.clone(), &copy.id, progress),
                _ => continue,
            };
            for shard in (0..capture.metadata.number_of_shards).map(ShardId) {
                let slot = match phase {
                    Phase::Bootstrapping(_) => Slot::of_index(&subscription.follower_index),
                    _ => Slot::of_shard(&topic, shard),
                };
                if !self.shared.slots.holds(slot) {
                    let of = (copy_key(&subscription.id, copy), Arc::clone(progress));
                    partitions.entry((topic.clone(), shard)).or_insert_with(Vec::new).push(of);
                }
            }
        }
        if partitions.is_empty() {
            return;
        }
        let asked: Vec<_> = partitions.keys().cloned().collect();
        let committed = match self.shared.group.committed(&asked).await {
            Ok(committed) => committed,
            Err(error) => return warn!(%error, "what other agents report is not known"),
        };
        for (partition, committed) in committed {
            for (key, progress) in partitions.remove(&partition).unwrap_or_default() {
                if let Some(position) = committed.0.get(&key) {
                    progress.shards[partition.1.0 as usize].reported(position.report.clone());
                }
            }
        }
    }

    /// Ends every task; each saves its checkpoint.
    pub async fn shut_down(&self) {
        let running: Vec<Running> = self.running.lock().drain().map(|(_, running)| running).collect();
        for task in &running {
            task.stop.cancel();
        }
        end(running).await;
    }

    /// The subscriptions of this follower cluster.
    pub fn subscriptions(&self) -> Vec<Subscription> {
        let all = self.shared.follower_table.all::<Subscription>();
        all.into_iter().filter(|subscription| subscription.follower_cluster == self.cluster).collect()
    }

    /// Writes what `/metrics` shows of progress.
    pub fn export_metrics(&self) {
        for subscription in self.subscriptions() {
            let index = subscription.follower_index.as_str();
            let phase = self.phase(&subscription.follower_index);
            let state = match (&subscription.state, &phase) {
                (SubscriptionState::Paused, _) => 3,
                (SubscriptionState::Failed, _) => 4,
                (_, Some(Phase::Bootstrapping(_))) => 2,
                _ => 1,
            };
            self.shared.metrics.state.with_label_values(&[index]).set(state);
            let dead_letters = i64::try_from(self.dead_letters_of(&subscription)).unwrap_or(i64::MAX);
            self.shared.metrics.dead_letters.with_label_values(&[index]).set(dead_letters);
            let Some(capture) = self.shared.capture(&subscription) else { continue };
            if let Some(Phase::Syncing(progress) | Phase::Bootstrapping(progress)) = phase {
                for (shard, progress) in (0..).map(ShardId).zip(&progress.shards) {
                    match self.shared.slots.holds(Slot::of_shard(&capture.topic, shard)) {
                        true => progress.export(&self.shared.metrics, index, shard),
                        false => self.shared.metrics.forget_progress(index, shard),
                    }
                }
            }
        }
    }

    /// Stops following at the agent's own decision.
    pub async fn auto_pause(&self, subscription: &Subscription, reason: String) {
        if let Err(error) = self.shared.transition(subscription, Command::AutoPause { reason }).await {
            warn!(index = %subscription.follower_index, %error, "the index could not be paused");
        }
    }

    fn key(&self, follower: &IndexName) -> String {
        Subscription::key_of(&self.cluster, follower)
    }

    pub fn subscription(&self, follower: &IndexName) -> Option<Subscription> {
        self.shared.follower_table.get(&self.key(follower))
    }

    /// What the index is doing, if it is running.
    pub fn phase(&self, follower: &IndexName) -> Option<Phase> {
        self.running.lock().get(follower).map(|running| running.phase.borrow().clone())
    }

    fn spawn(&self, subscription: Subscription, phase: watch::Sender<Phase>) {
        let follower = subscription.follower_index.clone();
        info!(index = %follower, leader = %subscription.leader_index, "following");
        let stop = self.stop.child_token();
        let task = keep_following(Arc::clone(&self.shared), subscription.clone(), phase.clone(), stop.clone());
        let task = tokio::spawn(task);
        self.running.lock().insert(follower, Running { subscription, stop, task, phase });
    }

    /// Waits until the task that the control topic asks for now has got going.
    async fn await_phase(&self, follower: &IndexName, until_restored: bool) -> Result<(), StartFailure> {
        let now = *self.shared.follower_table.changes().borrow();
        // It ends with the agent only.
        let _ = self.acted.subscribe().wait_for(|acted| *acted >= now).await;
        let phase = self.running.lock().get(follower).map(|running| running.phase.subscribe());
        await_phase(&mut phase.ok_or(StartFailure::Ended)?, until_restored).await
    }

    async fn do_start(
        &self,
        follower: IndexName,
        request: StartRequest,
        wait_for_restore: bool,
    ) -> Result<(), ApiError> {
        let leader_cluster = self.leaders.resolve(&request.leader_alias).await?;
        let leader_index = IndexName(request.leader_index);
        let entry = self.leaders.index(&leader_cluster, &leader_index, &request.leader_alias).await?;
        let overrides = request.settings.into_iter().collect();
        let repository = request.repository.or_else(|| self.shared.repository.clone());
        let repository = repository.filter(|repository| !repository.is_empty());
        self.follow(follower, &request.leader_alias, entry, overrides, repository, wait_for_restore).await
    }

    /// Begins to follow a leader index that was found to exist.
    async fn follow(
        &self,
        follower: IndexName,
        leader_alias: &str,
        leader: CatalogEntry,
        overrides: Map<String, Value>,
        repository: Option<String>,
        wait_for_restore: bool,
    ) -> Result<(), ApiError> {
        let _one_at_a_time = self.lock(&self.key(&follower)).await;
        if let Some(reason) = leader.refusal {
            return Err(ApiError::illegal_argument(reason));
        }
        if self.settings.start_is_blocked() {
            let reason = "[FORBIDDEN] Replication START block is set";
            return Err(ApiError::status_exception(http::StatusCode::FORBIDDEN, reason));
        }
        refuse_leaders_settings(&overrides)?;
        let index = FollowerIndex::new(self.shared.opensearch.clone(), follower.clone(), overrides);
        if let Some(repository) = &repository {
            let verified = self.shared.opensearch.post::<Value>(&verification_path(repository), &json!({})).await;
            verified.map_err(|error| from_cluster(&error))?;
        }
        let taken = index.exists().await.map_err(|e| from_cluster(&e))? || self.subscription(&follower).is_some();
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
            repository,
            copy: None,
        };
        // Those of an earlier index of that name.
        self.shared.letter_box(&subscription).clear().await.map_err(|error| from_control(&error))?;
        self.shared.begin(&subscription).await.map_err(|error| transition_error(error, &follower))?;
        let outcome = self.await_phase(&follower, wait_for_restore).await;
        if let Err(StartFailure::Refused(_)) = &outcome {
            // Nothing was made, so nothing is to be stopped by the user.
            self.remove(&subscription).await?;
        }
        outcome.map_err(StartFailure::into_api_error)
    }

    async fn do_stop(&self, follower: IndexName) -> Result<(), ApiError> {
        let _one_at_a_time = self.lock(&self.key(&follower)).await;
        let subscription = self.subscription(&follower).ok_or_else(|| refused(Refusal::NotInProgress, &follower))?;
        // Before it is forgotten.
        let copy = subscription.bootstrap.as_ref().map(|id| {
            if self.shared.requests.for_files(&subscription.leader_cluster, id).is_some_and(|it| it.is_restoring) {
                return Some(Copy { bootstrap: id.clone(), in_place: false });
            }
            let copy = self.shared.checkpoints.load_copy(&copy_key(&subscription.id, id));
            copy.unwrap_or_default()
        });
        let applied = AppliedMetadata::key_of(&self.cluster, &follower);
        let applied = self.shared.follower_table.get::<AppliedMetadata>(&applied);
        self.remove(&subscription).await?;
        if let Some(copy) = copy {
            return self.give_up_copy(&subscription, copy).await.map_err(|error| from_cluster(&error));
        }
        let write_aliases = applied.map(|applied| applied.write_aliases).unwrap_or_default();
        if !write_aliases.is_empty() {
            let index = FollowerIndex::new(self.shared.opensearch.clone(), follower.clone(), Map::new());
            if let Err(error) = index.give_back(write_aliases).await {
                // Such as when another index is the write index by now.
                warn!(index = %follower, %error, "its aliases do not write to the index as they did on the leader");
            }
        }
        Ok(())
    }

    /// Half a copy is of no use to anybody; an index that was whole before stays, with its settings.
    async fn give_up_copy(&self, subscription: &Subscription, copy: Option<Copy>) -> Result<(), OpenSearchError> {
        let (name, overrides) = (subscription.follower_index.clone(), subscription.settings.clone());
        let index = FollowerIndex::new(self.shared.opensearch.clone(), name, overrides);
        if copy.is_some_and(|copy| !copy.in_place) {
            return index.delete().await;
        }
        match self.shared.capture(subscription) {
            Some(capture) if index.exists().await? => index.finish_load(&capture.metadata).await,
            _ => Ok(()),
        }
    }

    /// Removes a subscription; nobody follows it any more when this returns.
    async fn remove(&self, subscription: &Subscription) -> Result<(), ApiError> {
        let follower = &subscription.follower_index;
        let stopped = self.shared.transition(subscription, Command::Stop).await;
        stopped.map_err(|error| transition_error(error, follower))?;
        let applied = AppliedMetadata::key_of(&subscription.follower_cluster, follower);
        let verification = Verification::key_of(&subscription.follower_cluster, follower);
        for key in [applied, verification] {
            self.shared.follower_table.remove(&key).await.map_err(|error| from_control(&error))?;
        }
        if let Some(id) = &subscription.bootstrap {
            let withdrawn = self.shared.requests.withdraw(&subscription.leader_cluster, id).await;
            withdrawn.map_err(|error| from_control(&error))?;
        }
        self.settled(subscription).await?;
        self.shared.letter_box(subscription).clear().await.map_err(|error| from_control(&error))
    }

    async fn do_pause(&self, follower: IndexName, request: PauseRequest) -> Result<(), ApiError> {
        let _one_at_a_time = self.lock(&self.key(&follower)).await;
        let current = self.subscription(&follower).ok_or_else(|| refused(Refusal::NotInProgress, &follower))?;
        let paused = self.shared.transition(&current, Command::Pause { reason: Some(request.reason) }).await;
        paused.map_err(|error| transition_error(error, &follower))?;
        self.settled(&current).await
    }

    async fn do_resume(&self, follower: IndexName) -> Result<(), ApiError> {
        let _one_at_a_time = self.lock(&self.key(&follower)).await;
        let current = self.subscription(&follower).ok_or_else(|| refused(Refusal::NotInProgress, &follower))?;
        if current.state != SubscriptionState::Paused {
            return Err(refused(Refusal::AlreadyRunning, &follower));
        }
        let cluster = self.leaders.resolve(&current.leader_alias).await?;
        let entry = self.leaders.index(&cluster, &current.leader_index, &current.leader_alias).await?;
        if entry.uuid != current.leader_uuid {
            // The index of that name is another one now.
            return Err(ApiError::index_not_found(current.leader_index.as_str()));
        }
        let resumed = self.shared.transition(&current, Command::Resume).await;
        resumed.map_err(|error| transition_error(error, &follower))?;
        self.await_phase(&follower, false).await.map_err(StartFailure::into_api_error)
    }

    async fn do_update(&self, follower: IndexName, request: UpdateRequest) -> Result<(), ApiError> {
        let _one_at_a_time = self.lock(&self.key(&follower)).await;
        let overrides: Map<_, _> = request.settings.into_iter().collect();
        let subscription = self.subscription(&follower).ok_or_else(|| refused(Refusal::NotInProgress, &follower))?;
        let index = FollowerIndex::new(self.shared.opensearch.clone(), follower.clone(), overrides.clone());
        // The follower cluster is the judge of settings; only what it takes is kept.
        if let Some(capture) = self.shared.capture(&subscription) {
            index.sync_settings(&capture.metadata).await.map_err(|error| from_cluster(&error))?;
        }
        let updated = self.shared.transition(&subscription, Command::Update { settings: overrides }).await;
        updated.map_err(|error| transition_error(error, &follower))?;
        Ok(())
    }

    /// The indices that are followed, from memory while nothing changes.
    pub fn followed_indices(&self) -> Arc<HashSet<IndexName>> {
        let now = *self.shared.follower_table.changes().borrow();
        {
            let known = self.followed.read();
            if known.0 == now {
                return Arc::clone(&known.1);
            }
        }
        let indices = self.subscriptions().into_iter().map(|subscription| subscription.follower_index);
        let indices = Arc::new(indices.collect::<HashSet<_>>());
        *self.followed.write() = (now, Arc::clone(&indices));
        indices
    }

    /// The indices that the follower cluster has.
    pub async fn local_indices(&self) -> Result<HashSet<IndexName>, OpenSearchError> {
        let path = "/_cluster/state/metadata?filter_path=metadata.indices.*.state";
        let state: Value = self.shared.opensearch.get(path).await?;
        let indices = state.pointer("/metadata/indices").and_then(Value::as_object);
        Ok(indices.into_iter().flatten().map(|(name, _)| IndexName::from(name.as_str())).collect())
    }

    fn dead_letters_of(&self, subscription: &Subscription) -> usize {
        self.shared.letter_box(subscription).count()
    }

    fn status_in(&self, subscription: &Subscription, phase: Option<Phase>, verbose: bool) -> ReplicationStatus {
        let dead_letters = self.dead_letters_of(subscription);
        let dead_letters = (dead_letters > 0).then_some(dead_letters as u64);
        ReplicationStatus { dead_letters, ..status::of(subscription, phase, verbose) }
    }

    pub fn status_of(&self, follower: &IndexName, verbose: bool) -> ReplicationStatus {
        match self.subscription(follower) {
            Some(subscription) => self.status_in(&subscription, self.phase(follower), verbose),
            None => ReplicationStatus::not_in_progress(),
        }
    }
}

impl ReplicationService for Replication {
    fn start(&self, follower: IndexName, request: StartRequest, wait: bool) -> BoxFuture<'_, Result<(), ApiError>> {
        self.do_start(follower, request, wait).boxed()
    }

    fn stop(&self, follower: IndexName) -> BoxFuture<'_, Result<(), ApiError>> {
        self.do_stop(follower).boxed()
    }

    fn pause(&self, follower: IndexName, request: PauseRequest) -> BoxFuture<'_, Result<(), ApiError>> {
        self.do_pause(follower, request).boxed()
    }

    fn resume(&self, follower: IndexName, _request: ResumeRequest) -> BoxFuture<'_, Result<(), ApiError>> {
        // `force_resume` makes no difference: what Kafka no longer has is copied anew either way.
        self.do_resume(follower).boxed()
    }

    fn update(&self, follower: IndexName, request: UpdateRequest) -> BoxFuture<'_, Result<(), ApiError>> {
        self.do_update(follower, request).boxed()
    }

    fn status(&self, follower: IndexName, verbose: bool) -> BoxFuture<'_, Result<ReplicationStatus, ApiError>> {
        std::future::ready(Ok(self.status_of(&follower, verbose))).boxed()
    }

    fn verify(&self, follower: IndexName, request: VerifyRequest) -> BoxFuture<'_, Result<String, ApiError>> {
        verify::begin(self, follower, request).boxed()
    }

    fn verification(&self, follower: &IndexName) -> Result<Verification, ApiError> {
        verify::last(self, follower)
    }

    fn forget_verification(&self, follower: IndexName) -> BoxFuture<'_, Result<(), ApiError>> {
        async move { verify::forget(self, &follower).await }.boxed()
    }

    fn dead_letters(&self, follower: &IndexName) -> Result<Vec<DeadLetter>, ApiError> {
        dead_letters::list(self, follower)
    }

    fn replay_dead_letters(&self, follower: IndexName) -> BoxFuture<'_, Result<usize, ApiError>> {
        async move { dead_letters::replay(self, &follower).await }.boxed()
    }

    fn statuses(&self, pattern: &str, verbose: bool) -> Vec<(IndexName, FollowedStatus)> {
        let mut statuses = Vec::new();
        for subscription in self.subscriptions() {
            let follower = subscription.follower_index.clone();
            if wildcard_match(pattern, follower.as_str()) {
                let phase = self.phase(&follower);
                let lag_details = status::lag(phase.as_ref());
                statuses.push((
                    follower,
                    FollowedStatus { status: self.status_in(&subscription, phase, verbose), lag_details },
                ));
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

    fn begin_bulk(&self, operation: BulkOperation, request: BulkRequest) -> BoxFuture<'_, Result<String, ApiError>> {
        bulk::begin(self, &self.task_ids, operation, request).boxed()
    }

    fn bulk_status(&self, pattern: String) -> BoxFuture<'_, Result<Vec<(IndexName, ReplicationStatus)>, ApiError>> {
        bulk::status(self, pattern).boxed()
    }

    fn task_status(&self, id: &str) -> Result<TaskStatus, ApiError> {
        bulk::task_status(self, id)
    }

    fn cancel_task(&self, id: String) -> BoxFuture<'_, Result<(), ApiError>> {
        async move { bulk::cancel(self, &id).await }.boxed()
    }

    fn leader_stats(&self) -> LeaderStats {
        LeaderStats::of_cluster(&self.cluster, &self.shared.leader_table, &self.shared.follower_table)
    }

    fn follower_stats(&self) -> FollowerStats {
        let mut stats = FollowerStats::default();
        for subscription in self.subscriptions() {
            let phase = self.phase(&subscription.follower_index);
            stats::add(&mut stats, &self.shared.metrics, &subscription, phase);
        }
        stats
    }

    fn auto_follow_stats(&self) -> AutoFollowStats {
        auto_follow::stats(self)
    }

    fn followed(&self) -> Arc<HashSet<IndexName>> {
        self.followed_indices()
    }
}

/// A follower index with other values of these could not hold the leader's documents.
pub fn refuse_leaders_settings(overrides: &Map<String, Value>) -> Result<(), ApiError> {
    match not_to_override(overrides) {
        Some(key) => Err(ApiError::illegal_argument(format!("setting [{key}] has to be the leader index's own"))),
        None => Ok(()),
    }
}

/// Whether a task that works for one goes on for the other.
fn same_work(one: &Subscription, other: &Subscription) -> bool {
    // A copy is not begun anew for settings; they are looked up when it is complete.
    let settings = if one.bootstrap.is_some() { &one.settings } else { &other.settings };
    *one == Subscription { settings: settings.clone(), ..other.clone() }
}

async fn end(tasks: Vec<Running>) {
    for running in tasks {
        if let Err(error) = running.task.await {
            error!(index = %running.subscription.follower_index, %error, "an index's task did not end cleanly");
        }
    }
}

/// Runs an index's task, again and again while its errors may pass; pauses the index when they do not.
async fn keep_following(
    shared: Arc<Shared>,
    subscription: Subscription,
    phase: watch::Sender<Phase>,
    stop: CancellationToken,
) {
    let mut delay = FIRST_RETRY;
    loop {
        let followed =
            Followed { shared: Arc::clone(&shared), subscription: subscription.clone(), phase: phase.clone() };
        let began = Instant::now();
        let end = match followed.run(stop.clone()).await {
            Ok(()) => return,
            Err(end) => end,
        };
        if began.elapsed() > LAST_RETRY {
            delay = FIRST_RETRY;
        }
        let index = &subscription.follower_index;
        if !end.retryable() {
            warn!(%index, error = %end, "the index cannot be followed on and is paused");
            let command = Command::AutoPause { reason: format!("AutoPaused: [{end}]") };
            match shared.transition(&subscription, command).await {
                Ok(_) => return,
                Err(error) => warn!(%index, %error, "the pause could not be written down"),
            }
        } else {
            warn!(%index, error = %end, retry_in_ms = delay.as_millis() as u64, "following was interrupted");
        }
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => return,
        }
        delay = (delay * 2).min(LAST_RETRY);
    }
}

enum StartFailure {
    Refused(Arc<OpenSearchError>),
    Timeout,
    Ended,
}

impl StartFailure {
    fn into_api_error(self) -> ApiError {
        match self {
            Self::Refused(error) => from_cluster(&error),
            Self::Timeout => ApiError::illegal_state("Timed out when waiting for persistent task after 30s"),
            Self::Ended => ApiError::illegal_state("replication stopped as soon as it had begun: its status says why"),
        }
    }
}

async fn await_phase(phase: &mut watch::Receiver<Phase>, until_restored: bool) -> Result<(), StartFailure> {
    let going = async {
        loop {
            match &*phase.borrow_and_update() {
                Phase::Bootstrapping(_) if !until_restored => return Ok(()),
                Phase::Syncing(progress) if progress.is_restored() => return Ok(()),
                Phase::Syncing(progress) if progress.is_loaded() && !until_restored => return Ok(()),
                Phase::Refused(error) => return Err(StartFailure::Refused(Arc::clone(error))),
                Phase::Starting | Phase::Bootstrapping(_) | Phase::Syncing(_) => {}
            }
            tokio::select! {
                changed = phase.changed() => changed.map_err(|_| StartFailure::Ended)?,
                // Progress says nothing when it is made.
                () = tokio::time::sleep(PROGRESS_POLL) => {}
            }
        }
    };
    tokio::time::timeout(START_TIMEOUT, going).await.map_err(|_| StartFailure::Timeout)?
}

fn transition_error(error: TransitionError, follower: &IndexName) -> ApiError {
    match error {
        TransitionError::Refused(refusal) => refused(refusal, follower),
        TransitionError::Control(error) => from_control(&error),
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
        Refusal::AlreadyPaused => ApiError::resource_already_exists(format!("Index {follower} is already paused")),
        Refusal::AlreadyRunning => {
            ApiError::resource_already_exists(format!("Replication on Index {follower} is already running"))
        }
        Refusal::Failed => ApiError::illegal_state("Cannot pause when in FAILED state"),
        Refusal::Bootstrapping => ApiError::generic(format!(
            "Index is in restore phase currently for index: {follower}. You can pause after restore completes."
        )),
    }
}
