//! Why a source has nothing to give.

use shardline_common::kafka::TopicError;
use tokio::task::JoinError;

use crate::translog::TailError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error(transparent)]
    Translog(#[from] TailError),
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error("reading the translog did not come to an end: {0}")]
    Reader(#[from] JoinError),
    #[error("the translog was left in the middle of being read")]
    Interrupted,
}
