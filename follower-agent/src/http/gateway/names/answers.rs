//! The follower cluster's answers to the gateway's own questions, as far as they are looked at.

use std::collections::HashMap;

use serde::Deserialize;

/// `GET /_alias/*`: what each index's aliases are.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct AliasAnswer(pub(super) HashMap<String, AliasesOf>);

#[derive(Deserialize)]
pub(super) struct AliasesOf {
    #[serde(default)]
    pub(super) aliases: HashMap<String, Alias>,
}

#[derive(Deserialize)]
pub(super) struct Alias {
    pub(super) is_write_index: Option<bool>,
    pub(super) filter: Option<serde::de::IgnoredAny>,
    pub(super) index_routing: Option<serde::de::IgnoredAny>,
    pub(super) search_routing: Option<serde::de::IgnoredAny>,
}

/// `GET /_cluster/state/metadata`: indices and data streams.
#[derive(Default, Deserialize)]
pub(crate) struct StateAnswer {
    #[serde(default)]
    pub(super) metadata: Metadata,
}

#[derive(Default, Deserialize)]
pub(super) struct Metadata {
    #[serde(default)]
    pub(super) indices: HashMap<String, IndexState>,
    #[serde(default)]
    pub(super) data_stream: DataStreams,
}

#[derive(Deserialize)]
pub(super) struct IndexState {
    #[serde(default)]
    pub(super) aliases: Vec<String>,
    #[serde(default)]
    pub(super) settings: IndexSettings,
}

#[derive(Default, Deserialize)]
pub(super) struct IndexSettings {
    #[serde(default)]
    pub(super) index: IndexSection,
}

#[derive(Default, Deserialize)]
pub(super) struct IndexSection {
    pub(super) hidden: Option<String>,
}

#[derive(Default, Deserialize)]
pub(super) struct DataStreams {
    #[serde(default)]
    pub(super) data_stream: HashMap<String, DataStream>,
}

#[derive(Deserialize)]
pub(super) struct DataStream {
    #[serde(default)]
    pub(super) indices: Vec<BackingIndex>,
}

#[derive(Deserialize)]
pub(super) struct BackingIndex {
    pub(super) index_name: String,
}
