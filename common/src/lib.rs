//! What both agents share. Each folder may use those above it in this list, and none below:
//! `words` and `process`, `page`, `record`, `control`, `kafka` and `opensearch`, `preflight`,
//! `launch`.

#![warn(unreachable_pub)]

pub mod control;
#[cfg(feature = "agent")]
pub mod kafka;
#[cfg(feature = "agent")]
pub mod launch;
pub mod opensearch;
#[cfg(feature = "agent")]
pub mod page;
#[cfg(feature = "agent")]
pub mod preflight;
mod process;
#[cfg(feature = "agent")]
pub mod record;
mod words;

pub use control::auto_follow;
pub use control::bulk;
pub use opensearch::scan;
pub use opensearch::shard_stats;
pub use process::backoff;
pub use process::blocking;
pub use process::clock;
pub use process::config;
#[cfg(feature = "agent")]
pub use process::exposition;
pub use process::late;
pub use process::lease;
pub use process::tasks;
#[cfg(feature = "agent")]
pub use process::telemetry;
pub use words::metadata;
pub use words::standstill;
pub use words::topic;
pub use words::types;
pub use words::wildcard;

/// What `leader_stats` shows: its entries, and how they are read from the control topics.
pub mod leader_stats {
    pub use crate::control::leader_stats::*;
    #[cfg(feature = "agent")]
    pub use crate::kafka::followed_indices;
}

/// Copies through a snapshot repository: what the agents tell each other, and the paths of
/// OpenSearch's API.
pub mod repository {
    pub use crate::control::repository::*;
    pub use crate::opensearch::is_final;
    pub use crate::opensearch::snapshot_path;
    pub use crate::opensearch::verification_path;
}

/// Verification: what the agents ask and answer, and how a side's shard is read.
pub mod verify {
    pub use crate::control::verification::*;
    pub use crate::opensearch::digests::*;
}
