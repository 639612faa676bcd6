//! What the control topics under the prefix say: which clusters use it.

use std::collections::BTreeMap;

use bytes::Bytes;
use rdkafka::error::RDKafkaErrorCode;

use super::kafka::KafkaSide;
use super::topics::{check_control_topic, check_creation, check_data_topics};
use super::{Problem, Report};
use crate::control::{Entry, NodeAnnouncement};
use crate::words::topic::{follower_control_topic, leader_control_topic};
use crate::words::types::{ClusterUuid, TopicName};

/// Which of the control topics an agent writes to; it reads both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SideTopics {
    Leader,
    Follower,
}

/// The entries of both control topics.
#[derive(Debug, Default)]
pub struct ControlEntries {
    leader: BTreeMap<String, Bytes>,
    follower: BTreeMap<String, Bytes>,
}

impl ControlEntries {
    pub fn leader<T: Entry>(&self) -> Vec<T> {
        all(&self.leader)
    }

    pub fn follower<T: Entry>(&self) -> Vec<T> {
        all(&self.follower)
    }
}

fn all<T: Entry>(entries: &BTreeMap<String, Bytes>) -> Vec<T> {
    let start = format!("{}/", T::KIND);
    let of_kind = entries.iter().filter(|(key, _)| key.starts_with(&start));
    of_kind
        .filter_map(|(_, bytes)| serde_json::from_slice(bytes).ok())
        .collect()
}

/// Checks the topics under the prefix, and gives what the control topics hold.
pub async fn read_control(
    side: &KafkaSide,
    topics: SideTopics,
    report: &mut Report,
) -> ControlEntries {
    let leader = leader_control_topic(side.prefix());
    let follower = follower_control_topic(side.prefix());
    check_control_topic(side, &leader, topics == SideTopics::Leader, report).await;
    check_control_topic(side, &follower, topics == SideTopics::Follower, report).await;
    check_creation(side, report).await;
    let entries = ControlEntries {
        leader: read(side, &leader, report).await,
        follower: read(side, &follower, report).await,
    };
    check_data_topics(side, &entries, report).await;
    entries
}

async fn read(side: &KafkaSide, topic: &TopicName, report: &mut Report) -> BTreeMap<String, Bytes> {
    if !side
        .cluster
        .topics
        .iter()
        .any(|known| known.name == topic.0)
    {
        return BTreeMap::new();
    }
    let check = format!("read {topic}");
    match side.kafka.read_compacted(topic).await {
        Ok(entries) => {
            report.ok(check, format!("{} entries", entries.len()));
            entries
        }
        Err(code) => {
            let mend = match code {
                RDKafkaErrorCode::GroupAuthorizationFailed => {
                    side.grant("group", &["Read", "Describe"])
                }
                RDKafkaErrorCode::TopicAuthorizationFailed => {
                    side.grant("topic", &["Read", "Describe"])
                }
                _ => format!(
                    "see whether its partition has a leader: {} --describe --topic {topic}",
                    side.tool("kafka-topics")
                ),
            };
            report.failed(check, format!("this agent cannot read it: {code}"), mend);
            BTreeMap::new()
        }
    }
}

/// Checks whether the prefix is the one that the other side uses, and nobody else's.
pub async fn check_prefix(
    side: &KafkaSide,
    topics: SideTopics,
    name: &str,
    cluster: &ClusterUuid,
    entries: &ControlEntries,
    report: &mut Report,
) {
    let nodes = entries.leader::<NodeAnnouncement>();
    let found = match topics {
        SideTopics::Leader => match other_of_the_name(&nodes, name, cluster) {
            Some(other) => Err(used_by_another(side, name, cluster, other)),
            None if nodes.iter().any(|node| node.cluster_uuid == *cluster) => {
                Ok("this cluster's".to_owned())
            }
            None => elsewhere(side, |node| node.cluster_uuid == *cluster).await,
        },
        SideTopics::Follower if nodes.is_empty() => elsewhere(side, |_| true).await,
        SideTopics::Follower => {
            let mut names: Vec<&str> = nodes.iter().map(|node| &*node.cluster_name).collect();
            names.sort_unstable();
            names.dedup();
            Ok(format!("leader clusters: {}", names.join(", ")))
        }
    };
    report.add(format!("prefix {}", side.prefix()), found);
}

/// A cluster that was made anew keeps its name, and entries of the one before stay: of two with one
/// name, followers mean the one that has announced itself last.
fn other_of_the_name<'a>(
    nodes: &'a [NodeAnnouncement],
    name: &str,
    cluster: &ClusterUuid,
) -> Option<&'a NodeAnnouncement> {
    let own = nodes.iter().filter(|node| node.cluster_uuid == *cluster);
    let own = own.map(|node| node.announced_ms).max();
    nodes.iter().find(|node| {
        let is_gone = own.is_some_and(|own| node.announced_ms < own);
        node.cluster_name == name && node.cluster_uuid != *cluster && !is_gone
    })
}

fn used_by_another(
    side: &KafkaSide,
    name: &str,
    cluster: &ClusterUuid,
    other: &NodeAnnouncement,
) -> Problem {
    let what = format!(
        "it is in use by another cluster that is called {name}, too: {} with node {}, and this one \
         is {cluster}",
        other.cluster_uuid, other.node_name
    );
    let mend = format!(
        "choose another kafka.topic_prefix for one of them. If the other cluster is no more, \
         remove what is left of it: echo 'node/{}/{}|' | {} --topic {} --property parse.key=true \
         --property key.separator='|' --property null.marker=''",
        other.cluster_uuid,
        other.node_id,
        side.tool("kafka-console-producer"),
        leader_control_topic(side.prefix()),
    );
    Problem::new(what, mend)
}

/// Nobody whom the agent could do with uses the prefix. Whether somebody does under another one.
async fn elsewhere(
    side: &KafkaSide,
    is_meant: impl Fn(&NodeAnnouncement) -> bool,
) -> Result<String, Problem> {
    let suffix = &leader_control_topic("").0;
    let names = side.cluster.topics.iter().map(|topic| &topic.name);
    for topic in names.filter(|name| name.ends_with(suffix)) {
        let prefix = topic.strip_suffix(suffix.as_str()).unwrap_or_default();
        if prefix == side.prefix() {
            continue;
        }
        let read = side.kafka.read_compacted(&TopicName(topic.clone())).await;
        let nodes = all::<NodeAnnouncement>(&read.unwrap_or_default());
        if let Some(node) = nodes.iter().find(|node| is_meant(node)) {
            let what = format!(
                "no leader agent uses it, but those of cluster {} use the prefix {prefix}",
                node.cluster_name
            );
            return Err(Problem::new(
                what,
                format!("kafka.topic_prefix = \"{prefix}\""),
            ));
        }
    }
    Ok("no leader agent has announced itself yet".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(cluster: &str, name: &str, announced_ms: i64) -> NodeAnnouncement {
        NodeAnnouncement {
            cluster_uuid: cluster.into(),
            cluster_name: name.to_owned(),
            node_id: "n".to_owned(),
            node_name: "n".to_owned(),
            transport_address: "127.0.0.1:9300".to_owned(),
            agent_version: String::new(),
            announced_ms,
        }
    }

    #[test]
    fn only_another_cluster_of_the_same_name_disturbs() {
        let nodes = [node("u1", "eu", 5), node("u2", "us", 5)];
        assert!(other_of_the_name(&nodes, "eu", &"u1".into()).is_none());
        assert!(other_of_the_name(&nodes, "asia", &"u3".into()).is_none());
        let other = other_of_the_name(&nodes, "us", &"u3".into()).unwrap();
        assert_eq!(other.cluster_uuid, "u2".into());
    }

    #[test]
    fn the_cluster_before_this_one_does_not_disturb() {
        let nodes = [node("before", "eu", 5), node("now", "eu", 6)];
        assert!(other_of_the_name(&nodes, "eu", &"now".into()).is_none());
        assert!(other_of_the_name(&nodes, "eu", &"before".into()).is_some());
    }
}
