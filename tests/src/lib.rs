//! What the end-to-end tests and the demo share: clients, loads, and the comparison of two indices.

pub mod browser;
pub mod check;
pub mod client;
pub mod compare;
pub mod ctl;
pub mod faults;
pub mod folders;
pub mod load;
pub mod prometheus;
pub mod reader;
pub mod repository;
pub mod retention;
pub mod topic_check;
pub mod wait;
pub mod world;
