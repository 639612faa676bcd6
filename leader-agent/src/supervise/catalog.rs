//! Announces the leader cluster in `control.leader`: its nodes, its indices, and answers to refresh
//! requests.
//!
//! Every agent of the cluster can announce. The one beside the elected cluster manager does at
//! once; the others only what the table still lacks a while later, so that nothing depends on one
//! agent.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use shardline_common::clock::now_ms;
use shardline_common::control::{
    Capture, CatalogEntry, DeletedIndex, Entry, FollowedLeader, LeaderRoles, RefreshRequest,
    Refreshed, ShardHistory,
};
use shardline_common::kafka::{ControlError, ControlTopic};
use shardline_common::types::{ClusterUuid, IndexName, IndexUuid, Offset};
use shardline_common::wildcard::wildcard_match;
use tokio::time::Instant;
use tracing::info;

use crate::config::CaptureRole;
use crate::node::{ClusterView, IndexView};

/// How long an agent that is not beside the cluster manager waits for the one that is.
const STAND_IN_DELAY: Duration = Duration::from_secs(3);
/// For how long it is known that an index was deleted, in milliseconds; for longer while a
/// subscription names it.
const DELETIONS_KEPT_MS: i64 = 90 * 24 * 3_600_000;
/// Entries on their way to Kafka.
const WRITES_IN_FLIGHT_MAX: usize = 500;

pub(crate) struct Catalog {
    cluster: ClusterUuid,
    leader_table: ControlTopic,
    follower_table: ControlTopic,
    /// Under which roles indices may be followed; empty: nobody is asked for one.
    roles: BTreeMap<String, CaptureRole>,
    differences: Differences,
    /// The request that is not answered yet, and since when.
    request: Option<(String, Instant)>,
    /// The view and the parts of the table that did not differ.
    agreed: Option<(i64, [Option<Offset>; 5])>,
}

/// What is to be done for the table to be up to date.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Announced {
    /// Nothing now.
    Done,
    /// A look at the cluster as its manager has it now: the one that this agent has may be behind,
    /// and others go by what it announces.
    AskAnew,
}

impl Catalog {
    pub(crate) fn new(
        cluster: ClusterUuid,
        leader_table: ControlTopic,
        follower_table: ControlTopic,
        roles: BTreeMap<String, CaptureRole>,
    ) -> Self {
        Self {
            cluster,
            leader_table,
            follower_table,
            roles,
            differences: Differences::default(),
            request: None,
            agreed: None,
        }
    }

    /// The refresh request of a follower that nobody has answered yet.
    pub(crate) fn open_request(&self) -> Option<RefreshRequest> {
        let key = format!("{}/{}", RefreshRequest::KIND, self.cluster);
        let request: RefreshRequest = self.follower_table.get(&key)?;
        let answered: Option<Refreshed> =
            self.leader_table
                .get(&format!("{}/{}", Refreshed::KIND, self.cluster));
        (answered.is_none_or(|answered| answered.nonce != request.nonce)).then_some(request)
    }

    /// Whether a request is for this agent to answer, with a view that is asked for from now on.
    pub(crate) fn answers(&mut self, request: Option<&RefreshRequest>, view: &ClusterView) -> bool {
        let Some(RefreshRequest { nonce, .. }) = request else {
            return false;
        };
        let known = self.request.take().filter(|(known, _)| known == nonce);
        let (_, since) = self
            .request
            .insert(known.unwrap_or_else(|| (nonce.clone(), Instant::now())));
        view.local_is_manager || since.elapsed() >= STAND_IN_DELAY
    }

    /// Brings the table up to date with a view, then answers the request that came before it.
    /// Whoever stands in goes by a view of the manager's (`is_managers`).
    pub(crate) async fn announce(
        &mut self,
        view: &ClusterView,
        is_managers: bool,
        request: Option<RefreshRequest>,
    ) -> Result<Announced, ControlError> {
        let table = &self.leader_table;
        let newest = [
            table.newest::<CatalogEntry>(),
            table.newest::<Capture>(),
            table.newest::<ShardHistory>(),
            table.newest::<DeletedIndex>(),
            self.follower_table.newest::<FollowedLeader>(),
        ];
        let compared = (view.version, newest);
        let changes = if self.agreed == Some(compared) {
            Vec::new()
        } else {
            self.changes(view)
        };
        self.agreed = changes.is_empty().then_some(compared);
        self.differences.note(changes, Instant::now());
        let age = if view.local_is_manager {
            Duration::ZERO
        } else {
            STAND_IN_DELAY
        };
        let due = self.differences.due(age, request.is_some());
        if due.is_empty() && request.is_none() {
            return Ok(Announced::Done);
        }
        if !view.local_is_manager && !is_managers {
            return Ok(Announced::AskAnew);
        }
        // Each has a key of its own, so their order does not matter.
        let written = futures::stream::iter(due)
            .map(|change| self.write(change))
            .buffer_unordered(WRITES_IN_FLIGHT_MAX);
        written.try_collect::<()>().await?;
        if let Some(RefreshRequest { nonce, .. }) = request {
            let answer = Refreshed {
                cluster_uuid: self.cluster.clone(),
                nonce,
                error: None,
            };
            self.leader_table.publish(&answer).await?;
        }
        Ok(Announced::Done)
    }

    async fn write(&self, change: Change) -> Result<(), ControlError> {
        match change {
            Change::Set(entry) => self.leader_table.publish(&entry).await,
            Change::Remove(key) => self.leader_table.remove(&key).await,
            Change::NoteDeleted { index, uuid } => self.note_deleted(index, uuid).await,
            // Whoever sees that the entry is gone is to find out why.
            Change::Delete(entry) => {
                let key = entry.key();
                self.note_deleted(entry.index, entry.uuid).await?;
                self.leader_table.remove(&key).await
            }
        }
    }

    async fn note_deleted(&self, index: IndexName, uuid: IndexUuid) -> Result<(), ControlError> {
        let deleted = DeletedIndex {
            cluster_uuid: self.cluster.clone(),
            index,
            uuid,
            deleted: true,
            deleted_ms: now_ms(),
        };
        self.leader_table.publish(&deleted).await
    }

    /// Announces again what the control topic has lost of this cluster. The agent beside the
    /// cluster manager does at once; the others what is still lost a while later.
    pub(crate) async fn announce_again(&self, view: &ClusterView) -> Result<(), ControlError> {
        let is_own = |key: &str, since: Instant| {
            key.split('/').nth(1) == Some(self.cluster.as_str())
                && (view.local_is_manager || since.elapsed() >= STAND_IN_DELAY)
        };
        self.leader_table.announce_again(is_own).await.map(drop)
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
            let known = listed.remove(&entry.key());
            if known.as_ref() != Some(&entry) {
                changes.push(Change::Set(entry));
            }
        }
        changes.extend(listed.into_values().map(Change::Delete));
        changes.extend(self.deletions(view));
        let there: HashSet<&IndexUuid> = view.indices.values().map(|index| &index.uuid).collect();
        let deleted = self
            .leader_table
            .all::<Capture>()
            .into_iter()
            .filter(|capture| {
                capture.cluster_uuid == self.cluster && !there.contains(&capture.metadata.uuid)
            });
        changes.extend(deleted.map(|capture| {
            info!(index = %capture.metadata.index, uuid = %capture.metadata.uuid, "the captured index was deleted");
            Change::Remove(capture.key())
        }));
        let histories = self.leader_table.all::<ShardHistory>().into_iter();
        let is_over = |history: &ShardHistory| {
            history.cluster_uuid == self.cluster && !there.contains(&history.index_uuid)
        };
        changes.extend(
            histories
                .filter(is_over)
                .map(|history| Change::Remove(history.key())),
        );
        changes
    }

    /// What is to be noted of deleted indices: whatever a subscription names and the cluster does
    /// not have was deleted, whether the catalogue still had it or not.
    fn deletions(&self, view: &ClusterView) -> Vec<Change> {
        let there: HashSet<&IndexUuid> = view.indices.values().map(|index| &index.uuid).collect();
        let noted: HashMap<IndexUuid, DeletedIndex> = self
            .leader_table
            .all::<DeletedIndex>()
            .into_iter()
            .filter(|deleted| deleted.cluster_uuid == self.cluster)
            .map(|deleted| (deleted.uuid.clone(), deleted))
            .collect();
        let followed: HashMap<IndexUuid, IndexName> = self
            .follower_table
            .all::<FollowedLeader>()
            .into_iter()
            .filter(|subscription| subscription.leader_cluster == self.cluster)
            .map(|subscription| (subscription.leader_uuid, subscription.leader_index))
            .collect();
        let mut changes = Vec::new();
        for (uuid, index) in &followed {
            if !there.contains(uuid) && !noted.contains_key(uuid) {
                let (index, uuid) = (index.clone(), uuid.clone());
                changes.push(Change::NoteDeleted { index, uuid });
            }
        }
        let oldest = now_ms() - DELETIONS_KEPT_MS;
        for (uuid, deleted) in &noted {
            let is_over = deleted.deleted_ms < oldest && !followed.contains_key(uuid);
            // Such as one whose cluster was put back.
            if there.contains(uuid) || is_over {
                changes.push(Change::Remove(deleted.key()));
            }
        }
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
            roles: roles_for(&self.roles, &index.name),
        }
    }
}

/// Under which roles an index may be followed; `None` if no roles are configured.
fn roles_for(roles: &BTreeMap<String, CaptureRole>, index: &IndexName) -> Option<LeaderRoles> {
    let covers = |role: &CaptureRole| {
        let mut patterns = role.indices.iter();
        patterns.any(|pattern| wildcard_match(pattern, index.as_str()))
    };
    let may = roles.iter().filter(|(_, role)| covers(role));
    (!roles.is_empty()).then(|| {
        may.map(|(name, role)| (name.clone(), role.users.clone()))
            .collect()
    })
}

/// What the table lacks as this agent sees it, by key, and since when.
#[derive(Default)]
struct Differences(HashMap<String, (Change, Instant)>);

impl Differences {
    /// A difference is as old as it has been the same.
    fn note(&mut self, changes: Vec<Change>, now: Instant) {
        let noted = changes.into_iter().map(|change| {
            let before = self
                .0
                .remove(&change.key())
                .filter(|(before, _)| *before == change);
            (
                change.key(),
                (change, before.map_or(now, |(_, since)| since)),
            )
        });
        self.0 = noted.collect();
    }

    /// The differences that are at least `age` old. If an answer is `wanted`, entries that the table
    /// lacks are due at any age.
    fn due(&self, age: Duration, wanted: bool) -> Vec<Change> {
        let is_due = |change: &Change, since: Instant| {
            since.elapsed() >= age || (wanted && matches!(change, Change::Set(_)))
        };
        let due = self
            .0
            .values()
            .filter(|(change, since)| is_due(change, *since));
        due.map(|(change, _)| change.clone()).collect()
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Change {
    Set(CatalogEntry),
    Remove(String),
    NoteDeleted {
        index: IndexName,
        uuid: IndexUuid,
    },
    /// An entry of the catalogue whose index was deleted.
    Delete(CatalogEntry),
}

impl Change {
    fn key(&self) -> String {
        match self {
            Self::Set(entry) | Self::Delete(entry) => entry.key(),
            Self::Remove(key) => key.clone(),
            Self::NoteDeleted { uuid, .. } => format!("{}/{uuid}", DeletedIndex::KIND),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The agent beside the manager may have announced the index since this agent looked.
    #[test]
    fn who_stands_in_does_not_remove_what_has_just_come() {
        let remove = |index: &str| Change::Remove(index.to_owned());
        let mut differences = Differences::default();
        let long_ago = Instant::now().checked_sub(STAND_IN_DELAY).unwrap();
        differences.note(vec![remove("old")], long_ago);
        differences.note(vec![remove("old"), remove("new")], Instant::now());
        assert_eq!(differences.due(STAND_IN_DELAY, false), [remove("old")]);
        assert_eq!(differences.due(STAND_IN_DELAY, true), [remove("old")]);
        // One that has been in order meanwhile is new.
        differences.note(Vec::new(), Instant::now());
        differences.note(vec![remove("old")], Instant::now());
        assert!(differences.due(STAND_IN_DELAY, true).is_empty());
    }
}
