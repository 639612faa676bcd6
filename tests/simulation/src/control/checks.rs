//! What the oracle holds against requests to the follower clusters, and against what agents say.

use std::collections::BTreeSet;

use follower_agent::Slot;
use serde_json::Value;
use shardline_common::control::Subscription;
use shardline_common::topic::replication_topic;
use shardline_common::types::{IndexName, Offset, ShardId};

use super::sabotage::Sabotage;
use super::world::{LEADER, PREFIX, World};

/// The consumer group of a follower cluster's agents.
fn group_of(cluster_uuid: &str) -> String {
    format!("{PREFIX}.follower.{cluster_uuid}")
}

impl World {
    /// The key of a follower index's subscription.
    pub fn key(&self, cluster: &str, index: &str) -> String {
        let uuid = self.cluster(cluster, |cluster| cluster.uuid.clone());
        Subscription::key_of(&uuid.as_str().into(), &index.into())
    }

    fn owns(&self, agent: &str, cluster: &str, slot: Slot) -> bool {
        let uuid = self.cluster(cluster, |cluster| cluster.uuid.clone());
        self.brokers.owner(&group_of(&uuid), slot.0).as_deref() == Some(agent)
    }

    /// An agent sends a request that changes something.
    pub fn check_sent(&self, agent: &str, cluster: &str, method: &str, path: &str, body: &str) {
        let path = path.split('?').next().unwrap_or_default();
        let mut segments = path.trim_start_matches('/').split('/');
        let index = segments.next().unwrap_or_default();
        let rest = segments.next();
        if cluster == LEADER || index.starts_with('_') {
            return;
        }
        self.note(|| format!("{agent} {method} {path}"));
        let key = self.key(cluster, index);
        let of_index = self.owns(agent, cluster, Slot::of_index(&index.into()));
        let (is_quiet, subscription) = {
            let oracle = self.oracle.lock();
            let found = oracle.subscriptions.get(&key).cloned();
            (oracle.quiet.contains(&key), found)
        };
        match (method, rest) {
            ("POST", Some("_bulk")) => {
                if is_quiet {
                    self.fail(|| {
                        format!("{agent} writes to {index} after a user was told that nothing does")
                    });
                }
                let of_shard = subscription.is_some_and(|subscription| {
                    let topic = replication_topic(
                        PREFIX,
                        LEADER,
                        &subscription.leader_index,
                        &subscription.leader_uuid,
                    );
                    let slot = Slot::of_shard(&topic, shard_of(body));
                    self.owns(agent, cluster, slot)
                });
                if !of_index && !of_shard {
                    self.fail(|| format!("{agent} writes to {index}, and has no slot of it"));
                }
            }
            ("PUT" | "DELETE", None) if !of_index => {
                self.fail(|| format!("{agent} sends {method} {path}, and has not its slot"));
            }
            _ => {}
        }
    }

    /// A request takes effect.
    pub fn check_effect(&self, agent: &str, cluster: &str, method: &str, path: &str) {
        let path = path.split('?').next().unwrap_or_default();
        let index = path.trim_start_matches('/');
        if cluster == LEADER || method != "DELETE" || index.contains('/') {
            return;
        }
        // One into which nothing has ever come loses nothing.
        let is_used = self.cluster(cluster, |cluster| {
            let found = cluster.indices.get(index);
            found.is_some_and(|found| found.shards.iter().any(|shard| shard.max_seq_no >= 0))
        });
        let key = self.key(cluster, index);
        let evidence = {
            let oracle = self.oracle.lock();
            let found = oracle.subscriptions.get(&key);
            found.is_none_or(|found| found.copy.is_none() || found.is_partial)
                || found.is_some_and(|f| oracle.is_deleted.contains(f.leader_uuid.as_str()))
        };
        let deletes = self.plan.deletes_with_leader;
        let was_deleted = deletes && self.cluster(LEADER, |leader| !leader.deleted.is_empty());
        if is_used && !evidence && !was_deleted {
            self.fail(|| format!("{agent} deletes {index} without evidence that it is to go"));
        }
    }

    /// An agent says which indices its gateway lets nobody write to.
    pub fn check_followed(
        &self,
        agent: &str,
        cluster: &str,
        position: Offset,
        followed: &std::collections::HashSet<IndexName>,
    ) {
        let prefix = self.key(cluster, "");
        let due: BTreeSet<String> = {
            let oracle = self.oracle.lock();
            let due = oracle.followed_at(position).into_iter();
            due.filter_map(|key| Some(key.strip_prefix(&prefix)?.to_owned()))
                .collect()
        };
        for index in due {
            if !followed.contains(&IndexName::from(index.as_str())) {
                self.fail(|| format!("{index} is followed, and {agent} lets anybody write to it"));
            }
        }
    }

    /// Leaves an index out of a state of the leader cluster, now and then.
    pub fn hide(&self, cluster: &str, answer: &mut Value) {
        if cluster != LEADER || self.plan.sabotage != Some(Sabotage::MissingIsDeleted) {
            return;
        }
        let indices = answer.pointer_mut("/metadata/indices");
        let is_time = !self.links().is_calm() && (self.links().seconds() / 4).is_multiple_of(5);
        if let Some(Value::Object(indices)) = indices.filter(|_| is_time) {
            indices.remove("books-0");
        }
    }

    pub fn fail(&self, violation: impl FnOnce() -> String) {
        self.oracle.lock().fail(violation);
    }
}

/// The shard that a bulk request is for, by its first document.
fn shard_of(body: &str) -> ShardId {
    let first = body.lines().next().unwrap_or_default();
    let action: Value = serde_json::from_str(first).unwrap_or_default();
    let meta = action.get("index").unwrap_or(&action["delete"]);
    let id = meta["_id"].as_str().unwrap_or_default();
    let shard = id.split('-').next().and_then(|shard| shard.parse().ok());
    ShardId(shard.unwrap_or_default())
}
