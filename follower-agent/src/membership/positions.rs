//! Positions of the shards that this agent follows, as they are committed to Kafka: the offset for
//! Kafka's own tools, the checkpoint in the metadata beside it, for the agent that takes over and
//! for the others' status.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use shardline_common::types::{Offset, ShardId, TopicName};
use tracing::warn;

use super::Slot;
use crate::progress::{Checkpoint, IndexProgress, ShardReport};

/// Kafka takes 4,096 bytes (`offset.metadata.max.bytes`).
const MAX_METADATA: usize = 4_000;

pub(crate) type Partition = (TopicName, ShardId);

/// What is committed for one shard of one subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// None while the shard is being copied.
    #[serde(rename = "c", skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    #[serde(rename = "r")]
    pub report: ShardReport,
}

/// What is committed for one partition: positions by the [`copy_key`] of those who follow it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Committed(pub BTreeMap<String, Position>);

/// Names a copy of a leader index in a follower index. Positions of another copy mean nothing for
/// it.
pub fn copy_key(subscription: &str, copy: &str) -> String {
    format!("{subscription}/{copy}")
}

fn subscription_of(copy_key: &str) -> &str {
    copy_key.split('/').next().unwrap_or_default()
}

impl Committed {
    /// Metadata of another form is as good as none.
    pub fn parse(metadata: &str) -> Self {
        serde_json::from_str(metadata).unwrap_or_default()
    }

    /// The offset and metadata to commit: the lowest position, since all of them are needed.
    pub fn encode(&self) -> Option<(Offset, String)> {
        let mut committed = self.clone();
        loop {
            let offset = committed
                .0
                .values()
                .filter_map(|position| position.checkpoint.as_ref())
                .map(|c| c.offset)
                .min();
            let metadata = serde_json::to_string(&committed).ok()?;
            if metadata.len() <= MAX_METADATA {
                return Some((Offset(offset.map_or(0, |offset| offset.0.max(0))), metadata));
            }
            let (left_out, _) = committed.0.pop_first()?;
            warn!(
                subscription = left_out,
                "too many indices follow one partition: no position is committed for this one"
            );
        }
    }

    /// Takes a position of a subscription in the place of those for its earlier copies.
    pub fn set(&mut self, copy_key: &str, position: Position) {
        self.0
            .retain(|key, _| subscription_of(key) != subscription_of(copy_key));
        self.0.insert(copy_key.to_owned(), position);
    }
}

struct Shard {
    slot: Slot,
    committed: Committed,
    /// Where reports come from: by copy key.
    progress: HashMap<String, Arc<IndexProgress>>,
    changed: bool,
}

/// The positions of the partitions that this agent follows.
#[derive(Default)]
pub struct Positions(Mutex<HashMap<Partition, Shard>>);

impl Positions {
    /// Begins to follow a partition that belongs to a slot; `found` is what was committed for it.
    /// Subscriptions that are gone drop out.
    pub fn begin(
        &self,
        partition: &Partition,
        slot: Slot,
        found: Committed,
        subscriptions: &HashSet<String>,
        copy_key: &str,
        progress: Arc<IndexProgress>,
    ) {
        let mut shards = self.0.lock();
        let shard = shards.entry(partition.clone()).or_insert_with(|| Shard {
            slot,
            committed: Committed::default(),
            progress: HashMap::new(),
            changed: false,
        });
        for (key, position) in found.0 {
            // What this agent has reached for another subscription since then stays.
            shard.committed.0.entry(key).or_insert(position);
        }
        shard
            .committed
            .0
            .retain(|key, _| subscriptions.contains(subscription_of(key)));
        shard
            .progress
            .retain(|key, _| subscription_of(key) != subscription_of(copy_key));
        shard.progress.insert(copy_key.to_owned(), progress);
    }

    /// A checkpoint that is in RocksDB.
    pub fn reached(&self, partition: &Partition, copy_key: &str, checkpoint: Checkpoint) {
        if let Some(shard) = self.0.lock().get_mut(partition) {
            let report = shard
                .committed
                .0
                .get(copy_key)
                .map(|position| position.report.clone())
                .unwrap_or_default();
            let position = Position {
                checkpoint: Some(checkpoint),
                report,
            };
            if shard.committed.0.get(copy_key) != Some(&position) {
                shard.committed.set(copy_key, position);
                shard.changed = true;
            }
        }
    }

    /// What is to be committed, each time only what has changed since.
    pub fn changed(&self) -> Vec<(Partition, Committed)> {
        let mut changed = Vec::new();
        for (partition, shard) in &mut *self.0.lock() {
            for (copy_key, progress) in &shard.progress {
                let Some(of_shard) = progress.shards.get(partition.1.0 as usize) else {
                    continue;
                };
                let known = shard.committed.0.get(copy_key).cloned().unwrap_or_default();
                let position = Position {
                    report: of_shard.report(),
                    ..known.clone()
                };
                if position != known {
                    shard.committed.set(copy_key, position);
                    shard.changed = true;
                }
            }
            if std::mem::take(&mut shard.changed) {
                changed.push((partition.clone(), shard.committed.clone()));
            }
        }
        changed
    }

    /// These could not be committed and are to be tried again.
    pub fn not_committed(&self, partitions: impl IntoIterator<Item = Partition>) {
        let mut shards = self.0.lock();
        for partition in partitions {
            if let Some(shard) = shards.get_mut(&partition) {
                shard.changed = true;
            }
        }
    }

    /// A partition is no longer followed, and nothing is to be committed for it.
    pub fn end(&self, partition: &Partition) {
        self.0.lock().remove(partition);
    }

    /// Slots have gone to another agent, whose word counts from now on.
    pub fn forget(&self, slots: &BTreeSet<Slot>) {
        self.0
            .lock()
            .retain(|_, shard| !slots.contains(&shard.slot));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shardline_common::types::SeqNo;

    use super::*;

    fn checkpoint(n: i64) -> Checkpoint {
        Checkpoint {
            seq_no: SeqNo(n),
            offset: Offset(n + 3),
            highest: SeqNo(n + 5),
            foreign_writes: 0,
            own: None,
        }
    }

    proptest! {
        /// What is committed is read back, in as much room as Kafka gives, and the offset is behind
        /// nobody's need.
        #[test]
        fn positions_survive_the_metadata(numbers in prop::collection::btree_map("[0-9a-f]{32}", 0i64..1 << 44, 1..60)) {
            let mut committed = Committed::default();
            for (subscription, n) in &numbers {
                let position = Position { checkpoint: Some(checkpoint(*n)), report: ShardReport::default() };
                committed.set(&copy_key(subscription, subscription), position);
            }
            let (offset, metadata) = committed.encode().unwrap();
            prop_assert!(metadata.len() <= MAX_METADATA);
            let read = Committed::parse(&metadata);
            prop_assert!(read.0.len() == numbers.len() || numbers.len() > 8);
            for (key, position) in &read.0 {
                prop_assert_eq!(Some(position), committed.0.get(key));
                prop_assert!(position.checkpoint.clone().unwrap().offset >= offset);
            }
        }
    }

    #[test]
    fn a_new_copy_replaces_the_position_of_the_former_one_and_no_other() {
        let position = |n| Position {
            checkpoint: Some(checkpoint(n)),
            report: ShardReport::default(),
        };
        let mut committed = Committed::default();
        committed.set("a/1", position(7));
        committed.set("b/1", position(8));
        committed.set("a/2", position(3));
        assert_eq!(committed.0.keys().collect::<Vec<_>>(), ["a/2", "b/1"]);
        assert_eq!(Committed::parse("not ours"), Committed::default());
    }

    #[test]
    fn only_what_changed_is_committed_and_only_while_the_slot_is_held() {
        let positions = Positions::default();
        let partition: Partition = ("t".into(), ShardId(0));
        let slot = Slot(5);
        let progress = Arc::new(IndexProgress::new(1));
        let mut found = Committed::default();
        found.set("gone/1", Position::default());
        let subscriptions = HashSet::from(["s".to_owned()]);
        positions.begin(
            &partition,
            slot,
            found,
            &subscriptions,
            "s/1",
            Arc::clone(&progress),
        );
        positions.reached(&partition, "s/1", checkpoint(4));
        let changed = positions.changed();
        assert_eq!(changed.len(), 1);
        assert_eq!(changed[0].1.0.keys().collect::<Vec<_>>(), ["s/1"]);
        assert!(positions.changed().is_empty());
        positions.not_committed([partition.clone()]);
        assert_eq!(positions.changed().len(), 1);
        progress.shards[0].note_heard(SeqNo(9), 0);
        assert_eq!(positions.changed()[0].1.0["s/1"].report.leader, SeqNo(9));
        positions.forget(&BTreeSet::from([Slot(6)]));
        positions.reached(&partition, "s/1", checkpoint(5));
        assert_eq!(positions.changed().len(), 1);
        positions.forget(&BTreeSet::from([slot]));
        positions.reached(&partition, "s/1", checkpoint(6));
        assert!(positions.changed().is_empty());
    }
}
