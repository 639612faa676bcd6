//! How far each shard is: durably in RocksDB, and live in memory.

mod checkpoint;
mod external_versions;
mod retries;
mod shard_progress;

/// Where the checkpoints are, below `storage.data_dir`.
pub(crate) const CHECKPOINTS_FOLDER: &str = "checkpoints";

pub use self::checkpoint::{Checkpoint, CheckpointError, CheckpointStore, furthest};
pub(crate) use self::checkpoint::{LoadState, ShardLoad};
pub(crate) use self::retries::{Retries, Retry};
pub use self::shard_progress::{IndexProgress, ShardProgress};
pub(crate) use self::shard_progress::{Recovery, ShardReport, Source};
