//! Scans of a shard: what may be copied or shipped from one.

mod document;
mod settled;
mod stretches;

pub(crate) use document::{NoSource, document};
pub(crate) use settled::open_settled;
pub(crate) use stretches::{STRETCH_LENGTH, Stretches};
