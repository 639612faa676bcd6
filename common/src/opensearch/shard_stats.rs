//! What a cluster says of the sequence numbers of an index's shards.

use std::collections::HashMap;

use serde::Deserialize;

use super::{OpenSearch, OpenSearchError, path_segment};
use crate::words::types::{IndexName, IndexUuid, SeqNo, ShardId};

const FIELDS: &str = "indices.*.uuid,indices.*.shards.*.routing.primary,indices.*.shards.*.routing.state,indices.*.shards.*.seq_no";

const HISTORY: &str = "indices.*.shards.*.routing.primary,indices.*.shards.*.routing.state,indices.*.shards.*.seq_no,\
                       indices.*.shards.*.commit.user_data.history_uuid";

#[derive(Default, Deserialize)]
struct Stats {
    #[serde(default)]
    indices: HashMap<String, IndexStats>,
}

#[derive(Deserialize)]
struct IndexStats {
    uuid: Option<IndexUuid>,
    #[serde(default)]
    shards: HashMap<ShardId, Vec<CopyStats>>,
}

#[derive(Deserialize)]
struct CopyStats {
    routing: Routing,
    seq_no: Option<SeqNoStats>,
    commit: Option<Commit>,
}

#[derive(Deserialize)]
struct Commit {
    user_data: CommitData,
}

#[derive(Deserialize)]
struct CommitData {
    history_uuid: String,
}

#[derive(Deserialize)]
struct Routing {
    primary: bool,
    state: String,
}

#[derive(Clone, Copy, Deserialize)]
pub struct SeqNoStats {
    /// The highest that was given to an operation.
    pub max_seq_no: SeqNo,
    pub global_checkpoint: SeqNo,
}

/// What an index's primaries say. One that is away is left out.
pub struct Primaries {
    pub index: Option<IndexUuid>,
    pub shards: HashMap<ShardId, SeqNoStats>,
}

pub async fn primaries(
    opensearch: &OpenSearch,
    index: &IndexName,
) -> Result<Primaries, OpenSearchError> {
    let path = format!(
        "/{}/_stats/docs?level=shards&filter_path={FIELDS}",
        path_segment(index.as_str())
    );
    let stats: Stats = opensearch.get(&path).await?;
    let uuid = stats.indices.values().find_map(|index| index.uuid.clone());
    let shards = stats.indices.into_values().flat_map(IndexStats::primaries);
    Ok(Primaries {
        index: uuid,
        shards: shards.collect(),
    })
}

/// What an index's primaries say, with the history that each has: see [`history`].
pub struct Standings {
    pub index: Option<IndexUuid>,
    pub shards: HashMap<ShardId, (Option<String>, SeqNoStats)>,
}

/// One that is away is left out.
pub async fn standings(
    opensearch: &OpenSearch,
    index: &IndexName,
) -> Result<Standings, OpenSearchError> {
    let path = format!(
        "/{}/_stats/docs?level=shards&filter_path=indices.*.uuid,{HISTORY}",
        path_segment(index.as_str())
    );
    let stats: Stats = opensearch.get(&path).await?;
    let uuid = stats.indices.values().find_map(|index| index.uuid.clone());
    let of_shard = |(shard, copies): (ShardId, Vec<CopyStats>)| {
        let primary = copies
            .into_iter()
            .find(|copy| copy.routing.is_serving_primary())?;
        let history = primary.commit.map(|commit| commit.user_data.history_uuid);
        Some((shard, (history, primary.seq_no?)))
    };
    let shards = stats
        .indices
        .into_values()
        .flat_map(|index| index.shards.into_iter().filter_map(of_shard));
    Ok(Standings {
        index: uuid,
        shards: shards.collect(),
    })
}

/// The history that a shard's primary has, and how far it is; `None` while it is away. OpenSearch
/// gives a shard another history when it is restored from a snapshot, and when a copy that may lack
/// operations is made its primary by force (`Engine.HISTORY_UUID_KEY` in the user data of Lucene's
/// commit).
pub async fn history(
    opensearch: &OpenSearch,
    index: &IndexName,
    shard: ShardId,
) -> Result<Option<(String, SeqNoStats)>, OpenSearchError> {
    let path = format!(
        "/{}/_stats/docs?level=shards&filter_path={HISTORY}",
        path_segment(index.as_str())
    );
    let stats: Stats = opensearch.get(&path).await?;
    let copies = stats
        .indices
        .into_values()
        .find_map(|mut index| index.shards.remove(&shard));
    let primary = copies
        .into_iter()
        .flatten()
        .find(|copy| copy.routing.is_serving_primary());
    Ok(primary.and_then(|primary| Some((primary.commit?.user_data.history_uuid, primary.seq_no?))))
}

/// What the primaries of all indices say. One that is away is left out.
pub async fn all_primaries(
    opensearch: &OpenSearch,
) -> Result<HashMap<(IndexUuid, ShardId), SeqNoStats>, OpenSearchError> {
    let path = format!("/_stats/docs?level=shards&expand_wildcards=all&filter_path={FIELDS}");
    let stats: Stats = opensearch.get(&path).await?;
    let of_index = |index: IndexStats| {
        let uuid = index.uuid.clone();
        index
            .primaries()
            .filter_map(move |(shard, primary)| Some(((uuid.clone()?, shard), primary)))
    };
    Ok(stats.indices.into_values().flat_map(of_index).collect())
}

impl IndexStats {
    fn primaries(self) -> impl Iterator<Item = (ShardId, SeqNoStats)> {
        self.shards.into_iter().filter_map(|(shard, copies)| {
            let primary = copies
                .into_iter()
                .find(|copy| copy.routing.is_serving_primary())?;
            Some((shard, primary.seq_no?))
        })
    }
}

impl Routing {
    /// One that is being recovered, such as the target of a relocation, does not know yet what the
    /// shard has.
    fn is_serving_primary(&self) -> bool {
        self.primary && self.state != "INITIALIZING"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_the_server_is_read() {
        let answer = r#"{"indices":{"a":{"uuid":"u","shards":{
            "0":[{"routing":{"primary":false,"state":"STARTED"},"seq_no":{"max_seq_no":4,"global_checkpoint":3}},
                 {"routing":{"primary":true,"state":"STARTED"},"seq_no":{"max_seq_no":5,"local_checkpoint":5,"global_checkpoint":4}}],
            "1":[{"routing":{"primary":true,"state":"INITIALIZING"}}]}}}}"#;
        let stats: Stats = serde_json::from_str(answer).unwrap();
        assert_eq!(stats.indices["a"].uuid, Some("u".into()));
        assert_eq!(stats.indices["a"].shards[&ShardId(0)].len(), 2);
    }
}
