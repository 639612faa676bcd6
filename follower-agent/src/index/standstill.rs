//! Which reason an error is for an index that waits.

use shardline_common::clock::now_ms;
use shardline_common::standstill::{Cause, StandstillReason};

use super::context::TransitionError;
use super::restore::RestoreError;
use super::task::End;
use crate::shard::of_control;

impl End {
    /// Why an index waits whose task ended with it.
    pub(crate) fn standstill(&self) -> StandstillReason {
        StandstillReason::new(self.cause(), now_ms(), self.to_string())
    }

    fn cause(&self) -> Cause {
        match self {
            Self::Shard { error, .. } => error.cause(),
            Self::Refused(error) => error.cause(),
            Self::OpenSearch(error) | Self::Restore(RestoreError::OpenSearch(error)) => {
                error.cause()
            }
            Self::Transition(TransitionError::Control(error)) | Self::Control(error) => {
                of_control(error)
            }
            Self::Transition(_) => Cause::OtherAgent,
            Self::Checkpoint(_) => Cause::CheckpointStore,
            Self::IndexGone(_) => Cause::FollowerIndexGone,
            Self::NotMade(_) => Cause::FollowerIndexOther,
            Self::Restore(_) | Self::NotAsked | Self::Asked(_) => Cause::Other,
        }
    }
}
