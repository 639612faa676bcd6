//! The follower agent: applies what the leader's agents publish, and is the front door of the follower cluster.

pub mod agent;
pub mod api;
pub mod apply;
pub mod bootstrap;
pub mod checkpoint;
pub mod config;
pub mod copy;
pub mod followed;
pub mod gateway;
pub mod group;
pub mod index;
pub mod leader_watch;
pub mod leaders;
pub mod metrics;
pub mod peers;
pub mod positions;
pub mod progress;
pub mod replication;
pub mod settings;
pub mod shard;
pub mod shard_task;
pub mod slots;
pub mod state;
pub mod status;
pub mod stream;
pub mod sweep;
