//! Invariants that the agents do not keep yet, each behind a switch: whoever mends one turns its
//! switch on. A seed that shows the fault stands beside it.

/// A catalogue entry that is missing, since the topic lost it or this build cannot read it, does
/// not count as the deletion of its index. Off, control topics lose nothing. Seed: none, since the
/// event itself is behind the switch.
pub const ABSENCE_IS_NO_EVIDENCE: bool = false;

/// What resumes an index once its leader index is open again leaves a pause alone that a user has
/// called for meanwhile. Seed 7.
pub const RESUMING_LEAVES_USERS_PAUSES: bool = false;

/// A call does nothing to an index any more when its agent has given the index's slot up. Seed 9.
pub const CALLS_KEEP_THEIR_SLOT: bool = false;

/// What a shard's agent has asked for goes with the subscription. Seed 11.
pub const REQUESTS_GO_WITH_THE_SUBSCRIPTION: bool = false;

/// The topic of a copy goes although no leader agent that knew of it is left. Seed 1.
pub const COPIES_GO_WITHOUT_THEIR_AGENT: bool = false;
