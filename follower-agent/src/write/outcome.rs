//! What becomes of writes: they are in the follower index, or why they are not.

use futures::future::BoxFuture;
use shardline_common::kafka::ControlError;
use shardline_common::opensearch::OpenSearchError;
use shardline_common::types::{SeqNo, ShardId};

/// A document that the follower index will never take as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "document [{id}] at seq_no {seq_no} is refused by the follower index: [{error_type}] {reason}"
)]
pub struct Rejection {
    pub id: String,
    pub seq_no: SeqNo,
    pub error_type: String,
    pub reason: String,
}

/// Why a shard cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Rejected(Rejection),
    #[error(
        "{0}; the index has {1} dead letters, and no more are kept: mend what is refused, and \
         replay them"
    )]
    TooManyDeadLetters(Rejection, usize),
    #[error("a dead letter cannot be written down: {0}")]
    DeadLetters(#[from] ControlError),
    #[error(
        "document [{id}] at seq_no {seq_no} stands in the follower index with version {found}, which this replication \
         cannot have written (at most {highest}): something else writes to the index"
    )]
    ForeignWrite {
        id: String,
        seq_no: SeqNo,
        found: i64,
        highest: i64,
    },
    #[error("the follower index cannot be made lenient for a document: {0}")]
    Leniency(ControlError),
    #[error("the follower index is gone")]
    IndexGone,
    #[error(transparent)]
    OpenSearch(#[from] OpenSearchError),
}

impl ApplyError {
    pub fn retryable(&self) -> bool {
        match self {
            Self::OpenSearch(error) => error.retryable(),
            Self::DeadLetters(_) | Self::Leniency(_) => true,
            _ => false,
        }
    }
}

/// An operation on a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    pub id: String,
    pub seq_no: SeqNo,
}

/// Where documents are written down that the follower index refuses for good.
pub trait DeadLetters: Send + Sync {
    /// Returns once they are; or why the shard is to stop for them.
    fn keep(
        &self,
        shard: ShardId,
        rejected: Vec<Rejection>,
    ) -> BoxFuture<'_, Result<(), ApplyError>>;

    /// The operations of a shard that are written down.
    fn kept(&self, shard: ShardId) -> Vec<Refused>;

    /// These operations are of the past: the same or a later one on their documents got through.
    fn resolve(
        &self,
        shard: ShardId,
        refused: Vec<Refused>,
    ) -> BoxFuture<'_, Result<(), ApplyError>>;
}

/// What the follower cluster said of a request's writes.
#[derive(Debug, Default)]
pub struct Written {
    /// The follower shard's own numbers of them; a write that was there already has none.
    pub seq_nos: Vec<SeqNo>,
    /// Whether something was sent again: what was sent before may have got numbers too.
    pub repeated: bool,
    /// Whether anything was refused for overload.
    pub throttled: bool,
    /// Documents that were not there before.
    pub created: u64,
}

impl Written {
    pub(super) fn add(&mut self, other: Self) {
        self.seq_nos.extend(other.seq_nos);
        self.repeated |= other.repeated;
        self.throttled |= other.throttled;
        self.created += other.created;
    }
}
