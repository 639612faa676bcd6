//! What a capture needs of the control topic, which the simulation replaces by one in memory.

use futures::future::BoxFuture;
use shardline_common::control::{FailedRedelivery, FillRequest, ScanStandstill, ShardHistory};
use shardline_common::kafka::{ControlError, ControlTopic};
use shardline_common::types::Offset;
use tokio::sync::watch;

/// What the agents beside a shard's copies tell each other: operations that they ask each other
/// for, and the history that the partition holds; and what they tell followers of copies that do
/// not get on.
pub trait Board: Send + Sync {
    fn post<'a>(&'a self, request: &'a FillRequest) -> BoxFuture<'a, Result<(), ControlError>>;

    fn take_down<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), ControlError>>;

    fn posted(&self, key: &str) -> Option<FillRequest>;

    fn history(&self, key: &str) -> Option<ShardHistory>;

    fn note_history<'a>(
        &'a self,
        history: &'a ShardHistory,
    ) -> BoxFuture<'a, Result<(), ControlError>>;

    /// Tells a follower that documents cannot be shipped again.
    fn tell_failed<'a>(
        &'a self,
        failed: &'a FailedRedelivery,
    ) -> BoxFuture<'a, Result<(), ControlError>>;

    /// Tells whoever waits for the copy; [`Self::take_down`] ends it.
    fn tell<'a>(
        &'a self,
        standstill: &'a ScanStandstill,
    ) -> BoxFuture<'a, Result<(), ControlError>>;

    /// Resolves after the next change.
    fn changes(&self) -> watch::Receiver<Offset>;
}

impl Board for ControlTopic {
    fn post<'a>(&'a self, request: &'a FillRequest) -> BoxFuture<'a, Result<(), ControlError>> {
        Box::pin(self.publish(request))
    }

    fn take_down<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), ControlError>> {
        Box::pin(self.remove(key))
    }

    fn posted(&self, key: &str) -> Option<FillRequest> {
        self.get(key)
    }

    fn history(&self, key: &str) -> Option<ShardHistory> {
        self.get(key)
    }

    fn note_history<'a>(
        &'a self,
        history: &'a ShardHistory,
    ) -> BoxFuture<'a, Result<(), ControlError>> {
        Box::pin(self.publish(history))
    }

    fn tell_failed<'a>(
        &'a self,
        failed: &'a FailedRedelivery,
    ) -> BoxFuture<'a, Result<(), ControlError>> {
        Box::pin(self.publish(failed))
    }

    fn tell<'a>(
        &'a self,
        standstill: &'a ScanStandstill,
    ) -> BoxFuture<'a, Result<(), ControlError>> {
        Box::pin(self.publish(standstill))
    }

    fn changes(&self) -> watch::Receiver<Offset> {
        Self::changes(self)
    }
}
