//! The shard's translog on disk, read while OpenSearch writes it.
//!
//! Formats (`codec`, `checkpoint`, `operation`, `generation`), keeping files that OpenSearch
//! deletes (`hold`) within a limit (`spool`), the ordered view of a shard (`tail`) with what waits in
//! memory for it (`window`), and being told of changes (`watch`).

pub mod checkpoint;
pub mod codec;
pub mod generation;
pub mod hold;
pub mod operation;
pub mod spool;
pub mod tail;
pub mod watch;
mod window;

pub use checkpoint::Checkpoint;
pub use hold::ShardSpool;
pub use operation::{Operation, OperationKind};
pub use spool::{ShardKey, Spool, SpoolError, Usage};
pub use tail::{ShardTail, TailBatch, TailError};
pub use watch::{TranslogWatcher, Wake};
