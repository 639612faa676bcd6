//! The follower agent: applies what the leader's agents publish, and is the front door of the
//! follower cluster. docs/architecture.md says what each folder is for and which may use which.

#![warn(unreachable_pub)]

mod agent;
mod config;
mod control;
mod engine;
mod http;
mod index;
mod membership;
mod metrics;
mod preflight;
mod progress;
mod read;
mod shard;
mod write;

pub use agent::run;
pub use config::FollowerConfig;
pub use control::{GatewayCalls, OwnGateway};
pub use engine::{Engine, Parts};

// What tests, the simulation and the benchmarks put together in other ways than the agent does.
pub use http::api::openapi;
pub use http::api::query::COMMON;
pub use http::api::render::{Rendering, refusal};
pub use http::api::routes::ROUTES;
pub use http::gateway::{
    Budget, Guard, Limits as GatewayLimits, Upstream, router as gateway, serve,
};
pub use index::IndexAdmin;
pub use membership::{Committed, Positions, Slot, Slots, copy_key};
pub use metrics::Metrics;
pub use progress::{
    Checkpoint, CheckpointError, CheckpointStore, IndexProgress, ShardProgress, furthest,
};
pub use read::{Positioned, Records, StreamError, Streams, Unpacked};
pub use shard::{Observed, ShardError, ShardPorts, Tracker, follow, load};
pub use write::{
    ApplyError, Batch, DeadLetters, Destination, Lenience, Limits, Refused, Rejection, Spread,
    Target, bulk_body,
};
