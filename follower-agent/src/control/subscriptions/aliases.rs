//! The aliases of followed indices as the leader has them: known here before any agent makes them
//! on the follower cluster.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::IgnoredAny;
use shardline_common::control::{Capture, CatalogEntry, Subscription};
use shardline_common::types::{ClusterUuid, IndexName, Offset};

use crate::index::AgentContext;

/// By alias, the followed indices that have it or are about to get it.
pub(super) type ByAlias = HashMap<String, Vec<IndexName>>;

/// The aliases, made anew when what they are made of has changed.
#[derive(Default)]
pub(super) struct LeaderAliases(Mutex<(Option<Basis>, Arc<ByAlias>)>);

/// The offsets behind the last subscription, capture and entry of the catalogue.
type Basis = [Option<Offset>; 3];

/// The part of a capture's description that is looked at.
#[derive(Deserialize)]
struct CaptureAliases {
    metadata: MetadataAliases,
}

#[derive(Deserialize)]
struct MetadataAliases {
    aliases: HashMap<String, IgnoredAny>,
}

impl LeaderAliases {
    pub(super) fn get(&self, context: &AgentContext, cluster: &ClusterUuid) -> Arc<ByAlias> {
        let now = [
            context.follower_table.newest::<Subscription>(),
            context.leader_table.newest::<Capture>(),
            context.leader_table.newest::<CatalogEntry>(),
        ];
        let mut known = self.0.lock();
        if known.0 != Some(now) {
            *known = (Some(now), Arc::new(collect(context, cluster)));
        }
        Arc::clone(&known.1)
    }
}

fn collect(context: &AgentContext, cluster: &ClusterUuid) -> ByAlias {
    let mut by_alias = ByAlias::new();
    let subscriptions = context.follower_table.all::<Subscription>();
    for subscription in subscriptions
        .into_iter()
        .filter(|subscription| subscription.follower_cluster == *cluster)
    {
        for alias in of_leader(context, &subscription) {
            let indices = by_alias.entry(alias).or_default();
            indices.push(subscription.follower_index.clone());
        }
    }
    by_alias
}

fn of_leader(context: &AgentContext, subscription: &Subscription) -> BTreeSet<String> {
    let table = &context.leader_table;
    let leader = &subscription.leader_cluster;
    let captured: Option<CaptureAliases> =
        table.part(&Capture::key_of(leader, &subscription.leader_uuid));
    let listed: Option<CatalogEntry> =
        table.get(&CatalogEntry::key_of(leader, &subscription.leader_index));
    let captured = captured
        .into_iter()
        .flat_map(|found| found.metadata.aliases.into_keys());
    let listed = listed
        .filter(|entry| entry.uuid == subscription.leader_uuid)
        .into_iter()
        .flat_map(|entry| entry.aliases);
    captured.chain(listed).collect()
}
