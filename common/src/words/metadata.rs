//! An index's metadata as it travels from the leader to the follower.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::words::types::{IndexName, IndexUuid};

/// What a follower needs to make and keep an index like the leader's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IndexMetadata {
    pub index: IndexName,
    pub uuid: IndexUuid,
    pub number_of_shards: u32,
    /// The number of hash slots from which a document's shard follows; a split or shrunk index
    /// keeps its source's.
    pub routing_num_shards: u32,
    pub versions: MetadataVersions,
    /// The mapping as `GET /<index>` shows it.
    pub mappings: Value,
    /// The explicit index settings, flat (`index.number_of_replicas`), values as strings or lists
    /// of strings.
    pub settings: Map<String, Value>,
    /// Alias name to its definition (filter, routing, flags).
    pub aliases: Map<String, Value>,
}

/// The leader's own version counters; each only rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataVersions {
    pub mapping: i64,
    pub settings: i64,
    pub aliases: i64,
}

impl MetadataVersions {
    /// Whether anything here is newer than in `other`.
    pub fn newer_than(self, other: Self) -> bool {
        self.mapping > other.mapping
            || self.settings > other.settings
            || self.aliases > other.aliases
    }

    /// The newest of each.
    pub fn union(self, other: Self) -> Self {
        Self {
            mapping: self.mapping.max(other.mapping),
            settings: self.settings.max(other.settings),
            aliases: self.aliases.max(other.aliases),
        }
    }
}

/// The pipeline that searches on an index go through unless they name another one.
pub const SEARCH_PIPELINE: &str = "index.search.default_pipeline";

/// Settings that never travel: identity, placement, blocks, pipelines, and what other parts of the
/// leader cluster keep there. `docs/operations.md` has the reason for each. A key ending in `.`
/// stands for all below it.
const NEVER_COPIED: &[&str] = &[
    "index.uuid",
    "index.creation_date",
    "index.version.",
    "index.provided_name",
    "index.history.",
    "index.routing.allocation.",
    "index.routing.rebalance.",
    "index.blocks.",
    "index.allocation.existing_shards_allocator",
    "index.number_of_search_replicas",
    "index.number_of_search_only_replicas",
    "index.tiering.",
    "index.default_pipeline",
    "index.final_pipeline",
    SEARCH_PIPELINE,
    "index.plugins.index_state_management.",
    "index.opendistro.",
    "index.lifecycle.",
    "archived.",
    "index.remote_store.",
    "index.soft_deletes.retention_lease.period",
    "index.write.wait_for_active_shards",
    "index.resize.",
    "index.shrink.",
    "index.plugins.replication.",
    "index.replication.",
    "index.translog.",
    "index.ingestion_source.",
    "index.store.snapshot.",
    "index.verified_before_close",
];

/// The leader's settings that a follower takes over.
pub fn copied_settings(leader: &Map<String, Value>) -> Map<String, Value> {
    let never = |key: &str| {
        NEVER_COPIED.iter().any(|never| {
            if never.ends_with('.') {
                key.starts_with(never)
            } else {
                key == *never
            }
        })
    };
    leader
        .iter()
        .filter(|(key, _)| !never(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The leader's aliases as a follower takes them over: a follower is no write index.
pub fn copied_aliases(leader: &Map<String, Value>) -> Map<String, Value> {
    let mut aliases = leader.clone();
    for definition in aliases.values_mut() {
        if let Some(definition) = definition.as_object_mut() {
            definition.remove("is_write_index");
        }
    }
    aliases
}

/// The leader's aliases for which the index is the one that is written to.
pub fn write_aliases(leader: &Map<String, Value>) -> Map<String, Value> {
    let writing = leader
        .iter()
        .filter(|(_, definition)| definition["is_write_index"] == true);
    writing
        .map(|(alias, definition)| (alias.clone(), definition.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn identity_placement_and_pipelines_stay_behind() {
        let leader = json!({
            "index.uuid": "x", "index.version.created": "1", "index.default_pipeline": "p", "index.blocks.write": "true",
            "index.number_of_shards": "2", "index.analysis.analyzer.a.type": "custom", "index.version_map": "kept",
            "index.search.default_pipeline": "p", "index.search.slowlog.level": "info",
            "index.plugins.index_state_management.policy_id": "p", "index.knn": "true",
            "index.opendistro.index_state_management.rollover_alias": "a",
            "index.routing.allocation.include._tier_preference": "data_hot",
            "archived.index.lifecycle.name": "p", "index.tiering.state": "HOT",
        });
        let copied = copied_settings(leader.as_object().unwrap());
        let keys: Vec<_> = copied.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "index.number_of_shards",
                "index.analysis.analyzer.a.type",
                "index.version_map",
                "index.search.slowlog.level",
                "index.knn"
            ]
        );
    }

    #[test]
    fn an_alias_keeps_its_filter_but_not_its_write_flag() {
        let leader = json!({"a": {"filter": {"term": {"x": 1}}, "is_write_index": true}});
        assert_eq!(
            Value::Object(copied_aliases(leader.as_object().unwrap())),
            json!({"a": {"filter": {"term": {"x": 1}}}})
        );
        assert_eq!(
            Value::Object(write_aliases(leader.as_object().unwrap())),
            leader
        );
        assert!(write_aliases(json!({"a": {}}).as_object().unwrap()).is_empty());
    }
}
