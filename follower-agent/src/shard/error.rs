//! Why a shard cannot be followed on.

use shardline_common::kafka::{ControlError, TopicError};
use shardline_common::opensearch::OpenSearchError;
use shardline_common::scan::ScanError;
use shardline_common::types::{IndexName, SeqNo};

use super::own_history::WentBack;
use super::tracker::Hole;
use crate::membership::GroupError;
use crate::progress::CheckpointError;
use crate::read::StreamError;
use crate::write::ApplyError;

#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    #[error(transparent)]
    Hole(#[from] Hole),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("the leader's metadata is refused by the follower index: {0}")]
    Metadata(OpenSearchError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error(
        "the leader's shard lost operations that were followed: its history goes on from {to}, \
         not from {from}"
    )]
    Rewound { from: SeqNo, to: SeqNo },
    #[error("the leader no longer has operations {from} to {to} in its log")]
    Gap { from: SeqNo, to: SeqNo },
    #[error(
        "the follower index [{0}] is gone, or another one of that name is there: delete what is \
         there, and stop and start"
    )]
    IndexGone(IndexName),
    #[error(transparent)]
    WentBack(#[from] WentBack),
    #[error("the follower index's shards could not be asked: {0}")]
    Shards(OpenSearchError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Group(#[from] GroupError),
}

impl ShardError {
    /// Whether copying the index anew is the way on.
    pub fn needs_copy(&self) -> bool {
        matches!(
            self,
            Self::Hole(_)
                | Self::Gap { .. }
                | Self::Rewound { .. }
                | Self::WentBack(_)
                | Self::Stream(StreamError::PositionLost { .. })
        )
    }

    /// Whether trying again from the checkpoint may help.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Stream(StreamError::Kafka { .. } | StreamError::Skipped { .. }) => true,
            Self::Topic(error) => !matches!(error, TopicError::Record { .. }),
            Self::Control(_) | Self::Group(_) => true,
            // A full disk, as a rule.
            Self::Checkpoint(error) => matches!(error, CheckpointError::Access { .. }),
            Self::Scan(error) => error.retryable(),
            Self::Metadata(error) | Self::Shards(error) => error.retryable(),
            Self::Apply(error) => error.retryable(),
            _ => false,
        }
    }
}
