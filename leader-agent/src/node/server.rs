//! The server beside the agent: whether it is one that can be captured from, and where its files
//! are.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use shardline_common::opensearch::{OpenSearch, OpenSearchError};

/// The folder of the node's own files in each of its data folders, such as `nodes/0`.
pub(super) async fn own_folder(opensearch: &OpenSearch) -> Result<PathBuf, OpenSearchError> {
    let first = || PathBuf::from("nodes/0");
    let path = "/_nodes/_local/stats/fs?filter_path=nodes.*.fs.data.path";
    let stats: NodesStats = match opensearch.get(path).await {
        Ok(stats) => stats,
        // Earlier roles of the agent's user do not have it.
        Err(error) if error.status() == Some(403) => return Ok(first()),
        Err(error) => return Err(error),
    };
    let paths = stats.nodes.into_values().flat_map(|node| node.fs.data);
    Ok(paths
        .map(|data| data.path)
        .find_map(|path| of_node(&path))
        .unwrap_or_else(first))
}

/// The last two folders of a node's path, if they are those of a node.
fn of_node(path: &Path) -> Option<PathBuf> {
    let node = path.file_name()?;
    let nodes = path.parent()?.file_name()?;
    let is_number = node
        .to_str()
        .is_some_and(|node| node.parse::<u32>().is_ok());
    (nodes == "nodes" && is_number).then(|| Path::new(nodes).join(node))
}

/// The first OpenSearch that has what the agent needs, such as points in time.
const EARLIEST_VERSION: (u32, u32) = (2, 4);

/// The reason why the server beside the agent cannot be captured from, if it cannot.
pub(crate) async fn unsupported(
    opensearch: &OpenSearch,
) -> Result<Option<String>, OpenSearchError> {
    let Versioned { version } = opensearch.get("/").await?;
    Ok(version.refusal())
}

#[derive(Deserialize)]
struct Versioned {
    version: ServerVersion,
}

#[derive(Deserialize)]
struct ServerVersion {
    number: String,
    distribution: Option<String>,
}

impl ServerVersion {
    fn refusal(&self) -> Option<String> {
        let Self {
            number,
            distribution,
        } = self;
        let (major, minor) = EARLIEST_VERSION;
        if distribution.as_deref() != Some("opensearch") {
            return Some(format!(
                "the server beside the agent is no OpenSearch (version {number}, such as of \
                 Elasticsearch): leader agents need OpenSearch {major}.{minor} or later"
            ));
        }
        let mut parts = number
            .split('.')
            .map(|part| part.parse().unwrap_or_default());
        let found = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        (found < EARLIEST_VERSION).then(|| {
            format!(
                "OpenSearch {number} beside the agent is not supported: leader agents need \
                 {major}.{minor} or later"
            )
        })
    }
}

#[derive(Deserialize)]
struct NodesStats {
    #[serde(default)]
    nodes: HashMap<String, NodeStats>,
}

#[derive(Deserialize)]
struct NodeStats {
    fs: FsStats,
}

#[derive(Deserialize)]
struct FsStats {
    data: Vec<DataPath>,
}

#[derive(Deserialize)]
struct DataPath {
    path: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_are_not_supported_are_refused_by_name() {
        let refusal = |root: &str| {
            let root: Versioned = serde_json::from_str(root).unwrap();
            root.version.refusal()
        };
        let elasticsearch = refusal(r#"{"version": {"number": "7.10.2"}}"#).unwrap();
        assert!(elasticsearch.contains("no OpenSearch") && elasticsearch.contains("7.10.2"));
        let of = |number: &str| {
            refusal(&format!(
                r#"{{"version": {{"number": "{number}", "distribution": "opensearch"}}}}"#
            ))
        };
        for early in ["1.3.20", "2.3.0"] {
            assert!(of(early).is_some_and(|reason| reason.contains(early)));
        }
        for supported in ["2.4.0", "2.19.3", "3.8.0", "3.0.0-beta1"] {
            assert_eq!(of(supported), None, "{supported}");
        }
    }

    #[test]
    fn the_folder_of_a_node_is_its_own_one() {
        let of_node = |path: &str| of_node(Path::new(path));
        assert_eq!(of_node("/data/nodes/1"), Some(PathBuf::from("nodes/1")));
        assert_eq!(of_node("/data/nodes"), None);
    }
}
