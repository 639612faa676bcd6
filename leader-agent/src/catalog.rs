//! Announces the leader cluster in `control.leader`: its nodes, its indices, and answers to refresh requests.
//!
//! Every agent of the cluster can announce. The one beside the elected cluster manager does at once; the others only
//! when the table still differs a while later, so that nothing depends on one agent.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use shardline_common::control::{Capture, CatalogEntry, Entry, RefreshRequest, Refreshed, ShardHistory};
use shardline_common::kafka::{ControlError, ControlTopic};
use shardline_common::types::{ClusterUuid, IndexUuid, Offset};
use tracing::info;

use crate::cluster::{ClusterView, IndexView};

/// How long an agent that is not beside the cluster manager waits for the one that is.
const STAND_IN_DELAY: Duration = Duration::from_secs(3);
/// Entries on their way to Kafka.
const WRITES_AT_ONCE: usize = 500;

pub struct Catalog {
    cluster: ClusterUuid,
    leader_table: ControlTopic,
    follower_table: ControlTopic,
    /// Since when the table has differed from what this agent sees.
    differs_since: Option<Instant>,
    /// The view and the table that did not differ.
    agreed: Option<(i64, Offset)>,
}

impl Catalog {
    pub fn new(cluster: ClusterUuid, leader_table: ControlTopic, follower_table: ControlTopic) -> Self {
        Self { cluster, leader_table, follower_table, differs_since: None, agreed: None }
    }

    /// The refresh request of a follower that nobody has answered yet.
    pub fn open_request(&self) -> Option<RefreshRequest> {
        let key = format!("{}/{}", RefreshRequest::KIND, self.cluster);
        let request: RefreshRequest = self.follower_table.get(&key)?;
        let answered: Option<Refreshed> = self.leader_table.get(&format!("{}/{}", Refreshed::KIND, self.cluster));
        (answered.is_none_or(|answered| answered.nonce != request.nonce)).then_some(request)
    }

    /// Brings the table up to date with a view that is newer than `request`, then answers it.
    pub async fn announce(&mut self, view: &ClusterView, request: Option<RefreshRequest>) -> Result<(), ControlError> {
        let compared = (view.version, *self.leader_table.changes().borrow());
        let changes = if self.agreed == Some(compared) { Vec::new() } else { self.changes(view) };
        self.agreed = changes.is_empty().then_some(compared);
        if changes.is_empty() && request.is_none() {
            self.differs_since = None;
            return Ok(());
        }
        let since = *self.differs_since.get_or_insert_with(Instant::now);
        if !view.local_is_manager && since.elapsed() < STAND_IN_DELAY {
            return Ok(());
        }
        // Each has a key of its own, so their order does not matter.
        let written = futures::stream::iter(changes).map(|change| self.write(change)).buffer_unordered(WRITES_AT_ONCE);
        written.try_collect::<()>().await?;
        if let Some(RefreshRequest { nonce, .. }) = request {
            let answer = Refreshed { cluster_uuid: self.cluster.clone(), nonce, error: None };
            self.leader_table.publish(&answer).await?;
        }
        self.differs_since = None;
        Ok(())
    }

    async fn write(&self, change: Change) -> Result<(), ControlError> {
        match change {
            Change::Set(entry) => self.leader_table.publish(&entry).await,
            Change::Remove(key) => self.leader_table.remove(&key).await,
        }
    }

    fn changes(&self, view: &ClusterView) -> Vec<Change> {
        let mut listed: HashMap<String, CatalogEntry> = self
            .leader_table
            .all::<CatalogEntry>()
            .into_iter()
            .filter(|entry| entry.cluster_uuid == self.cluster)
            .map(|entry| (entry.key(), entry))
            .collect();
        let mut changes = Vec::new();
        for index in view.indices.values() {
            let entry = self.entry(index);
            if listed.remove(&entry.key()).as_ref() != Some(&entry) {
                changes.push(Change::Set(entry));
            }
        }
        changes.extend(listed.into_keys().map(Change::Remove));
        let there: HashSet<&IndexUuid> = view.indices.values().map(|index| &index.uuid).collect();
        let deleted = self
            .leader_table
            .all::<Capture>()
            .into_iter()
            .filter(|capture| capture.cluster_uuid == self.cluster && !there.contains(&capture.metadata.uuid));
        changes.extend(deleted.map(|capture| {
            info!(index = %capture.metadata.index, uuid = %capture.metadata.uuid, "the captured index was deleted");
            Change::Remove(capture.key())
        }));
        let histories = self.leader_table.all::<ShardHistory>().into_iter();
        let is_over =
            |history: &ShardHistory| history.cluster_uuid == self.cluster && !there.contains(&history.index_uuid);
        changes.extend(histories.filter(is_over).map(|history| Change::Remove(history.key())));
        changes
    }

    fn entry(&self, index: &IndexView) -> CatalogEntry {
        CatalogEntry {
            cluster_uuid: self.cluster.clone(),
            index: index.name.clone(),
            uuid: index.uuid.clone(),
            open: index.open,
            number_of_shards: index.number_of_shards,
            aliases: index.aliases.clone(),
            hidden: index.hidden,
            refusal: index.refusal.clone(),
        }
    }
}

enum Change {
    Set(CatalogEntry),
    Remove(String),
}
