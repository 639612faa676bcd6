//! The agent as a whole: which shards it ships, holds and copies, what it announces, and what it
//! counts.

mod catalog;
mod copy_topics;
mod held;
mod positions;
mod spools;
mod stats;
mod supervisor;

pub(crate) use catalog::{Announced, Catalog};
pub(crate) use held::Held;
pub(crate) use spools::{SPOOL_FOLDER, Spools};
pub(crate) use stats::{Tables, router, share};
pub(crate) use supervisor::Supervisor;
