//! What both agents share: the words of the domain, the record format, and the clients of Kafka and
//! OpenSearch.

pub mod auto_follow;
pub mod backoff;
pub mod bulk;
pub mod clock;
pub mod config;
pub mod control;
pub mod kafka;
pub mod late;
pub mod launch;
pub mod leader_stats;
pub mod lease;
pub mod metadata;
pub mod opensearch;
pub mod preflight;
pub mod record;
pub mod reload;
pub mod repository;
pub mod scan;
pub mod shard_stats;
pub mod telemetry;
pub mod topic;
pub mod types;
pub mod verify;
pub mod wildcard;
