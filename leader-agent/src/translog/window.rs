//! How much of a translog may wait in memory for an earlier operation. A file strays from `seq_no`
//! order by some tens of operations, so a shard that needs more than a little has most likely lost
//! that operation; and all shards of an agent may look for theirs at once.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What each shard may have, in bytes of ids and sources.
const OWN_BYTES: usize = 8 * 1024 * 1024;
/// By how much a window grows.
const STEP_BYTES: usize = 8 * 1024 * 1024;
/// How large one may become.
const WINDOW_BYTES_MAX: usize = 256 * 1024 * 1024;
/// What all windows of the agent have beyond what is each one's own.
const SHARED_BYTES_MAX: usize = 256 * 1024 * 1024;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// One shard's window. What it has taken comes back when it is dropped.
#[derive(Default)]
pub(super) struct Window {
    taken: usize,
}

impl Window {
    /// Whether there is no room for more than `bytes`.
    pub(super) fn is_narrow(&self, bytes: usize) -> bool {
        bytes >= OWN_BYTES + self.taken
    }

    /// Makes room for more than `bytes`, if the agent has any.
    pub(super) fn widen(&mut self, bytes: usize) -> bool {
        let has_room =
            |taken: usize| Some(taken + STEP_BYTES).filter(|taken| *taken <= SHARED_BYTES_MAX);
        if bytes >= WINDOW_BYTES_MAX || TAKEN.fetch_update(Relaxed, Relaxed, has_room).is_err() {
            return false;
        }
        self.taken += STEP_BYTES;
        true
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        TAKEN.fetch_sub(self.taken, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_windows_of_the_agent_together_are_bounded() {
        let mut windows: Vec<Window> = (0..64).map(|_| Window::default()).collect();
        for window in &mut windows {
            let mut bytes = OWN_BYTES;
            while window.is_narrow(bytes) && window.widen(bytes) {
                bytes += STEP_BYTES;
            }
        }
        let taken: usize = windows.iter().map(|window| window.taken).sum();
        assert!(
            taken <= SHARED_BYTES_MAX
                && windows
                    .iter()
                    .all(|window| window.taken <= WINDOW_BYTES_MAX)
        );
        assert!(!windows[63].widen(OWN_BYTES));
        drop(windows);
        assert!(Window::default().widen(OWN_BYTES));
    }
}
