//! The follower index: documents under external versions, deletions that it remembers for a while,
//! a strict mapping.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::sabotage::Sabotage;
use crate::world::World;

/// How long it remembers deletions at least: the agents set `index.gc_deletes` to 5 minutes.
pub const GC_DELETES: Duration = Duration::from_secs(300);

#[derive(Clone, Debug)]
pub struct Document {
    pub version: i64,
    /// `None`: it was deleted.
    pub source: Option<String>,
    own_seq_no: i64,
    changed: Instant,
}

#[derive(Default)]
pub struct FollowerIndex {
    pub documents: BTreeMap<String, Document>,
    pub fields: BTreeSet<String>,
    /// Some documents, by what stands in them.
    pub refuses: bool,
    /// The highest number that it gave to one of them.
    pub operations: i64,
    /// The name of the history that the numbers belong to.
    pub history: String,
}

/// What is to be done with the items of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Works,
    /// Takes some items and refuses others for now.
    IsBusy,
}

impl FollowerIndex {
    pub fn live(&self) -> impl Iterator<Item = (&String, &Document, &String)> {
        self.documents
            .iter()
            .filter_map(|(id, document)| Some((id, document, document.source.as_ref()?)))
    }

    /// Forgets deletions: those that are old enough, or after a restart all.
    pub fn forget_deletions(&mut self, all: bool) {
        self.documents.retain(|_, document| {
            document.source.is_some() || !(all || document.changed.elapsed() > GC_DELETES)
        });
    }

    /// A write with `version_type=external_gte`, or without a version if there is none.
    fn write(
        &mut self,
        id: &str,
        version: Option<i64>,
        source: Option<String>,
        forgets: bool,
    ) -> Value {
        if self.refuses && source.as_deref().is_some_and(is_refused) {
            let reason = "failed to parse";
            return json!({"status": 400, "error": {"type": "mapper_parsing_exception", "reason": reason}});
        }
        let current = self
            .documents
            .get(id)
            .map_or(0, |document| document.version);
        let version = version.unwrap_or(current + 1);
        if current > version {
            let reason = format!(
                "[{id}]: version conflict, current version [{current}] is higher than the one provided [{version}]"
            );
            return json!({"status": 409, "error": {"type": "version_conflict_engine_exception", "reason": reason}});
        }
        if let Some(source) = &source {
            let parsed: Value = serde_json::from_str(source).unwrap_or_default();
            let unknown = parsed
                .as_object()
                .and_then(|fields| fields.keys().find(|key| !self.fields.contains(*key)));
            if let Some(unknown) = unknown {
                let reason = format!(
                    "mapping set to strict, dynamic introduction of [{unknown}] is not allowed"
                );
                return json!({"status": 400, "error": {"type": "strict_dynamic_mapping_exception", "reason": reason}});
            }
        }
        let found = self
            .documents
            .get(id)
            .is_some_and(|document| document.source.is_some());
        self.operations += 1;
        let deletes = source.is_none();
        if deletes && forgets {
            self.documents.remove(id);
        } else {
            let document = Document {
                version,
                source,
                own_seq_no: self.operations,
                changed: Instant::now(),
            };
            self.documents.insert(id.to_owned(), document);
        }
        json!({"status": if deletes && !found { 404 } else { 200 }, "_seq_no": self.operations})
    }
}

/// One in three.
fn is_refused(source: &str) -> bool {
    source.bytes().map(u32::from).sum::<u32>().is_multiple_of(3)
}

impl World {
    /// A write by somebody else, under a version that this replication does not give.
    pub fn write_foreign(&mut self, id: &str, version: i64) {
        self.follower.fields.insert("t".to_owned());
        self.follower
            .write(id, Some(version), Some("{\"t\":0}".to_owned()), false);
    }

    pub fn bulk(&mut self, body: &str, mood: Mood) -> Value {
        let forgets = self.sabotage == Some(Sabotage::ForgottenTombstones);
        let mut lines = body.lines();
        let (mut items, mut errors) = (Vec::new(), false);
        while let Some(action) = lines.next() {
            let action: Value = serde_json::from_str(action).expect("an action is JSON");
            let (kind, meta) = match action.get("index") {
                Some(meta) => ("index", meta),
                None => ("delete", &action["delete"]),
            };
            let source =
                (kind == "index").then(|| lines.next().expect("a source follows").to_owned());
            let id = meta["_id"].as_str().expect("an id");
            assert_eq!(meta["version_type"], "external_gte");
            let mut version = meta["version"].as_i64().expect("a version");
            if self.sabotage == Some(Sabotage::LeaderVersion) {
                version = self.leader_version(version);
            }
            if self.sabotage == Some(Sabotage::RedrivenOperation) {
                self.driven.push((id.to_owned(), version, source.clone()));
            }
            let mut item = if mood == Mood::IsBusy && self.rng.bool() {
                json!({"status": 429, "error": {"type": "rejected_execution_exception", "reason": "busy"}})
            } else {
                self.follower.write(id, Some(version), source, forgets)
            };
            if item["status"] == 409 && self.sabotage == Some(Sabotage::AnyConflictIsApplied) {
                item = json!({"status": 200});
            }
            errors |= item.get("error").is_some();
            items.push(json!({ kind: item }));
        }
        json!({"errors": errors, "items": items})
    }

    /// The leader's `_version` of the operation that an external version stands for.
    fn leader_version(&self, version: i64) -> i64 {
        let seq_no = (version & ((1 << 44) - 1)) - 1;
        self.group
            .history
            .get(&seq_no)
            .map_or(version, |op| op.version)
    }

    /// An operation that was done before is done again, under its own version.
    pub fn redrive(&mut self) {
        if self.driven.is_empty() {
            return;
        }
        let (id, version, source) = self.driven[self.rng.usize(0..self.driven.len())].clone();
        self.follower.write(&id, Some(version), source, false);
    }

    /// Answers a request to the follower cluster.
    pub fn follower_answers(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
        mood: Mood,
    ) -> (StatusCode, Value) {
        let (path, _) = path.split_once('?').unwrap_or((path, ""));
        let body_json = || serde_json::from_str::<Value>(body).unwrap_or_default();
        match (method, path.rsplit('/').next().unwrap_or_default()) {
            ("POST", "_bulk") => (StatusCode::OK, self.bulk(body, mood)),
            ("PUT", "_mapping") => {
                let mapping = body_json();
                let fields = mapping["properties"]
                    .as_object()
                    .expect("properties")
                    .keys()
                    .cloned();
                self.follower.fields.extend(fields);
                (StatusCode::OK, json!({"acknowledged": true}))
            }
            ("POST", "_refresh") => (StatusCode::OK, json!({})),
            ("POST", "point_in_time") => {
                let live = self.follower.live();
                let hits = live.map(|(id, document, source)| Hit {
                    id: id.clone(),
                    seq_no: document.own_seq_no,
                    term: 1,
                    version: document.version,
                    source: source.clone(),
                });
                let hits = hits.collect();
                (StatusCode::OK, self.scans.open(hits))
            }
            ("DELETE", "point_in_time") => (StatusCode::OK, json!({})),
            ("POST", "_search") => self.search(&body_json()),
            _ => panic!("the simulated follower cluster does not know {method} {path}"),
        }
    }

    pub fn search(&mut self, request: &Value) -> (StatusCode, Value) {
        let most = self.rng.usize(1..6);
        self.scans.search(request, most)
    }
}

/// Points in time, of either cluster.
#[derive(Default)]
pub struct Scans {
    open: BTreeMap<String, Vec<Hit>>,
    next: u64,
}

#[derive(Clone)]
pub struct Hit {
    pub id: String,
    pub seq_no: i64,
    pub term: i64,
    pub version: i64,
    pub source: String,
}

impl Scans {
    pub fn open(&mut self, mut hits: Vec<Hit>) -> Value {
        self.next += 1;
        let id = format!("pit-{}", self.next);
        hits.sort_by_key(|hit| hit.seq_no);
        self.open.insert(id.clone(), hits);
        json!({"pit_id": id})
    }

    /// The nodes that held them are gone.
    pub fn lose_all(&mut self) {
        self.open.clear();
    }

    /// A page of at most `most` hits, so that even a small index takes several.
    fn search(&self, request: &Value, most: usize) -> (StatusCode, Value) {
        let id = request["pit"]["id"].as_str().unwrap_or_default();
        let Some(hits) = self.open.get(id) else {
            let error = json!({"error": {"type": "search_context_missing_exception", "reason": "no such context"}});
            return (StatusCode::NOT_FOUND, error);
        };
        if request["size"] == 0 {
            return (
                StatusCode::OK,
                json!({"hits": {"total": {"value": hits.len()}}}),
            );
        }
        let filters = &request["query"]["bool"]["filter"];
        let range = &filters[0]["range"]["_seq_no"];
        let from = range["gte"].as_i64().unwrap_or(0);
        let to = range["lte"].as_i64().unwrap_or(i64::MAX);
        let in_order = request["sort"][0]["_seq_no"] == "asc";
        let after = request["search_after"][0].as_i64();
        let ids = filters[1]["ids"]["values"].as_array();
        let is_asked_for = |hit: &Hit| ids.is_none_or(|ids| ids.iter().any(|id| *id == hit.id));
        let mut hits: Vec<&Hit> = hits.iter().collect();
        if !in_order {
            // Stored by their ids.
            hits.sort_by(|a, b| a.id.cmp(&b.id));
        }
        let page = hits
            .into_iter()
            .zip(0..)
            .map(|(hit, place)| (if in_order { hit.seq_no } else { place }, hit))
            .filter(|(place, hit)| {
                is_asked_for(hit) && (from..=to).contains(&hit.seq_no) && after.is_none_or(|after| *place > after)
            })
            .take(most)
            .map(|(place, hit)| {
                let source: Value = serde_json::from_str(&hit.source).unwrap_or_default();
                let mut shown = json!({
                    "_id": hit.id, "_seq_no": hit.seq_no, "_primary_term": hit.term, "_version": hit.version,
                    "sort": [place, 0],
                });
                if request["_source"] == true {
                    shown["_source"] = source;
                }
                shown
            });
        (
            StatusCode::OK,
            json!({"hits": {"hits": page.collect::<Vec<_>>()}}),
        )
    }
}
