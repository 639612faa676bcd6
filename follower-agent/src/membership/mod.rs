//! What this agent owns of its follower cluster, and what the agents tell each other of it: slots,
//! the consumer group that shares them out, and the positions committed to Kafka.

mod group;
mod member;
mod positions;
mod slots;

pub(crate) use self::group::{Group, GroupError, Membership, Rebalances};
pub(crate) use self::positions::Partition;
pub use self::positions::{Committed, Positions, copy_key};
pub(crate) use self::slots::Claim;
pub use self::slots::{Slot, Slots};
