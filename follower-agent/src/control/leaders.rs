//! What is known of leader clusters: which one an alias means, and what indices it has.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde_json::{Map, Value};
use shardline::contract::ApiError;
use shardline_common::control::{CatalogEntry, Entry, NodeAnnouncement, RefreshRequest, Refreshed};
use shardline_common::kafka::ControlTopic;
use shardline_common::opensearch::OpenSearch;
use shardline_common::types::{ClusterUuid, IndexName};
use shardline_common::wildcard::wildcard_match;
use uuid::Uuid;

/// How long a leader cluster's agents have to bring the catalogue up to date.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(crate) struct Leaders {
    pub opensearch: OpenSearch,
    pub leader_table: ControlTopic,
    pub follower_table: ControlTopic,
    /// From the configuration: alias to cluster name.
    pub aliases: BTreeMap<String, String>,
}

/// Of the announcements that fit: a cluster that was made anew may have the name and the addresses
/// of the one before.
fn newest(
    nodes: Vec<NodeAnnouncement>,
    is_fit: impl Fn(&NodeAnnouncement) -> bool,
) -> Option<NodeAnnouncement> {
    nodes
        .into_iter()
        .filter(is_fit)
        .max_by_key(|node| node.announced_ms)
}

impl Leaders {
    /// The cluster that an alias means: by the configuration, else by the seed addresses that the
    /// follower cluster's settings give it, found among those that leader agents announce.
    pub(crate) async fn resolve(&self, alias: &str) -> Result<ClusterUuid, ApiError> {
        let nodes = self.leader_table.all::<NodeAnnouncement>();
        if let Some(name) = self.aliases.get(alias) {
            let found = newest(nodes, |node| node.cluster_name == *name);
            return found.map(|node| node.cluster_uuid).ok_or_else(|| {
                ApiError::connect_transport(name, "no leader agent has announced this cluster")
            });
        }
        let settings: BTreeMap<String, Map<String, Value>> = self
            .opensearch
            .get("/_cluster/settings?flat_settings=true")
            .await
            .map_err(|error| ApiError::from_cluster(&error))?;
        let mut seeds = Vec::new();
        for key in [
            format!("cluster.remote.{alias}.seeds"),
            format!("cluster.remote.{alias}.proxy_address"),
        ] {
            for section in settings.values() {
                match section.get(&key) {
                    Some(Value::String(one)) => {
                        seeds.extend(one.split(',').map(|seed| seed.trim().to_owned()))
                    }
                    Some(Value::Array(several)) => {
                        seeds.extend(several.iter().filter_map(Value::as_str).map(str::to_owned));
                    }
                    _ => {}
                }
            }
        }
        let Some(first) = seeds.first() else {
            return Err(ApiError::no_such_remote_cluster(alias));
        };
        let found = newest(nodes, |node| {
            seeds
                .iter()
                .any(|seed| same_address(seed, &node.transport_address))
        });
        found.map(|node| node.cluster_uuid).ok_or_else(|| {
            ApiError::connect_transport(first, "no leader agent has announced this address")
        })
    }

    /// An index of a leader cluster as it is now: the cluster's agents are asked to look first.
    pub(crate) async fn index(
        &self,
        cluster: &ClusterUuid,
        index: &IndexName,
        alias: &str,
    ) -> Result<CatalogEntry, ApiError> {
        self.refresh(cluster).await?;
        if let Some(entry) = self
            .leader_table
            .get::<CatalogEntry>(&CatalogEntry::key_of(cluster, index))
        {
            return if entry.open {
                Ok(entry)
            } else {
                Err(ApiError::index_closed())
            };
        }
        let is_alias = |entry: &CatalogEntry| {
            entry.cluster_uuid == *cluster
                && entry.aliases.iter().any(|name| name == index.as_str())
        };
        if self.leader_table.all::<CatalogEntry>().iter().any(is_alias) {
            return Err(ApiError::index_not_found(&format!("{alias}:{index}")));
        }
        Err(ApiError::index_not_found(index.as_str()))
    }

    /// The indices of a leader cluster as its agents have announced them.
    pub(super) fn catalogue(&self, cluster: &ClusterUuid) -> Vec<CatalogEntry> {
        let all = self.leader_table.all::<CatalogEntry>().into_iter();
        all.filter(|entry| entry.cluster_uuid == *cluster).collect()
    }

    /// The open indices that a pattern finds by name or alias. Hidden ones, and those that begin
    /// with a dot, have to be named.
    pub(crate) fn matching(&self, cluster: &ClusterUuid, pattern: &str) -> Vec<CatalogEntry> {
        let is_plain =
            |entry: &CatalogEntry| !entry.hidden && !entry.index.as_str().starts_with('.');
        let matches = |entry: &CatalogEntry| {
            let names = std::iter::once(entry.index.as_str())
                .chain(entry.aliases.iter().map(String::as_str));
            names.into_iter().any(|name| wildcard_match(pattern, name))
        };
        let mut found = self.catalogue(cluster);
        found.retain(|entry| {
            entry.open && (is_plain(entry) || entry.index.as_str() == pattern) && matches(entry)
        });
        found
    }

    /// Has the leader's agents write down the indices as they are now.
    pub(crate) async fn refresh(&self, cluster: &ClusterUuid) -> Result<(), ApiError> {
        let nonce = Uuid::new_v4().to_string();
        let request = RefreshRequest {
            cluster_uuid: cluster.clone(),
            nonce: nonce.clone(),
        };
        let mut changes = self.leader_table.changes();
        self.follower_table
            .publish(&request)
            .await
            .map_err(|error| ApiError::unavailable(&error))?;
        let key = format!("{}/{cluster}", Refreshed::KIND);
        // A later request's answer is as good, and the only one where several came at once.
        let mut accepted = HashSet::from([nonce]);
        let answered = async {
            loop {
                changes.mark_unchanged();
                let current: Option<RefreshRequest> = self
                    .follower_table
                    .get(&format!("{}/{cluster}", RefreshRequest::KIND));
                accepted.extend(current.map(|current| current.nonce));
                if self
                    .leader_table
                    .get::<Refreshed>(&key)
                    .is_some_and(|answer| accepted.contains(&answer.nonce))
                {
                    return;
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(REFRESH_TIMEOUT, answered)
            .await
            .map_err(|_| {
                let seconds = REFRESH_TIMEOUT.as_secs();
                ApiError::connect_transport(
                    cluster.as_str(),
                    &format!("no leader agent of the cluster answered within {seconds}s"),
                )
            })
    }
}

fn same_address(seed: &str, announced: &str) -> bool {
    let normal = |address: &str| {
        address
            .replace("localhost", "127.0.0.1")
            .replace("[::1]", "127.0.0.1")
    };
    // A node that publishes a name shows it as `name/ip:port`.
    let (name, rest) = announced
        .split_once('/')
        .map_or((None, announced), |(name, rest)| (Some(name), rest));
    let by_name = name.and_then(|name| {
        rest.rsplit_once(':')
            .map(|(_, port)| format!("{name}:{port}"))
    });
    normal(seed) == normal(rest) || by_name.is_some_and(|by_name| by_name == seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_that_was_announced_last_is_meant() {
        let node = |uuid: &str, announced_ms: i64| NodeAnnouncement {
            cluster_uuid: uuid.into(),
            cluster_name: "leader".to_owned(),
            node_id: "n".to_owned(),
            node_name: "n".to_owned(),
            transport_address: "127.0.0.1:9300".to_owned(),
            agent_version: "1".to_owned(),
            announced_ms,
        };
        let found = newest(vec![node("a", 5), node("b", 9), node("c", 0)], |_| true);
        assert_eq!(found.map(|node| node.cluster_uuid), Some("b".into()));
    }

    #[test]
    fn addresses_are_compared_however_they_are_written() {
        assert!(same_address("127.0.0.1:9300", "127.0.0.1:9300"));
        assert!(same_address("localhost:9300", "127.0.0.1:9300"));
        assert!(same_address(
            "es1.example:9300",
            "es1.example/10.0.0.1:9300"
        ));
        assert!(!same_address("127.0.0.1:9300", "127.0.0.1:9301"));
    }
}
