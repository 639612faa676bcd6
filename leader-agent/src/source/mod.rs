//! Where a shard's changes come from: its translog on disk, or, where the agent has no access to
//! the node's files, a scan of what the shard shows.

mod poll;
mod translog;

use std::time::Duration;

use shardline_common::types::SeqNo;

pub use poll::{Checkpoints, PollSource, watch_checkpoints};
pub use translog::TranslogSource;

use crate::capture::CaptureError;
use crate::resync::Missing;
use crate::translog::Operation;

/// How long a primary may take to know a global checkpoint that Kafka knows already.
const CATCH_UP: Duration = Duration::from_secs(60);

/// What a source has next.
pub enum Change {
    /// The next operations, each once and in `seq_no` order, at or below the global checkpoint.
    Operations(Vec<Operation>),
    /// A stretch that can only be had from a scan of the shard.
    Missing(Missing),
    /// The shard lost what Kafka has above this: its history goes on from here.
    Rewound { to: SeqNo },
    /// Nothing at this time.
    Nothing,
}

/// The changes of one shard behind what Kafka has.
pub trait ChangeSource: Send {
    /// The shard's global checkpoint when it was last looked at.
    fn global_checkpoint(&self) -> SeqNo;

    /// What comes behind `sent`, which is what the last call gave, or where the source was opened.
    fn next(&mut self, sent: SeqNo) -> impl Future<Output = Result<Change, CaptureError>> + Send;

    /// Keeps nothing in memory that can be read again: the next call may come late.
    fn put_down(&mut self);

    /// Keeps no file open either: the next call may come very late, and an open file takes disk
    /// after it was deleted.
    fn close(&mut self);

    /// Kafka has everything up to `acked`: it need not be kept any longer.
    fn release(&mut self, acked: SeqNo) -> impl Future<Output = Result<(), CaptureError>> + Send;

    /// Disk that is taken only to keep what Kafka does not have, in bytes.
    fn held_bytes(&self) -> u64;

    /// Disk that the shard's translog takes, in bytes.
    fn size_bytes(&self) -> u64;

    /// Resolves when there may be something new.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
}
