//! What all captures of an agent share, and the pace of their heartbeats.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shardline_common::kafka::Kafka;
use shardline_common::opensearch::OpenSearch;
use shardline_common::types::ClusterUuid;
use tokio::time::Instant;

use super::{Board, FetchTurns, Standing};
use crate::metrics::Metrics;
use crate::node::StateId;
use crate::publish::PartitionLog;
use crate::translog::TranslogWatcher;

/// The least time between the heartbeats of any two shards. A shard's heartbeats become rarer with
/// the number of shards, down to one in [`HEARTBEAT_INTERVAL_MAX`].
const HEARTBEAT_SPACING: Duration = Duration::from_millis(120);
const HEARTBEAT_INTERVAL_MAX: Duration = Duration::from_secs(120);

/// What all captures of an agent share.
pub struct Context {
    pub opensearch: OpenSearch,
    pub state_id: StateId,
    pub kafka: Kafka,
    pub cluster: ClusterUuid,
    pub board: Arc<dyn Board>,
    pub log: Arc<dyn PartitionLog>,
    pub watcher: TranslogWatcher,
    pub metrics: Metrics,
    pub turns: FetchTurns,
    /// How long the stretches of a copy are: see [`crate::scan::Stretches`].
    pub stretch: i64,
    /// The shortest time between two heartbeats of an idle shard.
    pub heartbeat: Duration,
    /// When the leader cluster last said what its state is.
    pub cluster_seen: Mutex<Instant>,
    /// The instant from which the ticks of heartbeats are counted.
    pub started: Instant,
    /// The captures that stand still.
    pub standing: Standing,
}

impl Context {
    pub(super) fn heartbeat_interval(&self) -> Duration {
        let shards = u32::try_from(self.metrics.captures.get()).unwrap_or_default();
        (HEARTBEAT_SPACING * shards)
            .min(HEARTBEAT_INTERVAL_MAX)
            .max(self.heartbeat)
    }

    /// Puts a pause off until a time at which other shards wake, too: together they cost less.
    pub(super) fn until_tick(&self, pause: Duration, tick: Duration) -> Duration {
        let (due, tick) = (
            (self.started.elapsed() + pause).as_nanos(),
            tick.as_nanos().max(1),
        );
        let late = due.next_multiple_of(tick) - due;
        pause + Duration::from_nanos(u64::try_from(late).unwrap_or_default())
    }
}
