//! What an expression has covered so far.

use std::collections::{BTreeSet, HashMap};

use shardline_common::wildcard::wildcard_match;

/// Followed indices that an expression has covered so far, by what can exclude them again.
///
/// A pattern excludes what a wildcard finds. So it does not exclude an index that was named, which
/// may be closed, nor a hidden one that was found by its alias.
#[derive(Default)]
pub(super) struct Found<'a> {
    /// By a wildcard on their names.
    pub(super) matched: BTreeSet<&'a str>,
    /// By a wildcard on the name of an alias.
    pub(super) by_alias: BTreeSet<&'a str>,
    pub(super) named: BTreeSet<&'a str>,
    /// By an alias that was named, which OpenSearch follows only after the exclusions.
    pub(super) fixed: BTreeSet<&'a str>,
}

impl<'a> Found<'a> {
    pub(super) fn exclude(&mut self, pattern: &str, is_visible: &HashMap<String, bool>) {
        if !pattern.contains('*') {
            self.matched.remove(pattern);
            self.by_alias.remove(pattern);
            self.named.remove(pattern);
            return;
        }
        let finds = |name: &str| {
            let is_dotted = name.starts_with('.') && !pattern.starts_with('.');
            !is_dotted && wildcard_match(pattern, name)
        };
        self.matched.retain(|name| !finds(name));
        let is_visible = |name: &str| is_visible.get(name).copied().unwrap_or(false);
        self.by_alias
            .retain(|name| !(finds(name) && is_visible(name)));
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &'a str> {
        let all: BTreeSet<&str> = [&self.matched, &self.by_alias, &self.named, &self.fixed]
            .into_iter()
            .flatten()
            .copied()
            .collect();
        all.into_iter()
    }
}
