//! The follower index itself: made from the leader's metadata, and kept like it.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use shardline_common::control::Leniency;
use shardline_common::metadata::{
    IndexMetadata, MetadataVersions, SEARCH_PIPELINE, copied_aliases, copied_settings,
};
use shardline_common::opensearch::{OpenSearch, OpenSearchError, StateOf, path_segment};
use shardline_common::types::{IndexName, IndexUuid};
use tracing::info;

use super::limits::{is_limit, is_limit_setting, raised};

/// Settings that hold from an index's creation on.
const FINAL_SETTINGS: &[&str] = &[
    "index.number_of_shards",
    "index.number_of_routing_shards",
    "index.routing_partition_size",
    "index.soft_deletes.enabled",
    "index.sort.",
    "index.uuid",
];

/// Settings that decide which document is in which shard, and so are the leader's on every
/// follower.
const LEADERS_SETTINGS: &[&str] = &[
    "index.number_of_shards",
    "index.number_of_routing_shards",
    "index.routing_partition_size",
    "index.uuid",
];

/// The first of the settings with which a follower index could not be made.
pub(crate) fn not_to_override(settings: &Map<String, Value>) -> Option<&str> {
    settings
        .keys()
        .map(String::as_str)
        .find(|key| LEADERS_SETTINGS.contains(key))
}

/// The first of the settings that only an index that is made anew could have.
pub(crate) fn not_to_change<'a>(
    earlier: &Map<String, Value>,
    settings: &'a Map<String, Value>,
) -> Option<&'a str> {
    settings
        .iter()
        .find(|(key, value)| is_final(key) && earlier.get(*key) != Some(value))
        .map(|(key, _)| key.as_str())
}

/// A copy that is being loaded into the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexLoad {
    /// Into an empty index.
    Fresh,
    /// Over an index that users read: they see it as it was until the load is complete.
    InPlace,
    /// As files from a snapshot repository.
    Restore,
}

impl IndexLoad {
    /// Of documents, through Kafka.
    pub fn of_documents(in_place: bool) -> Self {
        if in_place { Self::InPlace } else { Self::Fresh }
    }

    /// What the index has meanwhile.
    pub fn settings(self) -> BTreeMap<&'static str, &'static str> {
        let settings: &[_] = match self {
            // Without any refresh, the one at the end would write everything that is buffered, with
            // one thread.
            Self::Fresh => &[
                ("index.refresh_interval", "5s"),
                ("index.number_of_replicas", "0"),
            ],
            Self::InPlace => &[("index.refresh_interval", "-1")],
            Self::Restore => &[("index.number_of_replicas", "0")],
        };
        settings.iter().copied().collect()
    }
}

/// How long a follower index remembers deletions (a minute by default): longer than a write of an
/// agent that has lost the shard can still be under way, since below a forgotten deletion it would
/// bring the document back.
const GC_DELETES: (&str, &str) = ("index.gc_deletes", "5m");

/// What a follower index acknowledges is on its disk, unless a user overrides it: its replication
/// counts on that.
const DURABILITY: (&str, &str) = ("index.translog.durability", "request");

const REPLICAS: &str = "index.number_of_replicas";

/// Whether the cluster decides on the number of replicas, which is not the leader's then.
fn expands_by_itself(settings: &Map<String, Value>) -> bool {
    settings
        .get("index.auto_expand_replicas")
        .is_some_and(|value| value != "false" && *value != json!(false) && !value.is_null())
}

/// An index of the follower cluster.
pub struct Found {
    pub uuid: IndexUuid,
    pub is_closed: bool,
    pub number_of_shards: u32,
    /// The index's own.
    pub versions: MetadataVersions,
    pub settings: Map<String, Value>,
}

pub struct IndexAdmin {
    pub opensearch: OpenSearch,
    pub name: IndexName,
    /// The user's settings, which win over the leader's.
    pub overrides: Map<String, Value>,
    load: Mutex<Option<IndexLoad>>,
}

impl IndexAdmin {
    pub fn new(opensearch: OpenSearch, name: IndexName, overrides: Map<String, Value>) -> Self {
        Self {
            opensearch,
            name,
            overrides,
            load: Mutex::new(None),
        }
    }

    pub async fn exists(&self) -> Result<bool, OpenSearchError> {
        Ok(self.found().await?.is_some())
    }

    /// The index of this name, if there is one.
    pub async fn found(&self) -> Result<Option<Found>, OpenSearchError> {
        let fields = "metadata.indices.*.state,metadata.indices.*.settings,\
                      metadata.indices.*.mapping_version,metadata.indices.*.settings_version,\
                      metadata.indices.*.aliases_version";
        let state: Value = self
            .opensearch
            .cluster_state(
                StateOf::Manager,
                &format!("metadata/{}", self.path()),
                fields,
            )
            .await?;
        let found = state["metadata"]["indices"]
            .as_object()
            .and_then(|indices| indices.values().next());
        let version = |index: &Value, of: &str| index[of].as_i64().unwrap_or_default();
        Ok(found.map(|index| Found {
            uuid: index["settings"]["index.uuid"]
                .as_str()
                .unwrap_or_default()
                .into(),
            is_closed: index["state"] == "close",
            number_of_shards: index["settings"]["index.number_of_shards"]
                .as_str()
                .and_then(|number| number.parse().ok())
                .unwrap_or_default(),
            versions: MetadataVersions {
                mapping: version(index, "mapping_version"),
                settings: version(index, "settings_version"),
                aliases: version(index, "aliases_version"),
            },
            settings: index["settings"].as_object().cloned().unwrap_or_default(),
        }))
    }

    pub async fn open(&self) -> Result<(), OpenSearchError> {
        let _: Value = self
            .opensearch
            .post(&format!("/{}/_open", self.path()), &json!({}))
            .await?;
        Ok(())
    }

    /// What the index is made with.
    fn first_settings(&self, metadata: &IndexMetadata) -> Map<String, Value> {
        let mut settings = self.wanted_settings(metadata);
        settings
            .entry("index.number_of_routing_shards")
            .or_insert_with(|| Value::String(metadata.routing_num_shards.max(1).to_string()));
        // One of a template would change documents that the leader's pipelines have been through.
        settings
            .entry("index.final_pipeline")
            .or_insert_with(|| json!("_none"));
        settings
    }

    /// Whether an index that was found can only be one that was made here: it has all settings that
    /// it is made with, among them some that nobody else gives.
    pub fn is_as_made(&self, found: &Found, metadata: &IndexMetadata) -> bool {
        let first = self.first_settings(metadata);
        let others = settings_changes(&found.settings, &first);
        let is_set =
            |key: &String| is_limit_setting(key) || others.get(key).is_none_or(Value::is_null);
        found.number_of_shards == metadata.number_of_shards
            && !found.is_closed
            && first.keys().all(is_set)
    }

    /// Makes the index with the leader's mapping and settings, and without aliases.
    pub(super) async fn create(&self, metadata: &IndexMetadata) -> Result<(), OpenSearchError> {
        let mut settings = self.first_settings(metadata);
        let mut body = json!({"settings": settings, "mappings": metadata.mappings});
        let path = format!("/{}?wait_for_active_shards=1&timeout=30s", self.path());
        match self.opensearch.put::<Value>(&path, &body).await {
            Err(error) if is_limit(&error) => {
                settings.extend(raised(&self.overrides));
                body["settings"] = Value::Object(settings);
                self.opensearch.put::<Value>(&path, &body).await?;
            }
            made => drop(made?),
        }
        info!(
            index = %self.name, leader = %metadata.index, shards = metadata.number_of_shards,
            "follower index made"
        );
        Ok(())
    }

    /// Whether it has any documents; all that was written is visible then.
    pub async fn is_empty(&self) -> Result<bool, OpenSearchError> {
        self.refresh().await?;
        // A user may have given the index a search pipeline.
        let path = format!(
            "/{}/_search?preference=_primary&size=0&track_total_hits=true&search_pipeline=_none",
            self.path()
        );
        let counted: Value = self.opensearch.get(&path).await?;
        let shards = &counted["_shards"];
        // Those that are away are left out of the count.
        if shards["successful"] != shards["total"] {
            return Err(OpenSearchError::Incomplete {
                path,
                shards: shards.to_string(),
            });
        }
        Ok(counted["hits"]["total"]["value"] == 0)
    }

    pub async fn refresh(&self) -> Result<(), OpenSearchError> {
        let _: Value = self
            .opensearch
            .post(&format!("/{}/_refresh", self.path()), &json!({}))
            .await?;
        Ok(())
    }

    pub async fn delete(&self) -> Result<(), OpenSearchError> {
        let deleted: Result<Value, _> = self
            .opensearch
            .delete(&format!("/{}", self.path()), None)
            .await;
        match deleted {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// From now on the index has, or is made with, the settings for a load.
    pub fn loading(&self, load: IndexLoad) {
        *self.load.lock() = Some(load);
    }

    /// Gives an index that exists the settings for a load.
    pub async fn begin_load(&self, load: IndexLoad) -> Result<(), OpenSearchError> {
        self.loading(load);
        let _: Value = self
            .opensearch
            .put(
                &format!("/{}/_settings", self.path()),
                &json!(load.settings()),
            )
            .await?;
        Ok(())
    }

    /// Makes the index's documents visible and durable, and gives it the settings that it is to
    /// have after a load.
    pub async fn finish_load(&self, metadata: &IndexMetadata) -> Result<(), OpenSearchError> {
        self.refresh().await?;
        *self.load.lock() = None;
        self.sync_settings(metadata).await
    }

    /// Brings over what is newer in `metadata` than in `applied`, except for aliases. Where the
    /// index is lenient, it stays so.
    pub async fn apply(
        &self,
        metadata: &IndexMetadata,
        applied: MetadataVersions,
        leniency: Option<&Leniency>,
    ) -> Result<(), OpenSearchError> {
        // Settings first: a mapping may need an analyser.
        if metadata.versions.settings > applied.settings {
            self.sync_settings(metadata).await?;
        }
        if metadata.versions.mapping > applied.mapping {
            match leniency {
                Some(leniency) => self.relax(leniency, &metadata.settings).await?,
                None => {
                    self.put_mapping(&metadata.mappings, &metadata.settings)
                        .await?
                }
            }
        }
        Ok(())
    }

    pub async fn sync_settings(&self, metadata: &IndexMetadata) -> Result<(), OpenSearchError> {
        self.replace_overrides(&Map::new(), metadata).await
    }

    /// Gives the index its settings, and takes back what only these earlier overrides gave it.
    pub async fn replace_overrides(
        &self,
        earlier: &Map<String, Value>,
        metadata: &IndexMetadata,
    ) -> Result<(), OpenSearchError> {
        let path = format!("/{}/_settings?flat_settings=true", self.path());
        let answer: Map<String, Value> = self.opensearch.get(&path).await?;
        let current = answer
            .values()
            .next()
            .map(|index| &index["settings"])
            .unwrap_or(&Value::Null);
        // Only closed indices have this setting.
        if current["index.verified_before_close"] == "true" {
            // Such as by an agent that was ended before it could open it again.
            self.open().await?;
        }
        let current = kept_settings(
            current.as_object().unwrap_or(&Map::new()),
            &[&self.overrides, earlier],
        );
        let changes = settings_changes(&current, &self.wanted_settings(metadata));
        if changes.is_empty() {
            return Ok(());
        }
        info!(
            index = %self.name, changes = ?changes.keys().collect::<Vec<_>>(),
            "settings follow the leader's"
        );
        let body = Value::Object(changes);
        let put = || self.opensearch.put::<Value>(&path, &body);
        match put().await {
            // Such as an analyser's: these change on a closed index only, as they did on the
            // leader.
            Err(OpenSearchError::Refused {
                status: 400,
                reason,
                ..
            }) if reason.contains("non dynamic settings") => {
                let _: Value = self
                    .opensearch
                    .post(&format!("/{}/_close", self.path()), &json!({}))
                    .await?;
                let outcome = put().await;
                self.open().await?;
                outcome.map(drop)
            }
            outcome => outcome.map(drop),
        }
    }

    /// How the index's metadata differs from the leader's, in words; only what is brought over
    /// counts.
    pub async fn differences(
        &self,
        metadata: &IndexMetadata,
    ) -> Result<Vec<String>, OpenSearchError> {
        let answer: Map<String, Value> = self
            .opensearch
            .get(&format!("/{}?flat_settings=true", self.path()))
            .await?;
        let index = answer.values().next().cloned().unwrap_or_default();
        let part = |name: &str| index[name].as_object().cloned().unwrap_or_default();
        let current = kept_settings(&part("settings"), &[&self.overrides]);
        let settings = settings_changes(&current, &self.wanted_settings(metadata));
        let setting = |(key, value): (String, Value)| match value {
            Value::Null => format!("setting {key}: the leader does not have it"),
            value => format!("setting {key}: to be {value}"),
        };
        let mut differences: Vec<String> = settings.into_iter().map(setting).collect();
        differing_paths(
            "mapping",
            &metadata.mappings,
            &Value::Object(part("mappings")),
            &mut differences,
        );
        let aliases = alias_actions(
            &self.name,
            &part("aliases"),
            &copied_aliases(&metadata.aliases),
        );
        let actions = aliases
            .iter()
            .filter_map(|action| action.as_object()?.iter().next());
        differences.extend(actions.map(|(action, alias)| {
            let what = if action == "add" {
                "is not as the leader's"
            } else {
                "the leader does not have it"
            };
            format!(
                "alias {}: {what}",
                alias["alias"].as_str().unwrap_or_default()
            )
        }));
        Ok(differences)
    }

    /// Makes the index the one that these aliases write to, where it still has them.
    pub async fn give_back(
        &self,
        mut write_aliases: Map<String, Value>,
    ) -> Result<(), OpenSearchError> {
        let answer: Map<String, Value> = self
            .opensearch
            .get(&format!("/{}/_alias", self.path()))
            .await?;
        let current = answer
            .values()
            .next()
            .and_then(|index| index.get("aliases"))
            .and_then(Value::as_object);
        let is_there = |alias: &str| current.is_some_and(|current| current.contains_key(alias));
        write_aliases.retain(|alias, _| is_there(alias));
        let actions = alias_actions(&self.name, &Map::new(), &write_aliases);
        if !actions.is_empty() {
            let _: Value = self
                .opensearch
                .post("/_aliases", &json!({"actions": actions}))
                .await?;
        }
        Ok(())
    }

    pub(crate) fn wanted_settings(&self, metadata: &IndexMetadata) -> Map<String, Value> {
        let mut settings = copied_settings(&metadata.settings);
        settings.insert(
            GC_DELETES.0.to_owned(),
            Value::String(GC_DELETES.1.to_owned()),
        );
        settings.insert(DURABILITY.0.to_owned(), json!(DURABILITY.1));
        settings.extend(self.overrides.clone());
        let load = self
            .load
            .lock()
            .map(IndexLoad::settings)
            .unwrap_or_default();
        settings.extend(
            load.iter()
                .map(|(key, value)| ((*key).to_owned(), json!(value))),
        );
        if expands_by_itself(&settings) {
            settings.remove(REPLICAS);
        }
        settings
    }

    pub(crate) fn path(&self) -> String {
        path_segment(self.name.as_str())
    }
}

/// Has a cluster check index settings, by simulating a template that has them.
pub(crate) async fn check_settings(
    opensearch: &OpenSearch,
    settings: &Map<String, Value>,
) -> Result<(), OpenSearchError> {
    if settings.is_empty() {
        return Ok(());
    }
    let template = json!({
        "index_patterns": ["shardline-settings-to-check"],
        "priority": i32::MAX,
        "template": {"settings": settings},
    });
    opensearch
        .post::<Value>("/_index_template/_simulate", &template)
        .await
        .map(drop)
}

fn is_final(key: &str) -> bool {
    FINAL_SETTINGS.iter().any(|last| {
        if last.ends_with('.') {
            key.starts_with(last)
        } else {
            key == *last
        }
    })
}

/// The settings of an index that are to be as the leader's, or as a user gave them.
fn kept_settings(
    index: &Map<String, Value>,
    overrides: &[&Map<String, Value>],
) -> Map<String, Value> {
    let mut kept = copied_settings(index);
    let by_user = index.iter().filter(|(key, _)| {
        overrides
            .iter()
            .any(|overrides| overrides.contains_key(*key))
    });
    kept.extend(by_user.map(|(key, value)| (key.clone(), value.clone())));
    let durability = index.get(DURABILITY.0).cloned();
    kept.insert(
        DURABILITY.0.to_owned(),
        durability.unwrap_or_else(|| json!(DURABILITY.1)),
    );
    // Earlier builds brought it over.
    if let Some(pipeline) = index.get(SEARCH_PIPELINE) {
        kept.insert(SEARCH_PIPELINE.to_owned(), pipeline.clone());
    }
    kept
}

/// What to change so that `current` becomes `wanted`; `null` takes a setting back to its default.
fn settings_changes(
    current: &Map<String, Value>,
    wanted: &Map<String, Value>,
) -> Map<String, Value> {
    // The leader spells numbers and booleans as text, a user perhaps not.
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    // The durability of the translog is read in any case.
    let is_same = |key: &str, one: &str, other: &str| {
        one == other || (key == DURABILITY.0 && one.eq_ignore_ascii_case(other))
    };
    let different = |(key, value): &(&String, &Value)| {
        let now = current.get(*key).map(text);
        now.is_none_or(|now| !is_same(key, &now, &text(value)))
    };
    let set = wanted
        .iter()
        .filter(different)
        .map(|(key, value)| (key.clone(), value.clone()));
    let is_left_alone = |key: &str| key == REPLICAS && expands_by_itself(wanted);
    let unset = current
        .keys()
        .filter(|key| !wanted.contains_key(*key) && !is_left_alone(key))
        .map(|key| (key.clone(), Value::Null));
    set.chain(unset).filter(|(key, _)| !is_final(key)).collect()
}

/// Names the places at which two objects differ.
fn differing_paths(path: &str, leader: &Value, follower: &Value, differences: &mut Vec<String>) {
    match (leader, follower) {
        (Value::Object(one), Value::Object(other)) => {
            for (key, value) in one {
                differing_paths(
                    &format!("{path}.{key}"),
                    value,
                    other.get(key).unwrap_or(&Value::Null),
                    differences,
                );
            }
            let unknown = other.keys().filter(|key| !one.contains_key(*key));
            differences
                .extend(unknown.map(|key| format!("{path}.{key}: the leader does not have it")));
        }
        (one, other) if one == other => {}
        (Value::Object(_), Value::Null) => differences.push(format!("{path}: is not there")),
        (one, other) => differences.push(format!("{path}: {other}, and the leader has {one}")),
    }
}

pub(crate) fn alias_actions(
    index: &IndexName,
    current: &Map<String, Value>,
    wanted: &Map<String, Value>,
) -> Vec<Value> {
    let mut actions = Vec::new();
    for (alias, definition) in wanted
        .iter()
        .filter(|(alias, definition)| current.get(*alias) != Some(definition))
    {
        let mut action = Map::from_iter([
            ("index".to_owned(), json!(index)),
            ("alias".to_owned(), json!(alias)),
        ]);
        action.extend(definition.as_object().cloned().unwrap_or_default());
        actions.push(json!({"add": action}));
    }
    for alias in current.keys().filter(|alias| !wanted.contains_key(*alias)) {
        actions.push(json!({"remove": {"index": index, "alias": alias}}));
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn settings_change_both_ways_but_never_the_final_ones() {
        let current = json!({"index.number_of_shards": "1", "index.refresh_interval": "-1", "index.gone": "x", "index.same": "5"});
        let wanted =
            json!({"index.number_of_shards": "2", "index.refresh_interval": "1s", "index.same": 5});
        assert_eq!(
            Value::Object(settings_changes(&map(current), &map(wanted))),
            json!({"index.refresh_interval": "1s", "index.gone": null})
        );
    }

    /// The leader's translog settings are not copied, but a user may give the follower index
    /// others.
    #[test]
    fn settings_that_only_the_user_gives_are_set_once_and_taken_back() {
        let sync = "index.translog.durability";
        let given = map(json!({sync: "async"}));
        let index = json!({sync: "async", "index.blocks.write": "true", "index.codec": "default"});
        let kept = kept_settings(&map(index.clone()), &[&given]);
        assert_eq!(
            Value::Object(kept.clone()),
            json!({"index.codec": "default", sync: "async"})
        );
        let wanted = map(json!({"index.codec": "default", sync: "async"}));
        assert!(settings_changes(&kept, &wanted).is_empty());
        let kept = kept_settings(&map(index), &[&Map::new(), &given]);
        let wanted = map(json!({"index.codec": "default"}));
        assert_eq!(
            Value::Object(settings_changes(&kept, &wanted)),
            json!({sync: null})
        );
    }

    #[test]
    fn replicas_are_left_alone_where_they_expand_by_themselves() {
        let current =
            map(json!({"index.number_of_replicas": "0", "index.auto_expand_replicas": "0-1"}));
        let leader = json!({"index.auto_expand_replicas": "0-1"});
        assert!(settings_changes(&current, &map(leader)).is_empty());
        for off in [json!("false"), json!(false)] {
            let leader =
                map(json!({"index.number_of_replicas": "1", "index.auto_expand_replicas": off}));
            assert!(!expands_by_itself(&leader));
            assert_eq!(settings_changes(&current, &leader).len(), 2);
        }
    }

    #[test]
    fn writes_are_durable_and_searches_go_through_no_pipeline_of_the_leader() {
        let kept = kept_settings(&Map::new(), &[]);
        let wanted = map(json!({"index.translog.durability": "request"}));
        assert_eq!(kept, wanted);
        let shaped =
            json!({"index.translog.durability": "async", "index.search.default_pipeline": "p"});
        let kept = kept_settings(&map(shaped), &[]);
        assert_eq!(
            Value::Object(settings_changes(&kept, &wanted)),
            json!({"index.translog.durability": "request", "index.search.default_pipeline": null})
        );
    }

    #[test]
    fn what_the_index_was_made_with_is_not_changed_later() {
        let made_with = map(json!({"index.sort.field": "a"}));
        assert_eq!(not_to_change(&made_with, &made_with), None);
        assert_eq!(
            not_to_change(&made_with, &map(json!({"index.sort.field": "b"}))),
            Some("index.sort.field")
        );
        assert_eq!(
            not_to_change(&Map::new(), &map(json!({"index.refresh_interval": "1s"}))),
            None
        );
    }

    #[test]
    fn differing_mappings_are_told_by_path() {
        let leader = json!({"properties": {"a": {"type": "long"}, "b": {"type": "text"}, "c": {"type": "text"}}});
        let follower =
            json!({"properties": {"a": {"type": "long"}, "b": {"type": "keyword"}, "d": {}}});
        let mut found = Vec::new();
        differing_paths("mapping", &leader, &follower, &mut found);
        let expected = [
            r#"mapping.properties.b.type: "keyword", and the leader has "text""#,
            "mapping.properties.c: is not there",
            "mapping.properties.d: the leader does not have it",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_follower_has_the_leader_s_shards() {
        let settings = map(json!({"index.number_of_replicas": 0, "index.number_of_shards": 3}));
        assert_eq!(not_to_override(&settings), Some("index.number_of_shards"));
        assert_eq!(
            not_to_override(&map(json!({"index.number_of_replicas": 0}))),
            None
        );
    }

    #[test]
    fn aliases_are_added_changed_and_removed() {
        let current = json!({"a": {}, "old": {}, "same": {"is_hidden": true}});
        let wanted = json!({"a": {"filter": {"term": {"x": 1}}}, "same": {"is_hidden": true}});
        assert_eq!(
            alias_actions(&"f".into(), &map(current), &map(wanted)),
            [
                json!({"add": {"index": "f", "alias": "a", "filter": {"term": {"x": 1}}}}),
                json!({"remove": {"index": "f", "alias": "old"}}),
            ]
        );
    }
}
