//! What followers ask of a shard beside its stream: copies into a topic, snapshots in a repository,
//! and answers to verifications.

mod repository;
mod snapshot;
mod verification;

pub(crate) use repository::{clear_snapshot, serve_snapshot};
pub use snapshot::copy_shard;
pub(crate) use verification::answer_question;
