//! Where a shard's changes come from: its translog on disk, or, where the agent has no access to
//! the node's files, a scan of what the shard shows.

mod error;
mod operation;
mod origin;
mod poll;
mod translog;

use std::time::Duration;

use shardline_common::types::SeqNo;

pub(crate) use error::SourceError;
use operation::to_operation;
pub(crate) use operation::{is_same, to_record};
pub use origin::{Files, Origin};
pub use poll::Checkpoints;
pub(crate) use poll::{PollSource, watch_checkpoints};
pub(crate) use translog::TranslogSource;

use crate::translog::Operation;

/// How long a primary may take to know a global checkpoint that Kafka knows already.
const CHECKPOINT_LAG_MAX: Duration = Duration::from_secs(60);

/// What a source has next.
pub(crate) enum Change {
    /// The next operations, each once and in `seq_no` order, at or below the global checkpoint.
    Operations(Vec<Operation>),
    /// A stretch that can only be had from a scan of the shard.
    Missing(Missing),
    /// The shard lost what Kafka has above this: its history goes on from here.
    Rewound { to: SeqNo },
    /// Nothing at this time.
    Nothing,
}

/// What a frame is to bring: everything up to here.
pub(crate) struct Missing {
    pub to: SeqNo,
    pub reason: Reason,
    /// Whether the shard may have another history than Kafka by now.
    pub(crate) is_to_be_checked: bool,
}

#[derive(PartialEq)]
pub(crate) enum Reason {
    /// The translog no longer has it.
    Lost,
    /// The source has nothing else. Deletions are found in complete frames only.
    Poll { complete: bool },
}

/// The changes of one shard behind what Kafka has.
pub(crate) trait ChangeSource: Send {
    /// The shard's global checkpoint when it was last looked at.
    fn global_checkpoint(&self) -> SeqNo;

    /// What comes behind `sent`, which is what the last call gave, or where the source was opened.
    fn next(&mut self, sent: SeqNo) -> impl Future<Output = Result<Change, SourceError>> + Send;

    /// Keeps nothing in memory that can be read again: the next call may come late.
    fn put_down(&mut self);

    /// Keeps no file open either: the next call may come very late, and an open file takes disk
    /// after it was deleted.
    fn close(&mut self);

    /// Kafka has everything up to `acknowledged`: it need not be kept any longer.
    fn release(
        &mut self,
        acknowledged: SeqNo,
    ) -> impl Future<Output = Result<(), SourceError>> + Send;

    /// Disk that is taken only to keep what Kafka does not have, in bytes.
    fn held_bytes(&self) -> u64;

    /// Disk that the shard's translog takes, in bytes.
    fn size_bytes(&self) -> u64;

    /// Resolves when there may be something new.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
}
