//! Compares two indices document by document: id, routing and source.

use std::collections::HashMap;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::client::Client;

const PAGE: usize = 5_000;
/// How many differences are told.
const EXAMPLES: usize = 10;

/// How two indices differ.
#[derive(Debug, Default)]
pub struct Difference {
    pub documents: usize,
    pub missing: Vec<String>,
    pub extra: Vec<String>,
    pub different: Vec<String>,
}

impl Difference {
    pub fn is_equal(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.different.is_empty()
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_equal() {
            return write!(f, "{} documents, all equal", self.documents);
        }
        write!(f, "{} documents on the leader", self.documents)?;
        for (what, ids) in [
            ("missing", &self.missing),
            ("extra", &self.extra),
            ("different", &self.different),
        ] {
            if !ids.is_empty() {
                let examples = ids
                    .iter()
                    .take(EXAMPLES)
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(", ");
                write!(f, "; {} {what}: {examples}", ids.len())?;
            }
        }
        Ok(())
    }
}

type Documents = HashMap<String, (Option<String>, Value)>;

pub async fn compare(
    leader: &Client,
    leader_index: &str,
    follower: &Client,
    follower_index: &str,
) -> Result<Difference> {
    let expected = documents(leader, leader_index).await?;
    let mut found = documents(follower, follower_index).await?;
    let mut difference = Difference {
        documents: expected.len(),
        ..Difference::default()
    };
    for (id, document) in expected {
        match found.remove(&id) {
            None => difference.missing.push(id),
            Some(other) if other != document => difference.different.push(id),
            Some(_) => {}
        }
    }
    difference.extra = found.into_keys().collect();
    Ok(difference)
}

/// Every document of an index, read at one point in time.
async fn documents(client: &Client, index: &str) -> Result<Documents> {
    client
        .ok("POST", &format!("/{index}/_refresh"), None)
        .await?;
    let opened = client
        .ok(
            "POST",
            &format!("/{index}/_search/point_in_time?keep_alive=5m"),
            None,
        )
        .await?;
    let pit = opened["pit_id"].as_str().context("no pit_id")?.to_owned();
    let mut documents = Documents::new();
    let mut after = Value::Null;
    loop {
        let mut request = json!({
            "size": PAGE, "pit": {"id": pit, "keep_alive": "5m"}, "sort": [{"_shard_doc": "asc"}],
            "track_total_hits": false,
        });
        if !after.is_null() {
            request["search_after"] = after;
        }
        let mut page = client.ok("POST", "/_search", Some(&request)).await?;
        let Value::Array(hits) = page["hits"]["hits"].take() else {
            break;
        };
        let Some(last) = hits.last() else { break };
        after = last["sort"].clone();
        for mut hit in hits {
            let id = hit["_id"].as_str().context("a hit without _id")?.to_owned();
            let routing = hit["_routing"].as_str().map(str::to_owned);
            documents.insert(id, (routing, hit["_source"].take()));
        }
    }
    client
        .ok(
            "DELETE",
            "/_search/point_in_time",
            Some(&json!({"pit_id": [pit]})),
        )
        .await?;
    Ok(documents)
}
