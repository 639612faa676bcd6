//! From records of a partition to acknowledged writes in the follower index.

mod batch;
mod json_line;
mod lenient;
mod memory;
mod outcome;
mod pace;
mod pipeline;
mod request;
mod routing;

pub(crate) use self::batch::Write;
pub use self::batch::{Batch, Target, bulk_body};
pub use self::lenient::Lenience;
pub(crate) use self::lenient::{SHAPES, names_limit};
pub(crate) use self::memory::Memory;
pub use self::outcome::{ApplyError, DeadLetters, Refused, Rejection};
pub use self::pipeline::Limits;
pub(crate) use self::pipeline::{Applied, Pipeline};
pub use self::request::Destination;
pub use self::routing::Spread;
