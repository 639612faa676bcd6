//! The words of the domain: types of numbers, names and ids, an index's metadata, names of topics,
//! and what an entry of a control topic is.

mod entry;
pub mod metadata;
pub mod standstill;
pub mod topic;
pub mod types;
pub mod wildcard;

pub use entry::Entry;
