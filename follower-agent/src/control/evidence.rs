//! What has become of a leader index, by what the leader's agents have written. That its entry in
//! the catalogue is missing, or cannot be read, says nothing: only a record says that it was
//! deleted.

use shardline_common::control::{CatalogEntry, DeletedIndex, Subscription};
use shardline_common::kafka::ControlTopic;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LeaderIndex {
    There(CatalogEntry),
    Deleted,
    /// Nobody says; in words what is missing.
    Unknown(&'static str),
}

/// Of the leader index of a subscription.
pub(crate) fn leader_index(table: &ControlTopic, subscription: &Subscription) -> LeaderIndex {
    let (cluster, uuid) = (&subscription.leader_cluster, &subscription.leader_uuid);
    let key = CatalogEntry::key_of(cluster, &subscription.leader_index);
    let found = Found {
        has_entry: table.has(&key),
        entry: table.get::<CatalogEntry>(&key),
        was_removed: table.was_removed(&key),
        is_deleted: table.has(&DeletedIndex::key_of(cluster, uuid)),
    };
    found.judge(subscription)
}

struct Found {
    /// In whatever form.
    has_entry: bool,
    entry: Option<CatalogEntry>,
    /// By a record: earlier builds write no other.
    was_removed: bool,
    is_deleted: bool,
}

impl Found {
    fn judge(self, subscription: &Subscription) -> LeaderIndex {
        match self.entry {
            Some(entry) if entry.uuid == subscription.leader_uuid => LeaderIndex::There(entry),
            _ if self.is_deleted => LeaderIndex::Deleted,
            // Another index has the name.
            Some(_) => LeaderIndex::Deleted,
            None if self.has_entry => LeaderIndex::Unknown(
                "the catalogue's entry of the leader index cannot be read by this build",
            ),
            None if self.was_removed => LeaderIndex::Deleted,
            None => LeaderIndex::Unknown(
                "the catalogue does not have the leader index, and no record says that it was \
                 deleted",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shardline_common::control::SubscriptionState;
    use shardline_common::types::Epoch;

    use super::*;

    fn subscription() -> Subscription {
        Subscription {
            id: "s".into(),
            follower_cluster: "fc".into(),
            follower_index: "f".into(),
            leader_alias: "a".into(),
            leader_cluster: "lc".into(),
            leader_index: "l".into(),
            leader_uuid: "u".into(),
            state: SubscriptionState::Running,
            reason: String::new(),
            epoch: Epoch(0),
            settings: serde_json::Map::new(),
            bootstrap: None,
            is_partial: false,
            repository: None,
            copy: None,
            roles: None,
        }
    }

    fn entry(uuid: &str) -> CatalogEntry {
        let entry = json!({
            "cluster_uuid": "lc", "index": "l", "uuid": uuid, "open": true, "number_of_shards": 1,
            "aliases": [], "refusal": null,
        });
        serde_json::from_value(entry).unwrap()
    }

    #[test]
    fn only_a_record_says_that_an_index_was_deleted() {
        let judge = |entry: Option<CatalogEntry>, has_entry, was_removed, is_deleted| {
            let found = Found {
                has_entry,
                entry,
                was_removed,
                is_deleted,
            };
            found.judge(&subscription())
        };
        let is_unknown = |found| matches!(found, LeaderIndex::Unknown(_));
        assert!(is_unknown(judge(None, false, false, false)));
        assert!(is_unknown(judge(None, true, false, false)));
        assert_eq!(judge(None, false, true, false), LeaderIndex::Deleted);
        assert_eq!(judge(None, false, false, true), LeaderIndex::Deleted);
        let other = Some(entry("v"));
        assert_eq!(judge(other, true, false, false), LeaderIndex::Deleted);
        // It was announced again, such as after its cluster was put back.
        let there = judge(Some(entry("u")), true, false, true);
        assert_eq!(there, LeaderIndex::There(entry("u")));
    }

    /// What the build before makes of the records: an index that was deleted is in its catalogue no
    /// more, and it does not know the kind that says so.
    #[test]
    fn a_deletion_is_no_entry_of_the_catalogue() {
        let deleted = DeletedIndex {
            cluster_uuid: "lc".into(),
            index: "l".into(),
            uuid: "u".into(),
            deleted: true,
            deleted_ms: 7,
        };
        let json = serde_json::to_value(&deleted).unwrap();
        assert!(serde_json::from_value::<CatalogEntry>(json).is_err());
        let key = DeletedIndex::key_of(&"lc".into(), &"u".into());
        assert!(!key.starts_with("catalog/") && !key.starts_with("capture/"));
    }
}
