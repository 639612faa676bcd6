//! Bulk tasks: an operation on every index that matches, a few at a time, in the background.
//!
//! A task lives in the control topic, so that any agent can tell of it and its work goes on after a
//! restart. What is repeated then does no harm: an index that is as the task wants it counts as
//! done.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures::StreamExt;
use http::Method;
use serde_json::{Value, json};
use shardline::contract::ApiError;
use shardline::contract::bulk::{BulkRequest, TaskStatus};
use shardline::contract::overview::TaskOverview;
use shardline::contract::service::{ReplicationState, ReplicationStatus};
use shardline_common::bulk::{BulkCancellation, BulkOperation, BulkTask, FailedIndex};
use shardline_common::clock::now_ms;
use shardline_common::control::{Entry, Subscription, SubscriptionState};
use shardline_common::opensearch::StateOf;
use shardline_common::types::IndexName;
use shardline_common::wildcard::wildcard_match;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::own_gateway;
use super::subscriptions::Subscriptions;
use crate::membership::Slot;

const PAUSE_REASON: &str = "bulk_pause";
/// How often an operation is tried that failed for something that may pass.
const ATTEMPTS: u32 = 3;
const RETRY: Duration = Duration::from_secs(5);
const STATUS_POLL: Duration = Duration::from_millis(500);
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Finished tasks that can still be asked for.
const REMEMBERED: usize = 50;

/// Ids of the tasks that this agent takes on.
pub(crate) struct TaskIds {
    node: String,
    next: AtomicU64,
}

impl Default for TaskIds {
    fn default() -> Self {
        Self {
            node: Uuid::new_v4().simple().to_string()[..22].to_owned(),
            next: AtomicU64::new(1),
        }
    }
}

impl TaskIds {
    fn next(&self) -> String {
        format!("{}:{}", self.node, self.next.fetch_add(1, Relaxed))
    }
}

/// Finds the indices of a task and writes it down; it is carried out from then on. Returns its id.
pub(crate) async fn begin(
    subscriptions: &Subscriptions,
    ids: &TaskIds,
    operation: BulkOperation,
    request: BulkRequest,
) -> Result<String, ApiError> {
    let _one_at_a_time = subscriptions.lock(BulkTask::KIND).await;
    let is_same = |task: &BulkTask| {
        task.operation == operation && task.pattern == request.pattern && !task.is_done()
    };
    if tasks(subscriptions).any(|task| is_same(&task)) {
        let words =
            "A bulk replication task is already running. Only one bulk task is allowed at a time.";
        return Err(ApiError::resource_already_exists(words));
    }
    let matching = match operation {
        BulkOperation::Start => on_leader(subscriptions, &request).await?,
        _ => on_follower(subscriptions, &request).await?,
    };
    if matching.is_empty() {
        let place = if operation == BulkOperation::Start {
            " on leader cluster"
        } else {
            ""
        };
        let reason = format!(
            "No indices found matching pattern: [{}]{place}",
            request.pattern
        );
        return Err(ApiError::resource_not_found(reason));
    }
    let local = if operation == BulkOperation::Start {
        local_indices(subscriptions).await?
    } else {
        HashSet::new()
    };
    let (mut pending, mut failed) = (Vec::new(), Vec::new());
    for index in matching {
        match objection(subscriptions, operation, &index, &local) {
            Some(failure_reason) => failed.push(FailedIndex {
                index,
                failure_reason,
            }),
            None => pending.push(index),
        }
    }
    if pending.is_empty() {
        let reasons: Vec<&str> = failed
            .iter()
            .map(|failed| failed.failure_reason.as_str())
            .collect();
        return Err(ApiError::illegal_argument(reasons.join("; ")));
    }
    let task = BulkTask {
        follower_cluster: subscriptions.cluster().clone(),
        id: ids.next(),
        operation,
        pattern: request.pattern,
        leader_alias: request.leader_alias,
        start_time: now_ms(),
        pending,
        num_success: 0,
        num_cancelled: 0,
        failed,
        roles: request.roles,
    };
    subscriptions
        .follower_table()
        .publish(&task)
        .await
        .map_err(|error| ApiError::unavailable(&error))?;
    info!(
        task = task.id,
        ?operation,
        pattern = task.pattern,
        indices = task.pending.len(),
        "bulk task begun"
    );
    Ok(task.id)
}

pub(crate) fn task_status(subscriptions: &Subscriptions, id: &str) -> Result<TaskStatus, ApiError> {
    find(subscriptions, id).map(TaskStatus::from)
}

/// All tasks that can still be asked for, the newest first.
pub(super) fn overview(subscriptions: &Subscriptions) -> Vec<TaskOverview> {
    let mut tasks: Vec<BulkTask> = tasks(subscriptions).collect();
    tasks.sort_by_key(|task| std::cmp::Reverse(task.start_time));
    let overview = |task: BulkTask| TaskOverview {
        task_id: task.id.clone(),
        is_done: task.is_done(),
        status: TaskStatus::from(task),
    };
    tasks.into_iter().map(overview).collect()
}

/// What is under way is finished; what has not begun is not done.
pub(crate) async fn cancel(subscriptions: &Subscriptions, id: &str) -> Result<(), ApiError> {
    let is_id = id
        .split_once(':')
        .is_some_and(|(node, number)| !node.is_empty() && number.parse::<i64>().is_ok());
    if !is_id {
        return Err(ApiError::plain_text(
            http::StatusCode::BAD_REQUEST,
            "Invalid task_id format",
        ));
    }
    if find(subscriptions, id)?.is_done() {
        return Err(unknown_task(id));
    }
    let cancellation = BulkCancellation {
        follower_cluster: subscriptions.cluster().clone(),
        id: id.to_owned(),
    };
    subscriptions
        .follower_table()
        .publish(&cancellation)
        .await
        .map_err(|error| ApiError::unavailable(&error))
}

/// The status of every index that matches: of those that are followed, and of the others that are
/// open.
pub(crate) async fn status(
    subscriptions: &Subscriptions,
    pattern: String,
) -> Result<Vec<(IndexName, ReplicationStatus)>, ApiError> {
    let request = BulkRequest {
        pattern,
        ..BulkRequest::default()
    };
    let mut indices = on_follower(subscriptions, &request).await?;
    indices.sort_by_cached_key(|index| {
        let number = index
            .as_str()
            .rsplit_once('-')
            .and_then(|(_, number)| number.parse::<u64>().ok());
        (number.unwrap_or(u64::MAX), index.clone())
    });
    Ok(indices
        .into_iter()
        .map(|index| (index.clone(), subscriptions.status_of(&index, false)))
        .collect())
}

fn tasks(subscriptions: &Subscriptions) -> impl Iterator<Item = BulkTask> {
    let all = subscriptions.follower_table().all::<BulkTask>().into_iter();
    all.filter(|task| task.follower_cluster == *subscriptions.cluster())
}

fn find(subscriptions: &Subscriptions, id: &str) -> Result<BulkTask, ApiError> {
    let task = subscriptions
        .follower_table()
        .get(&BulkTask::key_of(subscriptions.cluster(), id));
    task.ok_or_else(|| unknown_task(id))
}

fn unknown_task(id: &str) -> ApiError {
    ApiError::resource_not_found(format!("Task {id} not found or already completed"))
}

async fn on_leader(
    subscriptions: &Subscriptions,
    request: &BulkRequest,
) -> Result<Vec<IndexName>, ApiError> {
    let leaders = subscriptions.leaders();
    let cluster = leaders
        .resolve(request.leader_alias.as_deref().unwrap_or_default())
        .await?;
    leaders.refresh(&cluster).await?;
    let found = leaders
        .matching(&cluster, &request.pattern)
        .into_iter()
        .map(|entry| entry.index);
    Ok(found
        .filter(|index| !request.exclude.iter().any(|name| name == index.as_str()))
        .collect())
}

/// Open indices of the follower cluster, and indices that are followed though they are not there
/// (yet).
async fn on_follower(
    subscriptions: &Subscriptions,
    request: &BulkRequest,
) -> Result<Vec<IndexName>, ApiError> {
    let fields = "metadata.indices.*.state,metadata.indices.*.aliases,metadata.indices.*.settings.index.hidden";
    let state = subscriptions
        .opensearch()
        .cluster_state(StateOf::Manager, "metadata", fields)
        .await;
    let state: Value = state.map_err(|error| ApiError::from_cluster(&error))?;
    let matches = |name: &str, index: &Value, pattern: &str| {
        let aliases = index["aliases"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        let is_hidden = name.starts_with('.') || index["settings"]["index.hidden"] == "true";
        (name == pattern || !is_hidden)
            && std::iter::once(name)
                .chain(aliases)
                .any(|name| wildcard_match(pattern, name))
    };
    let mut indices: HashMap<IndexName, Value> = subscriptions
        .followed_indices()
        .iter()
        .map(|index| (index.clone(), Value::Null))
        .collect();
    let there = state
        .pointer("/metadata/indices")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    for (name, index) in there {
        let name = IndexName::from(name.as_str());
        if index["state"] == "open" || indices.contains_key(&name) {
            indices.insert(name, index.clone());
        }
    }
    let excluded = |name: &str, index: &Value| {
        request
            .exclude
            .iter()
            .any(|pattern| matches(name, index, pattern))
    };
    let found = indices.into_iter().filter(|(name, index)| {
        matches(name.as_str(), index, &request.pattern) && !excluded(name.as_str(), index)
    });
    let mut found: Vec<IndexName> = found.map(|(name, _)| name).collect();
    found.sort();
    Ok(found)
}

async fn local_indices(subscriptions: &Subscriptions) -> Result<HashSet<IndexName>, ApiError> {
    let indices = subscriptions
        .local_indices()
        .await
        .map_err(|error| ApiError::from_cluster(&error))?;
    Ok(indices
        .into_iter()
        .chain(subscriptions.followed_indices().iter().cloned())
        .collect())
}

/// Why the operation would be refused for an index as it is now.
fn objection(
    subscriptions: &Subscriptions,
    operation: BulkOperation,
    index: &IndexName,
    local: &HashSet<IndexName>,
) -> Option<String> {
    if operation == BulkOperation::Start {
        return local.contains(index).then(|| {
            format!("Can't use same index again for replication. Delete the index:{index}")
        });
    }
    let Some(subscription) = subscriptions.subscription(index) else {
        return Some(format!("No replication in progress for index:{index}"));
    };
    match (operation, subscription.state) {
        (BulkOperation::Pause, SubscriptionState::Paused) => {
            Some(format!("Index {index} is already paused"))
        }
        (BulkOperation::Resume, SubscriptionState::Running | SubscriptionState::Failed) => {
            Some(format!("Replication on Index {index} is already running"))
        }
        _ => None,
    }
}

struct Running {
    cancelled: CancellationToken,
    /// The agent stops, or another carries the task on.
    moved: CancellationToken,
    worker: JoinHandle<()>,
}

/// Carries out what is written down, until told to stop.
pub(crate) async fn run(subscriptions: Arc<Subscriptions>, stop: CancellationToken) {
    let table = subscriptions.follower_table().clone();
    let mut changes = table.changes();
    let mut slots = subscriptions.slots().changes();
    let mut running: HashMap<String, Running> = HashMap::new();
    loop {
        changes.mark_unchanged();
        running.retain(|_, task| !task.worker.is_finished());
        // One of a cluster's agents carries them out.
        let is_holder = subscriptions.slots().holds(Slot::CLUSTER);
        if !is_holder {
            running.values().for_each(|task| task.moved.cancel());
        }
        for task in tasks(&subscriptions).filter(|task| is_holder && !task.is_done()) {
            let cancellation = BulkCancellation::key_of(subscriptions.cluster(), &task.id);
            let running = running.entry(task.id.clone()).or_insert_with(|| {
                let (cancelled, moved) = (CancellationToken::new(), stop.child_token());
                let worker = tokio::spawn(work(
                    Arc::clone(&subscriptions),
                    task,
                    cancelled.clone(),
                    moved.clone(),
                ));
                Running {
                    cancelled,
                    moved,
                    worker,
                }
            });
            if table.get::<BulkCancellation>(&cancellation).is_some() {
                running.cancelled.cancel();
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { break },
            () = slots.next() => {}
            () = stop.cancelled() => break,
        }
    }
    for (id, running) in running {
        if let Err(error) = running.worker.await {
            warn!(task = id, %error, "a bulk task did not end cleanly");
        }
    }
}

/// Carries out one task; what it has not come to when the agent stops is for the next one.
async fn work(
    subscriptions: Arc<Subscriptions>,
    mut task: BulkTask,
    cancelled: CancellationToken,
    stop: CancellationToken,
) {
    let wanted = Arc::new(task.clone());
    let waiting = task.pending.clone();
    let steps = futures::stream::iter(waiting)
        .take_until(cancelled.cancelled())
        .take_until(stop.cancelled())
        .map(|index| {
            let (subscriptions, wanted) = (Arc::clone(&subscriptions), Arc::clone(&wanted));
            // To its end, whatever becomes of this task: an operation must not be broken off
            // half-way.
            tokio::spawn(async move {
                let outcome = carry_out(&subscriptions, &wanted, &index).await;
                (index, outcome)
            })
        })
        .buffer_unordered(subscriptions.settings().bulk_batch());
    let mut steps = std::pin::pin!(steps);
    let mut written = Instant::now();
    while let Some(step) = steps.next().await {
        let (index, outcome) = match step {
            Ok(step) => step,
            Err(error) => {
                warn!(task = task.id, %error, "an operation of a bulk task did not end cleanly");
                continue;
            }
        };
        task.pending.retain(|pending| *pending != index);
        match outcome {
            Ok(()) => task.num_success += 1,
            Err(failure_reason) => task.failed.push(FailedIndex {
                index,
                failure_reason,
            }),
        }
        if written.elapsed() >= PROGRESS_INTERVAL && !task.is_done() {
            write(&subscriptions, &task).await;
            written = Instant::now();
        }
    }
    if cancelled.is_cancelled() {
        task.num_cancelled += std::mem::take(&mut task.pending).len() as u64;
    }
    write(&subscriptions, &task).await;
    if task.is_done() {
        let (succeeded, failed, cancelled) =
            (task.num_success, task.failed.len(), task.num_cancelled);
        info!(
            task = task.id,
            succeeded, failed, cancelled, "bulk task done"
        );
        tidy_up(&subscriptions, &task).await;
    }
}

async fn write(subscriptions: &Subscriptions, task: &BulkTask) {
    if let Err(error) = subscriptions.follower_table().publish(task).await {
        warn!(task = task.id, %error, "the progress of a bulk task could not be written down");
    }
}

/// Takes away what a finished task needs no more, and the oldest of the finished tasks.
async fn tidy_up(subscriptions: &Subscriptions, task: &BulkTask) {
    let mut finished: Vec<BulkTask> = tasks(subscriptions).filter(BulkTask::is_done).collect();
    finished.sort_by_key(|task| std::cmp::Reverse(task.start_time));
    let forgotten = finished.into_iter().skip(REMEMBERED).map(|task| task.key());
    let cancellation = BulkCancellation::key_of(subscriptions.cluster(), &task.id);
    let is_cancelled = subscriptions
        .follower_table()
        .get::<BulkCancellation>(&cancellation)
        .is_some();
    for key in is_cancelled
        .then_some(cancellation)
        .into_iter()
        .chain(forgotten)
    {
        if let Err(error) = subscriptions.follower_table().remove(&key).await {
            warn!(key, %error, "what is left of a bulk task stays behind");
        }
    }
}

/// Brings one index where the task wants it.
async fn carry_out(
    subscriptions: &Subscriptions,
    task: &BulkTask,
    index: &IndexName,
) -> Result<(), String> {
    let (operation, alias) = (task.operation, task.leader_alias.as_deref());
    let (method, action, mut body) = match operation {
        BulkOperation::Start => (
            Method::PUT,
            "_start",
            json!({"leader_alias": alias, "leader_index": index}),
        ),
        BulkOperation::Stop => (Method::POST, "_stop", json!({})),
        BulkOperation::Pause => (Method::POST, "_pause", json!({"reason": PAUSE_REASON})),
        BulkOperation::Resume => (Method::POST, "_resume", json!({})),
    };
    let user = own_gateway::name_roles(&mut body, task.roles.as_ref());
    let mut attempt = 1;
    loop {
        let outcome = subscriptions
            .own_gateway()
            .call(method.clone(), index, action, &body, user)
            .await;
        let subscription = subscriptions.subscription(index);
        let Err(error) = outcome else { break };
        if is_reached(operation, subscription.as_ref(), alias) {
            break;
        }
        if error.status() != http::StatusCode::SERVICE_UNAVAILABLE || attempt == ATTEMPTS {
            return Err(error.reason());
        }
        attempt += 1;
        tokio::time::sleep(RETRY).await;
    }
    match operation {
        BulkOperation::Start | BulkOperation::Resume => confirm(subscriptions, index).await,
        BulkOperation::Stop | BulkOperation::Pause => Ok(()),
    }
}

fn is_reached(
    operation: BulkOperation,
    subscription: Option<&Subscription>,
    alias: Option<&str>,
) -> bool {
    match (operation, subscription) {
        (BulkOperation::Stop, subscription) => subscription.is_none(),
        (BulkOperation::Start, Some(subscription)) => {
            alias == Some(subscription.leader_alias.as_str())
        }
        (BulkOperation::Pause, Some(subscription)) => {
            subscription.state == SubscriptionState::Paused
        }
        (BulkOperation::Resume, Some(subscription)) => {
            subscription.state == SubscriptionState::Running
        }
        (_, None) => false,
    }
}

/// Waits until the index is under way.
async fn confirm(subscriptions: &Subscriptions, index: &IndexName) -> Result<(), String> {
    let deadline = Instant::now() + subscriptions.settings().bulk_patience();
    loop {
        let status = subscriptions.status_of(index, false);
        match status.status {
            ReplicationState::Syncing | ReplicationState::Bootstrapping => return Ok(()),
            ReplicationState::Running if Instant::now() < deadline => {
                tokio::time::sleep(STATUS_POLL).await
            }
            ReplicationState::Running => {
                return Err(
                    "Timed out waiting for subscriptions to confirm started. Subscriptions may still be in progress \
                            — check index status."
                        .to_owned(),
                );
            }
            ReplicationState::Paused
            | ReplicationState::Failed
            | ReplicationState::NotInProgress => {
                return Err(status
                    .reason
                    .unwrap_or_else(|| "stopped meanwhile".to_owned()));
            }
        }
    }
}
