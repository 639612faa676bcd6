//! The leader agent: captures the operations of the shards on one OpenSearch node into Kafka.
//!
//! Each folder may use those above it in this list, and none below: `translog`, `publish` and
//! `node`; `source` and `scan`; `capture`; `serve`; `supervise`; `page`.

#![warn(unreachable_pub)]

mod agent;
mod capture;
mod config;
mod metrics;
mod node;
mod page;
mod preflight;
mod publish;
mod scan;
mod serve;
mod source;
mod supervise;
mod translog;

pub use agent::{Clients, run, work};
pub use config::{CaptureConfig, LeaderConfig, Source};
// What the simulation, tests and benchmarks drive or put in the place of.
pub use capture::{
    Asked, Asking, Board, Context, FetchTurns, Shipped, Standing, hold_replica, redelivery_channel,
    ship_shard,
};
pub use metrics::Metrics;
pub use node::{Shard, StateId};
pub use publish::{Appender, PartitionLog, Pending, PublishError, Publisher};
pub use serve::copy_shard;
pub use source::{Checkpoints, Files, Origin};
pub use translog::{
    Checkpoint, GenerationFile, Operation, OperationKind, ShardSpool, ShardTail, Spool, TailError,
    TranslogWatcher,
};
