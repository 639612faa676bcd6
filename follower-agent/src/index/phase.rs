//! What the task of a followed index is doing.

use std::sync::Arc;

use parking_lot::Mutex;
use shardline_common::opensearch::OpenSearchError;
use shardline_common::standstill::StandstillReason;

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

/// Why an index's task does not get on, for the status.
#[derive(Clone, Default)]
pub(crate) struct Waits(Arc<Mutex<Option<StandstillReason>>>);

impl Waits {
    /// `None`: it does.
    pub(crate) fn say(&self, reason: Option<StandstillReason>) {
        let mut said = self.0.lock();
        *said = reason.map(|reason| reason.following(said.as_ref()));
    }

    pub(crate) fn said(&self) -> Option<StandstillReason> {
        self.0.lock().clone()
    }
}
