//! Sees what OpenSearch does to the translogs: wakes captures when one is written, and links new
//! generations into the spool at once, whatever the capture is busy with. inotify has limits; where
//! they are reached, translogs are polled.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::warn;

use super::hold::ShardSpool;
use shardline_common::blocking::in_background;

const EVENT_BUFFER_BYTES: usize = 16 * 1024;
/// Linux's error numbers. inotify means its own limits by them: see inotify_add_watch(2) and
/// inotify_init(2).
const ENOSPC: i32 = 28;
const EMFILE: i32 = 24;

/// Why translogs are polled.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("this user may have no more inotify watches: raise fs.inotify.max_user_watches")]
    NoMoreWatches,
    #[error(
        "this user may have no more inotify instances, or the agent no more open files: raise \
         fs.inotify.max_user_instances or RLIMIT_NOFILE"
    )]
    NoMoreInstances,
    #[error(transparent)]
    Other(io::Error),
}

impl From<io::Error> for WatchError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(ENOSPC) => Self::NoMoreWatches,
            Some(EMFILE) => Self::NoMoreInstances,
            _ => Self::Other(error),
        }
    }
}

type AddWatch = fn(&mut Watches, &Path, WatchMask) -> io::Result<WatchDescriptor>;

/// One inotify instance for all of an agent's shards. Where it cannot watch (limits, network file
/// systems) the captures' own slow poll finds changes; that is said once.
#[derive(Clone)]
pub struct TranslogWatcher {
    state: Arc<Mutex<State>>,
}

struct State {
    watches: Option<Watches>,
    add: AddWatch,
    watched: HashMap<WatchDescriptor, Watched>,
    limit_reported: bool,
}

struct Watched {
    folder: PathBuf,
    spool: ShardSpool,
    wake: Arc<Notify>,
    lost: Arc<Notify>,
}

/// Resolves after each change of one folder. The watch ends with it.
pub(crate) struct Wake {
    notify: Arc<Notify>,
    lost: Arc<Notify>,
    descriptor: Option<WatchDescriptor>,
    state: Arc<Mutex<State>>,
}

impl Wake {
    pub(crate) async fn notified(&self) {
        self.notify.notified().await;
    }

    /// Resolves when the folder was removed. A recovery that copies files makes a new one in its
    /// place.
    pub(crate) async fn lost(&self) {
        self.lost.notified().await;
    }

    /// Whether changes are seen; otherwise the folder is to be polled.
    pub(crate) fn is_watching(&self) -> bool {
        self.descriptor.is_some()
    }
}

impl TranslogWatcher {
    pub fn start() -> Self {
        Self::start_with(Inotify::init, |watches, folder, mask| {
            watches.add(folder, mask)
        })
    }

    /// With other ways to make the instance and its watches: ones that fail, in tests.
    pub(crate) fn start_with(init: impl FnOnce() -> io::Result<Inotify>, add: AddWatch) -> Self {
        let Self { state } = Self::polling(add);
        match init().and_then(|inotify| {
            let watches = inotify.watches();
            Ok((
                watches,
                inotify.into_event_stream(vec![0; EVENT_BUFFER_BYTES])?,
            ))
        }) {
            Ok((watches, mut events)) => {
                state.lock().watches = Some(watches);
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    // Nothing counts before the checkpoint says so, and each write of a generation
                    // is an event too.
                    let checkpoint = OsStr::new("translog.ckp");
                    while let Some(event) = events.next().await {
                        match event {
                            Ok(event)
                                if event.mask.contains(EventMask::MODIFY)
                                    && event.name.as_deref() != Some(checkpoint) => {}
                            Ok(event) => state.lock().wake(event.mask, &event.wd),
                            Err(error) => {
                                warn!(%error, "a change of a translog may have been missed until the next poll")
                            }
                        }
                    }
                });
            }
            Err(error) => {
                let error = WatchError::from(error);
                warn!(%error, "inotify is not available: translogs are polled");
            }
        }
        Self { state }
    }

    /// Watches nothing: translogs are polled.
    pub fn blind() -> Self {
        Self::polling(|watches, folder, mask| watches.add(folder, mask))
    }

    fn polling(add: AddWatch) -> Self {
        let state = State {
            watches: None,
            add,
            watched: HashMap::new(),
            limit_reported: false,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Watches a shard's translog. The generations that it has, and those that OpenSearch begins
    /// from now on, are kept in the spool.
    pub(crate) fn watch(&self, folder: &Path, spool: &ShardSpool) -> Wake {
        let (notify, lost) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let watched = Watched {
            folder: folder.to_owned(),
            spool: spool.clone(),
            wake: Arc::clone(&notify),
            lost: Arc::clone(&lost),
        };
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mask = WatchMask::MODIFY
            | WatchMask::CREATE
            | WatchMask::MOVED_TO
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF;
        let added = state
            .watches
            .as_mut()
            .map(|watches| (state.add)(watches, folder, mask));
        // From here on each new generation is an event, or somebody polls.
        watched.keep();
        let descriptor = match added {
            Some(Ok(descriptor)) => {
                state.watched.insert(descriptor.clone(), watched);
                Some(descriptor)
            }
            Some(Err(error))
                if !state.limit_reported && error.kind() != io::ErrorKind::NotFound =>
            {
                state.limit_reported = true;
                let error = WatchError::from(error);
                warn!(folder = %folder.display(), %error, "a translog cannot be watched and is polled, as others may be");
                None
            }
            _ => None,
        };
        Wake {
            notify,
            lost,
            descriptor,
            state: Arc::clone(&self.state),
        }
    }
}

impl State {
    fn wake(&mut self, mask: EventMask, descriptor: &WatchDescriptor) {
        if mask.contains(EventMask::Q_OVERFLOW) {
            self.watched.values().for_each(|watched| {
                watched.keep();
                watched.wake.notify_one();
            });
        } else if let Some(watched) = self.watched.get(descriptor) {
            // A generation exists from here to the flush after next at least, and costs disk from
            // its deletion on.
            if mask.intersects(EventMask::CREATE | EventMask::MOVED_TO | EventMask::DELETE) {
                watched.keep();
            }
            watched.wake.notify_one();
            if mask.contains(EventMask::IGNORED) {
                watched.lost.notify_one();
                self.watched.remove(descriptor);
            }
        }
    }
}

impl Watched {
    fn keep(&self) {
        let (folder, spool) = (self.folder.clone(), self.spool.clone());
        in_background(move || {
            if let Err(error) = spool.keep(&folder)
                && folder.exists()
            {
                warn!(folder = %folder.display(), %error, "a new generation is not held");
            }
        });
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        let Some(descriptor) = self.descriptor.take() else {
            return;
        };
        let mut state = self.state.lock();
        // A capture that started again has the same folder's descriptor, and needs its watch.
        if state
            .watched
            .get(&descriptor)
            .is_some_and(|watched| Arc::ptr_eq(&watched.wake, &self.notify))
        {
            state.watched.remove(&descriptor);
            if let Some(watches) = state.watches.as_mut() {
                // The folder may be gone, and its watch with it.
                let _ = watches.remove(descriptor);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shardline_common::types::{Generation, ShardId};

    use super::super::spool::Spool;
    use super::*;

    #[tokio::test]
    async fn a_write_wakes_its_folder_only() {
        let (one, other, spool) = folders();
        let watcher = TranslogWatcher::start();
        let (first, second) = (
            watcher.watch(one.path(), &spool),
            watcher.watch(other.path(), &spool),
        );
        std::fs::write(one.path().join("translog.ckp"), b"x").unwrap();
        tokio::time::timeout(Duration::from_secs(10), first.notified())
            .await
            .unwrap();
        assert!(
            tokio::time::timeout(Duration::from_millis(50), second.notified())
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn a_new_generation_is_held_before_anybody_reads_it() {
        let (folder, _other, spool) = folders();
        let watcher = TranslogWatcher::start();
        let _wake = watcher.watch(folder.path(), &spool);
        std::fs::write(folder.path().join("translog-7.tlog"), b"x").unwrap();
        assert_held(&spool, Generation(7)).await;
    }

    #[tokio::test]
    async fn a_folder_that_is_made_anew_can_be_watched_again() {
        let (folder, _other, spool) = folders();
        let translog = folder.path().join("translog");
        std::fs::create_dir(&translog).unwrap();
        let watcher = TranslogWatcher::start();
        let wake = watcher.watch(&translog, &spool);
        std::fs::remove_dir(&translog).unwrap();
        tokio::time::timeout(Duration::from_secs(10), wake.lost())
            .await
            .unwrap();
        assert!(!watcher.watch(&translog, &spool).is_watching());
        std::fs::create_dir(&translog).unwrap();
        assert!(watcher.watch(&translog, &spool).is_watching());
    }

    /// The log of what is done while the guard is there.
    fn logged() -> (Log, tracing::subscriber::DefaultGuard) {
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer({
            let log = log.clone();
            move || log.clone()
        });
        (log, tracing::subscriber::set_default(subscriber.finish()))
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        fn times(&self, words: &str) -> usize {
            String::from_utf8_lossy(&self.0.lock())
                .matches(words)
                .count()
        }
    }

    #[tokio::test]
    async fn out_of_watches_folders_are_polled_and_the_limit_is_named_once() {
        let (one, other, spool) = folders();
        std::fs::write(one.path().join("translog-7.tlog"), b"x").unwrap();
        let (log, _guard) = logged();
        let watcher = TranslogWatcher::start_with(Inotify::init, |_, _, _| {
            Err(io::Error::from_raw_os_error(ENOSPC))
        });
        let (first, second) = (
            watcher.watch(one.path(), &spool),
            watcher.watch(other.path(), &spool),
        );
        assert!(!first.is_watching() && !second.is_watching());
        assert_eq!(log.times("WARN"), 1);
        assert_eq!(log.times("fs.inotify.max_user_watches"), 1);
        assert_held(&spool, Generation(7)).await;
    }

    #[tokio::test]
    async fn without_an_instance_folders_are_polled_and_the_limit_is_named() {
        let (one, _other, spool) = folders();
        let (log, _guard) = logged();
        let init = || Err(io::Error::from_raw_os_error(EMFILE));
        let watcher =
            TranslogWatcher::start_with(init, |watches, folder, mask| watches.add(folder, mask));
        assert!(!watcher.watch(one.path(), &spool).is_watching());
        assert_eq!(log.times("WARN"), 1);
        assert_eq!(log.times("fs.inotify.max_user_instances"), 1);
    }

    async fn assert_held(spool: &ShardSpool, generation: Generation) {
        let held = async {
            while !spool.path(generation, "tlog").exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), held)
            .await
            .unwrap();
    }

    /// Two folders, and a spool within the second.
    fn folders() -> (tempfile::TempDir, tempfile::TempDir, ShardSpool) {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let spool = Spool::open(&other.path().join("spool"), u64::MAX)
            .unwrap()
            .shard(&"u".into(), ShardId(0))
            .unwrap();
        (one, other, spool)
    }
}
