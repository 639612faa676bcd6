//! Tables of answers. No I/O here, so that recorded answers can be shown in tests.

use serde::Serialize;
use shardline_common::leader_stats::{LeaderStats, ReadCounters};

use super::grid::Grid;
use super::text::{ago, bytes, count, millis};
use crate::contract::bulk::TaskStatus;
use crate::contract::dead_letters::DeadLetterList;
use crate::contract::stats::{AutoFollowStats, FollowerCounters, FollowerStats};
use crate::contract::verify::VerificationStatus;

/// A value that is written as one word, such as a status.
pub(super) fn word(value: impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

pub(super) fn verification(verification: VerificationStatus) -> Vec<Grid> {
    let mut outcome = Grid::new(&[
        "INDEX",
        "STATE",
        "#DOCUMENTS",
        "#MISSING",
        "#EXTRA",
        "#DIFFERENT",
        "#UNCLEAR",
        "TIME",
    ]);
    let mut differences = Grid::new(&["", "WHAT DIFFERS"]);
    let found = verification.found;
    let kinds = [
        ("missing", found.missing),
        ("extra", found.extra),
        ("different", found.different),
    ];
    let [missing, extra, different] = [0, 1, 2].map(|kind: usize| count(kinds[kind].1.count));
    outcome.add([
        verification.follower_index.to_string(),
        word(verification.state),
        count(found.documents),
        missing,
        extra,
        different,
        count(found.unclear),
        millis(verification.running_time),
    ]);
    differences.add_rows(
        kinds
            .into_iter()
            .flat_map(|(kind, named)| named.ids.into_iter().map(move |id| [kind.to_owned(), id])),
    );
    let too_many = |shard| {
        [
            "shard".to_owned(),
            format!("{shard} has more than are looked for"),
        ]
    };
    differences.add_rows(found.cut_short.into_iter().map(too_many));
    differences.add_rows(
        found
            .metadata
            .into_iter()
            .map(|what| ["metadata".to_owned(), what]),
    );
    if differences.is_empty() {
        vec![outcome]
    } else {
        vec![outcome, differences]
    }
}

pub(super) fn dead_letters(list: DeadLetterList) -> Vec<Grid> {
    let mut letters = Grid::new(&["SHARD", "#SEQ_NO", "ID", "ERROR", "~REASON"]);
    letters.add_rows(list.dead_letters.into_iter().map(|letter| {
        [
            letter.shard_id.to_string(),
            count(letter.seq_no),
            letter.id,
            letter.error_type,
            letter.reason,
        ]
    }));
    if list.failed_replays.is_empty() {
        return vec![letters];
    }
    let mut failed = Grid::new(&["SHARD", "~REPLAY FAILED"]);
    let rows = list.failed_replays.into_iter();
    failed.add_rows(rows.map(|replay| [replay.shard_id.to_string(), replay.reason]));
    vec![letters, failed]
}

pub(super) fn task(task: TaskStatus) -> Vec<Grid> {
    let mut counts = Grid::new(&[
        "OPERATION",
        "PATTERN",
        "#DONE",
        "#FAILED",
        "#PENDING",
        "#CANCELLED",
    ]);
    counts.add([
        word(task.operation_type),
        task.pattern,
        count(task.num_success),
        count(task.num_failed as u64),
        count(task.num_pending as u64),
        count(task.num_cancelled),
    ]);
    let mut failures = Grid::new(&["INDEX", "~REASON"]);
    for failed in task.failed_indices {
        failures.add([failed.index.0, failed.failure_reason]);
    }
    if failures.is_empty() {
        vec![counts]
    } else {
        vec![counts, failures]
    }
}

pub(super) fn leader_stats(stats: LeaderStats) -> Vec<Grid> {
    let mut table = Grid::new(&[
        "INDEX",
        "#OPERATIONS",
        "#FROM TRANSLOG",
        "#BY SCANS",
        "#READ",
        "#TRANSLOG",
        "#READ TIME",
    ]);
    let mut add = |name: &str, counters: ReadCounters| {
        let time =
            counters.total_read_time_translog_millis + counters.total_read_time_lucene_millis;
        table.add([
            name.to_owned(),
            count(counters.operations_read),
            count(counters.operations_read_translog),
            count(counters.operations_read_lucene),
            bytes(counters.bytes_read),
            bytes(counters.translog_size_bytes),
            millis(time as i64),
        ]);
    };
    stats
        .index_stats
        .iter()
        .for_each(|(index, counters)| add(index.as_str(), *counters));
    add("all", stats.total);
    vec![table]
}

pub(super) fn follower_stats(stats: FollowerStats) -> Vec<Grid> {
    let mut indices = Grid::new(&[
        "#SYNCING",
        "#BOOTSTRAPPING",
        "#PAUSED",
        "#FAILED",
        "#SHARDS",
    ]);
    let states = [
        stats.num_syncing_indices,
        stats.num_bootstrapping_indices,
        stats.num_paused_indices,
        stats.num_failed_indices,
        stats.num_shard_tasks,
    ];
    indices.add(states.map(|number| count(number as u64)));
    let header = [
        "INDEX",
        "#WRITTEN",
        "#READ",
        "#WRITE TIME",
        "#LAG",
        "#FAILED READS",
        "#FAILED WRITES",
        "#THROTTLED",
    ];
    let mut counters = Grid::new(&header);
    let mut add = |name: &str, of: FollowerCounters| {
        counters.add([
            name.to_owned(),
            count(of.operations_written),
            count(of.operations_read),
            millis(of.total_write_time_millis as i64),
            count(of.leader_checkpoint - of.follower_checkpoint),
            count(of.failed_read_requests),
            count(of.failed_write_requests),
            count(of.throttled_write_requests),
        ]);
    };
    stats
        .index_stats
        .iter()
        .for_each(|(index, counters)| add(index.as_str(), *counters));
    add("all", stats.total);
    vec![indices, counters]
}

pub(super) fn rules(stats: AutoFollowStats, now_ms: i64) -> Vec<Grid> {
    let mut rules = Grid::new(&[
        "RULE",
        "LEADER",
        "PATTERN",
        "#STARTED",
        "#FAILED",
        "#FAILED CALLS",
        "LAST RUN",
    ]);
    let mut failures = Grid::new(&["RULE", "INDEX", "#ATTEMPTS", "NEXT IN", "~REASON"]);
    for rule in stats.autofollow_stats {
        rules.add([
            rule.name.clone(),
            rule.leader_alias,
            rule.pattern,
            count(rule.progress.num_success_start_replication),
            count(rule.progress.num_failed_start_replication),
            count(rule.progress.num_failed_leader_calls),
            ago(rule.progress.last_execution_time, now_ms),
        ]);
        for (index, failure) in rule.progress.failures {
            failures.add([
                rule.name.clone(),
                index.0,
                count(failure.attempts),
                millis(failure.next_attempt - now_ms),
                failure.reason,
            ]);
        }
    }
    if failures.is_empty() {
        vec![rules]
    } else {
        vec![rules, failures]
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::super::grid::Look;
    use super::*;

    fn printed<T: DeserializeOwned>(answer: Value, tables: impl FnOnce(T) -> Vec<Grid>) -> String {
        let tables = tables(serde_json::from_value(answer).unwrap());
        let look = Look::default();
        let texts: Vec<String> = tables
            .iter()
            .map(|table| table.lines(look).join("\n"))
            .collect();
        texts.join("\n\n")
    }

    /// The answer that the plugin gave to a call.
    fn recorded(step: &str) -> Value {
        let all = include_str!("../../../tests/data/control-api.jsonl").lines();
        let mut all = all.map(|line| serde_json::from_str::<Value>(line).unwrap());
        all.find(|entry| entry["step"] == step).unwrap()["body"].take()
    }

    #[test]
    fn recorded_statistics_stand_in_lines() {
        let expected = "\
INDEX   OPERATIONS  FROM TRANSLOG  BY SCANS   READ  TRANSLOG  READ TIME
l-life           1              1         0   60 B     127 B       0 ms
l-st             5              5         0  300 B     415 B       0 ms
all              6              6         0  360 B     542 B       0 ms";
        assert_eq!(printed(recorded("leader stats"), leader_stats), expected);
        let expected = "\
SYNCING  BOOTSTRAPPING  PAUSED  FAILED  SHARDS
      1              0       1       0       1

INDEX  WRITTEN  READ  WRITE TIME  LAG  FAILED READS  FAILED WRITES  THROTTLED
f-st         5     5       10 ms    0             0              0          0
all          5     5       10 ms    0             0              0          0";
        assert_eq!(
            printed(recorded("follower stats"), follower_stats),
            expected
        );
    }

    #[test]
    fn rules_and_their_failures_stand_in_lines() {
        let none = printed(recorded("autofollow stats"), |stats| rules(stats, 0));
        assert_eq!(
            none,
            "RULE  LEADER  PATTERN  STARTED  FAILED  FAILED CALLS  LAST RUN"
        );
        let failure = json!({"reason": "block", "attempts": 2, "next_attempt": 15_000});
        let answer = json!({
            "num_success_start_replication": 3, "num_failed_start_replication": 1,
            "num_failed_leader_calls": 0, "failed_indices": ["logs-7"], "autofollow_stats": [{
                "name": "logs", "pattern": "logs-*", "leader_alias": "eu",
                "num_success_start_replication": 3,
                "num_failed_start_replication": 1, "num_failed_leader_calls": 0,
                "failed_indices": ["logs-7"],
                "last_execution_time": 8_000, "failures": {"logs-7": failure},
            }],
        });
        let expected = "\
RULE  LEADER  PATTERN  STARTED  FAILED  FAILED CALLS  LAST RUN
logs  eu      logs-*         3       1             0  2.0 s ago

RULE  INDEX   ATTEMPTS  NEXT IN  REASON
logs  logs-7         2  5.0 s    block";
        assert_eq!(printed(answer, |stats| rules(stats, 10_000)), expected);
    }

    #[test]
    fn a_task_shows_what_failed() {
        let answer = json!({
            "operation_type": "bulk_pause_replication", "pattern": "logs-*", "start_time": 1,
            "num_success": 1200,
            "num_failed": 1, "num_pending": 0, "num_cancelled": 0,
            "failed_indices": [{"index": "logs-1", "failure_reason": "Index logs-1 is already \
             paused"}],
        });
        let expected = "\
OPERATION               PATTERN   DONE  FAILED  PENDING  CANCELLED
bulk_pause_replication  logs-*   1,200       1        0          0

INDEX   REASON
logs-1  Index logs-1 is already paused";
        assert_eq!(printed(answer, task), expected);
    }
}
