//! The leader agent: captures the operations of the shards on one OpenSearch node into Kafka.

pub mod agent;
pub mod blocking;
pub mod capture;
pub mod catalog;
pub mod cluster;
pub mod config;
pub mod fill;
pub mod history;
pub mod log;
pub mod metrics;
pub mod preflight;
pub mod publish;
pub mod redeliver;
pub mod repository;
pub mod resync;
pub mod settled;
pub mod snapshot;
pub mod source;
pub mod spools;
pub mod state_id;
pub mod stats;
pub mod stretches;
pub mod supervisor;
pub mod translog;
pub mod turns;
pub mod verify;
