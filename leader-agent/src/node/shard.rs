//! A shard as the agent knows it.

use shardline_common::types::{IndexName, IndexUuid, ShardId, TopicName};

/// Which shard, and where it goes.
#[derive(Clone, Debug)]
pub struct Shard {
    pub index: IndexName,
    pub uuid: IndexUuid,
    pub shard: ShardId,
    pub number_of_shards: u32,
    /// Whether it had other copies when this was made.
    pub has_replicas: bool,
    pub topic: TopicName,
}
