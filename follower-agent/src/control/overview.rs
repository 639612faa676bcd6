//! What the page shows beyond the control API: shards, tasks, agents, leader clusters.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering::Relaxed;

use futures::FutureExt;
use futures::future::BoxFuture;
use shardline::contract::overview::{
    AgentOverview, IndexOverview, LeaderNode, LeaderOverview, Overview, PreviewedIndex,
    ShardOverview, TaskOverview,
};
use shardline::contract::service::FollowedStatus;
use shardline::contract::{ApiError, ReplicationService};
use shardline_common::control::{Capture, CatalogEntry, NodeAnnouncement, Subscription};
use shardline_common::leader_stats::NodeReads;
use shardline_common::types::{ClusterUuid, IndexName, ShardId};

use super::subscriptions::Subscriptions;
use super::{bulk_tasks, status};
use crate::index::Phase;
use crate::membership::Slot;
use crate::progress::ShardProgress;

impl Overview for Subscriptions {
    fn every_status(&self) -> Vec<(IndexName, FollowedStatus)> {
        self.statuses("*", false)
    }

    fn index(&self, follower: &IndexName) -> Option<IndexOverview> {
        let status = self.followed_status(follower)?;
        let subscription = self.subscription(follower);
        let topic = subscription
            .as_ref()
            .and_then(|of| self.context().topic(of));
        let shards = match (self.phase(follower), &topic) {
            (Some(Phase::Syncing(progress) | Phase::Bootstrapping(progress)), Some(topic)) => {
                let shards = (0..).map(ShardId).zip(&progress.shards);
                let holds = |shard| self.slots().holds(Slot::of_shard(topic, shard));
                shards
                    .map(|(id, shard)| shard_overview(id, shard, holds(id)))
                    .collect()
            }
            _ => Vec::new(),
        };
        Some(IndexOverview {
            status,
            topic: topic.map(|topic| topic.to_string()),
            repository: subscription.as_ref().and_then(|of| of.repository.clone()),
            settings: subscription.map(|of| of.settings).unwrap_or_default(),
            shards,
        })
    }

    fn tasks(&self) -> Vec<TaskOverview> {
        bulk_tasks::overview(self)
    }

    fn preview(
        &self,
        leader_alias: String,
        pattern: String,
    ) -> BoxFuture<'_, Result<Vec<PreviewedIndex>, ApiError>> {
        async move {
            let cluster = self.leaders().resolve(&leader_alias).await?;
            let followers: HashMap<IndexName, IndexName> = self
                .all()
                .into_iter()
                .filter(|subscription| subscription.leader_cluster == cluster)
                .map(|subscription| (subscription.leader_index, subscription.follower_index))
                .collect();
            let found = self.leaders().matching(&cluster, &pattern).into_iter();
            Ok(found.map(|entry| previewed(entry, &followers)).collect())
        }
        .boxed()
    }

    fn agents(&self) -> BoxFuture<'_, Result<Vec<AgentOverview>, ApiError>> {
        async move {
            let group = &self.context().group;
            let holders = group.holders().await;
            let holders = holders.map_err(|error| ApiError::unavailable(&error))?;
            let mut agents: BTreeMap<String, BTreeSet<Slot>> = BTreeMap::new();
            for (slot, holder) in holders {
                agents.entry(holder.address).or_default().insert(slot);
            }
            let overview = |(address, slots): (String, BTreeSet<Slot>)| AgentOverview {
                is_this: address == group.address(),
                has_cluster_slot: slots.contains(&Slot::CLUSTER),
                slots: slots.len(),
                address,
            };
            Ok(agents.into_iter().map(overview).collect())
        }
        .boxed()
    }

    fn leaders(&self) -> Vec<LeaderOverview> {
        let table = &self.context().leader_table;
        let mut nodes: BTreeMap<ClusterUuid, Vec<NodeAnnouncement>> = BTreeMap::new();
        for node in table.all::<NodeAnnouncement>() {
            nodes
                .entry(node.cluster_uuid.clone())
                .or_default()
                .push(node);
        }
        let parts = Parts {
            catalogue: table.all(),
            captures: table.all(),
            reads: table.all(),
            subscriptions: self.all(),
            aliases: &self.leaders().aliases,
        };
        nodes
            .into_iter()
            .map(|(uuid, nodes)| parts.overview(&uuid, nodes))
            .collect()
    }
}

fn shard_overview(shard_id: ShardId, shard: &ShardProgress, is_here: bool) -> ShardOverview {
    let is_loaded = shard.loaded.load(Relaxed);
    let documents = || {
        (
            shard.documents_done.load(Relaxed),
            shard.documents_total.load(Relaxed),
        )
    };
    ShardOverview {
        shard_id: shard_id.0,
        follower_checkpoint: shard.follower_checkpoint().0,
        leader_checkpoint: shard.leader_checkpoint().0,
        lag_millis: shard.lag_millis(),
        foreign_writes: shard.foreign_writes.load(Relaxed),
        copied: (!is_loaded).then(documents),
        standstill: shard.standstill().map(Into::into),
        resync: status::resync(shard_id.0, shard),
        is_here,
    }
}

fn previewed(entry: CatalogEntry, followers: &HashMap<IndexName, IndexName>) -> PreviewedIndex {
    PreviewedIndex {
        followed_as: followers.get(&entry.index).cloned(),
        index: entry.index,
        shards: entry.number_of_shards,
        refusal: entry.refusal,
    }
}

/// What the control topics have of all leader clusters.
struct Parts<'a> {
    catalogue: Vec<CatalogEntry>,
    captures: Vec<Capture>,
    reads: Vec<NodeReads>,
    subscriptions: Vec<Subscription>,
    /// From the configuration: alias to cluster name.
    aliases: &'a BTreeMap<String, String>,
}

impl Parts<'_> {
    fn overview(&self, uuid: &ClusterUuid, nodes: Vec<NodeAnnouncement>) -> LeaderOverview {
        let of_cluster = |subscription: &&Subscription| subscription.leader_cluster == *uuid;
        let followed: Vec<_> = self.subscriptions.iter().filter(of_cluster).collect();
        let reads = self
            .reads
            .iter()
            .filter(|reads| reads.cluster_uuid == *uuid);
        let counters: Vec<_> = reads.flat_map(|reads| reads.indices.values()).collect();
        let newest = nodes.iter().max_by_key(|node| node.announced_ms);
        let cluster_name = newest
            .map(|node| node.cluster_name.clone())
            .unwrap_or_default();
        let configured = self
            .aliases
            .iter()
            .filter(|(_, name)| **name == cluster_name);
        let configured = configured.map(|(alias, _)| alias.as_str());
        let used = followed.iter().map(|of| of.leader_alias.as_str());
        let aliases: BTreeSet<&str> = configured.chain(used).collect();
        LeaderOverview {
            cluster_uuid: uuid.to_string(),
            aliases: aliases.into_iter().map(str::to_owned).collect(),
            indices: self
                .catalogue
                .iter()
                .filter(|entry| entry.cluster_uuid == *uuid)
                .count(),
            captured: self
                .captures
                .iter()
                .filter(|of| of.cluster_uuid == *uuid)
                .count(),
            followed: followed.len(),
            operations_read: counters.iter().map(|of| of.operations_read).sum(),
            translog_bytes: counters.iter().map(|of| of.translog_size_bytes).sum(),
            cluster_name,
            nodes: nodes.into_iter().map(leader_node).collect(),
        }
    }
}

fn leader_node(node: NodeAnnouncement) -> LeaderNode {
    LeaderNode {
        node_name: node.node_name,
        transport_address: node.transport_address,
        agent_version: node.agent_version,
        announced_ms: node.announced_ms,
    }
}
