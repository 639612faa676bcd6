//! The leader cluster's REST API, as a leader agent asks it of its node.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::group::Kind;
use crate::index::Hit;
use crate::world::{INDEX, UUID, World};

impl World {
    /// Answers a request to a leader node; `None` when the node does not answer.
    pub fn leader_answers(
        &mut self,
        node: usize,
        method: &str,
        path: &str,
        body: &str,
    ) -> Option<(StatusCode, Value)> {
        let copy = &self.group.copies[node];
        if !copy.is_up {
            return None;
        }
        let (path, _) = path.split_once('?').unwrap_or((path, ""));
        let unavailable = json!({"error": {"type": "no_shard_available_action_exception", "reason": "no primary"}});
        let is_serving = self.group.is_serving();
        Some(
            match (method, path.rsplit('/').next().unwrap_or_default()) {
                ("GET", "version") => (
                    StatusCode::OK,
                    json!({"state_uuid": format!("{}/{}", self.group.term, copy.mapping)}),
                ),
                ("GET", last) if last == INDEX && path.starts_with("/_cluster") => (
                    StatusCode::OK,
                    json!({"metadata": {"indices": {INDEX: {
                        "primary_terms": {"0": self.group.term},
                        "mapping_version": copy.mapping,
                        "settings_version": 0,
                        "aliases_version": 0,
                        "routing_num_shards": 1024,
                        "settings": {"index": {"uuid": UUID}},
                    }}}}),
                ),
                ("GET", last) if last == INDEX => (
                    StatusCode::OK,
                    json!({INDEX: {
                        "aliases": {},
                        "mappings": mappings(copy.mapping),
                        "settings": {"index.uuid": UUID, "index.number_of_shards": "1"},
                    }}),
                ),
                _ if !is_serving => (StatusCode::SERVICE_UNAVAILABLE, unavailable),
                ("GET", "docs") => {
                    let primary = self.group.primary();
                    let (max, known) = (primary.max_seq_no(), primary.global_checkpoint);
                    let copies = json!([{"routing": {"primary": true, "state": "STARTED"}, "seq_no": {"max_seq_no": max, "global_checkpoint": known}, "commit": {"user_data": {"history_uuid": "h"}}}]);
                    (
                        StatusCode::OK,
                        json!({"indices": {INDEX: {"shards": {"0": copies}}}}),
                    )
                }
                ("POST", "_refresh") => {
                    self.visible = self.group.documents().into_iter().collect();
                    (StatusCode::OK, json!({}))
                }
                ("POST", "point_in_time") => {
                    if self.rng.bool() {
                        // It refreshes by itself, too.
                        self.visible = self.group.documents().into_iter().collect();
                    }
                    let hits = self.visible.iter().filter_map(|(id, op)| match &op.kind {
                        Kind::Put { source, .. } => Some(Hit {
                            id: id.clone(),
                            seq_no: op.seq_no,
                            term: op.term,
                            version: op.version,
                            source: source.clone(),
                        }),
                        _ => None,
                    });
                    let hits = hits.collect();
                    (StatusCode::OK, self.scans.open(hits))
                }
                ("DELETE", "point_in_time") => (StatusCode::OK, json!({})),
                ("POST", "_search") => {
                    let request = serde_json::from_str(body).unwrap_or_default();
                    self.search(&request)
                }
                _ => panic!("the simulated leader cluster does not know {method} {path}"),
            },
        )
    }
}

/// Every version of the mapping has one field more.
fn mappings(version: i64) -> Value {
    let fields = (1..=version)
        .map(|field| format!("f{field}"))
        .chain(["t".to_owned()]);
    let properties = fields
        .map(|field| (field, json!({"type": "long"})))
        .collect::<serde_json::Map<_, _>>();
    json!({"dynamic": "strict", "properties": properties})
}
