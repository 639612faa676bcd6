//! Follows one shard whenever this agent holds its slot.

use std::sync::Arc;
use std::time::Duration;

use shardline_common::clock::now_ms;
use shardline_common::control::Ask;
use shardline_common::opensearch::OpenSearchError;
use shardline_common::standstill::StandstillReason;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::followed_copy::FollowedCopy;
use crate::membership::Slot;
use crate::progress::{Retries, Source};
use crate::shard::{self, ShardError};
use crate::write::Destination;

/// How long after a request was taken up, or could not be made, the shard is tried again.
const RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Runs until stopped. What a shard cannot solve itself is asked of the agent that looks after the
/// index, which then changes the subscription, and that ends this task.
pub(crate) async fn run(
    index: Arc<FollowedCopy>,
    destination: Destination,
    stop: CancellationToken,
) {
    let shard = destination.target.shard;
    while !stop.is_cancelled() {
        let claim = tokio::select! {
            claim = index.context.slots.claim(Slot::of_shard(&index.topic, shard)) => claim,
            () = stop.cancelled() => return,
        };
        let until = stop.child_token();
        let followed = follow(&index, &destination, &until);
        tokio::pin!(followed);
        let error = tokio::select! {
            error = &mut followed => error,
            () = claim.lost().cancelled() => {
                until.cancel();
                followed.await
            }
            () = index.gone.cancelled() => {
                until.cancel();
                followed.await.or_else(|| Some(ShardError::IndexGone(index.follower.name.clone())))
            }
        };
        let Some(error) = error else { continue };
        let asked = async {
            if let Err(error) = index.ask(shard, ask(&index, &destination, &error)).await {
                warn!(index = %index.follower.name, %shard, %error, "a request could not be made");
            }
            tokio::time::sleep(RETRY).await;
        };
        tokio::select! {
            () = asked => {}
            () = claim.lost().cancelled() => {}
            () = stop.cancelled() => {}
        }
    }
}

async fn follow(
    index: &Arc<FollowedCopy>,
    destination: &Destination,
    stop: &CancellationToken,
) -> Option<ShardError> {
    let shard = destination.target.shard;
    let progress = &index.progress.shards[shard.0 as usize];
    let mut retries = Retries::new(RETRY, LAST_RETRY);
    loop {
        let found = tokio::select! {
            found = is_there(index) => found,
            () = stop.cancelled() => return None,
        };
        let delay = match found {
            // A write would make it anew, with a mapping of its own.
            Ok(false) => return Some(ShardError::IndexGone(index.follower.name.clone())),
            Ok(true) => break,
            Err(error) => {
                let retry = retries.failed(&error);
                if retry.is_news {
                    warn!(
                        index = %index.follower.name, %error,
                        "the follower cluster is not available"
                    );
                }
                let cause = error.cause();
                let reason = StandstillReason::new(cause, now_ms(), error.to_string());
                progress.set_standing(Source::Reading, retry.again.then_some(reason));
                retry.delay
            }
        };
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => return None,
        }
    }
    let followed = shard::follow(Arc::clone(index), destination.clone(), stop.clone()).await;
    match followed.err()? {
        // What an index that took the place of the copy's says of itself is no news of the copy.
        ShardError::WentBack(_) if matches!(index.found().await, Ok(None)) => {
            Some(ShardError::IndexGone(index.follower.name.clone()))
        }
        error => Some(error),
    }
}

/// Whether the follower index is the one that was followed. It is open then.
async fn is_there(index: &FollowedCopy) -> Result<bool, OpenSearchError> {
    let found = index.found().await?;
    if found.as_ref().is_some_and(|found| found.is_closed) {
        // Such as by an agent that was ended while it changed settings.
        index.follower.open().await?;
    }
    Ok(found.is_some())
}

fn ask(index: &FollowedCopy, destination: &Destination, error: &ShardError) -> Ask {
    match error {
        ShardError::IndexGone(_) => Ask::Pause {
            reason: error.to_string(),
        },
        error if error.needs_copy() => Ask::Copy {
            reason: error.to_string(),
        },
        error => {
            let reason = format!(
                "[{}][{}] - {error}",
                index.follower.name, destination.target.shard
            );
            Ask::Pause { reason }
        }
    }
}
