//! What a request names, held against what is followed.

use std::sync::Arc;

use shardline_common::types::IndexName;

use super::names::{Coverage, Followed, Names};
use super::routes::Scope;

/// What is followed and what names stand for, as of one request.
#[derive(Clone)]
pub(super) struct Judge {
    pub followed: Arc<Followed>,
    pub names: Arc<Names>,
}

impl Judge {
    /// The followed index that a document for this index or alias would be written to.
    pub(super) fn blocks_document(&self, target: &str) -> Option<String> {
        let is_plain = !target.contains(['*', ',', '<', ' ', '-']);
        if is_plain {
            let found = self.names.write_target(target, &self.followed);
            return found.map(IndexName::to_string);
        }
        let named = self.followed.get(&IndexName::from(target));
        named.map(IndexName::to_string).or_else(|| {
            let coverage = self
                .names
                .cover(target, Scope::WriteIndex, &self.followed, false);
            coverage.followed.into_iter().next()
        })
    }

    pub(super) fn cover(&self, expression: &str, scope: Scope) -> Coverage {
        self.names.cover(expression, scope, &self.followed, false)
    }
}

#[cfg(test)]
impl Judge {
    /// With these followed and no aliases.
    pub(super) fn of(followed: &[&str]) -> Self {
        Self {
            followed: Arc::new(followed.iter().map(|name| IndexName::from(*name)).collect()),
            names: Arc::default(),
        }
    }
}
