//! Asks the follower cluster now and then what the shards of a followed index say of themselves,
//! for `shard::foreign` and `shard::own_history`; whether it still is the same index, and open; and
//! whether its metadata is what was brought over.

use std::collections::HashMap;
use std::time::Duration;

use shardline_common::clock::now_ms;
use shardline_common::opensearch::OpenSearchError;
use shardline_common::shard_stats::{Standings, standings};
use shardline_common::standstill::{Cause, StandstillReason};
use shardline_common::types::{SeqNo, ShardId};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::followed_copy::FollowedCopy;
use crate::membership::Slot;
use crate::progress::Source;
use crate::shard::Observed;

const INTERVAL: Duration = Duration::from_secs(5);
/// Between two questions of an agent: with many indices, each is asked about more rarely.
const BETWEEN_QUESTIONS: Duration = Duration::from_millis(20);
/// After so many questions the index itself is looked at, too.
const QUESTIONS_A_LOOK: u32 = 12;

/// Runs until stopped.
pub(crate) async fn run(index: &FollowedCopy, stop: &CancellationToken) {
    let asking = async {
        let mut asked = 0u32;
        loop {
            index.tell_external_versions().await;
            if holds_any(index) {
                let looks = asked.is_multiple_of(QUESTIONS_A_LOOK);
                // What was away may have been put back.
                asked = if ask(index, looks).await {
                    asked + 1
                } else {
                    0
                };
            }
            let indices = u32::try_from(index.context.subscription_ids().len()).unwrap_or(u32::MAX);
            tokio::time::sleep(INTERVAL.max(BETWEEN_QUESTIONS.saturating_mul(indices))).await;
        }
    };
    tokio::select! {
        () = asking => {}
        () = stop.cancelled() => {}
    }
}

fn shards(index: &FollowedCopy) -> impl Iterator<Item = ShardId> + use<> {
    (0..).map(ShardId).take(index.progress.shards.len())
}

fn holds(index: &FollowedCopy, shard: ShardId) -> bool {
    let slot = Slot::of_shard(&index.topic, shard);
    index.context.slots.holds(slot)
}

fn holds_any(index: &FollowedCopy) -> bool {
    looks_after(index) || shards(index).any(|shard| holds(index, shard))
}

fn looks_after(index: &FollowedCopy) -> bool {
    let slot = Slot::of_index(&index.follower.name);
    index.context.slots.holds(slot)
}

/// Whether there was an answer.
async fn ask(index: &FollowedCopy, looks: bool) -> bool {
    // What the answer has to show at least.
    let acknowledged: HashMap<ShardId, SeqNo> = shards(index)
        .map(|shard| {
            let progress = &index.progress.shards[shard.0 as usize];
            (shard, progress.acknowledged())
        })
        .collect();
    match standings(&index.follower.opensearch, &index.follower.name).await {
        Ok(Standings {
            index: Some(uuid), ..
        }) if !index.is_copy(&uuid) => index.gone.cancel(),
        Ok(Standings { shards, .. }) if !shards.is_empty() => {
            for shard in held(index) {
                let words = "the follower shard has no active primary";
                let away = (Cause::FollowerClusterAway, words.to_owned());
                say(index, shard, (!shards.contains_key(&shard)).then_some(away));
            }
            let observed = shards.into_iter().map(|(shard, (history, numbers))| {
                let observed = Observed {
                    history,
                    max_seq_no: numbers.max_seq_no,
                    global_checkpoint: numbers.global_checkpoint,
                    acknowledged: acknowledged.get(&shard).copied().unwrap_or(SeqNo::NONE),
                };
                (shard, observed)
            });
            index.observations.send_replace(observed.collect());
            if looks && looks_after(index) {
                look(index).await;
            }
        }
        Ok(_) => return find(index, None).await,
        Err(error) => return find(index, Some(error)).await,
    }
    true
}

/// Finds out why the shards say nothing. Whether the index is there.
async fn find(index: &FollowedCopy, error: Option<OpenSearchError>) -> bool {
    match index.follower.found().await {
        Ok(Some(found)) if index.is_copy(&found.uuid) => {
            let words = |words: &str| words.to_owned();
            say_of_all(
                index,
                match error {
                    _ if found.is_closed => (
                        Cause::FollowerIndexClosed,
                        words("the follower index was closed behind the agent's back"),
                    ),
                    Some(error) => (error.cause(), error.to_string()),
                    None => (
                        Cause::FollowerClusterAway,
                        words("the follower index has no active primary"),
                    ),
                },
            );
        }
        Ok(_) => index.gone.cancel(),
        Err(error) => say_of_all(index, (error.cause(), error.to_string())),
    }
    false
}

/// The shards that this agent has.
fn held(index: &FollowedCopy) -> impl Iterator<Item = ShardId> {
    shards(index).filter(|shard| holds(index, *shard))
}

fn say_of_all(index: &FollowedCopy, reason: (Cause, String)) {
    for shard in held(index) {
        say(index, shard, Some(reason.clone()));
    }
}

/// Says why a shard does not get on.
fn say(index: &FollowedCopy, shard: ShardId, reason: Option<(Cause, String)>) {
    let reason = reason.map(|(cause, detail)| StandstillReason::new(cause, now_ms(), detail));
    index.progress.shards[shard.0 as usize].set_standing(Source::Index, reason);
}

/// Brings the metadata over anew if the index shows an earlier one than it had.
async fn look(index: &FollowedCopy) {
    if let Err(error) = index.make_up_for_metadata().await {
        let name = &index.follower.name;
        warn!(index = %name, %error, "whether the index has its metadata is not known");
    }
}
