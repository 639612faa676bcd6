//! One shard: loaded from a copy, then followed in the stream.

mod error;
mod follow;
mod foreign;
mod load;
mod own_history;
mod ports;
mod standstill;
mod sweep;
mod tracker;

pub use self::error::ShardError;
pub use self::follow::follow;
pub use self::load::load;
pub use self::own_history::Observed;
pub use self::ports::ShardPorts;
pub(crate) use self::standstill::of_control;
pub use self::tracker::Tracker;
