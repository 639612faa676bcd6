//! The spool: hard links that keep generations from vanishing before Kafka has what is in them. Where the agent may not
//! write beside the node's data, open descriptors do, as long as the agent lives.
//!
//! A generation is *live* while OpenSearch has it, *held* when only the spool does, and *let go* when the spool's link
//! is removed. A held generation costs disk; a live one does not, so only held ones count against the limit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
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
    /// `None` where nothing can be written.
    root: Option<PathBuf>,
    limit_bytes: u64,
    held_bytes: Arc<AtomicU64>,
}

/// The spool of one shard.
#[derive(Debug, Clone)]
pub struct ShardSpool {
    store: Store,
    limit_bytes: u64,
    /// Of all shards in this spool.
    all_held_bytes: Arc<AtomicU64>,
    held_bytes: Arc<AtomicU64>,
}

#[derive(Debug, Clone)]
enum Store {
    Links(PathBuf),
    /// Open files by name. What is open can be opened once more after it was deleted, through `/proc/self/fd`.
    Descriptors(Arc<Mutex<BTreeMap<String, File>>>),
}

impl Spool {
    pub fn open(root: &Path, limit_bytes: u64) -> Result<Self, SpoolError> {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        let root = match std::fs::create_dir_all(root) {
            Ok(()) => Some(root.to_owned()),
            Err(error) if matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem) => {
                warn!(root = %root.display(), %error,
                      "no spool can be made beside the node's data: translogs are held by open descriptors, which end \
                       with the agent");
                None
            }
            Err(source) => return Err(SpoolError::Io { path: root.to_owned(), source }),
        };
        Ok(Self { root, limit_bytes, held_bytes: Arc::default() })
    }

    pub fn shard(&self, index: &IndexUuid, shard: ShardId) -> Result<ShardSpool, SpoolError> {
        let store = match &self.root {
            Some(root) => {
                let folder = root.join(index.as_str()).join(shard.to_string());
                std::fs::create_dir_all(&folder).map_err(|source| SpoolError::Io { path: folder.clone(), source })?;
                Store::Links(folder)
            }
            None => Store::Descriptors(Arc::default()),
        };
        Ok(ShardSpool {
            store,
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
            if self.link(translog, &file_name(generation, "tlog"))? {
                // Of the file that was there before.
                self.remove(generation, "ckp")?;
            }
            self.link(translog, &file_name(generation, "ckp"))?;
        }
        self.account()?;
        self.enforce_limit()
    }

    pub fn generations(&self) -> Result<BTreeSet<Generation>, SpoolError> {
        match &self.store {
            Store::Links(folder) => list_generations(folder).map_err(|source| self.failed(folder, source)),
            Store::Descriptors(files) => Ok(files.lock().keys().filter_map(|name| generation_of(name)).collect()),
        }
    }

    /// Where a file can be opened, if it is held.
    pub fn path(&self, generation: Generation, extension: &str) -> PathBuf {
        let name = file_name(generation, extension);
        match &self.store {
            Store::Links(folder) => folder.join(name),
            Store::Descriptors(files) => match files.lock().get(&name) {
                Some(file) => PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
                None => PathBuf::from("/nonexistent").join(name),
            },
        }
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

    /// Says whether another file of that name was held.
    fn link(&self, translog: &Path, name: &str) -> Result<bool, SpoolError> {
        let file = translog.join(name);
        let kept = match &self.store {
            Store::Links(folder) => link_anew(&file, &folder.join(name)),
            Store::Descriptors(files) => open_anew(&file, name, &mut files.lock()),
        };
        match kept {
            // Deleted since it was listed; or a generation's checkpoint, which only a closed one has.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                Err(SpoolError::OtherFileSystem { spool: self.place(), translog: translog.to_owned() })
            }
            kept => kept.map_err(|source| self.failed(&self.place(), source)),
        }
    }

    fn place(&self) -> PathBuf {
        match &self.store {
            Store::Links(folder) => folder.clone(),
            Store::Descriptors(_) => PathBuf::from("open descriptors"),
        }
    }

    /// Lets go of one generation.
    pub fn let_go(&self, generation: Generation) -> Result<(), SpoolError> {
        self.remove(generation, "tlog")?;
        self.remove(generation, "ckp")
    }

    fn remove(&self, generation: Generation, extension: &str) -> Result<(), SpoolError> {
        let path = self.path(generation, extension);
        match &self.store {
            Store::Links(_) => match std::fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => Err(self.failed(&path, source)),
                _ => Ok(()),
            },
            Store::Descriptors(files) => {
                files.lock().remove(&file_name(generation, extension));
                Ok(())
            }
        }
    }

    fn held(&self, generation: Generation) -> u64 {
        let metadata = std::fs::metadata(self.path(generation, "tlog"));
        let own_links = if matches!(self.store, Store::Links(_)) { 1 } else { 0 };
        metadata.map(|metadata| if metadata.nlink() == own_links { metadata.len() } else { 0 }).unwrap_or(0)
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
                warn!(spool = %self.place().display(), %generation, limit_bytes = self.limit_bytes,
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

/// What is held under the same name may be a file of an earlier translog, whose place this one has taken: then the link is
/// made anew, and that is said.
fn link_anew(file: &Path, link: &Path) -> io::Result<bool> {
    match std::fs::hard_link(file, link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let is_other = std::fs::metadata(file)?.ino() != std::fs::metadata(link)?.ino();
            if is_other {
                std::fs::remove_file(link)?;
                std::fs::hard_link(file, link)?;
            }
            Ok(is_other)
        }
        outcome => outcome.map(|()| false),
    }
}

/// As [`link_anew`], by descriptors.
fn open_anew(file: &Path, name: &str, held: &mut BTreeMap<String, File>) -> io::Result<bool> {
    let before = held.get(name).map(File::metadata).transpose()?;
    let is_other =
        before.map(|before| Ok::<_, io::Error>(before.ino() != std::fs::metadata(file)?.ino())).transpose()?;
    if is_other != Some(false) {
        held.insert(name.to_owned(), File::open(file)?);
    }
    Ok(is_other == Some(true))
}

pub fn file_name(generation: Generation, extension: &str) -> String {
    format!("translog-{generation}.{extension}")
}

/// The generations whose files are in a folder.
pub fn list_generations(folder: &Path) -> io::Result<BTreeSet<Generation>> {
    let mut generations = BTreeSet::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        generations.extend(name.to_str().and_then(generation_of));
    }
    Ok(generations)
}

fn generation_of(name: &str) -> Option<Generation> {
    name.strip_prefix("translog-")?.strip_suffix(".tlog")?.parse().ok()
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
    fn a_file_that_took_another_ones_place_takes_its_link_too() {
        let folder = translog_with(&[1]);
        let (translog, spool) = (folder.path().join("translog"), spool(&folder, 10_000));
        spool.keep(&translog).unwrap();
        std::fs::remove_file(translog.join("translog-1.tlog")).unwrap();
        std::fs::write(translog.join("translog-1.tlog"), b"restored").unwrap();
        spool.keep(&translog).unwrap();
        assert_eq!(std::fs::read(spool.path(Generation(1), "tlog")).unwrap(), b"restored");
    }

    #[test]
    fn where_nothing_can_be_written_descriptors_hold() {
        let folder = translog_with(&[1, 2]);
        let translog = folder.path().join("translog");
        let read_only = Spool { root: None, limit_bytes: 10_000, held_bytes: Arc::default() };
        let spool = read_only.shard(&"u".into(), ShardId(0)).unwrap();
        spool.keep(&translog).unwrap();
        std::fs::remove_file(translog.join("translog-1.tlog")).unwrap();
        spool.keep(&translog).unwrap();
        assert_eq!(spool.extra_bytes(), 1000);
        assert_eq!(std::fs::read(spool.path(Generation(1), "tlog")).unwrap().len(), 1000);
        spool.release(Generation(2)).unwrap();
        assert_eq!((spool.extra_bytes(), spool.generations().unwrap()), (0, BTreeSet::from([Generation(2)])));
        assert!(!spool.path(Generation(1), "tlog").exists());
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
