//! What this agent owns of its follower cluster, and what the agents tell each other of it: slots,
//! the consumer group that shares them out, and the positions committed to Kafka.

mod group;
mod positions;
mod slots;

pub use self::group::{Group, GroupError, Membership};
pub use self::positions::{Committed, Partition, Positions, copy_key};
pub use self::slots::{Claim, SLOTS, Slot, Slots};
