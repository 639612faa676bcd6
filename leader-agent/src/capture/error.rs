//! Why a capture stopped.

use std::sync::Arc;

use shardline_common::kafka::{ControlError, TopicError};
use shardline_common::opensearch::OpenSearchError;
use shardline_common::scan::ScanError;
use shardline_common::types::SeqNo;

use crate::publish::PublishError;
use crate::scan::NoSource;
use crate::source::SourceError;

#[derive(Debug, thiserror::Error)]
pub(super) enum CaptureError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    OpenSearch(#[from] OpenSearchError),
    #[error(transparent)]
    StateId(#[from] Arc<OpenSearchError>),
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error(transparent)]
    NoSource(#[from] NoSource),
    #[error("the index is not on this cluster any more")]
    IndexGone,
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("the shard's primary is away")]
    NoPrimary,
    #[error("the shard went back from operation {from} to {to}")]
    Rewound { from: SeqNo, to: SeqNo },
}
