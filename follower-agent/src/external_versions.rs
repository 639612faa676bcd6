//! Documents that the leader's users give versions of their own (`version_type=external`).
//!
//! A follower index has other versions: its documents' are made of the leader's sequence numbers,
//! which alone order what has happened to a document, deletions included. Writes that go on with
//! the users' own versions after a promotion are refused as stale. What a record says of a version
//! does not tell whose it is, unless it is higher than the operations that the shard has had can
//! have made it: that is said in the status, and when the index is promoted.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use shardline_common::control::Entry;
use shardline_common::types::{ClusterUuid, IndexName, SeqNo, ShardId};
use tracing::warn;

use crate::copy::Index;

/// A document whose version users have given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    pub id: String,
    pub version: i64,
}

/// `control.follower`: that an index has documents with versions of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalVersions {
    pub follower_cluster: ClusterUuid,
    pub follower_index: IndexName,
    /// Of which start of the replication.
    pub subscription: String,
    pub shard: ShardId,
    pub example: Example,
}

impl Entry for ExternalVersions {
    const KIND: &'static str = "external-versions";
    fn key(&self) -> String {
        Self::key_of(&self.follower_cluster, &self.follower_index)
    }
}

impl ExternalVersions {
    pub fn key_of(cluster: &ClusterUuid, index: &IndexName) -> String {
        format!("{}/{cluster}/{index}", Self::KIND)
    }
}

/// Whether users have given an operation its version. One that OpenSearch has given counts the
/// operations on the document, each of which had a sequence number of its own.
pub fn is_external(version: i64, seq_no: SeqNo) -> bool {
    version > seq_no.0.saturating_add(1)
}

/// The first document of a shard that was seen.
#[derive(Debug, Default)]
pub struct Seen(Mutex<Option<Example>>);

impl Seen {
    pub fn note(&self, id: &str, version: i64, seq_no: SeqNo) {
        if !is_external(version, seq_no) {
            return;
        }
        self.0.lock().get_or_insert_with(|| Example {
            id: id.to_owned(),
            version,
        });
    }
}

impl Index {
    /// Writes down what its shards have seen, once.
    pub(crate) async fn tell_external_versions(&self) {
        let table = &self.shared.follower_table;
        let seen = (0..)
            .map(ShardId)
            .zip(&self.progress.shards)
            .find_map(|(shard, progress)| {
                Some((shard, progress.external_versions.0.lock().clone()?))
            });
        let Some((shard, example)) = seen else { return };
        let key = ExternalVersions::key_of(&self.cluster, &self.follower.name);
        let known: Option<ExternalVersions> = table.get(&key);
        if known.is_some_and(|known| known.subscription == self.subscription) {
            return;
        }
        warn!(index = %self.follower.name, %shard, id = example.id, version = example.version,
              "users give documents versions of their own: after a promotion the index refuses writes that go on with them");
        let entry = ExternalVersions {
            follower_cluster: self.cluster.clone(),
            follower_index: self.follower.name.clone(),
            subscription: self.subscription.clone(),
            shard,
            example,
        };
        if let Err(error) = table.publish(&entry).await {
            warn!(index = %self.follower.name, %error, "it could not be written down; trying again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_that_counting_cannot_reach_are_taken_for_users_own() {
        // The first operation of a shard makes version 1.
        assert!(!is_external(1, SeqNo(0)));
        assert!(is_external(2, SeqNo(0)));
        assert!(!is_external(201, SeqNo(200)));
        assert!(is_external(1_700_000_000_000, SeqNo(200)));
        let seen = Seen::default();
        seen.note("a", 1, SeqNo(5));
        assert_eq!(*seen.0.lock(), None);
        seen.note("b", 9, SeqNo(5));
        seen.note("c", 99, SeqNo(6));
        assert_eq!(
            seen.0.lock().as_ref().map(|example| &*example.id),
            Some("b")
        );
    }
}
