//! Kafka as a log of partitions: what the agent needs of it, and the client of Kafka that is it.

mod partition_log;
mod publisher;

pub use partition_log::{Appender, PartitionLog, Pending};
pub use publisher::{PublishError, Publisher};
