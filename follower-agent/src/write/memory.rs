//! What the batches of all shards weigh together.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What all shards' batches of an agent may weigh together, in bytes of ids and sources. Many
/// shards get smaller requests.
const MEMORY: usize = 32 * 1024 * 1024;
const LARGEST_BATCH: usize = 4 * 1024 * 1024;
const SMALLEST_BATCH: usize = 128 * 1024;

/// Counts the pipelines of an agent that have requests under way: they share its memory.
#[derive(Default)]
pub struct Memory {
    busy: AtomicUsize,
}

impl Memory {
    /// A pipeline that had none has requests under way.
    pub fn begin_requests(&self) {
        self.busy.fetch_add(1, Relaxed);
    }

    /// A pipeline has none under way any more.
    pub fn end_requests(&self) {
        self.busy.fetch_sub(1, Relaxed);
    }

    /// How large a batch may be where `requests` are under way while the next one is made.
    pub fn of_a_batch(&self, requests: usize) -> usize {
        let batches = self.busy.load(Relaxed).max(1) * (requests + 1);
        (MEMORY / batches).clamp(SMALLEST_BATCH, LARGEST_BATCH)
    }
}
