//! The command line of Shardline's control API, and the contract that it shares with the agents:
//! requests, answers, errors and settings. It speaks HTTP to any follower agent's gateway, so it
//! needs neither Kafka nor RocksDB.

#![warn(unreachable_pub)]

pub mod contract;
mod ctl;

pub use ctl::{CtlArguments, Program, run};
