//! Carries out the control API: changes subscriptions, and keeps a task for each one that runs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use shardline_common::control::{
    BootstrapRequest, Capture, Entry, ReplicationSettings, Subscription, SubscriptionState,
};
use shardline_common::opensearch::OpenSearchError;
use shardline_common::types::{ClusterUuid, Epoch, IndexName, Offset};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::api::request::{PauseRequest, ResumeRequest, StartRequest, UpdateRequest};
use crate::api::{ApiError, ReplicationService, ReplicationStatus};
use crate::followed::{Followed, Phase, Shared, TransitionError};
use crate::index::FollowerIndex;
use crate::leaders::{Leaders, from_cluster, from_control};
use crate::state::{Command, Refusal, USER_INITIATED};
use crate::status;

/// How long `_start` and `_resume` wait for the index to get going, as the plugin does.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);

pub struct Replication {
    shared: Arc<Shared>,
    leaders: Leaders,
    cluster: ClusterUuid,
    running: Mutex<HashMap<IndexName, Running>>,
    /// The followed indices, and the control topic's position that this was true at.
    followed: RwLock<(Offset, Arc<HashSet<IndexName>>)>,
    /// Held by the calls that change what is followed, so that they happen one after the other.
    calls: tokio::sync::Mutex<()>,
    stop: CancellationToken,
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
    phase: watch::Receiver<Phase>,
}

impl Replication {
    pub fn new(shared: Arc<Shared>, leaders: Leaders, cluster: ClusterUuid, stop: CancellationToken) -> Arc<Self> {
        let followed = RwLock::new((Offset(-1), Arc::default()));
        let calls = tokio::sync::Mutex::new(());
        Arc::new(Self { shared, leaders, cluster, running: Mutex::default(), followed, calls, stop })
    }

    /// Goes on with what was running when the agent stopped.
    pub fn restore(&self) {
        for subscription in self.subscriptions() {
            if subscription.state == SubscriptionState::Running {
                self.spawn(subscription);
            }
        }
    }

    /// Ends every task; each saves its checkpoint.
    pub async fn shut_down(&self) {
        let running: Vec<Running> = self.running.lock().drain().map(|(_, running)| running).collect();
        for task in &running {
            task.stop.cancel();
        }
        for task in running {
            if let Err(error) = task.task.await {
                error!(%error, "an index's task did not end cleanly");
            }
        }
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
            if let Some(Phase::Syncing(progress) | Phase::Bootstrapping(progress)) = phase {
                for (shard, progress) in (0..).zip(&progress.shards) {
                    progress.export(&self.shared.metrics, index, shardline_common::types::ShardId(shard));
                }
            }
        }
    }

    /// Stops following at the agent's own decision.
    pub async fn auto_pause(&self, subscription: &Subscription, reason: String) {
        let _one_at_a_time = self.calls.lock().await;
        self.end_task(&subscription.follower_index).await;
        let command = Command::AutoPause { reason };
        if let Err(error) = self.shared.transition(&subscription.key(), Some(&subscription.id), command).await {
            warn!(index = %subscription.follower_index, %error, "the index could not be paused");
        }
    }

    fn key(&self, follower: &IndexName) -> String {
        Subscription::key_of(&self.cluster, follower)
    }

    fn subscription(&self, follower: &IndexName) -> Option<Subscription> {
        self.shared.follower_table.get(&self.key(follower))
    }

    fn setting(&self, key: &str) -> Option<String> {
        let stored: ReplicationSettings =
            self.shared.follower_table.get(&ReplicationSettings::key_of(&self.cluster))?;
        stored.settings.get(key).cloned()
    }

    fn phase(&self, follower: &IndexName) -> Option<Phase> {
        self.running.lock().get(follower).map(|running| running.phase.borrow().clone())
    }

    fn spawn(&self, subscription: Subscription) -> watch::Receiver<Phase> {
        let (sender, phase) = watch::channel(Phase::Starting);
        let follower = subscription.follower_index.clone();
        info!(index = %follower, leader = %subscription.leader_index, "following");
        let stop = self.stop.child_token();
        let task = tokio::spawn(keep_following(Arc::clone(&self.shared), subscription, sender, stop.clone()));
        self.running.lock().insert(follower, Running { stop, task, phase: phase.clone() });
        phase
    }

    async fn end_task(&self, follower: &IndexName) {
        let Some(running) = self.running.lock().remove(follower) else { return };
        running.stop.cancel();
        if let Err(error) = running.task.await {
            error!(index = %follower, %error, "an index's task did not end cleanly");
        }
    }

    async fn do_start(
        &self,
        follower: IndexName,
        request: StartRequest,
        wait_for_restore: bool,
    ) -> Result<(), ApiError> {
        let _one_at_a_time = self.calls.lock().await;
        let leader_cluster = self.leaders.resolve(&request.leader_alias).await?;
        let leader_index = IndexName(request.leader_index);
        let entry = self.leaders.index(&leader_cluster, &leader_index, &request.leader_alias).await?;
        if let Some(reason) = entry.refusal {
            return Err(ApiError::illegal_argument(reason));
        }
        if self.setting("plugins.replication.follower.block.start").as_deref() == Some("true") {
            let reason = "[FORBIDDEN] Replication START block is set";
            return Err(ApiError::status_exception(http::StatusCode::FORBIDDEN, reason));
        }
        let overrides = request.settings.into_iter().collect();
        let index = FollowerIndex::new(self.shared.opensearch.clone(), follower.clone(), overrides);
        let taken = self.subscription(&follower).is_some() || index.exists().await.map_err(|e| from_cluster(&e))?;
        if taken {
            let reason = format!("Cant use same index again for replication. Delete the index:{follower}");
            return Err(ApiError::illegal_argument(reason));
        }
        let subscription = Subscription {
            id: Uuid::new_v4().simple().to_string(),
            follower_cluster: self.cluster.clone(),
            follower_index: follower.clone(),
            leader_alias: request.leader_alias,
            leader_cluster,
            leader_index,
            leader_uuid: entry.uuid,
            state: SubscriptionState::Running,
            reason: USER_INITIATED.to_owned(),
            epoch: Epoch(0),
            settings: index.overrides.clone(),
            bootstrap: None,
        };
        self.shared.follower_table.publish(&subscription).await.map_err(|error| from_control(&error))?;
        let mut phase = self.spawn(subscription.clone());
        let outcome = await_phase(&mut phase, wait_for_restore).await;
        if let Err(StartFailure::Refused(_)) = &outcome {
            // Nothing was made, so nothing is to be stopped by the user.
            self.end_task(&follower).await;
            self.remove(&subscription).await?;
        }
        outcome.map_err(StartFailure::into_api_error)
    }

    async fn do_stop(&self, follower: IndexName) -> Result<(), ApiError> {
        let _one_at_a_time = self.calls.lock().await;
        let subscription = self.subscription(&follower).ok_or_else(|| refused(Refusal::NotInProgress, &follower))?;
        self.end_task(&follower).await;
        if subscription.bootstrap.is_some() {
            self.give_up_copy(&subscription).await.map_err(|error| from_cluster(&error))?;
        }
        self.remove(&subscription).await
    }

    /// Half a copy is of no use to anybody; an index that was whole before stays, with its settings.
    async fn give_up_copy(&self, subscription: &Subscription) -> Result<(), OpenSearchError> {
        let (name, overrides) = (subscription.follower_index.clone(), subscription.settings.clone());
        let index = FollowerIndex::new(self.shared.opensearch.clone(), name, overrides);
        let copy = self.shared.checkpoints.load_copy(&subscription.id).ok().flatten();
        if copy.is_some_and(|copy| !copy.in_place) {
            return index.delete().await;
        }
        let key = Capture::key_of(&subscription.leader_cluster, &subscription.leader_uuid);
        match self.shared.leader_table.get::<Capture>(&key) {
            Some(capture) if index.exists().await? => index.finish_load(&capture.metadata).await,
            _ => Ok(()),
        }
    }

    /// Removes a subscription and what was kept for it.
    async fn remove(&self, subscription: &Subscription) -> Result<(), ApiError> {
        let follower = &subscription.follower_index;
        let stopped = self.shared.transition(&subscription.key(), Some(&subscription.id), Command::Stop).await;
        stopped.map_err(|error| transition_error(error, follower))?;
        if let Some(id) = &subscription.bootstrap {
            let key = BootstrapRequest::key_of(&subscription.leader_cluster, id);
            self.shared.follower_table.remove(&key).await.map_err(|error| from_control(&error))?;
        }
        if let Err(error) = self.shared.checkpoints.forget(&subscription.id) {
            warn!(index = %follower, %error, "checkpoints of a stopped index stay behind; they do no harm");
        }
        let key = Capture::key_of(&subscription.leader_cluster, &subscription.leader_uuid);
        let capture: Option<Capture> = self.shared.leader_table.get(&key);
        let shards = capture.map_or(0, |capture| capture.metadata.number_of_shards);
        self.shared.metrics.forget(follower.as_str(), shards);
        info!(index = %follower, "no longer followed");
        Ok(())
    }

    async fn do_pause(&self, follower: IndexName, request: PauseRequest) -> Result<(), ApiError> {
        let _one_at_a_time = self.calls.lock().await;
        let command = Command::Pause { reason: Some(request.reason) };
        let paused = self.shared.transition(&self.key(&follower), None, command).await;
        paused.map_err(|error| transition_error(error, &follower))?;
        self.end_task(&follower).await;
        Ok(())
    }

    async fn do_resume(&self, follower: IndexName) -> Result<(), ApiError> {
        let _one_at_a_time = self.calls.lock().await;
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
        let resumed = self.shared.transition(&current.key(), Some(&current.id), Command::Resume).await;
        let Some(subscription) = resumed.map_err(|error| transition_error(error, &follower))? else { return Ok(()) };
        let mut phase = self.spawn(subscription);
        await_phase(&mut phase, false).await.map_err(StartFailure::into_api_error)
    }

    async fn do_update(&self, follower: IndexName, request: UpdateRequest) -> Result<(), ApiError> {
        let _one_at_a_time = self.calls.lock().await;
        let overrides: serde_json::Map<_, _> = request.settings.into_iter().collect();
        let mut subscription =
            self.subscription(&follower).ok_or_else(|| refused(Refusal::NotInProgress, &follower))?;
        let key = Capture::key_of(&subscription.leader_cluster, &subscription.leader_uuid);
        let capture: Option<Capture> = self.shared.leader_table.get(&key);
        subscription.settings.clone_from(&overrides);
        let index = FollowerIndex::new(self.shared.opensearch.clone(), follower.clone(), overrides);
        // The follower cluster is the judge of settings; only what it takes is kept.
        if let Some(capture) = capture {
            index.sync_settings(&capture.metadata).await.map_err(|error| from_cluster(&error))?;
        }
        {
            let _held = self.shared.changing.lock().await;
            self.shared.follower_table.publish(&subscription).await.map_err(|error| from_control(&error))?;
        }
        if subscription.state == SubscriptionState::Running && subscription.bootstrap.is_none() {
            self.end_task(&follower).await;
            self.spawn(subscription);
        }
        Ok(())
    }

    fn do_status(&self, follower: &IndexName, verbose: bool) -> ReplicationStatus {
        match self.subscription(follower) {
            Some(subscription) => status::of(&subscription, self.phase(follower), verbose),
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
        std::future::ready(Ok(self.do_status(&follower, verbose))).boxed()
    }

    fn followed(&self) -> Arc<HashSet<IndexName>> {
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
}

/// Runs an index's task, again and again while its errors may pass; pauses the index when they do not.
async fn keep_following(
    shared: Arc<Shared>,
    mut subscription: Subscription,
    phase: watch::Sender<Phase>,
    stop: CancellationToken,
) {
    let mut delay = FIRST_RETRY;
    loop {
        let followed =
            Followed { shared: Arc::clone(&shared), subscription: subscription.clone(), phase: phase.clone() };
        let end = match followed.run(stop.clone()).await {
            Ok(()) => return,
            Err(end) => end,
        };
        let index = &subscription.follower_index;
        if !end.retryable() {
            warn!(%index, error = %end, "the index cannot be followed on and is paused");
            let command = Command::AutoPause { reason: format!("AutoPaused: [{end}]") };
            if let Err(error) = shared.transition(&subscription.key(), Some(&subscription.id), command).await {
                warn!(%index, %error, "the pause could not be written down");
            }
            return;
        }
        warn!(%index, error = %end, retry_in_ms = delay.as_millis() as u64, "following was interrupted");
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => return,
        }
        delay = (delay * 2).min(LAST_RETRY);
        match shared.follower_table.get::<Subscription>(&subscription.key()) {
            Some(current) if current.id == subscription.id => subscription = current,
            _ => return,
        }
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

async fn await_phase(phase: &mut watch::Receiver<Phase>, until_loaded: bool) -> Result<(), StartFailure> {
    let going = phase.wait_for(|phase| match phase {
        Phase::Starting => false,
        Phase::Bootstrapping(_) => !until_loaded,
        Phase::Syncing(progress) => progress.shards.iter().all(|shard| shard.loaded.load(Relaxed)),
        Phase::Refused(_) => true,
    });
    let phase = match tokio::time::timeout(START_TIMEOUT, going).await {
        Err(_) => return Err(StartFailure::Timeout),
        Ok(Err(_)) => return Err(StartFailure::Ended),
        Ok(Ok(phase)) => phase.clone(),
    };
    match phase {
        Phase::Refused(error) => Err(StartFailure::Refused(error)),
        _ => Ok(()),
    }
}

fn transition_error(error: TransitionError, follower: &IndexName) -> ApiError {
    match error {
        TransitionError::Refused(refusal) => refused(refusal, follower),
        TransitionError::Control(error) => from_control(&error),
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
