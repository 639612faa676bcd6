//! Roles under which an index is followed, and what the leader says of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::CatalogEntry;
use crate::words::wildcard::wildcard_match;

const VALIDATE: &str = "indices:admin/plugins/replication/index/setup/validate";

/// Kept with whatever goes on after the call that began it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationRoles {
    /// Who began it, as the follower cluster knows them; `None` where nobody is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    pub leader_cluster_role: String,
    pub follower_cluster_role: String,
}

/// The leader's roles, and which users have each: names or patterns with `*`.
pub type LeaderRoles = BTreeMap<String, Vec<String>>;

impl CatalogEntry {
    /// Why the leader does not let the index be followed under these roles, in the security
    /// plugin's words.
    pub fn denial(&self, roles: Option<&ReplicationRoles>) -> Option<String> {
        let may = self.roles.as_ref()?;
        let Some(roles) = roles else {
            return Some("Leader roles are mandatory for replication".to_owned());
        };
        let role = &roles.leader_cluster_role;
        let Some(users) = may.get(role) else {
            return Some(format!(
                "no permissions for [{VALIDATE}] and roles [{role}]"
            ));
        };
        let user = roles.user.as_deref().unwrap_or_default();
        let has_role = users.iter().any(|pattern| wildcard_match(pattern, user));
        (!has_role).then(|| format!("No mapping for [{user}] on roles [{role}]"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(roles: serde_json::Value) -> CatalogEntry {
        let entry = serde_json::json!({
            "cluster_uuid": "lc", "index": "l", "uuid": "u", "open": true, "number_of_shards": 1,
            "aliases": [], "refusal": null, "roles": roles,
        });
        serde_json::from_value(entry).unwrap()
    }

    fn roles(user: Option<&str>, leader: &str) -> ReplicationRoles {
        ReplicationRoles {
            user: user.map(str::to_owned),
            leader_cluster_role: leader.to_owned(),
            follower_cluster_role: "f".to_owned(),
        }
    }

    #[test]
    fn a_leader_without_a_table_denies_nothing() {
        let entry = entry(serde_json::Value::Null);
        assert_eq!(entry.denial(None), None);
        assert_eq!(entry.denial(Some(&roles(None, "any"))), None);
    }

    #[test]
    fn a_role_counts_for_those_who_have_it() {
        let entry = entry(serde_json::json!({"books": ["anna", "svc-*"], "open": ["*"]}));
        let denial = |user, role| entry.denial(Some(&roles(user, role)));
        assert_eq!(denial(Some("anna"), "books"), None);
        assert_eq!(denial(Some("svc-1"), "books"), None);
        assert!(
            denial(Some("otto"), "books")
                .unwrap()
                .contains("No mapping for [otto]")
        );
        assert!(denial(None, "books").is_some());
        assert_eq!(denial(None, "open"), None);
        assert!(denial(Some("anna"), "logs").unwrap().contains(VALIDATE));
        assert!(entry.denial(None).unwrap().contains("mandatory"));
    }
}
