//! The positions that agents write for snapshots in repositories, and who removes them when nobody
//! asks for the snapshots any more.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use shardline_common::control::Entry;
use shardline_common::kafka::ControlTopic;
use shardline_common::repository::SnapshotPosition;
use shardline_common::types::{ShardId, SnapshotId};
use tracing::warn;

use super::spools::UNNEEDED_SPOOL_GRACE;

/// The positions that an agent writes, and those that it knows to be unneeded.
#[derive(Default)]
pub(super) struct Positions {
    own: HashSet<(SnapshotId, ShardId)>,
    /// By key, since when nobody has asked for the snapshots of positions.
    unneeded: HashMap<String, Instant>,
}

impl Positions {
    /// Notes that this agent writes the shard's position for a snapshot.
    pub(super) fn note_own(&mut self, id: SnapshotId, shard: ShardId) {
        self.own.insert((id, shard));
    }

    /// Each agent removes the positions that it has written; the one beside the manager, after a
    /// while, those of agents that are gone. Any other may not have seen yet what was asked.
    pub(super) async fn tidy_up(
        &mut self,
        table: &ControlTopic,
        positions: Vec<SnapshotPosition>,
        local_is_manager: bool,
        is_asked_for: impl Fn(&SnapshotId) -> bool,
    ) {
        let mut unneeded = HashMap::new();
        for position in positions {
            if is_asked_for(&position.id) {
                continue;
            }
            let key = position.key();
            let since = self.unneeded.remove(&key).unwrap_or_else(Instant::now);
            let is_own = self.own.contains(&(position.id, position.shard));
            let is_left = local_is_manager && since.elapsed() >= UNNEEDED_SPOOL_GRACE;
            if (is_own || is_left)
                && let Err(error) = table.remove(&key).await
            {
                warn!(%error, "a position that nobody needs any more could not be removed");
            }
            unneeded.insert(key, since);
        }
        self.unneeded = unneeded;
        if self.unneeded.is_empty() {
            self.own.retain(|(id, _)| is_asked_for(id));
        }
    }
}
