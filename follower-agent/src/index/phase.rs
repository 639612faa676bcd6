//! What the task of a followed index is doing.

use std::sync::Arc;

use shardline_common::opensearch::OpenSearchError;

use crate::progress::IndexProgress;

/// What a followed index is doing.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// Waiting for the leader's agents, or making the follower index.
    Starting,
    Bootstrapping(Arc<IndexProgress>),
    Syncing(Arc<IndexProgress>),
    /// The follower cluster refused to make the index.
    Refused(Arc<OpenSearchError>),
}
