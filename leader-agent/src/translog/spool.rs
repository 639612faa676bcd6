//! The spool of one data folder: what all its shards hold together, and the limit of it.
//!
//! The spool shares the disk with the node's shards, so its limit is kept whatever Kafka does: past
//! it, the generations that were written longest ago are let go, of whichever shard. What they had
//! comes from another copy or a resync.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::sys::statvfs::statvfs;
use parking_lot::Mutex;
use shardline_common::types::{IndexUuid, ShardId};
use tracing::warn;

use super::hold::{ShardSpool, Shelf};

/// How much of the disk stays free whatever the limit is. OpenSearch makes indices read-only at
/// [`FLOOD`] (`cluster.routing.allocation.disk.watermark.flood_stage`).
const DISK_FREE_MIN: Share = Share {
    percent: 7,
    bytes_max: 140 << 30,
};
const FLOOD: Share = Share {
    percent: 5,
    bytes_max: 100 << 30,
};

pub(crate) type ShardKey = (IndexUuid, ShardId);

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
#[derive(Debug, Clone)]
pub struct Spool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    /// `None` where nothing can be written.
    root: Option<PathBuf>,
    limit_bytes: u64,
    disk: DiskGauge,
    shelves: Mutex<HashMap<ShardKey, Arc<Shelf>>>,
    let_go: AtomicU64,
}

/// Measures the disk on which a path is.
type DiskGauge = fn(&Path) -> Option<Disk>;

/// The file system of a spool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disk {
    pub total_bytes: u64,
    pub free_bytes: u64,
}

impl Disk {
    fn of(path: &Path) -> Option<Self> {
        let found = statvfs(path).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
        Some(Self {
            total_bytes: bytes(found.blocks()),
            free_bytes: bytes(found.blocks_available()),
        })
    }

    /// How much a spool that holds so many bytes now may hold.
    fn room(self, held_bytes: u64) -> u64 {
        let without_spool = self.free_bytes.saturating_add(held_bytes);
        if without_spool > FLOOD.of(self.total_bytes) {
            return without_spool.saturating_sub(DISK_FREE_MIN.of(self.total_bytes));
        }
        // The watermarks of such a disk are other ones, and nothing that is let go would help.
        without_spool / 2
    }
}

/// A part of a disk: so many percent of it, and of a large one at most so many bytes.
struct Share {
    percent: u64,
    bytes_max: u64,
}

impl Share {
    fn of(&self, total_bytes: u64) -> u64 {
        (total_bytes / 100 * self.percent).min(self.bytes_max)
    }
}

/// What a spool takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Disk that generations take which only the spool still has.
    pub held_bytes: u64,
    pub(crate) limit_bytes: u64,
    /// Generations that were let go for the limit since the spool was opened.
    pub let_go: u64,
}

impl Spool {
    /// Opens a spool with what it holds from before. It takes what its limit allows, however full
    /// the disk is.
    pub fn open(root: &Path, limit_bytes: u64) -> Result<Self, SpoolError> {
        Self::open_on(root, limit_bytes, |_| None)
    }

    /// Opens a spool that leaves a part of its disk free.
    pub(crate) fn open_sparing_disk(root: &Path, limit_bytes: u64) -> Result<Self, SpoolError> {
        Self::open_on(root, limit_bytes, Disk::of)
    }

    fn open_on(root: &Path, limit_bytes: u64, disk: DiskGauge) -> Result<Self, SpoolError> {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        let root = match std::fs::create_dir_all(root) {
            Ok(()) => Some(root.to_owned()),
            Err(error) if matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem) => {
                warn!(root = %root.display(), %error,
                      "no spool can be made beside the node's data: translogs are held by open descriptors, which end \
                       with the agent");
                None
            }
            Err(source) => {
                return Err(SpoolError::Io {
                    path: root.to_owned(),
                    source,
                });
            }
        };
        let spool = Self::over(root, limit_bytes, disk);
        for (index, shard) in spool.on_disk()? {
            spool.shard(&index, shard)?;
        }
        spool.recount()?;
        Ok(spool)
    }

    pub(super) fn over(root: Option<PathBuf>, limit_bytes: u64, disk: DiskGauge) -> Self {
        let shared = Shared {
            root,
            limit_bytes,
            disk,
            shelves: Mutex::default(),
            let_go: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// One shard's part, with what it holds already.
    pub fn shard(&self, index: &IndexUuid, shard: ShardId) -> Result<ShardSpool, SpoolError> {
        let mut shelves = self.shared.shelves.lock();
        let folder = self.folder(index, shard);
        if let Some(folder) = &folder {
            std::fs::create_dir_all(folder).map_err(|source| SpoolError::Io {
                path: folder.clone(),
                source,
            })?;
        }
        let shelf = shelves
            .entry((index.clone(), shard))
            .or_insert_with(|| Arc::new(Shelf::new(folder)));
        Ok(ShardSpool::new(Arc::clone(shelf), Arc::clone(&self.shared)))
    }

    /// The shards that have a part of this spool.
    pub fn shards(&self) -> Vec<ShardKey> {
        self.shared.shelves.lock().keys().cloned().collect()
    }

    /// Removes one shard's part with all that it holds.
    pub fn remove(&self, key: &ShardKey) -> Result<(), SpoolError> {
        let mut shelves = self.shared.shelves.lock();
        if let Some(folder) = self.folder(&key.0, key.1) {
            match std::fs::remove_dir_all(&folder) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(SpoolError::Io {
                        path: folder,
                        source,
                    });
                }
                _ => {}
            }
            // Stays while it has other shards' parts.
            let _ = folder.parent().map(std::fs::remove_dir);
        }
        shelves.remove(key);
        Ok(())
    }

    /// Sees what OpenSearch has deleted since a shard was last looked at, and keeps the limit.
    pub(crate) fn recount(&self) -> Result<(), SpoolError> {
        let shelves: Vec<Arc<Shelf>> = self.shared.shelves.lock().values().cloned().collect();
        shelves.iter().try_for_each(|shelf| shelf.account())?;
        self.shared.enforce_limit();
        Ok(())
    }

    pub fn usage(&self) -> Usage {
        let Shared {
            limit_bytes,
            let_go,
            ..
        } = &*self.shared;
        Usage {
            held_bytes: self.shared.held_bytes(),
            limit_bytes: *limit_bytes,
            let_go: let_go.load(Relaxed),
        }
    }

    fn folder(&self, index: &IndexUuid, shard: ShardId) -> Option<PathBuf> {
        self.shared
            .root
            .as_ref()
            .map(|root| root.join(index.as_str()).join(shard.to_string()))
    }

    fn on_disk(&self) -> Result<Vec<ShardKey>, SpoolError> {
        let Some(root) = &self.shared.root else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for index in folders_in(root)? {
            for shard in folders_in(&root.join(&index))? {
                found.extend(
                    shard
                        .parse()
                        .ok()
                        .map(|shard| (index.as_str().into(), shard)),
                );
            }
        }
        Ok(found)
    }
}

impl Shared {
    fn held_bytes(&self) -> u64 {
        self.shelves
            .lock()
            .values()
            .map(|shelf| shelf.held_bytes())
            .sum()
    }

    /// Lets the oldest held generations go until the rest is within the limit. What cannot be let
    /// go is logged, as it need not be of the shard that asks.
    pub(super) fn enforce_limit(&self) {
        let held_bytes = self.held_bytes();
        let disk = self.root.as_deref().and_then(self.disk);
        let room = disk.map_or(u64::MAX, |disk| disk.room(held_bytes));
        let limit_bytes = self.limit_bytes.min(room);
        if held_bytes <= limit_bytes {
            return;
        }
        let shelves = self.shelves.lock();
        let mut held: Vec<_> = shelves
            .iter()
            .flat_map(|(key, shelf)| {
                shelf
                    .held()
                    .into_iter()
                    .map(move |(generation, held)| (held, generation, key, shelf))
            })
            .collect();
        held.sort_by_key(|(held, generation, ..)| (held.written, *generation));
        let mut bytes: u64 = held.iter().map(|(held, ..)| held.bytes).sum();
        for (held, generation, (index, shard), shelf) in held {
            if bytes <= limit_bytes {
                break;
            }
            warn!(%index, %shard, %generation, bytes = held.bytes, limit_bytes, ?disk,
                  "the spool is full, or its disk: a generation that Kafka does not have yet is let go");
            match shelf.let_go(generation) {
                Ok(()) => {
                    bytes -= held.bytes;
                    self.let_go.fetch_add(1, Relaxed);
                }
                Err(error) => warn!(%error, "the spool is above its limit"),
            }
        }
        for shelf in shelves.values() {
            if let Err(error) = shelf.account() {
                warn!(%error, "what the spool takes is not known");
            }
        }
    }
}

/// The names of the folders in one.
fn folders_in(folder: &Path) -> Result<Vec<String>, SpoolError> {
    let failed = |source| SpoolError::Io {
        path: folder.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            names.extend(entry.file_name().into_string().ok());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_agent_held_counts_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (root, key) = (folder.path().join("spool"), ("u".into(), ShardId(3)));
        std::fs::create_dir_all(root.join("u/3")).unwrap();
        std::fs::create_dir_all(root.join("u/4")).unwrap();
        std::fs::write(root.join("u/3/translog-5.tlog"), [0; 700]).unwrap();
        let spool = Spool::open(&root, 1000).unwrap();
        assert_eq!(
            spool.usage(),
            Usage {
                held_bytes: 700,
                limit_bytes: 1000,
                let_go: 0
            }
        );
        spool.remove(&key).unwrap();
        assert_eq!(
            (spool.usage().held_bytes, spool.shards()),
            (0, vec![("u".into(), ShardId(4))])
        );
        assert!(!root.join("u/3").exists() && root.join("u/4").exists());
        spool.remove(&("u".into(), ShardId(4))).unwrap();
        assert!(!root.join("u").exists());
    }

    #[test]
    fn a_disk_that_fills_up_takes_from_the_spool_whatever_the_limit_is() {
        let folder = tempfile::tempdir().unwrap();
        for shard in ["3", "4"] {
            let folder = folder.path().join("u").join(shard);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("translog-5.tlog"), [0; 700]).unwrap();
        }
        let used = |disk| {
            let spool = Spool::open_on(folder.path(), 10_000, disk).unwrap();
            spool.usage().held_bytes
        };
        const fn disk(total_bytes: u64, free_bytes: u64) -> Option<Disk> {
            Some(Disk {
                total_bytes,
                free_bytes,
            })
        }
        assert_eq!(used(|_| None), 1400);
        assert_eq!(used(|_| disk(6000, 420)), 1400);
        // A disk that was below the watermark before is another matter.
        assert_eq!(used(|_| disk(60_000, 1400)), 1400);
        assert_eq!(used(|_| disk(6000, 400)), 700);
        assert_eq!(used(|_| disk(60_000, 400)), 0);
    }

    #[test]
    fn what_was_held_above_the_limit_is_let_go_when_the_agent_starts() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("u/0")).unwrap();
        std::fs::write(folder.path().join("u/0/translog-5.tlog"), [0; 700]).unwrap();
        let spool = Spool::open(folder.path(), 600).unwrap();
        assert_eq!(
            spool.usage(),
            Usage {
                held_bytes: 0,
                limit_bytes: 600,
                let_go: 1
            }
        );
        assert!(!folder.path().join("u/0/translog-5.tlog").exists());
    }
}
