//! The shard's translog on disk, read while OpenSearch writes it.
//!
//! Formats (`codec`, `checkpoint`, `operation`, `generation`), keeping files that OpenSearch
//! deletes (`hold`) within a limit (`spool`), the ordered view of a shard (`tail`) with what waits
//! in memory for it (`window`), and being told of changes (`watch`).

mod checkpoint;
mod codec;
mod generation;
mod hold;
mod operation;
mod spool;
mod tail;
mod watch;
mod window;

pub use checkpoint::Checkpoint;
pub use generation::GenerationFile;
pub use hold::ShardSpool;
pub use operation::{Operation, OperationKind};
pub use spool::Spool;
pub(crate) use spool::{ShardKey, SpoolError, Usage};
pub(crate) use tail::TailBatch;
pub use tail::{ShardTail, TailError};
pub use watch::TranslogWatcher;
pub(crate) use watch::Wake;
