//! The calls on the dead letters of an index.

use shardline::contract::ApiError;
use shardline::contract::dead_letters::{DeadLetterList, FailedReplay, Letter};
use shardline_common::control::Subscription;
use shardline_common::types::IndexName;

use super::subscriptions::Subscriptions;
use crate::index::{DeadLetter, LetterBox};

fn letter_box(
    subscriptions: &Subscriptions,
    index: &IndexName,
) -> Result<(LetterBox, Subscription), ApiError> {
    let subscription = subscriptions.subscription(index).ok_or_else(|| {
        ApiError::illegal_argument(format!("No replication in progress for index:{index}"))
    })?;
    Ok((
        LetterBox::new(subscriptions.context(), &subscription),
        subscription,
    ))
}

/// The dead letters of an index, the oldest first.
pub(crate) fn list(
    subscriptions: &Subscriptions,
    index: &IndexName,
) -> Result<DeadLetterList, ApiError> {
    let letter_box = letter_box(subscriptions, index)?.0;
    let mut letters = letter_box.all();
    letters.sort_by_key(|letter| letter.timestamp_ms);
    let failed = letter_box.failed_replays().into_iter();
    let failed_replays = failed.map(|failed| FailedReplay {
        shard_id: failed.shard.0,
        reason: failed.reason,
    });
    Ok(DeadLetterList {
        follower_index: index.clone(),
        dead_letters: letters.into_iter().map(shown).collect(),
        failed_replays: failed_replays.collect(),
    })
}

fn shown(letter: DeadLetter) -> Letter {
    Letter {
        id: letter.id,
        shard_id: letter.shard.0,
        seq_no: letter.seq_no.0,
        topic: letter.topic,
        error_type: letter.error_type,
        reason: letter.reason,
        refused_at: letter.timestamp_ms,
    }
}

/// Has them all delivered again; how many they are.
pub(crate) async fn replay(
    subscriptions: &Subscriptions,
    index: &IndexName,
) -> Result<usize, ApiError> {
    let (letters, subscription) = letter_box(subscriptions, index)?;
    letters
        .replay(&subscription)
        .await
        .map_err(|error| ApiError::unavailable(&error))
}
