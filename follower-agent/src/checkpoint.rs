//! Checkpoints in RocksDB: how far each shard of each subscription has been applied. A checkpoint is written only after
//! the follower cluster has acknowledged everything up to it, so losing the latest ones only means repeating.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::{DB, IteratorMode, Options, WriteBatch};
use serde::{Deserialize, Serialize};
use shardline_common::metadata::MetadataVersions;
use shardline_common::types::{Offset, SeqNo, ShardId};

/// How far a shard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Every operation up to here has been acknowledged by the follower cluster.
    pub seq_no: SeqNo,
    /// The next record to read.
    pub offset: Offset,
    /// The highest sequence number that may already stand in the follower index: a snapshot holds documents from after
    /// its checkpoint. The copy is consistent once `seq_no` has reached it.
    pub highest: SeqNo,
}

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error(
        "the checkpoint folder {folder} cannot be opened: {source}. If its files are damaged, move it away: every \
         index is then followed again from what Kafka still has"
    )]
    Open { folder: PathBuf, source: rocksdb::Error },
    #[error("a checkpoint cannot be {action}: {source}")]
    Access { action: &'static str, source: rocksdb::Error },
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
        let db =
            DB::open(&options, folder).map_err(|source| CheckpointError::Open { folder: folder.to_owned(), source })?;
        Ok(Self { db: Arc::new(db) })
    }

    pub fn load(&self, subscription: &str, shard: ShardId) -> Result<Option<Checkpoint>, CheckpointError> {
        self.read(&shard_key(subscription, shard))
    }

    pub fn save(&self, subscription: &str, shard: ShardId, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
        self.write(&shard_key(subscription, shard), checkpoint)
    }

    /// The metadata that has been applied to the follower index.
    pub fn load_versions(&self, subscription: &str) -> Result<Option<MetadataVersions>, CheckpointError> {
        self.read(&format!("{subscription}/metadata"))
    }

    pub fn save_versions(&self, subscription: &str, versions: MetadataVersions) -> Result<(), CheckpointError> {
        self.write(&format!("{subscription}/metadata"), &versions)
    }

    /// Forgets everything about a subscription.
    pub fn forget(&self, subscription: &str) -> Result<(), CheckpointError> {
        let prefix = format!("{subscription}/");
        let mut batch = WriteBatch::default();
        for entry in self.db.iterator(IteratorMode::From(prefix.as_bytes(), rocksdb::Direction::Forward)) {
            let (key, _) = entry.map_err(|source| CheckpointError::Access { action: "listed", source })?;
            if !key.starts_with(prefix.as_bytes()) {
                break;
            }
            batch.delete(&key);
        }
        self.db.write(batch).map_err(|source| CheckpointError::Access { action: "removed", source })
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, key: &str) -> Result<Option<T>, CheckpointError> {
        let value = self.db.get(key).map_err(|source| CheckpointError::Access { action: "read", source })?;
        let form = |error: serde_json::Error| CheckpointError::Form { key: key.to_owned(), reason: error.to_string() };
        value.map(|value| serde_json::from_slice(&value).map_err(form)).transpose()
    }

    fn write(&self, key: &str, value: &impl Serialize) -> Result<(), CheckpointError> {
        let form = |error: serde_json::Error| CheckpointError::Form { key: key.to_owned(), reason: error.to_string() };
        let value = serde_json::to_vec(value).map_err(form)?;
        self.db.put(key, value).map_err(|source| CheckpointError::Access { action: "written", source })
    }
}

fn shard_key(subscription: &str, shard: ShardId) -> String {
    format!("{subscription}/shard/{shard}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_survive_reopening_and_are_forgotten_by_subscription() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint { seq_no: SeqNo(7), offset: Offset(9), highest: SeqNo(12) };
        {
            let store = CheckpointStore::open(folder.path()).unwrap();
            store.save("a", ShardId(1), &checkpoint).unwrap();
            store.save("ab", ShardId(1), &checkpoint).unwrap();
        }
        let store = CheckpointStore::open(folder.path()).unwrap();
        assert_eq!(store.load("a", ShardId(1)).unwrap(), Some(checkpoint));
        store.forget("a").unwrap();
        assert_eq!(store.load("a", ShardId(1)).unwrap(), None);
        assert_eq!(store.load("ab", ShardId(1)).unwrap(), Some(checkpoint));
    }

    #[test]
    fn a_folder_that_cannot_be_opened_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let Err(error) = CheckpointStore::open(file.path()) else { panic!("opened a file as a folder") };
        assert!(error.to_string().contains(&file.path().display().to_string()));
    }
}
