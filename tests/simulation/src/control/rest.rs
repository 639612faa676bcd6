//! The cluster's REST API, as far as agents ask for it.

use reqwest::StatusCode;
use serde_json::{Map, Value, json};

use super::cluster::{ALIAS, Cluster, Index, NODE, SEED};

type Answer = (StatusCode, Value);

fn ok(value: Value) -> Answer {
    (StatusCode::OK, value)
}

fn acknowledged() -> Answer {
    ok(json!({"acknowledged": true}))
}

fn refused(status: StatusCode, kind: &str, reason: &str) -> Answer {
    let error = json!({"type": kind, "reason": reason});
    (status, json!({"error": error, "status": status.as_u16()}))
}

fn no_index(name: &str) -> Answer {
    let reason = format!("no such index [{name}]");
    refused(StatusCode::NOT_FOUND, "index_not_found_exception", &reason)
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// `{"index": {"uuid": …}}` for `index.uuid`.
fn nested(flat: &Map<String, Value>) -> Value {
    let inner = flat.iter().filter_map(|(key, value)| {
        let key = key.strip_prefix("index.")?;
        Some((key.to_owned(), value.clone()))
    });
    json!({"index": inner.collect::<Map<_, _>>()})
}

impl Cluster {
    pub fn answer(&mut self, method: &str, path: &str, body: &str) -> Answer {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let json = serde_json::from_str::<Value>(body).unwrap_or_default();
        match (method, segments.as_slice()) {
            ("GET", [""]) => ok(json!({
                "cluster_name": self.name, "cluster_uuid": self.uuid,
                "version": {"number": "3.8.0", "distribution": "opensearch"},
            })),
            ("GET", ["_nodes", ..]) => ok(json!({"nodes": {NODE: {
                "name": NODE, "settings": {"path.data": "/nowhere"},
                "fs": {"data": [{"path": "/nowhere/nodes/0"}]},
                "transport": {"publish_address": SEED},
            }}})),
            ("GET", ["_cluster", "settings"]) => {
                let key = format!("cluster.remote.{ALIAS}.seeds");
                ok(json!({"persistent": {key: [SEED]}, "transient": {}}))
            }
            ("GET", ["_cluster", "state", _]) => ok(self.state(None, query)),
            ("GET", ["_cluster", "state", _, index]) => ok(self.state(Some(index), query)),
            ("GET", ["_stats", ..]) => ok(self.stats(None)),
            ("GET", [index, "_stats", ..]) => match self.indices.contains_key(*index) {
                true => ok(self.stats(Some(index))),
                false => no_index(index),
            },
            ("DELETE", ["_search", "point_in_time"]) => {
                let id = json["pit_id"][0].as_str().unwrap_or_default();
                self.scans.close(id);
                ok(json!({}))
            }
            ("POST", ["_search"]) => match self.scans.search(&json) {
                Some(page) => ok(page),
                None => {
                    let kind = "search_context_missing_exception";
                    refused(StatusCode::NOT_FOUND, kind, "no such context")
                }
            },
            ("POST", ["_aliases"]) => self.change_aliases(&json),
            ("POST", ["_index_template", "_simulate"]) | ("GET", ["_template"]) => ok(json!({})),
            ("GET", ["_index_template", ..]) => ok(json!({"index_templates": []})),
            ("PUT" | "DELETE", ["_index_template", _]) => acknowledged(),
            ("PUT", [index]) => self.create(index, &json),
            ("DELETE", [index]) => match self.indices.contains_key(*index) {
                true => {
                    self.delete(index);
                    acknowledged()
                }
                false => no_index(index),
            },
            (_, [index, rest @ ..]) => self.answer_on((method, index, rest), query, body, &json),
            _ => panic!("the simulated cluster does not know {method} {path}"),
        }
    }

    /// About one index.
    fn answer_on(
        &mut self,
        (method, name, rest): (&str, &str, &[&str]),
        query: &str,
        body: &str,
        json: &Value,
    ) -> Answer {
        let Some(index) = self.indices.get_mut(name) else {
            return no_index(name);
        };
        let is_open = index.is_open;
        match (method, rest) {
            ("GET", []) => ok(json!({name: {
                "aliases": index.aliases, "mappings": index.mappings,
                "settings": index.all_settings(),
            }})),
            ("GET", ["_settings"]) => ok(json!({name: {"settings": index.all_settings()}})),
            ("GET", ["_alias"]) => ok(json!({name: {"aliases": index.aliases}})),
            ("PUT", ["_settings"]) => {
                self.version += 1;
                index.change_settings(&object(json));
                acknowledged()
            }
            ("POST", ["_open" | "_close"]) => {
                self.set_open(name, rest == ["_open"]);
                acknowledged()
            }
            _ if !is_open => refused(StatusCode::BAD_REQUEST, "index_closed_exception", "closed"),
            ("PUT", ["_mapping"]) => {
                self.version += 1;
                index.mapping_version += 1;
                index.mappings = json.clone();
                acknowledged()
            }
            ("GET", ["_mapping"]) => ok(json!({name: {"mappings": index.mappings}})),
            ("GET", ["_search"]) => {
                let count: usize = index.shards.iter().map(|shard| shard.live().count()).sum();
                let shards = json!({"total": 1, "successful": 1, "failed": 0});
                ok(json!({"hits": {"total": {"value": count}}, "_shards": shards}))
            }
            ("POST", ["_flush"]) => ok(json!({"_shards": {"failed": 0}})),
            ("POST", ["_refresh"]) => ok(json!({"_shards": {"failed": 0}})),
            ("GET", ["_count"]) => {
                let count: usize = index.shards.iter().map(|shard| shard.live().count()).sum();
                ok(json!({"count": count, "_shards": {"total": 1, "successful": 1}}))
            }
            ("POST", ["_bulk"]) => ok(index.bulk(body)),
            ("POST", ["_search", "point_in_time"]) => {
                let shard = query.split("_shards:").nth(1).unwrap_or("0");
                let digits: String = shard.chars().take_while(char::is_ascii_digit).collect();
                let shard = &index.shards[digits.parse::<usize>().unwrap_or_default()];
                let opened = self.scans.open(shard);
                ok(opened)
            }
            _ => panic!("the simulated cluster does not know {method} {name} {rest:?}"),
        }
    }

    fn create(&mut self, name: &str, json: &Value) -> Answer {
        if self.indices.contains_key(name) {
            let kind = "resource_already_exists_exception";
            return refused(StatusCode::BAD_REQUEST, kind, "index already exists");
        }
        let mut settings = object(&json["settings"]);
        let shards = settings.remove("index.number_of_shards");
        let shards = shards.and_then(|shards| shards.as_str()?.parse().ok());
        self.make(name, shards.unwrap_or(1), settings);
        if let Some(index) = self.indices.get_mut(name) {
            index.mappings = json["mappings"].clone();
            index.aliases = object(&json["aliases"]);
        }
        acknowledged()
    }

    fn change_aliases(&mut self, json: &Value) -> Answer {
        self.version += 1;
        for action in json["actions"].as_array().into_iter().flatten() {
            for (kind, change) in object(action) {
                let mut change = object(&change);
                let text = |value: Option<Value>| Some(value?.as_str()?.to_owned());
                let index = text(change.remove("index")).unwrap_or_default();
                let alias = text(change.remove("alias")).unwrap_or_default();
                let Some(index) = self.indices.get_mut(&index) else {
                    return no_index(&index);
                };
                index.aliases_version += 1;
                match kind.as_str() {
                    "add" => drop(index.aliases.insert(alias, Value::Object(change))),
                    _ => drop(index.aliases.remove(&alias)),
                }
            }
        }
        acknowledged()
    }

    fn state(&self, only: Option<&str>, query: &str) -> Value {
        let is_flat = query.contains("flat_settings=true");
        let (mut indices, mut routing) = (Map::new(), Map::new());
        let found = self.indices.iter();
        for (name, index) in found.filter(|(name, _)| only.is_none_or(|only| only == *name)) {
            let flat = index.all_settings();
            let aliases: Vec<&String> = index.aliases.keys().collect();
            let numbers = 0..index.shards.len();
            let terms: Map<_, _> = numbers.clone().map(|n| (n.to_string(), json!(1))).collect();
            let state = json!({
                "state": if index.is_open { "open" } else { "close" },
                "settings": if is_flat { Value::Object(flat) } else { nested(&flat) },
                "aliases": aliases,
                "mapping_version": index.mapping_version,
                "settings_version": index.settings_version,
                "aliases_version": index.aliases_version,
                "routing_num_shards": 1024,
                "primary_terms": terms,
                "mappings": {},
            });
            indices.insert(name.clone(), state);
            let copies = json!([{
                "state": "STARTED", "primary": true, "node": NODE, "relocating_node": null,
            }]);
            let shards: Map<_, _> = numbers.map(|n| (n.to_string(), copies.clone())).collect();
            routing.insert(name.clone(), json!({"shards": shards}));
        }
        json!({
            "version": self.version, "state_uuid": format!("state-{}", self.version),
            "cluster_uuid": self.uuid, "cluster_manager_node": NODE,
            "nodes": {NODE: {"name": NODE}}, "metadata": {"indices": indices},
            "routing_table": {"indices": routing},
        })
    }

    fn stats(&self, only: Option<&str>) -> Value {
        let found = self.indices.iter().filter(|(_, index)| index.is_open);
        let of = |index: &Index| {
            let shards = index.shards.iter().enumerate().map(|(number, shard)| {
                let seq_no = json!({
                    "max_seq_no": shard.max_seq_no, "global_checkpoint": shard.max_seq_no,
                });
                let history = json!({"user_data": {"history_uuid": index.uuid}});
                let copy = json!([{
                    "routing": {"primary": true, "state": "STARTED"},
                    "seq_no": seq_no, "commit": history,
                }]);
                (number.to_string(), copy)
            });
            json!({"uuid": index.uuid, "shards": shards.collect::<Map<_, _>>()})
        };
        let indices = found
            .filter(|(name, _)| only.is_none_or(|only| only == *name))
            .map(|(name, index)| (name.clone(), of(index)));
        json!({"indices": indices.collect::<Map<_, _>>()})
    }
}

impl Index {
    fn change_settings(&mut self, changes: &Map<String, Value>) {
        self.settings_version += 1;
        for (key, value) in changes {
            match value {
                Value::Null => drop(self.settings.remove(key)),
                Value::String(_) => drop(self.settings.insert(key.clone(), value.clone())),
                other => drop(self.settings.insert(key.clone(), json!(other.to_string()))),
            }
        }
    }

    fn bulk(&mut self, body: &str) -> Value {
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
            let version = meta["version"].as_i64().expect("a version");
            let item = self.apply(id, version, source);
            errors |= item.get("error").is_some();
            items.push(json!({ kind: item }));
        }
        json!({"errors": errors, "items": items})
    }

    fn apply(&mut self, id: &str, version: i64, source: Option<String>) -> Value {
        let shard = self.shard_of(id).expect("an id of a shard");
        let current = shard.documents.get(id).map_or(0, |found| found.version);
        if current > version {
            let reason = format!(
                "[{id}]: version conflict, current version [{current}] is higher than the one \
                 provided [{version}]"
            );
            let kind = "version_conflict_engine_exception";
            return json!({"status": 409, "error": {"type": kind, "reason": reason}});
        }
        shard.write(id, version, source);
        json!({"status": 200, "_seq_no": shard.max_seq_no})
    }
}
