//! How far each shard is: durably in RocksDB, and live in memory.

mod checkpoint;
mod retries;
mod shard_progress;

pub use self::checkpoint::{
    Checkpoint, CheckpointError, CheckpointStore, LoadState, ShardLoad, furthest,
};
pub use self::retries::{Retries, Retry};
pub use self::shard_progress::{IndexProgress, Recovery, ShardProgress, ShardReport, Source};
