//! The table of statuses: what is shown of each index, in which order, and the line that sums it
//! up.

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::Deserialize;

use super::grid::{Cell, Grid, Tone};
use super::output::Shown;
use super::tables::word;
use super::text::{self, count, millis};
use crate::contract::service::{
    FollowedStatus, ReplicationState, ShardReplicationDetails, SyncingDetails,
};

/// What stands in the reason of whatever a user began; it tells nobody anything.
const BY_USER: &str = "User initiated";

/// Answer of `_status` without an index and of `_bulk_status`.
#[derive(Clone, Default, Deserialize)]
pub(super) struct Statuses {
    pub indices: BTreeMap<String, FollowedStatus>,
}

/// The order of the indices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Order {
    #[default]
    Name,
    /// The most operations behind first
    Lag,
    /// The longest behind first
    Behind,
    /// What needs somebody first
    State,
}

impl Order {
    /// The next one, as a key of the screen cycles through them.
    pub(super) fn next(self) -> Self {
        match self {
            Self::Name => Self::Lag,
            Self::Lag => Self::Behind,
            Self::Behind => Self::State,
            Self::State => Self::Name,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Lag => "lag",
            Self::Behind => "behind",
            Self::State => "state",
        }
    }
}

impl Statuses {
    /// Those in which a word is found: in a name, in a state, or in the cause of a standstill.
    pub(super) fn containing(mut self, wanted: &str) -> Self {
        let wanted = wanted.to_lowercase();
        self.indices.retain(|index, followed| {
            let status = &followed.status;
            let mut words = vec![index.clone(), word(status.status)];
            words.extend(leader(followed));
            words.extend(status.standstill.iter().map(|it| it.why.cause.name()));
            words.extend(status.held_up.iter().map(|it| it.why.cause.name()));
            words
                .iter()
                .any(|word| word.to_lowercase().contains(&wanted))
        });
        self
    }

    fn ordered(&self, order: Order) -> Vec<(&String, &FollowedStatus)> {
        let mut indices: Vec<_> = self.indices.iter().collect();
        match order {
            Order::Name => {}
            Order::Lag => indices.sort_by_key(|(_, it)| std::cmp::Reverse(operations(it))),
            Order::Behind => indices.sort_by_key(|(_, it)| std::cmp::Reverse(behind(it))),
            Order::State => indices.sort_by_key(|(_, it)| urgency(it)),
        }
        indices
    }

    /// The table of the indices, and one of their shards where they are known.
    pub(super) fn tables(&self, order: Order) -> Vec<Grid> {
        let header = [
            "INDEX",
            "?LEADER",
            "STATUS",
            "#LAG",
            "#BEHIND",
            "~PROGRESS",
            "~REASON",
        ];
        let mut indices = Grid::new(&header);
        let mut shards = Grid::new(&["SHARD", "#APPLIED", "#LEADER AT", "#LAG", "~PROGRESS"]);
        for (index, followed) in self.ordered(order) {
            indices.add(row(index, followed));
            let details = followed.status.shard_replication_details.iter().flatten();
            details.for_each(|shard| shards.add(shard_row(shard)));
        }
        let mut tables = vec![indices];
        if !shards.is_empty() {
            tables.push(shards);
        }
        tables
    }

    /// How many there are of each state, and which is furthest behind.
    pub(super) fn summary(&self) -> String {
        let total = self.indices.len();
        let mut parts = Vec::new();
        for (state, name) in [
            (ReplicationState::Syncing, "syncing"),
            (ReplicationState::Bootstrapping, "bootstrapping"),
            (ReplicationState::Running, "starting"),
            (ReplicationState::Paused, "paused"),
            (ReplicationState::Failed, "failed"),
            (ReplicationState::NotInProgress, "not followed"),
        ] {
            let number = self
                .indices
                .values()
                .filter(|it| it.status.status == state)
                .count();
            if number > 0 {
                parts.push(format!("{} {name}", count(number as u64)));
            }
        }
        let standing = self.indices.values().filter(|it| stands_still(it)).count();
        if standing > 0 {
            parts.push(format!("{} not getting on", count(standing as u64)));
        }
        let noun = if total == 1 { "index" } else { "indices" };
        let mut text = format!("{} {noun}", count(total as u64));
        if !parts.is_empty() {
            text.push_str(&format!(": {}", parts.join(", ")));
        }
        let furthest = self.indices.iter().max_by_key(|(_, it)| behind(it));
        if let Some((index, followed)) = furthest
            && let Some(time) = behind(followed).filter(|time| *time > 0)
        {
            text.push_str(&format!("; furthest behind: {index}, {}", millis(time)));
        }
        text
    }

    pub(super) fn shown(&self, order: Order) -> Shown {
        Shown {
            tables: self.tables(order),
            summary: Some(self.summary()),
        }
    }
}

fn leader(followed: &FollowedStatus) -> Option<String> {
    let status = &followed.status;
    let alias = status.leader_alias.as_ref()?;
    Some(format!("{alias}:{}", status.leader_index.as_ref()?))
}

fn operations(followed: &FollowedStatus) -> Option<i64> {
    let details = followed.status.syncing_details?;
    Some(details.leader_checkpoint - details.follower_checkpoint)
}

fn behind(followed: &FollowedStatus) -> Option<i64> {
    followed.lag_details.map(|lag| lag.millis)
}

fn stands_still(followed: &FollowedStatus) -> bool {
    followed.status.standstill.is_some() || !followed.status.held_up.is_empty()
}

fn urgency(followed: &FollowedStatus) -> u8 {
    match followed.status.status {
        ReplicationState::Failed => 0,
        ReplicationState::Paused => 1,
        _ if stands_still(followed) => 2,
        ReplicationState::Running => 3,
        ReplicationState::Bootstrapping => 4,
        ReplicationState::Syncing => 5,
        ReplicationState::NotInProgress => 6,
    }
}

fn tone(followed: &FollowedStatus) -> Tone {
    match followed.status.status {
        ReplicationState::Failed => Tone::Bad,
        ReplicationState::Paused => Tone::Warning,
        _ if stands_still(followed) => Tone::Bad,
        ReplicationState::Running | ReplicationState::Bootstrapping => Tone::Busy,
        ReplicationState::Syncing => Tone::Good,
        ReplicationState::NotInProgress => Tone::Plain,
    }
}

fn row(index: &str, followed: &FollowedStatus) -> [Cell; 7] {
    let status = &followed.status;
    let is_halted = matches!(
        status.status,
        ReplicationState::Paused | ReplicationState::Failed
    );
    let reason = status
        .reason
        .as_deref()
        .filter(|it| is_halted || *it != BY_USER);
    let progress_tone = match stands_still(followed) {
        true => Tone::Bad,
        false => Tone::Plain,
    };
    [
        index.into(),
        leader(followed).unwrap_or_default().into(),
        Cell::toned(word(status.status), tone(followed)),
        operations(followed).map(count).unwrap_or_default().into(),
        behind(followed).map(millis).unwrap_or_default().into(),
        Cell::toned(text::progress(status), progress_tone),
        reason.unwrap_or_default().into(),
    ]
}

fn shard_row(shard: &ShardReplicationDetails) -> [String; 5] {
    let checkpoint = |number: i64| count(u64::try_from(number).unwrap_or_default());
    let numbers = shard.syncing_task_details.map(|details: SyncingDetails| {
        let lag = details.leader_checkpoint - details.follower_checkpoint;
        [
            checkpoint(details.follower_checkpoint),
            checkpoint(details.leader_checkpoint),
            count(lag),
        ]
    });
    let [applied, leader_at, lag] = numbers.unwrap_or_default();
    let progress = shard.bootstrap_task_details.as_ref();
    let progress = progress.map(text::bootstrap).unwrap_or_default();
    [shard.shard_id.clone(), applied, leader_at, lag, progress]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::grid::Look;
    use super::*;

    /// An answer recorded from an agent.
    fn recorded(step: &str) -> Value {
        let all = include_str!("../../../tests/data/control-api.jsonl").lines();
        let mut all = all.map(|line| serde_json::from_str::<Value>(line).unwrap());
        all.find(|entry| entry["step"] == step).unwrap()["body"].take()
    }

    fn answer() -> Statuses {
        let mut behind = recorded("status verbose");
        behind["syncing_details"]["leader_checkpoint"] = json!(1_504);
        behind["lag_details"] = json!({"operations": 1_500, "millis": 2_310});
        let copied = json!({
            "status": "BOOTSTRAPPING", "reason": "User initiated", "leader_alias": "eu",
            "leader_index": "logs-checkout-eu-west-2026.11.01",
            "follower_index": "logs-checkout-eu-west-2026.11.01", "bootstrap_details": {
                "bytes_total": 4000, "bytes_recovered": 1000, "bytes_percent": 25.0,
                "files_total": 2, "files_recovered": 0, "files_percent": 0.0, "start_time": 1,
                "running_time": 2000, "documents_total": 40_000, "documents_recovered": 10_000,
            },
        });
        let refused = "AutoPaused: [[orders][0]] - document [7] at seq_no 9 is refused by the \
                       follower index: mapper_parsing_exception";
        let halted = json!({
            "status": "PAUSED", "reason": refused, "leader_alias": "eu", "leader_index": "orders",
            "follower_index": "orders",
        });
        serde_json::from_value(json!({"indices": {
            "f-st": behind, "follower-01": recorded("status paused"), "orders": halted,
            "logs-checkout-eu-west-2026.11.01": copied, "mine": recorded("status unknown"),
        }}))
        .unwrap()
    }

    fn printed(statuses: &Statuses, order: Order, width: Option<usize>) -> String {
        let look = Look {
            width,
            has_colours: false,
        };
        let tables = statuses.tables(order);
        let texts: Vec<String> = tables
            .iter()
            .map(|table| table.lines(look).join("\n"))
            .collect();
        texts.join("\n\n")
    }

    #[test]
    fn statuses_fit_into_80_columns() {
        let expected = "\
INDEX                             STATUS                         LAG  BEHIND
f-st                              SYNCING                      1,500   2.3 s
follower-01                       PAUSED
    User initiated
logs-checkout-eu-west-2026.11.01  BOOTSTRAPPING
    25 % of 40,000, 5,000/s, 6.0 s left
mine                              REPLICATION NOT IN PROGRESS
orders                            PAUSED
    AutoPaused: [[orders][0]] - document [7] at seq_no 9 is refused by the
    follower index: mapper_parsing_exception

SHARD      APPLIED  LEADER AT  LAG  PROGRESS
[f-st][0]        4          4    0";
        assert_eq!(printed(&answer(), Order::Name, Some(80)), expected);
    }

    #[test]
    fn statuses_stand_in_lines_at_200_columns() {
        let text = printed(&answer(), Order::Name, Some(200));
        let lines: Vec<&str> = text.lines().collect();
        let paused = lines.iter().position(|line| line.starts_with("orders"));
        let at = lines[paused.unwrap()].find("AutoPaused").unwrap();
        assert_eq!(lines[0].find("REASON"), Some(at), "{text}");
        assert!(lines[0].contains("LEADER"), "{text}");
        assert!(lines.iter().all(|line| line.len() <= 200), "{text}");
        let header = "INDEX                             LEADER                               \
                      STATUS                         LAG  BEHIND  PROGRESS";
        assert!(lines[0].starts_with(header), "{text}");
    }

    #[test]
    fn without_a_terminal_a_row_is_a_line() {
        let text = printed(&answer(), Order::Name, None);
        assert_eq!(text.lines().count(), 9, "{text}");
        assert!(
            text.contains("follower index: mapper_parsing_exception\n"),
            "{text}"
        );
    }

    #[test]
    fn what_needs_somebody_comes_first() {
        let first = |order| {
            let text = printed(&answer(), order, Some(80));
            let line = text.lines().nth(1).unwrap_or_default();
            line.split(' ').next().unwrap_or_default().to_owned()
        };
        assert_eq!(first(Order::Lag), "f-st");
        assert_eq!(first(Order::Behind), "f-st");
        assert_eq!(first(Order::State), "follower-01");
        assert_eq!(Order::State.next(), Order::Name);
    }

    #[test]
    fn a_filter_looks_at_names_leaders_and_states() {
        let kept = |wanted: &str| {
            answer()
                .containing(wanted)
                .indices
                .into_keys()
                .collect::<Vec<_>>()
        };
        assert_eq!(kept("paused"), ["follower-01", "orders"]);
        assert_eq!(kept("CHECKOUT"), ["logs-checkout-eu-west-2026.11.01"]);
        assert_eq!(kept("eu:orders"), ["orders"]);
        assert_eq!(kept("").len(), 5);
    }

    #[test]
    fn a_line_sums_it_up() {
        let expected = "5 indices: 1 syncing, 1 bootstrapping, 2 paused, 1 not followed; furthest \
                        behind: f-st, 2.3 s";
        assert_eq!(answer().summary(), expected);
        assert_eq!(Statuses::default().summary(), "0 indices");
    }
}
