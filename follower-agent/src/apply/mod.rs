//! From records of a partition to acknowledged writes in the follower index.

pub mod batch;
pub mod bulk;
pub mod lenient;
pub mod pace;
pub mod pipeline;
pub mod routing;
pub mod source;
pub mod tracker;
