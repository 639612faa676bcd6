//! Ways to break what keeps a follower true, each around the real code: the simulation has to
//! notice every one.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// The leader agent ships what is above the global checkpoint: the translog's checkpoint says
    /// that all of it is below.
    AboveGlobalCheckpoint,
    /// The leader agent cannot tell an operation of an earlier primary term from one of a later.
    NoTerms,
    /// The leader agent's metadata records get lost on their way.
    NoMetadata,
    /// The leader agent takes records for delivered that Kafka does not have yet.
    ShippedBeforeDelivered,
    /// The follower agent takes writes for done that are only sent.
    CommitBeforeWrite,
    /// The follower agent writes with the leader's `_version`.
    LeaderVersion,
    /// The follower index forgets deletions at once.
    ForgottenTombstones,
    /// The follower agent takes every conflict for "already there".
    AnyConflictIsApplied,
    /// The follower agent writes an operation below its checkpoint once more, by itself.
    RedrivenOperation,
    /// The follower agent goes past a document that is refused, and does not write it down.
    ForgottenDeadLetter,
}
