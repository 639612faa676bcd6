//! The leader cluster as the agent sees it: its indices, and which of their shards live on the node
//! beside the agent.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use shardline_common::clock::now_ms;
use shardline_common::control::NodeAnnouncement;
use shardline_common::metadata::{IndexMetadata, MetadataVersions};
use shardline_common::opensearch::{OpenSearch, OpenSearchError, StateOf, path_segment};
use shardline_common::types::{ClusterUuid, IndexName, IndexUuid, PrimaryTerm, ShardId};

use super::server::own_folder;
use crate::config::Source;

/// The node beside the agent, as it was when the agent started.
#[derive(Clone, Debug)]
pub(crate) struct LocalNode {
    pub id: String,
    pub(crate) announcement: NodeAnnouncement,
    pub(crate) data_paths: Vec<PathBuf>,
    /// The folder of the node's own files in each of them, such as `nodes/0`: several nodes may
    /// share a data folder.
    pub(crate) own_folder: PathBuf,
    /// Whether the agent reads the node's files, and is thus responsible for the node's shards;
    /// otherwise it is for all of the cluster's.
    pub source: Source,
}

/// One state of the cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClusterView {
    pub version: i64,
    pub(crate) has_manager: bool,
    /// Whether the node beside the agent is the elected cluster manager.
    pub(crate) local_is_manager: bool,
    /// Whether it is the cluster of the agent's node, and has this node.
    pub(crate) is_nodes_own: bool,
    pub(crate) indices: BTreeMap<IndexName, IndexView>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct IndexView {
    pub name: IndexName,
    pub uuid: IndexUuid,
    pub open: bool,
    pub number_of_shards: u32,
    pub routing_num_shards: u32,
    pub versions: MetadataVersions,
    pub(crate) aliases: Vec<String>,
    pub(crate) hidden: bool,
    pub refusal: Option<String>,
    /// Whether shards have copies beside their primaries.
    pub has_replicas: bool,
    /// Shards whose primary is on the local node.
    pub(crate) local_primaries: BTreeSet<ShardId>,
    /// Shards of which the local node has, or is getting, another copy.
    pub(crate) local_replicas: BTreeSet<ShardId>,
}

impl LocalNode {
    pub(crate) async fn ask(
        opensearch: &OpenSearch,
        source: Source,
    ) -> Result<Self, OpenSearchError> {
        let root: Root = opensearch.get("/").await?;
        let path = "/_nodes/_local/settings,transport?flat_settings=true";
        let nodes: Nodes = opensearch.get(path).await?;
        let unexpected = |reason: &str| OpenSearchError::Unexpected {
            method: "GET".to_owned(),
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        let (id, node) = nodes
            .nodes
            .into_iter()
            .next()
            .ok_or_else(|| unexpected("no local node"))?;
        let data_paths = match node.settings.get("path.data") {
            Some(Value::String(one)) => one
                .split(',')
                .map(|path| PathBuf::from(path.trim()))
                .collect(),
            Some(Value::Array(several)) => several
                .iter()
                .filter_map(Value::as_str)
                .map(PathBuf::from)
                .collect(),
            _ => match node.settings.get("path.home").and_then(Value::as_str) {
                Some(home) => vec![PathBuf::from(home).join("data")],
                None => {
                    return Err(unexpected(
                        "neither path.data nor path.home among the node's settings",
                    ));
                }
            },
        };
        let announcement = NodeAnnouncement {
            cluster_uuid: root.cluster_uuid,
            cluster_name: root.cluster_name,
            node_id: id.clone(),
            node_name: node.name,
            transport_address: node.transport.publish_address,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            announced_ms: now_ms(),
        };
        Ok(Self {
            id,
            announcement,
            data_paths,
            own_folder: own_folder(opensearch).await?,
            source,
        })
    }

    pub(crate) fn cluster(&self) -> &ClusterUuid {
        &self.announcement.cluster_uuid
    }
}

impl ClusterView {
    /// The version of the state that the local node has, and whether the node is part of a cluster
    /// that has a manager. Cheap enough to ask several times a second.
    pub(crate) async fn local_version(
        opensearch: &OpenSearch,
    ) -> Result<(i64, bool), OpenSearchError> {
        let path = "/_cluster/state/version,cluster_manager_node?local=true&filter_path=version,cluster_manager_node";
        let state: StateVersion = opensearch.get(path).await?;
        Ok((state.version, state.cluster_manager_node.is_some()))
    }

    pub(crate) async fn ask(
        opensearch: &OpenSearch,
        node: &LocalNode,
        of: StateOf,
    ) -> Result<Self, OpenSearchError> {
        let fields = "version,cluster_uuid,cluster_manager_node,nodes.*.name,metadata.indices.*.state,metadata.indices.*.settings,\
                      metadata.indices.*.aliases,metadata.indices.*.*_version,metadata.indices.*.routing_num_shards,\
                      metadata.indices.*.mappings.*._source,routing_table.indices.*.shards";
        let parts = "version,cluster_manager_node,nodes,metadata,routing_table";
        let state: State = opensearch.cluster_state(of, parts, fields).await?;
        let has_node = node.source == Source::Poll || state.nodes.contains_key(&node.id);
        let indices = state
            .metadata
            .indices
            .into_iter()
            .filter_map(|(name, index)| {
                let routing = state.routing_table.indices.get(&name);
                let view = IndexView::new(name.clone().into(), &index, routing, node)?;
                Some((name.into(), view))
            });
        Ok(Self {
            version: state.version,
            has_manager: state.cluster_manager_node.is_some(),
            local_is_manager: node.source == Source::Poll
                || state.cluster_manager_node.as_deref() == Some(node.id.as_str()),
            is_nodes_own: has_node && state.cluster_uuid.as_ref() == Some(node.cluster()),
            indices: indices.collect(),
        })
    }

    pub(crate) fn by_uuid(&self, uuid: &IndexUuid) -> Option<&IndexView> {
        self.indices.values().find(|index| index.uuid == *uuid)
    }
}

impl IndexView {
    fn new(
        name: IndexName,
        index: &StateIndex,
        routing: Option<&IndexRouting>,
        node: &LocalNode,
    ) -> Option<Self> {
        let uuid = index.settings.get("index.uuid")?.as_str()?.into();
        let number_of_shards = index
            .settings
            .get("index.number_of_shards")?
            .as_str()?
            .parse()
            .ok()?;
        let mut has_replicas = false;
        let mut local_primaries = BTreeSet::new();
        let mut local_replicas = BTreeSet::new();
        for (shard, copies) in routing.into_iter().flat_map(|routing| &routing.shards) {
            let Ok(shard) = shard.parse::<ShardId>() else {
                continue;
            };
            let is_here = |id: &Option<String>| id.as_deref() == Some(&node.id);
            has_replicas |= copies
                .iter()
                .any(|copy| !copy.primary && copy.node.is_some());
            for copy in copies {
                match node.source {
                    Source::Translog
                        if is_here(&copy.node) && copy.primary && copy.is_serving() =>
                    {
                        local_primaries.insert(shard);
                    }
                    Source::Translog if is_here(&copy.node) || is_here(&copy.relocating_node) => {
                        local_replicas.insert(shard);
                    }
                    Source::Poll if copy.primary && copy.is_serving() => {
                        local_primaries.insert(shard);
                    }
                    Source::Translog | Source::Poll => {}
                }
            }
        }
        Some(Self {
            refusal: refusal(&name, index, node.source),
            name,
            uuid,
            open: index.state == "open",
            number_of_shards,
            routing_num_shards: index.routing_num_shards,
            versions: index.versions(),
            aliases: index.aliases.clone(),
            hidden: index.settings.get("index.hidden").and_then(Value::as_str) == Some("true"),
            has_replicas,
            local_primaries,
            local_replicas,
        })
    }
}

/// Why an index cannot be followed: capture needs a translog that is local and complete, or
/// sequence numbers to scan by; copies, whole documents.
fn refusal(name: &IndexName, index: &StateIndex, source: Source) -> Option<String> {
    let settings = &index.settings;
    let value = |key: &str| settings.get(key).and_then(Value::as_str);
    let because = |reason: &str| Some(format!("Cannot Replicate index {name}: {reason}"));
    let is_backing_index = name.as_str().starts_with(".ds-");
    if name.as_str().starts_with('.') && !is_backing_index {
        return because("names that begin with a dot are those of system indices");
    }
    if value("index.hidden") == Some("true") && !is_backing_index {
        return because("index.hidden is true");
    }
    if value("index.soft_deletes.enabled") == Some("false") {
        return Some(
            "Cannot Replicate an index where the setting index.soft_deletes.enabled is disabled"
                .to_owned(),
        );
    }
    if value("index.plugins.replication.follower.leader_index").is_some() {
        return Some(format!("Cannot Replicate a Replicated Index {name}"));
    }
    if value("index.remote_store.enabled") == Some("true") && source == Source::Translog {
        return because(
            "index.remote_store.enabled keeps its translog elsewhere than on the node's disk; capture.source = \"poll\" of \
             the leader agents can follow it",
        );
    }
    if value("index.store.type") == Some("remote_snapshot") {
        return because(
            "index.store.type is remote_snapshot: a searchable snapshot has no translog",
        );
    }
    if settings
        .keys()
        .any(|key| key.starts_with("index.ingestion_source.type"))
    {
        return because("index.ingestion_source feeds it by pulling, which writes no translog");
    }
    if value("index.pluggable.dataformat.enabled") == Some("true") {
        return because(
            "index.pluggable.dataformat.enabled keeps its documents where neither scans nor copies \
             find them",
        );
    }
    if value("index.data_path").is_some() && source == Source::Translog {
        return because(
            "index.data_path keeps its translog outside the node's data folders, where the agent \
             does not look; capture.source = \"poll\" of the leader agents can follow it",
        );
    }
    if value("index.append_only.enabled") == Some("true") {
        return because("index.append_only.enabled makes the follower refuse external versions");
    }
    if index
        .mappings
        .values()
        .any(|mapping| mapping.source.is_partial())
    {
        return because(
            "its mapping keeps _source not at all, or not whole, and copies are made of it",
        );
    }
    None
}

/// What the local node's own cluster state says of one index: never behind what the node has
/// indexed. `None` when the index is gone.
pub(crate) async fn local_state(
    opensearch: &OpenSearch,
    index: &IndexName,
    uuid: &IndexUuid,
) -> Result<Option<LocalState>, OpenSearchError> {
    let path = format!(
        "/_cluster/state/metadata/{}?local=true&filter_path=metadata.indices.*.*_version,metadata.indices.*.routing_num_shards,metadata.indices.*.settings.index.uuid",
        path_segment(index.as_str())
    );
    let state: State = opensearch.get(&path).await?;
    let Some(found) = state.metadata.indices.get(index.as_str()) else {
        return Ok(None);
    };
    Ok((found.uuid() == Some(uuid.as_str())).then(|| LocalState {
        versions: found.versions(),
        routing_num_shards: found.routing_num_shards,
    }))
}

pub(crate) struct LocalState {
    pub versions: MetadataVersions,
    pub routing_num_shards: u32,
}

/// The shard's primary term in the local node's cluster state; `None` if the index no longer
/// exists.
pub(crate) async fn primary_term(
    opensearch: &OpenSearch,
    index: &IndexName,
    shard: ShardId,
) -> Result<Option<PrimaryTerm>, OpenSearchError> {
    let path = format!(
        "/_cluster/state/metadata/{}?local=true&filter_path=metadata.indices.*.primary_terms",
        path_segment(index.as_str())
    );
    let state: State = opensearch.get(&path).await?;
    Ok(state
        .metadata
        .indices
        .get(index.as_str())
        .and_then(|found| found.primary_terms.get(&shard).copied()))
}

/// The primary terms of all shards of an index; `None` if it no longer exists.
pub(crate) async fn primary_terms(
    opensearch: &OpenSearch,
    index: &IndexName,
    uuid: &IndexUuid,
) -> Result<Option<BTreeMap<ShardId, PrimaryTerm>>, OpenSearchError> {
    let path = format!(
        "/_cluster/state/metadata/{}?local=true&filter_path=metadata.indices.*.primary_terms,metadata.indices.*.settings.index.uuid",
        path_segment(index.as_str())
    );
    let mut state: State = opensearch.get(&path).await?;
    let found = state
        .metadata
        .indices
        .remove(index.as_str())
        .filter(|found| found.uuid() == Some(uuid.as_str()));
    Ok(found.map(|found| found.primary_terms.into_iter().collect()))
}

/// An index's metadata at the versions of `state` or newer.
pub(crate) async fn fetch_metadata(
    opensearch: &OpenSearch,
    index: &IndexName,
    uuid: &IndexUuid,
    state: &LocalState,
) -> Result<IndexMetadata, OpenSearchError> {
    let path = format!(
        "/{}?local=true&flat_settings=true&expand_wildcards=all",
        path_segment(index.as_str())
    );
    let mut answer: HashMap<String, IndexAnswer> = opensearch.get(&path).await?;
    let unexpected = |reason: String| OpenSearchError::Unexpected {
        method: "GET".to_owned(),
        path: path.clone(),
        reason,
    };
    let found = answer
        .remove(index.as_str())
        .ok_or_else(|| unexpected(format!("no index {index} in the answer")))?;
    let setting = |key: &str| found.settings.get(key).and_then(Value::as_str);
    if setting("index.uuid") != Some(uuid.as_str()) {
        return Err(unexpected(format!(
            "index {index} is not the one with uuid {uuid} any more"
        )));
    }
    let number_of_shards = setting("index.number_of_shards")
        .and_then(|shards| shards.parse().ok())
        .ok_or_else(|| unexpected("no index.number_of_shards".to_owned()))?;
    Ok(IndexMetadata {
        index: index.clone(),
        uuid: uuid.clone(),
        number_of_shards,
        routing_num_shards: state.routing_num_shards,
        versions: state.versions,
        mappings: found.mappings,
        settings: found.settings,
        aliases: found.aliases,
    })
}

#[derive(Deserialize)]
struct Root {
    cluster_name: String,
    cluster_uuid: ClusterUuid,
}

#[derive(Deserialize)]
struct Nodes {
    nodes: HashMap<String, Node>,
}

#[derive(Deserialize)]
struct Node {
    name: String,
    settings: Map<String, Value>,
    transport: NodeTransport,
}

#[derive(Deserialize)]
struct NodeTransport {
    publish_address: String,
}

#[derive(Deserialize)]
struct StateVersion {
    version: i64,
    cluster_manager_node: Option<String>,
}

#[derive(Deserialize)]
struct State {
    #[serde(default)]
    version: i64,
    cluster_uuid: Option<ClusterUuid>,
    #[serde(default)]
    nodes: HashMap<String, IgnoredAny>,
    cluster_manager_node: Option<String>,
    #[serde(default)]
    metadata: StateMetadata,
    #[serde(default)]
    routing_table: StateRouting,
}

#[derive(Default, Deserialize)]
struct StateMetadata {
    #[serde(default)]
    indices: BTreeMap<String, StateIndex>,
}

#[derive(Deserialize)]
struct StateIndex {
    #[serde(default)]
    state: String,
    #[serde(default)]
    mappings: HashMap<String, StateMapping>,
    #[serde(default)]
    settings: Map<String, Value>,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    routing_num_shards: u32,
    #[serde(default)]
    mapping_version: i64,
    #[serde(default)]
    settings_version: i64,
    #[serde(default)]
    aliases_version: i64,
    #[serde(default)]
    primary_terms: HashMap<ShardId, PrimaryTerm>,
}

#[derive(Default, Deserialize)]
struct StateMapping {
    #[serde(default, rename = "_source")]
    source: SourceMapping,
}

/// Its other parameters change nothing of what is kept.
#[derive(Default, Deserialize)]
struct SourceMapping {
    enabled: Option<Value>,
    #[serde(default)]
    includes: Value,
    #[serde(default)]
    excludes: Value,
}

impl SourceMapping {
    fn is_partial(&self) -> bool {
        let is_set = |fields: &Value| match fields {
            Value::Null => false,
            Value::Array(fields) => !fields.is_empty(),
            _ => true,
        };
        let is_off = self
            .enabled
            .as_ref()
            .is_some_and(|enabled| *enabled == false || *enabled == "false");
        is_off || is_set(&self.includes) || is_set(&self.excludes)
    }
}

impl StateIndex {
    /// The uuid in an answer without flat settings.
    fn uuid(&self) -> Option<&str> {
        self.settings.get("index")?.get("uuid")?.as_str()
    }

    fn versions(&self) -> MetadataVersions {
        MetadataVersions {
            mapping: self.mapping_version,
            settings: self.settings_version,
            aliases: self.aliases_version,
        }
    }
}

#[derive(Default, Deserialize)]
struct StateRouting {
    #[serde(default)]
    indices: HashMap<String, IndexRouting>,
}

#[derive(Deserialize)]
struct IndexRouting {
    #[serde(default)]
    shards: HashMap<String, Vec<ShardCopy>>,
}

#[derive(Deserialize)]
struct ShardCopy {
    state: String,
    primary: bool,
    node: Option<String>,
    relocating_node: Option<String>,
}

impl ShardCopy {
    fn is_serving(&self) -> bool {
        self.state == "STARTED" || self.state == "RELOCATING"
    }
}

#[derive(Deserialize)]
struct IndexAnswer {
    #[serde(default)]
    aliases: Map<String, Value>,
    #[serde(default)]
    mappings: Value,
    #[serde(default)]
    settings: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal_of(mapping: &str) -> Option<String> {
        let index =
            format!(r#"{{"state": "open", "settings": {{}}, "mappings": {{"_doc": {mapping}}}}}"#);
        refusal(
            &"a".into(),
            &serde_json::from_str(&index).unwrap(),
            Source::Translog,
        )
    }

    #[test]
    fn settings_that_keep_documents_elsewhere_are_refused() {
        for (setting, value) in [
            ("index.pluggable.dataformat.enabled", "true"),
            ("index.data_path", "/elsewhere"),
        ] {
            let index = format!(r#"{{"state": "open", "settings": {{"{setting}": "{value}"}}}}"#);
            let index = serde_json::from_str(&index).unwrap();
            let refused = refusal(&"a".into(), &index, Source::Translog);
            assert!(refused.is_some_and(|reason| reason.contains(setting)));
        }
    }

    #[test]
    fn an_index_without_whole_sources_is_refused() {
        for whole in [
            r#"{}"#,
            r#"{"_source": {"enabled": true, "excludes": []}}"#,
            r#"{"_source": {"recovery_source_enabled": false}}"#,
        ] {
            assert_eq!(refusal_of(whole), None, "{whole}");
        }
        for part in [
            r#"{"enabled": false}"#,
            r#"{"excludes": ["vector"]}"#,
            r#"{"includes": ["title", "body.*"]}"#,
        ] {
            let refused = refusal_of(&format!(r#"{{"_source": {part}}}"#));
            assert!(
                refused.is_some_and(|reason| reason.contains("_source")),
                "{part}"
            );
        }
    }
}
