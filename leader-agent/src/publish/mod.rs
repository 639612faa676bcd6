//! Kafka as a log of partitions: what the agent needs of it, and the client of Kafka that is it.

mod budget;
mod partition_log;
mod publisher;
mod quarantine;

pub use partition_log::{Appender, PartitionLog, Pending};
pub use publisher::{PublishError, Publisher};
pub(crate) use quarantine::cause;
