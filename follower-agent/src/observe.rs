//! Asks the follower cluster now and then how many operations the shards of a followed index have
//! had, for [`crate::foreign`], and whether it still is the same index.

use std::time::Duration;

use shardline_common::shard_stats::{Primaries, primaries};
use shardline_common::types::ShardId;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::copy::Index;
use crate::slots::Slot;

const INTERVAL: Duration = Duration::from_secs(5);
/// Between two questions of an agent: with many indices, each is asked about more rarely.
const BETWEEN_QUESTIONS: Duration = Duration::from_millis(20);

/// Runs until stopped.
pub async fn run(index: &Index, stop: &CancellationToken) {
    let shards = || (0..).map(ShardId).take(index.progress.shards.len());
    let has_shards = || {
        shards().any(|shard| {
            index
                .shared
                .slots
                .holds(Slot::of_shard(&index.topic, shard))
        })
    };
    let asking = async {
        loop {
            index.tell_external_versions().await;
            if has_shards() {
                match primaries(&index.follower.opensearch, &index.follower.name).await {
                    Ok(Primaries {
                        index: Some(uuid), ..
                    }) if !index.is_copy(&uuid) => index.gone.cancel(),
                    Ok(primaries) => {
                        let highest = primaries
                            .shards
                            .into_iter()
                            .map(|(shard, primary)| (shard, primary.max_seq_no));
                        index.given_away.send_replace(highest.collect());
                    }
                    Err(error)
                        if error.is_not_found()
                            && matches!(index.follower.found().await, Ok(None)) =>
                    {
                        index.gone.cancel();
                    }
                    Err(error) => {
                        debug!(index = %index.follower.name, %error, "the shards' sequence numbers are unknown")
                    }
                }
            }
            let indices = u32::try_from(index.shared.subscription_ids().len()).unwrap_or(u32::MAX);
            tokio::time::sleep(INTERVAL.max(BETWEEN_QUESTIONS.saturating_mul(indices))).await;
        }
    };
    tokio::select! {
        () = asking => {}
        () = stop.cancelled() => {}
    }
}
