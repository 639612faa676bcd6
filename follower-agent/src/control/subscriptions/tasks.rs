//! The tasks of this agent: one for each subscription that runs, in the state in which the control
//! topic has it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shardline::contract::ApiError;
use shardline_common::control::{Subscription, SubscriptionState};
use shardline_common::opensearch::OpenSearchError;
use shardline_common::standstill::StandstillReason;
use shardline_common::types::IndexName;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::AUTO_PAUSED;
use crate::index::{AgentContext, Command, End, IndexTask, Phase, Waits};
use crate::progress::{IndexProgress, Retries, Retry};

/// How long `_start` and `_resume` wait for the index to get going, as the plugin does.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const PROGRESS_POLL: Duration = Duration::from_millis(50);
/// For how long they wait for the partitions to be looked at.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// After so long without an error, the last one is over.
const CALM: Duration = Duration::from_secs(10);

pub(super) struct Tasks {
    context: Arc<AgentContext>,
    running: Mutex<HashMap<IndexName, Running>>,
    stop: CancellationToken,
}

struct Running {
    /// What the task works for; another state of it is another task's.
    subscription: Subscription,
    stop: CancellationToken,
    task: JoinHandle<()>,
    phase: watch::Sender<Phase>,
    waits: Waits,
}

impl Tasks {
    pub(crate) fn new(context: Arc<AgentContext>, stop: CancellationToken) -> Self {
        Self {
            context,
            running: Mutex::default(),
            stop,
        }
    }

    /// Ends the tasks that work for another state of a subscription than these, and begins those
    /// that are missing.
    pub(crate) async fn keep(&self, subscriptions: &[Subscription]) {
        let wanted: HashMap<&IndexName, &Subscription> = subscriptions
            .iter()
            .filter(|subscription| subscription.state == SubscriptionState::Running)
            .map(|subscription| (&subscription.follower_index, subscription))
            .collect();
        let is_other = |running: &Running| {
            let found = wanted.get(&running.subscription.follower_index);
            !found.is_some_and(|found| same_work(found, &running.subscription))
        };
        let other: Vec<Running> = self
            .running
            .lock()
            .extract_if(|_, running| is_other(running))
            .map(|(_, r)| r)
            .collect();
        let phases = other
            .iter()
            .map(|running| (running.subscription.id.clone(), running.phase.clone()));
        let mut phases: HashMap<String, watch::Sender<Phase>> = phases.collect();
        end(other).await;
        for (follower, subscription) in wanted {
            if !self.running.lock().contains_key(follower) {
                let phase = phases.remove(&subscription.id);
                self.spawn(
                    subscription.clone(),
                    phase.unwrap_or_else(|| watch::Sender::new(Phase::Starting)),
                );
            }
        }
    }

    fn spawn(&self, subscription: Subscription, phase: watch::Sender<Phase>) {
        let follower = subscription.follower_index.clone();
        info!(index = %follower, leader = %subscription.leader_index, "following");
        let stop = self.stop.child_token();
        let waits = Waits::default();
        let followed = IndexTask {
            context: Arc::clone(&self.context),
            subscription: subscription.clone(),
            phase: phase.clone(),
            waits: waits.clone(),
        };
        let task = keep_following(followed, stop.clone());
        let task = tokio::spawn(task);
        self.running.lock().insert(
            follower,
            Running {
                subscription,
                stop,
                task,
                phase,
                waits,
            },
        );
    }

    /// Ends every task; each saves its checkpoint.
    pub(super) async fn end_all(&self) {
        let running = self
            .running
            .lock()
            .drain()
            .map(|(_, running)| running)
            .collect();
        end(running).await;
    }

    /// What the index is doing, if it is running.
    pub(crate) fn phase(&self, follower: &IndexName) -> Option<Phase> {
        self.running
            .lock()
            .get(follower)
            .map(|running| running.phase.borrow().clone())
    }

    /// Why the index's task does not get on, if it does not.
    pub(crate) fn waits(&self, follower: &IndexName) -> Option<StandstillReason> {
        self.running.lock().get(follower)?.waits.said()
    }

    /// What each running index is doing.
    pub(super) fn phases(&self) -> Vec<(Subscription, Phase)> {
        let running = self.running.lock();
        running
            .values()
            .map(|running| (running.subscription.clone(), running.phase.borrow().clone()))
            .collect()
    }

    /// Waits until an index has got going: until nothing of it is missing, if `until_restored`.
    pub(crate) async fn started(
        &self,
        follower: &IndexName,
        until_restored: bool,
    ) -> Result<(), StartFailure> {
        let phase = self
            .running
            .lock()
            .get(follower)
            .map(|running| running.phase.subscribe());
        let mut phase = phase.ok_or(StartFailure::Ended)?;
        let began = Instant::now();
        // What another agent finds in a partition is heard of a moment later.
        let is_known =
            |progress: &IndexProgress| progress.is_known() || began.elapsed() > KNOWN_WITHIN;
        let going = async {
            loop {
                match &*phase.borrow_and_update() {
                    Phase::Bootstrapping(_) if !until_restored => return Ok(()),
                    Phase::Syncing(progress) if progress.is_restored() => return Ok(()),
                    Phase::Syncing(progress)
                        if !until_restored && progress.is_loaded() && is_known(progress) =>
                    {
                        return Ok(());
                    }
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
        tokio::time::timeout(START_TIMEOUT, going)
            .await
            .map_err(|_| StartFailure::Timeout)?
    }
}

/// Why an index has not got going.
pub(crate) enum StartFailure {
    Refused(Arc<OpenSearchError>),
    Timeout,
    Ended,
}

impl StartFailure {
    pub(super) fn into_api_error(self) -> ApiError {
        match self {
            Self::Refused(error) => ApiError::from_cluster(&error),
            Self::Timeout => {
                ApiError::illegal_state("Timed out when waiting for persistent task after 30s")
            }
            Self::Ended => ApiError::illegal_state(
                "replication stopped as soon as it had begun: its status says why",
            ),
        }
    }
}

/// Whether a task that works for one goes on for the other.
fn same_work(one: &Subscription, other: &Subscription) -> bool {
    // A copy is not begun anew for settings; they are looked up when it is complete.
    let settings = if one.bootstrap.is_some() {
        &one.settings
    } else {
        &other.settings
    };
    *one == Subscription {
        settings: settings.clone(),
        ..other.clone()
    }
}

async fn end(tasks: Vec<Running>) {
    for running in &tasks {
        running.stop.cancel();
    }
    for running in tasks {
        if let Err(error) = running.task.await {
            error!(
                index = %running.subscription.follower_index, %error,
                "an index's task did not end cleanly"
            );
        }
    }
}

/// Runs an index's task, again and again while its errors may pass; pauses the index when they do
/// not.
async fn keep_following(followed: IndexTask, stop: CancellationToken) {
    let (context, subscription) = (&followed.context, &followed.subscription);
    let (index, waits) = (&subscription.follower_index, &followed.waits);
    let mut retries = Retries::new(FIRST_RETRY, LAST_RETRY);
    loop {
        let end = match run_on(&followed, &stop).await {
            Ok(()) => return,
            Err(end) => end,
        };
        let Retry {
            delay,
            is_news,
            again,
        } = retries.failed(&end);
        if !end.retryable() {
            warn!(%index, error = %end, "the index cannot be followed on and is paused");
            let command = Command::AutoPause {
                reason: format!("{AUTO_PAUSED} [{end}]"),
            };
            match context.transition(subscription, command).await {
                Ok(_) => return,
                Err(error) => warn!(%index, %error, "the pause could not be written down"),
            }
        } else if is_news {
            warn!(
                %index, error = %end, retry_in_ms = delay.as_millis() as u64,
                "following was interrupted"
            );
        }
        if again {
            waits.say(Some(end.standstill()));
        }
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Follows; what was in the way counts as gone once that has gone well for a while.
async fn run_on(followed: &IndexTask, stop: &CancellationToken) -> Result<(), End> {
    let mut run = std::pin::pin!(followed.run(stop.clone()));
    let started = tokio::time::timeout(CALM, &mut run).await;
    match started {
        Ok(ended) => ended,
        Err(_) => {
            followed.waits.say(None);
            run.await
        }
    }
}
