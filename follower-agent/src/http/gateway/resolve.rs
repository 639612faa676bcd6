//! Which followed indices an index expression covers: names, lists, wildcards with exclusions,
//! aliases.
//!
//! Data streams need no look-up: their backing indices start with a dot, and the name rules refuse
//! such a follower.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::Value;
use shardline_common::types::IndexName;
use shardline_common::wildcard::wildcard_match;

use super::classify::Scope;

/// Aliases of the follower cluster, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Aliases {
    by_name: BTreeMap<String, Vec<Member>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    index: String,
    is_write_index: bool,
}

/// What an expression covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Coverage {
    /// Followed indices, in alphabetical order.
    pub followed: Vec<String>,
    /// Whether it names, or may name, indices that are not followed.
    pub others: bool,
}

impl Aliases {
    /// From the answer to `GET /_alias/*`: `{index: {"aliases": {name: {"is_write_index": ..}}}}`.
    pub(super) fn from_answer(answer: &Value) -> Self {
        let mut by_name: BTreeMap<String, Vec<Member>> = BTreeMap::new();
        for (index, content) in answer.as_object().into_iter().flatten() {
            for (alias, properties) in content
                .get("aliases")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                let is_write_index = properties
                    .get("is_write_index")
                    .and_then(Value::as_bool)
                    .unwrap_or(false);
                by_name.entry(alias.clone()).or_default().push(Member {
                    index: index.clone(),
                    is_write_index,
                });
            }
        }
        Self { by_name }
    }

    fn members(&self, alias: &str, scope: Scope) -> Option<Vec<&str>> {
        let members = self.by_name.get(alias)?;
        match scope {
            Scope::Concrete => None,
            Scope::Members => Some(members.iter().map(|member| member.index.as_str()).collect()),
            Scope::WriteIndex => {
                let writer = members.iter().find(|member| member.is_write_index);
                let only = members.first().filter(|_| members.len() == 1);
                Some(
                    writer
                        .or(only)
                        .map(|member| member.index.as_str())
                        .into_iter()
                        .collect(),
                )
            }
        }
    }
}

/// The parts of an expression.
pub(crate) fn elements(expression: &str) -> impl Iterator<Item = &str> {
    expression
        .split(',')
        .map(str::trim)
        .filter(|element| !element.is_empty())
}

/// Whether only the follower cluster can say what the element stands for (`<logs-{now/d}>`).
pub(super) fn is_date_math(element: &str) -> bool {
    element.trim_start_matches(['-', '+']).starts_with('<')
}

/// Whether names in the expression could be aliases.
pub(super) fn needs_aliases(expression: &str, scope: Scope, followed: &HashSet<IndexName>) -> bool {
    scope != Scope::Concrete
        && elements(expression)
            .any(|element| !is_everything(element) && !contains(followed, element))
}

fn is_everything(element: &str) -> bool {
    element == "_all" || element == "*"
}

fn contains(followed: &HashSet<IndexName>, name: &str) -> bool {
    followed.contains(&IndexName::from(name))
}

/// Date math must have been replaced before; what is left of it counts as an index that is not
/// followed.
pub(super) fn cover(
    expression: &str,
    scope: Scope,
    followed: &HashSet<IndexName>,
    aliases: &Aliases,
) -> Coverage {
    let mut covered: BTreeSet<&str> = BTreeSet::new();
    let mut others = false;
    let mut after_wildcard = false;
    let mut is_empty = true;
    for element in elements(expression) {
        is_empty = false;
        let excluded = element.strip_prefix('-').filter(|_| after_wildcard);
        if let Some(pattern) = excluded {
            covered.retain(|index| !wildcard_match(pattern, index));
            continue;
        }
        let element = element.strip_prefix('+').unwrap_or(element);
        if is_everything(element) || element.contains('*') {
            let pattern = if is_everything(element) { "*" } else { element };
            after_wildcard = true;
            others = true;
            covered.extend(
                followed
                    .iter()
                    .map(IndexName::as_str)
                    .filter(|index| wildcard_match(pattern, index)),
            );
            for alias in aliases
                .by_name
                .keys()
                .filter(|alias| wildcard_match(pattern, alias))
            {
                let members = aliases.members(alias, scope).unwrap_or_default();
                covered.extend(
                    members
                        .into_iter()
                        .filter(|index| contains(followed, index)),
                );
            }
        } else if let Some(index) = followed.get(&IndexName::from(element)) {
            covered.insert(index.as_str());
        } else if let Some(members) = aliases.members(element, scope) {
            others |= members.iter().any(|index| !contains(followed, index));
            covered.extend(
                members
                    .into_iter()
                    .filter(|index| contains(followed, index)),
            );
        } else {
            others = true;
        }
    }
    if is_empty {
        covered.extend(followed.iter().map(IndexName::as_str));
        others = true;
    }
    Coverage {
        followed: covered.into_iter().map(str::to_owned).collect(),
        others,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn covered(expression: &str, scope: Scope) -> (Vec<String>, bool) {
        let followed = ["f1", "f2", "logs-a"]
            .into_iter()
            .map(IndexName::from)
            .collect();
        let aliases = Aliases::from_answer(&json!({
            "f1": {"aliases": {"one": {}, "both": {}, "led": {}}},
            "f2": {"aliases": {"both": {}}},
            "own": {"aliases": {"led": {"is_write_index": true}}},
        }));
        let Coverage { followed, others } = cover(expression, scope, &followed, &aliases);
        (followed, others)
    }

    #[test]
    fn expressions_cover_what_the_server_would_resolve() {
        use Scope::{Concrete, Members, WriteIndex};
        let all = ["f1", "f2", "logs-a"].as_slice();
        for (expression, scope, expected, others) in [
            ("f1", WriteIndex, ["f1"].as_slice(), false),
            ("own", WriteIndex, &[], true),
            ("one", WriteIndex, &["f1"], false),
            ("both", WriteIndex, &[], false),
            ("led", WriteIndex, &[], true),
            ("led", Members, &["f1"], true),
            ("both", Members, &["f1", "f2"], false),
            ("one", Concrete, &[], true),
            ("_all", Concrete, all, true),
            ("*", Members, all, true),
            ("", Members, all, true),
            ("f*", Concrete, &["f1", "f2"], true),
            ("f*,-f1", Concrete, &["f2"], true),
            ("*,-f*", Concrete, &["logs-a"], true),
            ("-f1", Concrete, &[], true),
            ("own, f2", Members, &["f2"], true),
            ("on*", Members, &["f1"], true),
            ("on*", Concrete, &[], true),
        ] {
            let expected: Vec<String> = expected.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(
                covered(expression, scope),
                (expected, others),
                "{expression} {scope:?}"
            );
        }
    }
}
