//! The spool: hard links that keep generations from vanishing before Kafka has what is in them.
//!
//! A generation is *live* while OpenSearch has it, *held* when only the spool does, and *let go* when the spool's link
//! is removed. A held generation costs disk; a live one does not, so only held ones count against the limit.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use shardline_common::types::{Generation, IndexUuid, ShardId};
use tracing::warn;

#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("the spool folder {path} cannot be used: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "the spool folder {spool} is on another file system than {translog}: hard links need the same one. Put the \
         spool beside the node's data"
    )]
    OtherFileSystem { spool: PathBuf, translog: PathBuf },
}

/// The spool of one data folder.
#[derive(Debug)]
pub struct Spool {
    root: PathBuf,
    limit_bytes: u64,
    held_bytes: Arc<AtomicU64>,
}

/// The spool of one shard.
#[derive(Debug, Clone)]
pub struct ShardSpool {
    folder: PathBuf,
    limit_bytes: u64,
    /// Of all shards in this spool.
    all_held_bytes: Arc<AtomicU64>,
    held_bytes: Arc<AtomicU64>,
}

impl Spool {
    pub fn open(root: &Path, limit_bytes: u64) -> Result<Self, SpoolError> {
        std::fs::create_dir_all(root).map_err(|source| SpoolError::Io { path: root.to_owned(), source })?;
        Ok(Self { root: root.to_owned(), limit_bytes, held_bytes: Arc::default() })
    }

    pub fn shard(&self, index: &IndexUuid, shard: ShardId) -> Result<ShardSpool, SpoolError> {
        let folder = self.root.join(index.as_str()).join(shard.to_string());
        std::fs::create_dir_all(&folder).map_err(|source| SpoolError::Io { path: folder.clone(), source })?;
        Ok(ShardSpool {
            folder,
            limit_bytes: self.limit_bytes,
            all_held_bytes: Arc::clone(&self.held_bytes),
            held_bytes: Arc::default(),
        })
    }
}

impl ShardSpool {
    /// Links everything that the translog folder has and the spool has not.
    pub fn keep(&self, translog: &Path) -> Result<(), SpoolError> {
        for generation in list_generations(translog).map_err(|source| self.failed(translog, source))? {
            self.link(translog, &file_name(generation, "tlog"))?;
            self.link(translog, &file_name(generation, "ckp"))?;
        }
        self.account()?;
        self.enforce_limit()
    }

    pub fn generations(&self) -> Result<BTreeSet<Generation>, SpoolError> {
        list_generations(&self.folder).map_err(|source| self.failed(&self.folder, source))
    }

    pub fn path(&self, generation: Generation, extension: &str) -> PathBuf {
        self.folder.join(file_name(generation, extension))
    }

    /// Lets go of the generations before this one.
    pub fn release(&self, below: Generation) -> Result<(), SpoolError> {
        for generation in self.generations()?.range(..below) {
            self.let_go(*generation)?;
        }
        self.account()
    }

    /// Lets go of everything: a translog with another history has taken this one's place.
    pub fn clear(&self) -> Result<(), SpoolError> {
        self.release(Generation(i64::MAX))
    }

    /// Disk that only this shard's spool takes, in bytes, as of the last change.
    pub fn extra_bytes(&self) -> u64 {
        self.held_bytes.load(Relaxed)
    }

    fn link(&self, translog: &Path, name: &str) -> Result<(), SpoolError> {
        match std::fs::hard_link(translog.join(name), self.folder.join(name)) {
            Ok(()) => Ok(()),
            // Linked before; or deleted since it was listed; or a generation's checkpoint, which only a closed one has.
            Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                Err(SpoolError::OtherFileSystem { spool: self.folder.clone(), translog: translog.to_owned() })
            }
            Err(source) => Err(self.failed(&self.folder, source)),
        }
    }

    fn let_go(&self, generation: Generation) -> Result<(), SpoolError> {
        for extension in ["tlog", "ckp"] {
            let path = self.path(generation, extension);
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(self.failed(&path, source)),
                _ => {}
            }
        }
        Ok(())
    }

    fn held(&self, generation: Generation) -> u64 {
        let metadata = std::fs::metadata(self.path(generation, "tlog"));
        metadata.map(|metadata| if metadata.nlink() == 1 { metadata.len() } else { 0 }).unwrap_or(0)
    }

    fn account(&self) -> Result<(), SpoolError> {
        let held = self.generations()?.into_iter().map(|generation| self.held(generation)).sum();
        let before = self.held_bytes.swap(held, Relaxed);
        self.all_held_bytes.fetch_add(held.wrapping_sub(before), Relaxed);
        Ok(())
    }

    fn enforce_limit(&self) -> Result<(), SpoolError> {
        for generation in self.generations()? {
            if self.all_held_bytes.load(Relaxed) <= self.limit_bytes {
                break;
            }
            if self.held(generation) > 0 {
                warn!(folder = %self.folder.display(), %generation, limit_bytes = self.limit_bytes,
                      "the spool is full: a generation that Kafka does not have yet is let go");
                self.let_go(generation)?;
                self.account()?;
            }
        }
        Ok(())
    }

    fn failed(&self, path: &Path, source: io::Error) -> SpoolError {
        SpoolError::Io { path: path.to_owned(), source }
    }
}

pub fn file_name(generation: Generation, extension: &str) -> String {
    format!("translog-{generation}.{extension}")
}

/// The generations whose files are in a folder.
pub fn list_generations(folder: &Path) -> io::Result<BTreeSet<Generation>> {
    let mut generations = BTreeSet::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("translog-")?.strip_suffix(".tlog"));
        if let Some(generation) = number.and_then(|number| number.parse().ok()) {
            generations.insert(generation);
        }
    }
    Ok(generations)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translog_with(generations: &[i64]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("translog")).unwrap();
        for generation in generations {
            let path = folder.path().join("translog").join(file_name(Generation(*generation), "tlog"));
            std::fs::write(path, vec![0; 1000]).unwrap();
        }
        folder
    }

    fn spool(folder: &tempfile::TempDir, limit: u64) -> ShardSpool {
        Spool::open(&folder.path().join("spool"), limit).unwrap().shard(&"u".into(), ShardId(0)).unwrap()
    }

    #[test]
    fn a_deleted_generation_stays_until_it_is_released() {
        let folder = translog_with(&[1, 2]);
        let (translog, spool) = (folder.path().join("translog"), spool(&folder, 10_000));
        spool.keep(&translog).unwrap();
        assert_eq!(spool.extra_bytes(), 0);
        std::fs::remove_file(translog.join("translog-1.tlog")).unwrap();
        spool.keep(&translog).unwrap();
        assert_eq!(spool.extra_bytes(), 1000);
        spool.release(Generation(2)).unwrap();
        assert_eq!((spool.extra_bytes(), spool.generations().unwrap()), (0, BTreeSet::from([Generation(2)])));
    }

    #[test]
    fn a_full_spool_lets_the_oldest_go() {
        let folder = translog_with(&[1, 2, 3]);
        let (translog, spool) = (folder.path().join("translog"), spool(&folder, 1500));
        spool.keep(&translog).unwrap();
        for generation in [1, 2] {
            std::fs::remove_file(translog.join(file_name(Generation(generation), "tlog"))).unwrap();
        }
        spool.keep(&translog).unwrap();
        assert_eq!(spool.generations().unwrap(), BTreeSet::from([Generation(2), Generation(3)]));
    }

    #[test]
    fn another_file_system_is_refused_by_name() {
        let folder = translog_with(&[1]);
        let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else { return };
        let spool = Spool::open(elsewhere.path(), 0).unwrap().shard(&"u".into(), ShardId(0)).unwrap();
        let outcome = spool.keep(&folder.path().join("translog"));
        assert!(matches!(outcome, Err(SpoolError::OtherFileSystem { .. })), "{outcome:?}");
    }
}
