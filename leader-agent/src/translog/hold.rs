//! The spool: hard links that keep generations from vanishing before Kafka has what is in them.
//! Where the agent may not write beside the node's data, open descriptors do, as long as the agent
//! lives.
//!
//! A generation is *live* while OpenSearch has it, *held* when only the spool does, and *let go*
//! when the spool's link is removed. A held generation costs disk; a live one does not, so only
//! held ones count against the limit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use parking_lot::Mutex;
use shardline_common::types::Generation;

use super::spool::{Shared, SpoolError};

/// The spool of one shard.
#[derive(Debug, Clone)]
pub struct ShardSpool {
    shelf: Arc<Shelf>,
    spool: Arc<Shared>,
}

/// What is kept of one shard.
#[derive(Debug)]
pub(super) struct Shelf {
    store: Store,
    held_bytes: AtomicU64,
    /// Held while links are made or removed: the capture and the watcher both do that.
    changing: Mutex<()>,
}

#[derive(Debug)]
enum Store {
    Links(PathBuf),
    /// Open files by name. What is open can be opened once more after it was deleted, through
    /// `/proc/self/fd`.
    Descriptors(Mutex<BTreeMap<String, File>>),
}

/// A generation that only the spool has.
#[derive(Debug)]
pub(super) struct Held {
    pub bytes: u64,
    /// When OpenSearch wrote it last.
    pub written: SystemTime,
}

impl ShardSpool {
    pub(super) fn new(shelf: Arc<Shelf>, spool: Arc<Shared>) -> Self {
        Self { shelf, spool }
    }

    /// Links everything that the translog folder has and the spool has not, and keeps the spool's
    /// limit.
    pub fn keep(&self, translog: &Path) -> Result<(), SpoolError> {
        self.shelf.link_all(translog)?;
        self.shelf.account()?;
        self.spool.enforce_limit();
        Ok(())
    }

    pub fn generations(&self) -> Result<BTreeSet<Generation>, SpoolError> {
        self.shelf.generations()
    }

    /// Where a file can be opened, if it is held.
    pub fn path(&self, generation: Generation, extension: &str) -> PathBuf {
        self.shelf.path(generation, extension)
    }

    /// Lets go of the generations before this one.
    pub fn release(&self, below: Generation) -> Result<(), SpoolError> {
        for generation in self.generations()?.range(..below) {
            self.shelf.let_go(*generation)?;
        }
        self.shelf.account()
    }

    /// Lets go of one generation.
    pub fn let_go(&self, generation: Generation) -> Result<(), SpoolError> {
        self.shelf.let_go(generation)?;
        self.shelf.account()
    }

    /// Disk that only this shard's spool takes, in bytes, as of the last change.
    pub(crate) fn extra_bytes(&self) -> u64 {
        self.shelf.held_bytes()
    }
}

impl Shelf {
    /// Keeps links in a folder, or, without one, open descriptors.
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        let store = folder.map_or_else(|| Store::Descriptors(Mutex::default()), Store::Links);
        Self {
            store,
            held_bytes: AtomicU64::new(0),
            changing: Mutex::default(),
        }
    }

    pub(super) fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Relaxed)
    }

    /// The generations that only the spool has.
    pub(super) fn held(&self) -> BTreeMap<Generation, Held> {
        let generations = self.generations().unwrap_or_default().into_iter();
        generations
            .filter_map(|generation| Some((generation, self.held_one(generation)?)))
            .collect()
    }

    pub(super) fn account(&self) -> Result<(), SpoolError> {
        let held = self
            .generations()?
            .into_iter()
            .filter_map(|generation| self.held_one(generation));
        self.held_bytes
            .store(held.map(|held| held.bytes).sum(), Relaxed);
        Ok(())
    }

    /// Lets go of one generation.
    pub(super) fn let_go(&self, generation: Generation) -> Result<(), SpoolError> {
        let _changing = self.changing.lock();
        self.remove_both(generation)
    }

    fn link_all(&self, translog: &Path) -> Result<(), SpoolError> {
        let _changing = self.changing.lock();
        for generation in list_generations(translog).map_err(|source| failed(translog, source))? {
            let (tlog, ckp) = (file_name(generation, "tlog"), file_name(generation, "ckp"));
            if self.holds_another(translog, &tlog)? || self.holds_another(translog, &ckp)? {
                self.remove_both(generation)?;
            }
            self.link(translog, &tlog)?;
            self.link(translog, &ckp)?;
        }
        Ok(())
    }

    /// The checkpoint goes first: an agent that ends in between must not find it beside another
    /// translog.
    fn remove_both(&self, generation: Generation) -> Result<(), SpoolError> {
        self.remove(generation, "ckp")?;
        self.remove(generation, "tlog")
    }

    fn remove(&self, generation: Generation, extension: &str) -> Result<(), SpoolError> {
        let path = self.path(generation, extension);
        match &self.store {
            Store::Links(_) => match std::fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    Err(failed(&path, source))
                }
                _ => Ok(()),
            },
            Store::Descriptors(files) => {
                files.lock().remove(&file_name(generation, extension));
                Ok(())
            }
        }
    }

    fn generations(&self) -> Result<BTreeSet<Generation>, SpoolError> {
        match &self.store {
            Store::Links(folder) => match list_generations(folder) {
                // Removed with its shard.
                Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
                listed => listed.map_err(|source| failed(folder, source)),
            },
            Store::Descriptors(files) => Ok(files
                .lock()
                .keys()
                .filter_map(|name| generation_of(name))
                .collect()),
        }
    }

    fn path(&self, generation: Generation, extension: &str) -> PathBuf {
        let name = file_name(generation, extension);
        match &self.store {
            Store::Links(folder) => folder.join(name),
            Store::Descriptors(files) => match files.lock().get(&name) {
                Some(file) => PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
                None => PathBuf::from("/nonexistent").join(name),
            },
        }
    }

    /// Whether what is held under a name is a file of an earlier translog, whose place this one has
    /// taken.
    fn holds_another(&self, translog: &Path, name: &str) -> Result<bool, SpoolError> {
        let held = match &self.store {
            Store::Links(folder) => std::fs::metadata(folder.join(name)),
            Store::Descriptors(files) => match files.lock().get(name) {
                Some(file) => file.metadata(),
                None => return Ok(false),
            },
        };
        match (held, std::fs::metadata(translog.join(name))) {
            (Ok(held), Ok(own)) => Ok(held.ino() != own.ino()),
            // Not held, or deleted since it was listed.
            (Err(error), _) | (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                Ok(false)
            }
            (Err(error), _) | (_, Err(error)) => Err(failed(&self.place(), error)),
        }
    }

    fn link(&self, translog: &Path, name: &str) -> Result<(), SpoolError> {
        let file = translog.join(name);
        let kept = match &self.store {
            Store::Links(folder) => std::fs::hard_link(&file, folder.join(name)),
            Store::Descriptors(files) => open_once(&file, name, &mut files.lock()),
        };
        match kept {
            // Deleted since it was listed; or a generation's checkpoint, which only a closed one
            // has.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                Err(SpoolError::OtherFileSystem {
                    spool: self.place(),
                    translog: translog.to_owned(),
                })
            }
            kept => kept.map_err(|source| failed(&self.place(), source)),
        }
    }

    fn place(&self) -> PathBuf {
        match &self.store {
            Store::Links(folder) => folder.clone(),
            Store::Descriptors(_) => PathBuf::from("open descriptors"),
        }
    }

    fn held_one(&self, generation: Generation) -> Option<Held> {
        let metadata = std::fs::metadata(self.path(generation, "tlog")).ok()?;
        let own_links = if matches!(self.store, Store::Links(_)) {
            1
        } else {
            0
        };
        let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        (metadata.nlink() == own_links).then_some(Held {
            bytes: metadata.len(),
            written,
        })
    }
}

fn failed(path: &Path, source: io::Error) -> SpoolError {
    SpoolError::Io {
        path: path.to_owned(),
        source,
    }
}

fn open_once(file: &Path, name: &str, held: &mut BTreeMap<String, File>) -> io::Result<()> {
    if !held.contains_key(name) {
        held.insert(name.to_owned(), File::open(file)?);
    }
    Ok(())
}

pub(super) fn file_name(generation: Generation, extension: &str) -> String {
    format!("translog-{generation}.{extension}")
}

/// The generations whose files are in a folder.
pub(super) fn list_generations(folder: &Path) -> io::Result<BTreeSet<Generation>> {
    let mut generations = BTreeSet::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        generations.extend(name.to_str().and_then(generation_of));
    }
    Ok(generations)
}

fn generation_of(name: &str) -> Option<Generation> {
    name.strip_prefix("translog-")?
        .strip_suffix(".tlog")?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use shardline_common::types::ShardId;

    use super::super::spool::Spool;
    use super::*;

    fn translog_with(generations: &[i64]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("translog")).unwrap();
        for generation in generations {
            let path = folder
                .path()
                .join("translog")
                .join(file_name(Generation(*generation), "tlog"));
            std::fs::write(path, vec![0; 1000]).unwrap();
        }
        folder
    }

    fn spool(folder: &tempfile::TempDir, limit: u64) -> ShardSpool {
        Spool::open(&folder.path().join("spool"), limit)
            .unwrap()
            .shard(&"u".into(), ShardId(0))
            .unwrap()
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
        assert_eq!(
            (spool.extra_bytes(), spool.generations().unwrap()),
            (0, BTreeSet::from([Generation(2)]))
        );
    }

    #[test]
    fn a_file_that_took_another_ones_place_takes_its_link_too() {
        let folder = translog_with(&[1]);
        let (translog, spool) = (folder.path().join("translog"), spool(&folder, 10_000));
        spool.keep(&translog).unwrap();
        std::fs::remove_file(translog.join("translog-1.tlog")).unwrap();
        std::fs::write(translog.join("translog-1.tlog"), b"restored").unwrap();
        spool.keep(&translog).unwrap();
        assert_eq!(
            std::fs::read(spool.path(Generation(1), "tlog")).unwrap(),
            b"restored"
        );
    }

    /// The capture and the watcher keep at the same time.
    #[test]
    fn a_generation_that_takes_anothers_place_never_gets_its_checkpoint() {
        let folder = translog_with(&[1]);
        let (translog, spool) = (folder.path().join("translog"), spool(&folder, 10_000));
        for _ in 0..500 {
            std::fs::write(translog.join("translog-1.ckp"), b"earlier").unwrap();
            spool.keep(&translog).unwrap();
            std::fs::remove_file(translog.join("translog-1.tlog")).unwrap();
            std::fs::remove_file(translog.join("translog-1.ckp")).unwrap();
            std::fs::write(translog.join("translog-1.tlog"), b"restored").unwrap();
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| spool.keep(&translog).unwrap());
                }
            });
            assert_eq!(
                std::fs::read(spool.path(Generation(1), "tlog")).unwrap(),
                b"restored"
            );
            assert!(!spool.path(Generation(1), "ckp").exists());
        }
    }

    #[test]
    fn where_nothing_can_be_written_descriptors_hold() {
        let folder = translog_with(&[1, 2]);
        let translog = folder.path().join("translog");
        let read_only = Spool::over(None, 10_000, |_| None);
        let spool = read_only.shard(&"u".into(), ShardId(0)).unwrap();
        spool.keep(&translog).unwrap();
        // As when the copy becomes the primary.
        let spool = read_only.shard(&"u".into(), ShardId(0)).unwrap();
        std::fs::remove_file(translog.join("translog-1.tlog")).unwrap();
        spool.keep(&translog).unwrap();
        assert_eq!(spool.extra_bytes(), 1000);
        assert_eq!(
            std::fs::read(spool.path(Generation(1), "tlog"))
                .unwrap()
                .len(),
            1000
        );
        spool.release(Generation(2)).unwrap();
        assert_eq!(
            (spool.extra_bytes(), spool.generations().unwrap()),
            (0, BTreeSet::from([Generation(2)]))
        );
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
        assert_eq!(
            spool.generations().unwrap(),
            BTreeSet::from([Generation(2), Generation(3)])
        );
    }

    #[test]
    fn another_file_system_is_refused_by_name() {
        let folder = translog_with(&[1]);
        let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
        let spool = Spool::open(elsewhere.path(), 0)
            .unwrap()
            .shard(&"u".into(), ShardId(0))
            .unwrap();
        let error = spool.keep(&folder.path().join("translog")).unwrap_err();
        assert!(
            matches!(error, SpoolError::OtherFileSystem { .. }),
            "{error:?}"
        );
        let message = error.to_string();
        for path in [elsewhere.path(), folder.path()] {
            assert!(message.contains(&*path.to_string_lossy()), "{message}");
        }
    }
}
