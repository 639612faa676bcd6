//! Waiting with progress on standard error, for as long as it takes.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use shardline_common::opensearch::path_segment;

use super::CtlError;
use super::client::{Client, unexpected};
use super::tables::word;
use crate::contract::bulk::TaskStatus;
use crate::contract::service::{FollowedStatus, ReplicationState};
use crate::contract::verify::VerificationStatus;

const POLL: Duration = Duration::from_millis(250);
const GONE: &str = "REPLICATION NOT IN PROGRESS";
const TEMPLATE: &str = "{prefix} {wide_bar} {human_pos}/{human_len} {per_sec} {eta} left";

fn bar(prefix: &str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_prefix(prefix.to_owned());
    bar.set_style(
        ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar
}

/// Waits until an index is synchronised up to where the leader was when its stream began to be
/// followed.
pub(super) async fn for_index(client: &Client, index: &str) -> Result<Value, CtlError> {
    let path = format!("_status?pattern={}", path_segment(index));
    let bar = bar(index);
    let mut goal = None;
    loop {
        let mut answer = client.get(&path).await?;
        let answer = answer["indices"]
            .get_mut(index)
            .map(Value::take)
            .unwrap_or_else(|| json!({"status": GONE}));
        let FollowedStatus {
            status,
            lag_details,
        } = read(&path, &answer)?;
        match (
            status.status,
            status.syncing_details,
            status.bootstrap_details,
        ) {
            // Before the leader is heard of, nothing is known of what is to be copied.
            (ReplicationState::Syncing, Some(details), _)
                if lag_details.is_some_and(|lag| lag.operations.is_some()) =>
            {
                let goal = *goal.get_or_insert(details.leader_checkpoint);
                if details.follower_checkpoint >= goal && status.resync_details.is_empty() {
                    bar.finish_and_clear();
                    return Ok(answer);
                }
                show(&bar, details.follower_checkpoint, goal);
            }
            (ReplicationState::Bootstrapping, _, details) => {
                goal = None;
                if let Some((done, total)) =
                    details.and_then(|it| it.documents_recovered.zip(it.documents_total))
                {
                    bar.set_length(total);
                    bar.set_position(done);
                }
            }
            (ReplicationState::Syncing | ReplicationState::Running, ..) => {}
            (
                ReplicationState::Paused
                | ReplicationState::Failed
                | ReplicationState::NotInProgress,
                ..,
            ) => {
                bar.finish_and_clear();
                let (status, reason) = (word(status.status), status.reason.unwrap_or_default());
                return Err(CtlError::NotFollowed {
                    index: index.to_owned(),
                    status,
                    reason,
                });
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

fn show(bar: &ProgressBar, done: i64, total: i64) {
    let number = |checkpoint: i64| u64::try_from(checkpoint).unwrap_or_default();
    bar.set_length(number(total));
    bar.set_position(number(done));
}

/// Waits until nothing of a task is pending.
pub(super) async fn for_task(client: &Client, id: &str) -> Result<(Value, TaskStatus), CtlError> {
    let path = format!("_task_status/{}", path_segment(id));
    let bar = bar(id);
    loop {
        let answer = client.get(&path).await?;
        let task: TaskStatus = read(&path, &answer)?;
        let done = task.num_success + task.num_failed as u64 + task.num_cancelled;
        bar.set_length(done + task.num_pending as u64);
        bar.set_position(done);
        if task.num_pending == 0 {
            bar.finish_and_clear();
            return Ok((answer, task));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until the verification of an index is done.
pub(super) async fn for_verification(
    client: &Client,
    index: &str,
) -> Result<(Value, VerificationStatus), CtlError> {
    let path = format!("{}/_verify", path_segment(index));
    let bar = ProgressBar::new_spinner().with_prefix(index.to_owned());
    let template = "{prefix} {spinner} {msg}: {human_pos} documents read, {per_sec}";
    bar.set_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    loop {
        let answer = client.get(&path).await?;
        let verification: VerificationStatus = read(&path, &answer)?;
        if verification.state.is_done() {
            bar.finish_and_clear();
            return Ok((answer, verification));
        }
        bar.set_message(word(verification.state));
        bar.set_position(verification.documents_read);
        tokio::time::sleep(POLL).await;
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &str, answer: &Value) -> Result<T, CtlError> {
    serde_json::from_value(answer.clone()).map_err(|error| unexpected(path, &error))
}
