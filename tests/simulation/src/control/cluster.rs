//! An OpenSearch cluster in memory: indices, their metadata and documents. Leader and follower
//! clusters are of the same kind.
//!
//! A document's shard is what stands before the dash of its id, so that both sides agree without
//! hashing.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The alias under which the followers know the leader cluster, and where that is reached.
pub const ALIAS: &str = "far";
pub const SEED: &str = "127.0.0.1:9300";
/// The only node of each cluster.
pub const NODE: &str = "node";

#[derive(Clone, Debug)]
pub struct Document {
    pub seq_no: i64,
    pub version: i64,
    /// `None`: it was deleted.
    pub source: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Shard {
    pub documents: BTreeMap<String, Document>,
    pub max_seq_no: i64,
}

impl Shard {
    fn new() -> Self {
        Self {
            documents: BTreeMap::new(),
            max_seq_no: -1,
        }
    }

    pub fn write(&mut self, id: &str, version: i64, source: Option<String>) {
        self.max_seq_no += 1;
        let document = Document {
            seq_no: self.max_seq_no,
            version,
            source,
        };
        self.documents.insert(id.to_owned(), document);
    }

    pub fn live(&self) -> impl Iterator<Item = (&String, &Document, &String)> {
        let live = self.documents.iter();
        live.filter_map(|(id, document)| Some((id, document, document.source.as_ref()?)))
    }
}

#[derive(Clone, Debug)]
pub struct Index {
    pub uuid: String,
    pub is_open: bool,
    /// Flat, without what is fixed.
    pub settings: Map<String, Value>,
    pub mappings: Value,
    pub aliases: Map<String, Value>,
    pub mapping_version: i64,
    pub settings_version: i64,
    pub aliases_version: i64,
    pub shards: Vec<Shard>,
}

impl Index {
    pub fn all_settings(&self) -> Map<String, Value> {
        let mut all = self.settings.clone();
        all.insert("index.uuid".to_owned(), json!(self.uuid));
        let shards = self.shards.len().to_string();
        all.insert("index.number_of_shards".to_owned(), json!(shards));
        if !self.is_open {
            all.insert("index.verified_before_close".to_owned(), json!("true"));
        }
        all
    }

    /// The shard of a document, by its id.
    pub fn shard_of(&mut self, id: &str) -> Option<&mut Shard> {
        let (shard, _) = id.split_once('-')?;
        self.shards.get_mut(shard.parse::<usize>().ok()?)
    }

    /// All documents, by their ids.
    pub fn documents(&self) -> BTreeMap<&str, &str> {
        let live = self.shards.iter().flat_map(Shard::live);
        live.map(|(id, _, source)| (id.as_str(), source.as_str()))
            .collect()
    }
}

pub struct Cluster {
    pub name: String,
    pub uuid: String,
    /// Of its state.
    pub version: i64,
    pub indices: BTreeMap<String, Index>,
    /// Of indices that were there once, for whoever needs evidence.
    pub deleted: Vec<String>,
    pub scans: Scans,
    made: u64,
}

impl Cluster {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            uuid: format!("{name}-cluster-uuid-0000"),
            version: 1,
            indices: BTreeMap::new(),
            deleted: Vec::new(),
            scans: Scans::default(),
            made: 0,
        }
    }

    pub fn make(&mut self, name: &str, shards: usize, settings: Map<String, Value>) {
        self.made += 1;
        self.version += 1;
        let index = Index {
            uuid: format!("{}{:04}-{name}-uuid", &self.name[..1], self.made),
            is_open: true,
            settings,
            mappings: json!({"properties": {"n": {"type": "long"}}}),
            aliases: Map::new(),
            mapping_version: 1,
            settings_version: 1,
            aliases_version: 1,
            shards: vec![Shard::new(); shards],
        };
        self.indices.insert(name.to_owned(), index);
    }

    pub fn delete(&mut self, name: &str) {
        if let Some(index) = self.indices.remove(name) {
            self.version += 1;
            self.deleted.push(index.uuid);
        }
    }

    pub fn set_open(&mut self, name: &str, is_open: bool) {
        if let Some(index) = self.indices.get_mut(name) {
            self.version += 1;
            index.is_open = is_open;
            index.settings_version += 1;
        }
    }

    /// A client's write to an open index.
    pub fn write(&mut self, name: &str, id: &str, source: Option<String>) {
        let Some(index) = self.indices.get_mut(name).filter(|index| index.is_open) else {
            return;
        };
        if let Some(shard) = index.shard_of(id) {
            let version = shard.documents.get(id).map_or(1, |found| found.version + 1);
            shard.write(id, version, source);
        }
    }
}

/// Points in time.
#[derive(Default)]
pub struct Scans {
    open: BTreeMap<String, Vec<(String, Document)>>,
    next: u64,
}

impl Scans {
    pub fn open(&mut self, shard: &Shard) -> Value {
        self.next += 1;
        let id = format!("pit-{}", self.next);
        let live = shard.live();
        let mut hits: Vec<_> = live
            .map(|(id, document, _)| (id.clone(), document.clone()))
            .collect();
        hits.sort_by_key(|(_, document)| document.seq_no);
        self.open.insert(id.clone(), hits);
        json!({"pit_id": id})
    }

    pub fn close(&mut self, id: &str) {
        self.open.remove(id);
    }

    /// A page of a point in time; `None` when it is not there.
    pub fn search(&self, request: &Value) -> Option<Value> {
        let hits = self.open.get(request["pit"]["id"].as_str()?)?;
        if request["size"] == 0 {
            return Some(json!({"hits": {"total": {"value": hits.len()}}}));
        }
        let filters = &request["query"]["bool"]["filter"];
        let range = &filters[0]["range"]["_seq_no"];
        let from = range["gte"].as_i64().unwrap_or(0);
        let to = range["lte"].as_i64().unwrap_or(i64::MAX);
        let after = request["search_after"][0].as_i64();
        let ids = filters[1]["ids"]["values"].as_array();
        let in_order = request["sort"][0]["_seq_no"] == "asc";
        let size = request["size"].as_u64().unwrap_or(1);
        let mut page = Vec::new();
        for (number, (id, document)) in (0..).zip(hits) {
            let place = if in_order { document.seq_no } else { number };
            let is_asked_for = ids.is_none_or(|ids| ids.iter().any(|wanted| wanted == id));
            if !is_asked_for
                || !(from..=to).contains(&document.seq_no)
                || after.is_some_and(|after| place <= after)
                || page.len() as u64 >= size
            {
                continue;
            }
            let mut hit = json!({
                "_id": id, "_seq_no": document.seq_no, "_primary_term": 1,
                "_version": document.version, "sort": [place, 0],
            });
            if request["_source"] == true {
                let source = document.source.as_deref().unwrap_or_default();
                hit["_source"] = serde_json::from_str(source).unwrap_or_default();
            }
            page.push(hit);
        }
        Some(json!({"hits": {"hits": page}}))
    }
}
