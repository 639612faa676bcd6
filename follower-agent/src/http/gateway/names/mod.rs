//! What names stand for on the follower cluster: its aliases and data streams, and which followed
//! indices an expression covers, beside what else it covers.

mod answers;
mod found;
mod rest;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use shardline_common::types::IndexName;
use shardline_common::wildcard::wildcard_match;

use super::expression::{self, Element, Part};
use super::routes::Scope;
use found::Found;

pub(super) use answers::{AliasAnswer, StateAnswer};

/// The followed indices.
pub(super) type Followed = HashSet<IndexName>;
/// Aliases that followed indices have or are about to get, as replication knows them.
pub(super) type KnownAliases = HashMap<String, Vec<IndexName>>;

/// The names of the follower cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// By alias or data stream.
    groups: BTreeMap<String, Group>,
    /// Each index, and whether wildcards find it, which they do unless it is hidden.
    indices: HashMap<String, bool>,
    /// Hidden indices that have an alias: `*` finds them by it, `_all` does not find them.
    hidden_with_alias: BTreeSet<String>,
}

/// What an alias or a data stream stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    members: BTreeMap<String, Member>,
    is_data_stream: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Member {
    is_write_index: Option<bool>,
    /// The alias has a filter or a routing here, or it is not known.
    narrows: bool,
}

/// What an expression covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Coverage {
    /// Followed indices, in alphabetical order.
    pub followed: Vec<String>,
    pub rest: Rest,
}

/// What an expression covers beside followed indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// No index.
    Nothing,
    /// All that it covers: no followed index is among it.
    AsWritten,
    /// What this expression covers.
    Expression(String),
    /// Something, for which there is no expression.
    Unsayable,
}

impl Names {
    /// `aliases` is `None` if the agent may not see them; the cluster state still has their names.
    pub(super) fn new(state: StateAnswer, aliases: Option<AliasAnswer>) -> Self {
        let mut names = Self::default();
        let streams = state.metadata.data_stream.data_stream;
        let mut backing = HashSet::new();
        for (name, stream) in streams {
            let last = stream.indices.len().wrapping_sub(1);
            let group = names.groups.entry(name).or_default();
            group.is_data_stream = true;
            for (position, index) in stream.indices.into_iter().enumerate() {
                let is_write_index = Some(position == last);
                let member = Member {
                    is_write_index,
                    narrows: false,
                };
                backing.insert(index.index_name.clone());
                group.members.insert(index.index_name, member);
            }
        }
        for (index, state) in state.metadata.indices {
            let is_hidden = state.settings.index.hidden.as_deref() == Some("true");
            if is_hidden && !state.aliases.is_empty() && !backing.contains(&index) {
                names.hidden_with_alias.insert(index.clone());
            }
            for alias in state.aliases {
                names.add(alias, index.clone());
            }
            names.indices.insert(index, !is_hidden);
        }
        for (index, of) in aliases.into_iter().flat_map(|answer| answer.0) {
            for (alias, found) in of.aliases {
                let member = Member {
                    is_write_index: found.is_write_index,
                    narrows: found.filter.is_some()
                        || found.index_routing.is_some()
                        || found.search_routing.is_some(),
                };
                let group = names.groups.entry(alias).or_default();
                group.members.insert(index.clone(), member);
            }
        }
        names
    }

    /// Takes an alias for one of the index, whatever its filter.
    fn add(&mut self, alias: String, index: String) {
        let group = self.groups.entry(alias).or_default();
        group.members.entry(index).or_insert(Member {
            is_write_index: None,
            narrows: true,
        });
    }

    /// With the aliases that replication knows of: it may have made them just now.
    pub(super) fn with(mut self, known: &KnownAliases) -> Self {
        for (alias, indices) in known {
            for index in indices {
                self.add(alias.clone(), index.to_string());
            }
        }
        self
    }

    /// Whether the cluster has an index of this name.
    pub(super) fn has_index(&self, name: &str) -> bool {
        self.indices.contains_key(name)
    }

    /// The followed index that a single name writes to, or could write to as soon as another index
    /// is deleted.
    pub(super) fn write_target<'a>(
        &self,
        name: &str,
        followed: &'a Followed,
    ) -> Option<&'a IndexName> {
        followed.get(&IndexName::from(name)).or_else(|| {
            let group = self.groups.get(name)?;
            match group.write_index() {
                Some(marked) => followed.get(&IndexName::from(marked)),
                None => group
                    .members
                    .keys()
                    .find_map(|index| followed.get(&IndexName::from(index.as_str()))),
            }
        })
    }

    /// Followed indices that have an alias which one of the patterns names; none names all.
    pub(super) fn having_alias(
        &self,
        patterns: &[String],
        followed: &Followed,
    ) -> BTreeSet<String> {
        let is_named = |alias: &str| {
            let mut named = patterns.iter().map(String::as_str).peekable();
            named.peek().is_none()
                || named.any(|pattern| pattern == "_all" || wildcard_match(pattern, alias))
        };
        self.groups
            .iter()
            .filter(|(alias, group)| !group.is_data_stream && is_named(alias))
            .flat_map(|(_, group)| group.members.keys())
            .filter(|index| contains(followed, index))
            .cloned()
            .collect()
    }

    /// Data streams named by the expression that have followed backing indices, as these.
    pub(super) fn of_data_streams(
        &self,
        expression: &str,
        followed: &Followed,
    ) -> BTreeSet<String> {
        let patterns: Vec<String> = expression::parse(expression)
            .iter()
            .map(|element| match element.part {
                Part::Everything => "*".to_owned(),
                Part::Exclusion(_) => String::new(),
                Part::DateMath(_) => "*".to_owned(),
                Part::Name(name) | Part::Pattern(name) => name.to_owned(),
            })
            .collect();
        self.groups
            .iter()
            .filter(|(_, group)| group.is_data_stream)
            .filter(|(name, _)| patterns.iter().any(|pattern| wildcard_match(pattern, name)))
            .flat_map(|(_, group)| group.members.keys())
            .filter(|index| contains(followed, index))
            .cloned()
            .collect()
    }

    /// What an expression covers. `finds_hidden`: its wildcards find hidden indices, too.
    pub(super) fn cover(
        &self,
        expression: &str,
        scope: Scope,
        followed: &Followed,
        finds_hidden: bool,
    ) -> Coverage {
        let elements = expression::parse(expression);
        let mut found = Found::default();
        for element in &elements {
            self.find(element, scope, followed, &mut found);
        }
        let followed_names: Vec<String> = found.all().map(str::to_owned).collect();
        let rest = if followed_names.is_empty() {
            Rest::AsWritten
        } else {
            self.rest(&elements, &followed_names, followed, finds_hidden)
        };
        Coverage {
            followed: followed_names,
            rest,
        }
    }

    fn find<'a>(
        &'a self,
        element: &Element<'_>,
        scope: Scope,
        followed: &'a Followed,
        found: &mut Found<'a>,
    ) {
        let names = || followed.iter().map(IndexName::as_str);
        match &element.part {
            Part::Exclusion(pattern) => found.exclude(pattern, &self.indices),
            Part::Everything => {
                found.matched.extend(names());
                self.find_groups("*", scope, followed, found);
            }
            Part::Pattern(pattern) => {
                let matching = names().filter(|name| wildcard_match(pattern, name));
                found.matched.extend(matching);
                self.find_groups(pattern, scope, followed, found);
            }
            Part::Name(name) => match followed.get(&IndexName::from(*name)) {
                Some(index) => drop(found.named.insert(index.as_str())),
                None => {
                    let group = self.groups.get(*name);
                    let members = group.into_iter().flat_map(|group| group.covered(scope));
                    let of_followed = members.filter(|name| contains(followed, name));
                    found.fixed.extend(of_followed);
                }
            },
            Part::DateMath(shape) => {
                found
                    .fixed
                    .extend(names().filter(|name| shape.may_be(name)));
                let groups = self.groups.iter().filter(|(name, _)| shape.may_be(name));
                let members = groups.flat_map(|(_, group)| group.covered(scope));
                found
                    .fixed
                    .extend(members.filter(|name| contains(followed, name)));
            }
        }
    }

    fn find_groups<'a>(
        &'a self,
        pattern: &str,
        scope: Scope,
        followed: &Followed,
        found: &mut Found<'a>,
    ) {
        let groups = self
            .groups
            .iter()
            .filter(|(name, _)| wildcard_match(pattern, name));
        let members = groups.flat_map(|(_, group)| group.covered(scope));
        found
            .by_alias
            .extend(members.filter(|name| contains(followed, name)));
    }
}

impl Group {
    /// The member that is marked to be written to.
    fn write_index(&self) -> Option<&str> {
        let marked = |(_, member): &(&String, &Member)| member.is_write_index == Some(true);
        self.members
            .iter()
            .find(marked)
            .map(|(index, _)| index.as_str())
    }

    fn covered(&self, scope: Scope) -> Box<dyn Iterator<Item = &str> + '_> {
        match scope {
            Scope::Concrete => Box::new(std::iter::empty()),
            Scope::Members => Box::new(self.members.keys().map(String::as_str)),
            Scope::WriteIndex => match self.write_index() {
                Some(marked) => Box::new(std::iter::once(marked)),
                None => Box::new(self.members.keys().map(String::as_str)),
            },
        }
    }

    /// Whether any member is followed, and those that are not.
    fn parted(&self, followed: &Followed) -> (bool, Vec<&str>) {
        let others: Vec<&str> = self
            .members
            .keys()
            .map(String::as_str)
            .filter(|name| !contains(followed, name))
            .collect();
        (others.len() < self.members.len(), others)
    }

    fn narrows(&self) -> bool {
        self.members.values().any(|member| member.narrows)
    }
}

fn contains(followed: &Followed, name: &str) -> bool {
    followed.contains(&IndexName::from(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names() -> Names {
        let state = json!({"metadata": {
            "indices": {
                "f1": {}, "f2": {}, "logs-a": {}, "own": {}, "own2": {}, ".ds-d-1": {},
                "hid": {"aliases": ["hidden-by"], "settings": {"index": {"hidden": "true"}}},
                "secret": {"aliases": ["seen"], "settings": {"index": {"hidden": "true"}}},
            },
            "data_stream": {"data_stream": {"d": {"indices": [
                {"index_name": ".ds-d-1"}, {"index_name": "f2"},
            ]}}},
        }});
        let aliases = json!({
            "f1": {"aliases": {
                "one": {}, "both": {}, "led": {}, "mixed": {}, "cut": {"filter": {}}
            }},
            "f2": {"aliases": {"both": {}}},
            "own": {"aliases": {"led": {"is_write_index": true}, "mixed": {}, "cut": {}}},
        });
        let state = serde_json::from_value(state).unwrap();
        Names::new(state, Some(serde_json::from_value(aliases).unwrap()))
    }

    fn followed() -> Followed {
        ["f1", "f2", "hid", "logs-a"]
            .into_iter()
            .map(IndexName::from)
            .collect()
    }

    fn covered(expression: &str, scope: Scope) -> Vec<String> {
        names()
            .cover(expression, scope, &followed(), false)
            .followed
    }

    #[test]
    fn expressions_cover_what_the_server_would_resolve() {
        use Scope::{Concrete, Members, WriteIndex};
        let all = ["f1", "f2", "hid", "logs-a"].as_slice();
        for (expression, scope, expected) in [
            ("f1", WriteIndex, ["f1"].as_slice()),
            ("own", WriteIndex, &[]),
            ("one", WriteIndex, &["f1"]),
            ("both", WriteIndex, &["f1", "f2"]),
            ("led", WriteIndex, &[]),
            ("d", WriteIndex, &["f2"]),
            ("d", Members, &["f2"]),
            ("led", Members, &["f1"]),
            ("both", Members, &["f1", "f2"]),
            ("one", Concrete, &[]),
            ("_all", Concrete, all),
            ("*", Members, all),
            ("", Members, all),
            (",", Members, all),
            (",,own", Members, all),
            ("f*", Concrete, &["f1", "f2"]),
            ("f*,-f1", Concrete, &["f2"]),
            ("*,-f*", Concrete, &["hid", "logs-a"]),
            // A hidden or closed index is named, but not found by the pattern.
            ("f1,*,-*", Members, &["f1", "hid"]),
            ("on*,-f*", Members, &[]),
            ("on*,-f1", Members, &[]),
            ("one,x*,-f1", Members, &["f1"]),
            ("-f1", Concrete, &[]),
            ("own, f2", Members, &["f2"]),
            ("on*", Members, &["f1"]),
            ("on*", Concrete, &[]),
            ("<f1>", Concrete, &["f1"]),
            ("<f{now{'1'}}>", Concrete, &["f1", "f2"]),
            ("<o{now{'ne'}}>", Members, &["f1"]),
        ] {
            assert_eq!(
                covered(expression, scope),
                expected,
                "{expression} {scope:?}"
            );
        }
    }

    #[test]
    fn the_rest_never_covers_more_than_was_asked() {
        let text = |text: &str| Rest::Expression(text.to_owned());
        for (expression, expected) in [
            ("own", Rest::AsWritten),
            ("f1", Rest::Nothing),
            ("f1,f2,both", Rest::Nothing),
            ("f*", Rest::Nothing),
            ("own,f1", text("own")),
            ("o*,f1", text("o*,-f1")),
            ("o*,-own2,logs-a", text("o*,-own2,-f1,-logs-a")),
            ("mixed", text("own")),
            ("cut", Rest::Unsayable),
            ("cut,own2", Rest::Unsayable),
            ("*,-logs-a", text("*,-logs-a,-f1,-f2,-hid")),
            ("_all", text("*,-f1,-f2,-hid,-logs-a,-secret")),
            ("", text("*,-f1,-f2,-hid,-logs-a,-secret")),
            ("own,<f{now{'1'}}>", Rest::Unsayable),
        ] {
            let coverage = names().cover(expression, Scope::Members, &followed(), false);
            assert_eq!(coverage.rest, expected, "{expression}");
        }
        let hidden_too = names().cover("_all", Scope::Members, &followed(), true);
        assert_eq!(hidden_too.rest, text("*,-f1,-f2,-hid,-logs-a"));
    }

    #[test]
    fn what_replication_knows_counts_though_the_cluster_did_not_say_it() {
        let known = HashMap::from([("new".to_owned(), vec![IndexName::from("f1")])]);
        let names = names().with(&known);
        let target = |name: &str| {
            names
                .write_target(name, &followed())
                .map(IndexName::to_string)
        };
        assert_eq!(target("new").as_deref(), Some("f1"));
        assert_eq!(target("led"), None);
        let patterns = |list: &[&str]| {
            list.iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        let having = |list: &[&str]| names.having_alias(&patterns(list), &followed());
        assert_eq!(having(&["ne*"]), BTreeSet::from(["f1".to_owned()]));
        assert!(having(&["live"]).is_empty());
        assert_eq!(having(&[]).len(), 3);
    }

    #[test]
    fn without_the_right_to_see_aliases_their_names_suffice() {
        let state = json!({"metadata": {"indices": {
            "f1": {"aliases": ["one", "two"]}, "own": {"aliases": ["two"]},
        }}});
        let names = Names::new(serde_json::from_value(state).unwrap(), None);
        let followed = followed();
        assert!(names.write_target("one", &followed).is_some());
        assert!(names.write_target("two", &followed).is_some());
        let coverage = names.cover("two", Scope::Members, &followed, false);
        assert_eq!(coverage.rest, Rest::Unsayable);
    }
}
