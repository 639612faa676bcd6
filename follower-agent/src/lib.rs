//! The follower agent: applies what the leader's agents publish, and is the front door of the follower cluster.

pub mod api;
pub mod gateway;
