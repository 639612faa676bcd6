//! The table of followed indices: filtered, sorted, grouped and cut to what is looked at.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;
use shardline::contract::service::{FollowedStatus, ReplicationState};
use shardline_common::standstill::Cause;
use shardline_common::types::IndexName;
use shardline_common::wildcard::wildcard_match;

use crate::http::api::query::Query;

/// Most rows of one answer.
const ROWS_MAX: usize = 200;
const ROWS: usize = 50;
/// The longest reason in the table, in characters; all of it is with the index itself.
const REASON_LENGTH: usize = 160;

/// What of the table is asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    /// Part of a name, or a pattern with `*`.
    text: String,
    state: Option<Wanted>,
    sort: Sort,
    is_descending: bool,
    is_grouped: bool,
    offset: usize,
    limit: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Attention,
    State(ReplicationState),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sort {
    #[default]
    Name,
    State,
    Millis,
    Operations,
}

impl Asked {
    pub(super) fn of(query: &Query) -> Self {
        let number = |name: &str| query.get(name).and_then(|text| text.parse().ok());
        let state = |word: &str| match word {
            "attention" => Some(Wanted::Attention),
            word => serde_json::from_value(word.into()).ok().map(Wanted::State),
        };
        Self {
            text: query.get("q").unwrap_or_default().trim().to_lowercase(),
            state: query.get("state").and_then(state),
            sort: match query.get("sort") {
                Some("state") => Sort::State,
                Some("millis") => Sort::Millis,
                Some("operations") => Sort::Operations,
                _ => Sort::Name,
            },
            is_descending: query.get("descending").is_some(),
            is_grouped: query.get("group").is_some(),
            offset: number("offset").unwrap_or(0),
            limit: number("limit").unwrap_or(ROWS).clamp(1, ROWS_MAX),
        }
    }

    fn finds(&self, row: &Row<'_>) -> bool {
        let is_named = match self.text.contains('*') {
            true => wildcard_match(&self.text, row.index),
            false => {
                row.index.contains(&self.text) || row.leader.to_lowercase().contains(&self.text)
            }
        };
        let is_wanted = match self.state {
            None => true,
            Some(Wanted::Attention) => row.needs_attention,
            Some(Wanted::State(state)) => row.state == state,
        };
        is_named && is_wanted
    }

    fn sort(&self, rows: &mut [Row<'_>]) {
        match self.sort {
            Sort::Name => {}
            Sort::State => rows.sort_by_key(|row| (!row.needs_attention, rank(row.state))),
            Sort::Millis => rows.sort_by_key(|row| row.millis),
            Sort::Operations => rows.sort_by_key(|row| row.operations),
        }
        if self.is_descending {
            rows.reverse();
        }
    }
}

/// The order of states: what wants looking at comes first.
fn rank(state: ReplicationState) -> u8 {
    match state {
        ReplicationState::Failed => 0,
        ReplicationState::Paused => 1,
        ReplicationState::Running => 2,
        ReplicationState::Bootstrapping => 3,
        ReplicationState::Syncing => 4,
        ReplicationState::NotInProgress => 5,
    }
}

/// A followed index in the table. What is not so is left out.
#[derive(Debug, Serialize)]
struct Row<'a> {
    index: &'a str,
    leader: String,
    state: ReplicationState,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    needs_attention: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    millis: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operations: Option<i64>,
    /// Operations applied, of all shards together.
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<i64>,
    /// Of the copy that is being loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    standstill: Option<Standing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    dead_letters: u64,
    #[serde(skip_serializing_if = "is_zero")]
    foreign_writes: u64,
    #[serde(skip_serializing_if = "is_zero")]
    resyncs: u64,
}

#[derive(Debug, Serialize)]
struct Standing {
    cause: Cause,
    /// Milliseconds since the epoch.
    since: i64,
    /// How many shards; 0: the index as a whole.
    shards: usize,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(REASON_LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl<'a> Row<'a> {
    fn of(index: &'a IndexName, followed: &FollowedStatus) -> Self {
        let FollowedStatus {
            status,
            lag_details,
        } = followed;
        let standstill = standing(followed);
        let reason = status.reason.as_deref().unwrap_or_default();
        let is_stopped_by_itself = match status.status {
            ReplicationState::Failed => true,
            ReplicationState::Paused => reason.starts_with("AutoPaused:"),
            _ => false,
        };
        let (dead_letters, foreign_writes) = (
            status.dead_letters.unwrap_or_default(),
            status.foreign_writes.unwrap_or_default(),
        );
        let leader = status.leader_index.as_deref().unwrap_or_default();
        Self {
            index: index.as_str(),
            leader: match &status.leader_alias {
                Some(alias) => format!("{alias}:{leader}"),
                None => leader.to_owned(),
            },
            state: status.status,
            needs_attention: standstill.is_some()
                || is_stopped_by_itself
                || dead_letters + foreign_writes > 0,
            millis: lag_details.map(|lag| lag.millis),
            operations: lag_details.and_then(|lag| lag.operations),
            // Each shard's next number counts its operations: an empty one has none.
            applied: status.syncing_details.map(|details| details.seq_no),
            percent: status.bootstrap_details.map(|copy| copied(&copy)),
            standstill,
            reason: (!reason.is_empty() && reason != "User initiated").then(|| cut(reason)),
            dead_letters,
            foreign_writes,
            resyncs: status.resync_details.len() as u64,
        }
    }
}

fn copied(copy: &shardline::contract::service::BootstrapDetails) -> f64 {
    let percent = match (copy.documents_recovered, copy.documents_total) {
        (Some(done), Some(total)) if total > 0 => done as f64 / total as f64 * 100.0,
        _ => copy.bytes_percent,
    };
    (percent * 10.0).round() / 10.0
}

fn standing(followed: &FollowedStatus) -> Option<Standing> {
    let status = &followed.status;
    if let Some(whole) = &status.standstill {
        return Some(Standing {
            cause: whole.why.cause,
            since: whole.why.since,
            shards: 0,
        });
    }
    let first = status.held_up.iter().min_by_key(|held| held.why.since)?;
    Some(Standing {
        cause: first.why.cause,
        since: first.why.since,
        shards: status.held_up.len(),
    })
}

/// Indices that are called alike but for numbers, such as dates.
#[derive(Debug, Serialize)]
struct Group {
    pattern: String,
    #[serde(flatten)]
    summary: Summary,
}

/// Many indices together.
#[derive(Debug, Default, Serialize)]
pub(super) struct Summary {
    indices: usize,
    states: BTreeMap<String, usize>,
    attention: usize,
    standing: usize,
    dead_letters: u64,
    foreign_writes: u64,
    /// Of the one that is furthest behind.
    millis: Option<i64>,
    operations: Option<i64>,
}

impl Summary {
    fn add(&mut self, row: &Row<'_>) {
        self.indices += 1;
        let word = serde_json::to_value(row.state).unwrap_or_default();
        *self
            .states
            .entry(word.as_str().unwrap_or_default().to_owned())
            .or_default() += 1;
        self.attention += usize::from(row.needs_attention);
        self.standing += usize::from(row.standstill.is_some());
        self.dead_letters += row.dead_letters;
        self.foreign_writes += row.foreign_writes;
        self.millis = self.millis.max(row.millis);
        if let Some(operations) = row.operations {
            *self.operations.get_or_insert(0) += operations;
        }
    }
}

/// The part of the table that was asked for.
#[derive(Debug, Serialize)]
pub(super) struct Table<'a> {
    /// Of all indices that the caller may see.
    summary: Summary,
    /// How many rows or groups there are in all.
    found: usize,
    offset: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<Vec<Row<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Vec<Group>>,
}

/// Of indices sorted by name.
pub(super) fn of<'a>(
    statuses: impl Iterator<Item = &'a (IndexName, FollowedStatus)>,
    asked: &Asked,
) -> Table<'a> {
    let mut rows: Vec<Row<'a>> = statuses
        .map(|(index, status)| Row::of(index, status))
        .collect();
    let mut summary = Summary::default();
    rows.iter().for_each(|row| summary.add(row));
    rows.retain(|row| asked.finds(row));
    let part = |found: usize| asked.offset.min(found)..(asked.offset + asked.limit).min(found);
    if asked.is_grouped {
        let mut groups = grouped(&rows);
        match asked.sort {
            Sort::Millis => groups.sort_by_key(|group| Reverse(group.summary.millis)),
            Sort::Operations => groups.sort_by_key(|group| Reverse(group.summary.operations)),
            Sort::State => groups.sort_by_key(|group| Reverse(group.summary.attention)),
            Sort::Name => {}
        }
        let found = groups.len();
        return Table {
            summary,
            found,
            offset: asked.offset.min(found),
            rows: None,
            groups: Some(groups.drain(part(found)).collect()),
        };
    }
    asked.sort(&mut rows);
    let found = rows.len();
    Table {
        summary,
        found,
        offset: asked.offset.min(found),
        rows: Some(rows.drain(part(found)).collect()),
        groups: None,
    }
}

fn grouped(rows: &[Row<'_>]) -> Vec<Group> {
    let mut groups: BTreeMap<String, Summary> = BTreeMap::new();
    for row in rows {
        groups.entry(pattern_of(row.index)).or_default().add(row);
    }
    let group = |(pattern, summary)| Group { pattern, summary };
    groups.into_iter().map(group).collect()
}

/// A name with a star for its numbers: `logs-*` for `logs-2026.11.30`.
fn pattern_of(name: &str) -> String {
    let is_number = |c: char| c.is_ascii_digit();
    let is_between = |c: char| matches!(c, '-' | '.' | '_');
    let mut pattern = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(start) = rest.find(is_number) {
        pattern.push_str(&rest[..start]);
        pattern.push('*');
        rest = rest[start..].trim_start_matches(is_number);
        // Numbers with nothing but a separator between them are one.
        loop {
            let behind = rest.trim_start_matches(is_between);
            if behind.len() == rest.len() || !behind.starts_with(is_number) {
                break;
            }
            rest = behind.trim_start_matches(is_number);
        }
    }
    pattern + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_in_numbers_are_one_group() {
        for (name, pattern) in [
            ("logs-2026.11.30", "logs-*"),
            ("logs-eu-2026.11.30-000012", "logs-eu-*"),
            ("v2-books", "v*-books"),
            ("books", "books"),
            (".ds-metrics-2026.11.30-000001", ".ds-metrics-*"),
        ] {
            assert_eq!(pattern_of(name), pattern);
            assert!(wildcard_match(pattern, name), "{name}");
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        assert_eq!(cut("ü"), "ü");
        assert_eq!(cut(&"ü".repeat(500)).chars().count(), REASON_LENGTH + 1);
    }
}
