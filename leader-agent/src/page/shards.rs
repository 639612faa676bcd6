//! The table of captured shards: put together of the metrics and of why shards wait, filtered,
//! sorted and cut to what is looked at.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use prometheus::core::Collector;
use serde::{Deserialize, Serialize};
use shardline_common::control::FollowedLeader;
use shardline_common::leader_stats::CaptureStandstill;
use shardline_common::standstill::{Cause, StandstillReason};
use shardline_common::types::IndexName;
use shardline_common::wildcard::wildcard_match;

use crate::capture::Context;
use crate::metrics::Metrics;
use crate::supervise::Tables;

/// Most rows of one answer.
const ROWS_MAX: usize = 200;
const ROWS: usize = 50;

/// A shard whose operations this agent ships.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Row {
    index: String,
    shard: u32,
    /// The sequence number up to which Kafka has it; −1: nothing.
    shipped: Option<i64>,
    /// The shard's persisted global checkpoint.
    checkpoint: Option<i64>,
    /// Operations that the shard has and Kafka has not.
    behind: i64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_resyncing: bool,
    spool_bytes: i64,
    translog_bytes: i64,
    operations: i64,
    /// Times that its capture was started again.
    errors: i64,
    /// How many follower indices follow it.
    followers: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<Wait>,
}

/// Why a shard stands still, in the words of a status.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Wait {
    cause: Cause,
    /// Milliseconds since the epoch.
    since: i64,
    reason: String,
    ends_when: &'static str,
}

impl From<StandstillReason> for Wait {
    fn from(told: StandstillReason) -> Self {
        Self {
            cause: told.cause,
            since: told.since_ms,
            reason: told.detail,
            ends_when: told.cause.ends_when(),
        }
    }
}

/// What of the table is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    /// Part of a name, or a pattern with `*`.
    q: String,
    /// `waiting`, `resyncing` or `behind`; else all.
    state: String,
    /// `behind` or `spool`; else by name.
    sort: String,
    offset: usize,
    limit: Option<usize>,
}

/// All shards together.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Summary {
    indices: usize,
    shards: usize,
    waiting: usize,
    resyncing: usize,
    behind: usize,
    operations_behind: i64,
}

/// The part of the table that was asked for.
#[derive(Debug, Serialize)]
pub(super) struct Table<'a> {
    summary: Summary,
    found: usize,
    offset: usize,
    rows: Vec<&'a Row>,
}

/// How much of a spool is taken.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct SpoolUse {
    data_path: String,
    used_bytes: i64,
    limit_bytes: i64,
}

type Labelled = HashMap<(String, String), i64>;

/// The values of a series by two of its labels; the second is empty where it has none.
fn values(series: &impl Collector, labels: [&str; 2]) -> Labelled {
    let mut found = HashMap::new();
    for family in series.collect() {
        for metric in family.get_metric() {
            let label = |name: &str| {
                let mut pairs = metric.get_label().iter();
                let pair = pairs.find(|pair| pair.name() == name);
                pair.map(|pair| pair.value().to_owned()).unwrap_or_default()
            };
            let value = metric.get_gauge().get_value() + metric.get_counter().get_value();
            found.insert((label(labels[0]), label(labels[1])), value as i64);
        }
    }
    found
}

/// Every shard that this agent ships or should, by name.
pub(super) fn rows(context: &Context, tables: &Tables) -> Vec<Row> {
    let mut followers: HashMap<IndexName, usize> = HashMap::new();
    for followed in tables.follower_table.all::<FollowedLeader>() {
        if followed.leader_cluster == tables.cluster {
            *followers.entry(followed.leader_index).or_default() += 1;
        }
    }
    let mut rows = measured(&context.metrics, context.standing.all());
    for row in &mut rows {
        let index = IndexName::from(row.index.as_str());
        row.followers = followers.get(&index).copied().unwrap_or_default();
    }
    rows
}

fn measured(metrics: &Metrics, standing: Vec<CaptureStandstill>) -> Vec<Row> {
    let of_shards = ["index", "shard"];
    let [shipped, checkpoints, resyncing, spools, translogs] = [
        &metrics.shipped_seq_no,
        &metrics.global_checkpoint,
        &metrics.resyncing,
        &metrics.spool_bytes,
        &metrics.translog_bytes,
    ]
    .map(|series| values(series, of_shards));
    let [operations, errors] =
        [&metrics.operations, &metrics.errors].map(|series| values(series, of_shards));
    let mut rows: BTreeMap<(String, u32), Row> = BTreeMap::new();
    // Counters stay when a capture ends, gauges do not.
    for key in shipped.keys().chain(checkpoints.keys()) {
        let value = |of: &Labelled| of.get(key).copied();
        let number = |of: &Labelled| value(of).unwrap_or_default();
        let (shipped, checkpoint) = (value(&shipped), value(&checkpoints));
        let behind = checkpoint.unwrap_or(-1) - shipped.unwrap_or(-1);
        let shard = key.1.parse().unwrap_or_default();
        let row = Row {
            index: key.0.clone(),
            shard,
            shipped,
            checkpoint,
            behind: behind.max(0),
            is_resyncing: number(&resyncing) > 0,
            spool_bytes: number(&spools),
            translog_bytes: number(&translogs),
            operations: number(&operations),
            errors: number(&errors),
            ..Row::default()
        };
        rows.insert((key.0.clone(), shard), row);
    }
    for told in standing {
        let (index, shard) = (told.index.to_string(), told.shard.0);
        let row = rows.entry((index.clone(), shard)).or_insert_with(|| Row {
            index,
            shard,
            ..Row::default()
        });
        row.wait = Some(told.reason.into());
    }
    rows.into_values().collect()
}

pub(super) fn spools(metrics: &Metrics) -> Vec<SpoolUse> {
    let by_path = ["data_path", ""];
    let limits = values(&metrics.spool_limit_bytes, by_path);
    let used = values(&metrics.spool_used_bytes, by_path);
    let of_path = |(path, used_bytes): (&(String, String), &i64)| SpoolUse {
        data_path: path.0.clone(),
        used_bytes: *used_bytes,
        limit_bytes: limits.get(path).copied().unwrap_or_default(),
    };
    let mut spools: Vec<SpoolUse> = used.iter().map(of_path).collect();
    spools.sort_by(|one, other| one.data_path.cmp(&other.data_path));
    spools
}

pub(super) fn table<'a>(rows: &'a [Row], asked: &Asked) -> Table<'a> {
    let text = asked.q.trim().to_lowercase();
    let is_named = |row: &&Row| match text.contains('*') {
        true => wildcard_match(&text, &row.index),
        false => row.index.contains(&text),
    };
    let is_wanted = |row: &&Row| match asked.state.as_str() {
        "waiting" => row.wait.is_some(),
        "resyncing" => row.is_resyncing,
        "behind" => row.behind > 0,
        _ => true,
    };
    let mut found: Vec<&Row> = rows.iter().filter(is_named).filter(is_wanted).collect();
    match asked.sort.as_str() {
        "behind" => found.sort_by_key(|row| Reverse(row.behind)),
        "spool" => found.sort_by_key(|row| Reverse(row.spool_bytes)),
        _ => {}
    }
    let limit = asked.limit.unwrap_or(ROWS).clamp(1, ROWS_MAX);
    let offset = asked.offset.min(found.len());
    Table {
        summary: summary(rows),
        found: found.len(),
        offset,
        rows: found.into_iter().skip(offset).take(limit).collect(),
    }
}

fn summary(rows: &[Row]) -> Summary {
    let count = |is: fn(&&Row) -> bool| rows.iter().filter(is).count();
    let indices: HashSet<&str> = rows.iter().map(|row| row.index.as_str()).collect();
    Summary {
        indices: indices.len(),
        shards: rows.len(),
        waiting: count(|row| row.wait.is_some()),
        resyncing: count(|row| row.is_resyncing),
        behind: count(|row| row.behind > 0),
        operations_behind: rows.iter().map(|row| row.behind).sum(),
    }
}

#[cfg(test)]
mod tests {
    use shardline_common::types::ShardId;

    use super::*;

    fn metrics() -> Metrics {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        for n in 0..1_000_i64 {
            let (index, shard) = (format!("logs-{:04}", n / 2), (n % 2).to_string());
            let labels = [index.as_str(), shard.as_str()];
            metrics.begin(&labels);
            metrics.global_checkpoint.with_label_values(&labels).set(n);
            metrics
                .shipped_seq_no
                .with_label_values(&labels)
                .set(n - n % 100 / 99);
        }
        metrics
    }

    fn asked(text: &str) -> Asked {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_thousand_shards_are_paged_filtered_and_sorted() {
        let told = |index: &str, shard: u32| CaptureStandstill {
            index: index.into(),
            index_uuid: "u".into(),
            shard: ShardId(shard),
            reason: StandstillReason::new(Cause::KafkaAway, 5, "no answer"),
        };
        let rows = measured(&metrics(), vec![told("new", 3), told("logs-0001", 1)]);
        let all = table(&rows, &Asked::default());
        assert_eq!((all.found, all.rows.len()), (1_001, ROWS));
        let expected = Summary {
            indices: 501,
            shards: 1_001,
            waiting: 2,
            resyncing: 0,
            behind: 10,
            operations_behind: 10,
        };
        assert_eq!(all.summary, expected);
        let waiting = table(&rows, &asked(r#"{"state": "waiting"}"#));
        let names: Vec<_> = waiting
            .rows
            .iter()
            .map(|row| (row.index.as_str(), row.shard))
            .collect();
        assert_eq!(names, [("logs-0001", 1), ("new", 3)]);
        let first = table(&rows, &asked(r#"{"sort": "behind", "limit": 1}"#));
        assert_eq!((first.found, first.rows[0].behind), (1_001, 1));
        assert_eq!(table(&rows, &asked(r#"{"q": "logs-000*"}"#)).found, 20);
        assert_eq!(table(&rows, &asked(r#"{"offset": 2000}"#)).rows.len(), 0);
        let bytes = serde_json::to_vec(&all).unwrap().len();
        assert!(bytes < 20_000, "{bytes}");
    }

    #[test]
    fn spools_are_told_by_their_folder() {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        metrics
            .spool_used_bytes
            .with_label_values(&["/data"])
            .set(7);
        metrics
            .spool_limit_bytes
            .with_label_values(&["/data"])
            .set(9);
        let expected = SpoolUse {
            data_path: "/data".to_owned(),
            used_bytes: 7,
            limit_bytes: 9,
        };
        assert_eq!(spools(&metrics), [expected]);
    }
}
