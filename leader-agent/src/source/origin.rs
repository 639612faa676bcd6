//! Where a source is opened.

use std::path::PathBuf;
use std::time::Duration;

use super::Checkpoints;
use crate::translog::ShardSpool;

/// How a shard's changes are had.
#[derive(Clone, Debug)]
pub enum Origin {
    Translog(Files),
    Poll {
        checkpoints: Checkpoints,
        sweep_interval: Duration,
    },
}

/// Where a shard is on the disk of the agent's node.
#[derive(Clone, Debug)]
pub struct Files {
    pub translog: PathBuf,
    pub spool: ShardSpool,
}
