//! Wakes captures when OpenSearch writes a translog.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::warn;

const EVENT_BUFFER_BYTES: usize = 16 * 1024;

/// One inotify instance for all of an agent's shards. Where it cannot watch (limits, network file systems) the
/// captures' own slow poll finds changes; that is said once.
#[derive(Clone)]
pub struct TranslogWatcher {
    state: Arc<Mutex<State>>,
}

struct State {
    watches: Option<Watches>,
    wakes: HashMap<WatchDescriptor, Arc<Notify>>,
    limit_reported: bool,
}

/// Resolves after each change of one folder. The watch ends with it.
pub struct Wake {
    notify: Arc<Notify>,
    descriptor: Option<WatchDescriptor>,
    state: Arc<Mutex<State>>,
}

impl Wake {
    pub async fn notified(&self) {
        self.notify.notified().await;
    }
}

impl TranslogWatcher {
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State { watches: None, wakes: HashMap::new(), limit_reported: false }));
        match Inotify::init().and_then(|inotify| {
            let watches = inotify.watches();
            Ok((watches, inotify.into_event_stream(vec![0; EVENT_BUFFER_BYTES])?))
        }) {
            Ok((watches, mut events)) => {
                state.lock().watches = Some(watches);
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    // Nothing counts before the checkpoint says so, and each write of a generation is an event too.
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
            Err(error) => warn!(%error, "inotify is not available: translogs are polled"),
        }
        Self { state }
    }

    pub fn watch(&self, folder: &Path) -> Wake {
        let notify = Arc::new(Notify::new());
        let mut state = self.state.lock();
        let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::DELETE_SELF;
        let added = state.watches.as_mut().map(|watches| watches.add(folder, mask));
        let descriptor = match added {
            Some(Ok(descriptor)) => {
                state.wakes.insert(descriptor.clone(), Arc::clone(&notify));
                Some(descriptor)
            }
            Some(Err(error)) if !state.limit_reported => {
                state.limit_reported = true;
                warn!(folder = %folder.display(), %error,
                      "a translog cannot be watched and is polled, as others may be: see fs.inotify.max_user_watches");
                None
            }
            _ => None,
        };
        Wake { notify, descriptor, state: Arc::clone(&self.state) }
    }
}

impl State {
    fn wake(&self, mask: EventMask, descriptor: &WatchDescriptor) {
        if mask.contains(EventMask::Q_OVERFLOW) {
            self.wakes.values().for_each(|wake| wake.notify_one());
        } else if let Some(wake) = self.wakes.get(descriptor) {
            wake.notify_one();
        }
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        let Some(descriptor) = self.descriptor.take() else { return };
        let mut state = self.state.lock();
        // A capture that started again has the same folder's descriptor, and needs its watch.
        if state.wakes.get(&descriptor).is_some_and(|wake| Arc::ptr_eq(wake, &self.notify)) {
            state.wakes.remove(&descriptor);
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

    use super::*;

    #[tokio::test]
    async fn a_write_wakes_its_folder_only() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let watcher = TranslogWatcher::start();
        let (first, second) = (watcher.watch(one.path()), watcher.watch(other.path()));
        std::fs::write(one.path().join("translog.ckp"), b"x").unwrap();
        tokio::time::timeout(Duration::from_secs(10), first.notified()).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(50), second.notified()).await.is_err());
    }
}
