//! Numbers and times as people read them.

use std::time::Duration;

use indicatif::{FormattedDuration, HumanBytes, HumanCount};
use shardline_common::clock::now_ms;

use crate::contract::service::{BootstrapDetails, ReplicationStatus, StandstillCause};

pub(super) fn count(number: impl TryInto<u64>) -> String {
    number
        .try_into()
        .map(|number| HumanCount(number).to_string())
        .unwrap_or_default()
}

pub(super) fn bytes(number: u64) -> String {
    HumanBytes(number).to_string()
}

/// `19 ms`, `3.2 s`, `00:01:30`.
pub(super) fn millis(millis: i64) -> String {
    let duration = Duration::from_millis(u64::try_from(millis).unwrap_or_default());
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{:.1} s", duration.as_secs_f64()),
        _ => FormattedDuration(duration).to_string(),
    }
}

/// Milliseconds since the epoch, as seen from now.
pub(super) fn ago(time_ms: i64, now_ms: i64) -> String {
    if time_ms == 0 {
        "never".to_owned()
    } else {
        format!("{} ago", millis(now_ms - time_ms))
    }
}

/// A copy or a resync under way.
pub(super) fn progress(status: &ReplicationStatus) -> String {
    let resyncs = status.resync_details.iter().map(|resync| {
        let (done, total) = (
            count(resync.documents_received),
            count(resync.documents_total),
        );
        format!("resync of shard {}: {done} of {total}", resync.shard_id)
    });
    let whole = status.standstill.iter();
    let whole = whole.map(|index| standstill("stands still", &index.why, &index.reason));
    let held_up = status.held_up.iter().map(|shard| {
        let what = format!("shard {} stands still", shard.shard_id);
        standstill(&what, &shard.why, &shard.reason)
    });
    let dead_letters = status
        .dead_letters
        .map(|number| format!("{} dead letters", count(number)));
    let refused_aliases = status
        .refused_aliases
        .iter()
        .map(|refused| format!("alias {} is refused: {}", refused.alias, refused.reason));
    let parts = status
        .bootstrap_details
        .iter()
        .map(bootstrap)
        .chain(resyncs)
        .chain(whole)
        .chain(held_up)
        .chain(dead_letters)
        .chain(refused_aliases);
    parts.collect::<Vec<_>>().join("; ")
}

/// What stands still, since when, why, and what ends it. Agents of the build before say the reason
/// only.
fn standstill(what: &str, why: &StandstillCause, reason: &str) -> String {
    if why.since == 0 {
        return format!("{what}: {reason}");
    }
    let since = ago(why.since, now_ms());
    let (cause, ends_when) = (why.cause.name(), &why.ends_when);
    format!("{what} ({cause}, since {since}): {reason}; ends when {ends_when}")
}

/// How much is copied, how fast on average, and how long the rest will take at that rate.
pub(super) fn bootstrap(details: &BootstrapDetails) -> String {
    let (Some(total), Some(done)) = (details.documents_total, details.documents_recovered) else {
        return format!("{:.0} %", details.bytes_percent);
    };
    if total == 0 {
        return "not begun".to_owned();
    }
    let share = format!("{} % of {}", done * 100 / total, count(total));
    let seconds = details.running_time as f64 / 1000.0;
    let rate = if seconds > 0.0 {
        done as f64 / seconds
    } else {
        0.0
    };
    if rate < 1.0 {
        return share;
    }
    let left = (total.saturating_sub(done) as f64 / rate * 1000.0) as i64;
    format!("{share}, {}/s, {} left", count(rate as u64), millis(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let texts = [0, 999, 1_000, 59_940, 90_000, 90_000_000].map(millis);
        assert_eq!(
            texts,
            [
                "0 ms",
                "999 ms",
                "1.0 s",
                "59.9 s",
                "00:01:30",
                "1d 01:00:00"
            ]
        );
        assert_eq!(
            (ago(0, 5), ago(1_000, 3_000)),
            ("never".to_owned(), "2.0 s ago".to_owned())
        );
    }
}
