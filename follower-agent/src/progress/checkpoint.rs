//! Checkpoints in RocksDB: how far each shard of each subscription has been applied. A checkpoint
//! is written only after the follower cluster has acknowledged everything up to it, so losing the
//! latest ones only means repeating.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::{DB, Direction, IteratorMode, Options, WriteBatch};
use serde::{Deserialize, Serialize};
use shardline_common::control::{OwnHistory, Subscription};
use shardline_common::record::SnapshotBegin;
use shardline_common::types::{IndexName, Offset, SeqNo, ShardId};

pub use shardline_common::control::Checkpoint;

/// The one to go on from: both are true, so the further one. RocksDB's may be behind when its
/// folder was set back or another agent had the shard meanwhile; Kafka's when the agent died before
/// it committed.
pub fn furthest(
    in_rocksdb: Option<Checkpoint>,
    committed: Option<Checkpoint>,
) -> Option<Checkpoint> {
    match (in_rocksdb, committed) {
        (Some(local), Some(committed)) => {
            let behind = (local.seq_no, local.offset) < (committed.seq_no, committed.offset);
            Some(if behind { committed } else { local })
        }
        (local, committed) => local.or(committed),
    }
}

/// A copy of a whole index that is being loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadState {
    pub bootstrap: String,
    /// Whether the index held documents before, which are then swept at the end.
    pub in_place: bool,
}

/// How far the copy of a shard is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardLoad {
    /// The next record of the bootstrap topic to read.
    pub offset: Offset,
    pub begin: SnapshotBegin,
    /// The highest sequence number that may stand in the follower index.
    pub highest: SeqNo,
    pub documents: u64,
    pub bytes: u64,
    /// What the follower shard is known to have had. Earlier builds did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<OwnHistory>,
}

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error(
        "the checkpoint folder {folder} cannot be opened: {source}. If its files are damaged, move it away: every \
         index is then followed again from what Kafka still has"
    )]
    Open {
        folder: PathBuf,
        source: rocksdb::Error,
    },
    #[error("a checkpoint cannot be {action}: {source}")]
    Access {
        action: &'static str,
        source: rocksdb::Error,
    },
    #[error("the checkpoint under {key} is not of this build's form: {reason}")]
    Form { key: String, reason: String },
}

#[derive(Clone)]
pub struct CheckpointStore {
    db: Arc<DB>,
}

impl CheckpointStore {
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let mut options = Options::default();
        options.create_if_missing(true);
        // A few small keys that are overwritten all the time.
        options.set_write_buffer_size(4 * 1024 * 1024);
        options.set_max_write_buffer_number(2);
        options.set_keep_log_file_num(2);
        options.set_max_open_files(64);
        let db = DB::open(&options, folder).map_err(|source| CheckpointError::Open {
            folder: folder.to_owned(),
            source,
        })?;
        Ok(Self { db: Arc::new(db) })
    }

    pub fn load(
        &self,
        subscription: &str,
        shard: ShardId,
    ) -> Result<Option<Checkpoint>, CheckpointError> {
        self.read(&shard_key(subscription, shard))
    }

    pub fn save(
        &self,
        subscription: &str,
        shard: ShardId,
        checkpoint: &Checkpoint,
    ) -> Result<(), CheckpointError> {
        self.write(&shard_key(subscription, shard), checkpoint)
    }

    /// The copy under way: how it was begun, and how far each shard is.
    pub fn load_copy(&self, subscription: &str) -> Result<Option<LoadState>, CheckpointError> {
        self.read(&format!("{subscription}/copy"))
    }

    pub fn save_copy(&self, subscription: &str, copy: &LoadState) -> Result<(), CheckpointError> {
        self.write(&format!("{subscription}/copy"), copy)
    }

    pub fn load_shard_copy(
        &self,
        subscription: &str,
        shard: ShardId,
    ) -> Result<Option<ShardLoad>, CheckpointError> {
        self.read(&format!("{subscription}/copy/{shard}"))
    }

    pub fn save_shard_copy(
        &self,
        subscription: &str,
        shard: ShardId,
        copy: &ShardLoad,
    ) -> Result<(), CheckpointError> {
        self.write(&format!("{subscription}/copy/{shard}"), copy)
    }

    /// Notes documents that exist on the leader, for the sweep at the end of a scan.
    pub fn name<'a>(
        &self,
        subscription: &str,
        shard: ShardId,
        ids: impl Iterator<Item = &'a str>,
    ) -> Result<(), CheckpointError> {
        let mut batch = WriteBatch::default();
        for id in ids {
            batch.put(named_key(subscription, shard, id), []);
        }
        self.db
            .write(batch)
            .map_err(|source| CheckpointError::Access {
                action: "written",
                source,
            })
    }

    pub fn are_named<'a>(
        &self,
        subscription: &str,
        shard: ShardId,
        ids: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<bool>, CheckpointError> {
        let found = self
            .db
            .multi_get(ids.map(|id| named_key(subscription, shard, id)))
            .into_iter();
        let found: Result<Vec<_>, _> = found
            .map(|value| value.map(|value| value.is_some()))
            .collect();
        found.map_err(|source| CheckpointError::Access {
            action: "read",
            source,
        })
    }

    pub fn forget_named(&self, subscription: &str, shard: ShardId) -> Result<(), CheckpointError> {
        self.remove_below(&named_key(subscription, shard, ""))
    }

    /// Notes that an index is followed, for the case that the control topic forgets it.
    pub fn remember(&self, subscription: &Subscription) -> Result<(), CheckpointError> {
        let key = remembered_key(&subscription.follower_index);
        self.write(&key, subscription)
    }

    /// What was noted of indices that are followed, as far as this build can read it.
    pub fn remembered(&self) -> Result<Vec<Subscription>, CheckpointError> {
        let prefix = remembered_key(&IndexName::from(""));
        let mut found = Vec::new();
        let from = IteratorMode::From(prefix.as_bytes(), Direction::Forward);
        for entry in self.db.iterator(from) {
            let (key, value) = entry.map_err(|source| CheckpointError::Access {
                action: "read",
                source,
            })?;
            if !key.starts_with(prefix.as_bytes()) {
                break;
            }
            found.extend(serde_json::from_slice(&value).ok());
        }
        Ok(found)
    }

    pub fn forget_remembered(&self, index: &IndexName) -> Result<(), CheckpointError> {
        let key = remembered_key(index);
        self.db
            .delete(key)
            .map_err(|source| CheckpointError::Access {
                action: "removed",
                source,
            })
    }

    /// Forgets everything about a subscription.
    pub fn forget(&self, subscription: &str) -> Result<(), CheckpointError> {
        self.remove_below(&format!("{subscription}/"))
    }

    /// Removes all keys with this prefix, which ends with a slash.
    fn remove_below(&self, prefix: &str) -> Result<(), CheckpointError> {
        let behind = format!("{}0", prefix.trim_end_matches('/')); // '0' follows '/'
        let mut batch = WriteBatch::default();
        batch.delete_range(prefix.as_bytes(), behind.as_bytes());
        self.db
            .write(batch)
            .map_err(|source| CheckpointError::Access {
                action: "removed",
                source,
            })
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, key: &str) -> Result<Option<T>, CheckpointError> {
        let value = self.db.get(key).map_err(|source| CheckpointError::Access {
            action: "read",
            source,
        })?;
        let form = |error: serde_json::Error| CheckpointError::Form {
            key: key.to_owned(),
            reason: error.to_string(),
        };
        value
            .map(|value| serde_json::from_slice(&value).map_err(form))
            .transpose()
    }

    fn write(&self, key: &str, value: &impl Serialize) -> Result<(), CheckpointError> {
        let form = |error: serde_json::Error| CheckpointError::Form {
            key: key.to_owned(),
            reason: error.to_string(),
        };
        let value = serde_json::to_vec(value).map_err(form)?;
        self.db
            .put(key, value)
            .map_err(|source| CheckpointError::Access {
                action: "written",
                source,
            })
    }
}

/// Ids of subscriptions, with which all other keys begin, are of other letters.
fn remembered_key(index: &IndexName) -> String {
    format!("remembered/{index}")
}

fn named_key(subscription: &str, shard: ShardId, id: &str) -> String {
    format!("{subscription}/named/{shard}/{id}")
}

fn shard_key(subscription: &str, shard: ShardId) -> String {
    format!("{subscription}/shard/{shard}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shardline_common::types::{Offset, SeqNo};

    use super::*;

    fn checkpoints() -> impl Strategy<Value = Option<Checkpoint>> {
        let checkpoint = |(seq_no, offset)| Checkpoint {
            seq_no: SeqNo(seq_no),
            offset: Offset(offset),
            highest: SeqNo(0),
            foreign_writes: 0,
            own: None,
        };
        prop::option::of((-1i64..5, 0i64..5).prop_map(checkpoint))
    }

    proptest! {
        /// What either has reached is not done again, and nothing is made up.
        #[test]
        fn the_furthest_is_one_of_the_two_and_behind_neither(local in checkpoints(), committed in checkpoints()) {
            let chosen = furthest(local.clone(), committed.clone());
            prop_assert!(chosen == local || chosen == committed);
            for known in [local, committed].into_iter().flatten() {
                prop_assert!(chosen.as_ref().is_some_and(|chosen| (chosen.seq_no, chosen.offset) >= (known.seq_no, known.offset)));
            }
        }
    }

    #[test]
    fn checkpoints_survive_reopening_and_are_forgotten_by_subscription() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint {
            seq_no: SeqNo(7),
            offset: Offset(9),
            highest: SeqNo(12),
            foreign_writes: 2,
            own: None,
        };
        {
            let store = CheckpointStore::open(folder.path()).unwrap();
            store.save("a", ShardId(1), &checkpoint).unwrap();
            store.save("ab", ShardId(1), &checkpoint).unwrap();
        }
        let store = CheckpointStore::open(folder.path()).unwrap();
        assert_eq!(
            store.load("a", ShardId(1)).unwrap(),
            Some(checkpoint.clone())
        );
        store.forget("a").unwrap();
        assert_eq!(store.load("a", ShardId(1)).unwrap(), None);
        assert_eq!(store.load("ab", ShardId(1)).unwrap(), Some(checkpoint));
    }

    #[test]
    fn names_belong_to_one_shard() {
        let folder = tempfile::tempdir().unwrap();
        let store = CheckpointStore::open(folder.path()).unwrap();
        store
            .name("a", ShardId(1), ["x", "y/z"].into_iter())
            .unwrap();
        store.name("a", ShardId(10), ["x"].into_iter()).unwrap();
        let named = |shard| {
            store
                .are_named("a", ShardId(shard), ["x", "y/z", "y"].into_iter())
                .unwrap()
        };
        assert_eq!(named(1), [true, true, false]);
        store.forget_named("a", ShardId(1)).unwrap();
        assert_eq!(
            (named(1), named(10)),
            (vec![false; 3], vec![true, false, false])
        );
    }

    #[test]
    fn a_folder_that_cannot_be_opened_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let Err(error) = CheckpointStore::open(file.path()) else {
            panic!("opened a file as a folder")
        };
        assert!(
            error
                .to_string()
                .contains(&file.path().display().to_string())
        );
    }
}
