//! Which role may do what: the names of the plugin's actions, and of indices.

use std::collections::{BTreeMap, BTreeSet};

use shardline_common::wildcard::wildcard_match;

/// What a role may do. Both are names or patterns with `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub operations: Vec<String>,
    pub indices: Vec<String>,
}

/// How it was found that somebody may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// By a role that comes with the plugin.
    Predefined,
    /// By a role of the configuration, which may be coarser than the cluster's: the cluster is
    /// asked besides.
    Configured,
}

/// Roles and what they may do: those that come with the plugin, and configured ones.
#[derive(Clone, Debug)]
pub(crate) struct Grants(BTreeMap<String, (Found, Grant)>);

/// The plugin's role for whoever may do everything.
const ALL_ACCESS: &str = "all_access";
/// The plugin's role for replications, and what its definition allows.
const FOLLOWER_ROLE: &str = "cross_cluster_replication_follower_full_access";
const OF_THE_FOLLOWER_ROLE: [&str; 8] = [
    "indices:admin/plugins/replication/index/pause",
    "indices:admin/plugins/replication/index/resume",
    "indices:admin/plugins/replication/index/setup/validate",
    "indices:admin/plugins/replication/index/start",
    "indices:admin/plugins/replication/index/status_check",
    "indices:admin/plugins/replication/index/stop",
    "indices:admin/plugins/replication/index/update",
    "cluster:admin/plugins/replication/autofollow/update",
];

impl Grants {
    /// `configured` win over what comes with the plugin.
    pub(crate) fn new(configured: BTreeMap<String, Grant>) -> Self {
        let everywhere = |operations: &[&str]| Grant {
            operations: operations.iter().map(|&name| name.to_owned()).collect(),
            indices: vec!["*".to_owned()],
        };
        let mut grants = BTreeMap::from([
            (
                ALL_ACCESS.to_owned(),
                (Found::Predefined, everywhere(&["*"])),
            ),
            (
                FOLLOWER_ROLE.to_owned(),
                (Found::Predefined, everywhere(&OF_THE_FOLLOWER_ROLE)),
            ),
        ]);
        for (role, grant) in configured {
            grants.insert(role, (Found::Configured, grant));
        }
        Self(grants)
    }

    /// Whether one of the roles allows an action on an index; without one, on all of them.
    pub(super) fn find(
        &self,
        roles: &BTreeSet<String>,
        action: &str,
        index: Option<&str>,
    ) -> Option<Found> {
        let found: Vec<Found> = roles
            .iter()
            .filter_map(|role| self.0.get(role))
            .filter(|(_, grant)| grant.allows(action, index))
            .map(|(found, _)| *found)
            .collect();
        if found.contains(&Found::Predefined) {
            return Some(Found::Predefined);
        }
        found.first().copied()
    }
}

impl Grant {
    fn allows(&self, action: &str, index: Option<&str>) -> bool {
        let covers = |pattern: &String| match index {
            Some(index) => wildcard_match(pattern, index),
            None => pattern == "*",
        };
        self.operations
            .iter()
            .any(|pattern| wildcard_match(pattern, action))
            && self.indices.iter().any(covers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: &str = "indices:admin/plugins/replication/index/pause";
    const STATS: &str = "cluster:admin/plugins/replication/follower/stats";

    fn roles(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn the_plugins_own_roles_mean_what_they_mean_there() {
        let grants = Grants::new(BTreeMap::new());
        let may = |role: &str, action| grants.find(&roles(&[role]), action, Some("books"));
        assert_eq!(may(ALL_ACCESS, PAUSE), Some(Found::Predefined));
        assert_eq!(may(FOLLOWER_ROLE, PAUSE), Some(Found::Predefined));
        assert_eq!(may(FOLLOWER_ROLE, STATS), None);
        assert_eq!(may("readall", PAUSE), None);
        assert_eq!(
            may("cross_cluster_replication_leader_full_access", PAUSE),
            None
        );
    }

    #[test]
    fn a_configured_role_covers_its_indices_and_nothing_of_the_whole_cluster() {
        let grant = Grant {
            operations: vec!["indices:admin/plugins/replication/*".to_owned()],
            indices: vec!["logs-*".to_owned()],
        };
        let grants = Grants::new(BTreeMap::from([("ops".to_owned(), grant)]));
        let ops = roles(&["ops", "unknown"]);
        assert_eq!(
            grants.find(&ops, PAUSE, Some("logs-1")),
            Some(Found::Configured)
        );
        assert_eq!(grants.find(&ops, PAUSE, Some("books")), None);
        assert_eq!(grants.find(&ops, PAUSE, None), None);
        let both = roles(&["ops", ALL_ACCESS]);
        assert_eq!(
            grants.find(&both, PAUSE, Some("logs-1")),
            Some(Found::Predefined)
        );
    }
}
