//! What happens outside the agents: writes, answers and records that arrive, nodes and records that
//! are lost.

use shardline_common::record::{Body, OperationKind, Record};
use shardline_common::types::SeqNo;

use crate::calls::Call;
use crate::world::World;

impl World {
    pub fn write(&mut self, id: String, deletes: bool, needs_mapping: bool) {
        let label = self.trace.is_some().then(|| id.clone());
        let seq_no = self.group.write(&mut self.rng, id, deletes, needs_mapping);
        if let Some(id) = label {
            let term = self.group.term;
            self.note(|| {
                format!(
                    "write {seq_no} in term {term}: {} {id}",
                    if deletes { "delete" } else { "put" }
                )
            });
        }
    }

    pub fn take_effect(&mut self, call: &mut Call, how: &str) {
        self.note(|| format!("{how} {}", call.label));
        if let Some(effect) = call.take_effect() {
            effect(self);
        }
    }

    /// A record of a producer arrives in the log; says whether there was one.
    pub fn deliver(&mut self, producer: u64) -> bool {
        if self
            .kafka
            .producers
            .get(&producer)
            .is_some_and(|p| p.is_orphan)
            && self.rng.u32(0..16) == 0
        {
            self.kafka.producers.remove(&producer);
        }
        let Some((topic, offset)) = self.kafka.deliver(producer) else {
            return false;
        };
        for record in self.kafka.partition(&topic).records[offset.0 as usize].clone() {
            self.note(|| format!("{producer} {topic} {offset}: {}", describe(&record)));
            if topic == self.topic {
                self.check_appended(&record);
            }
        }
        true
    }

    pub fn orphan(&mut self, producer: u64) {
        if let Some(producer) = self.kafka.producers.get_mut(&producer) {
            producer.is_orphan = true;
        }
    }

    /// A node of the leader cluster dies, loses touch, is dropped, or comes back.
    pub fn leader_node(&mut self) -> bool {
        let before = self.group.primary;
        match self.rng.u8(0..6) {
            0 | 1 => {
                let dies = self.rng.bool();
                if self.group.fail_over(&mut self.rng, dies) {
                    let (after, term) = (self.group.primary, self.group.term);
                    self.note(|| {
                        format!(
                            "failover from {before} to {after}, term {term}, old one dies: {dies}"
                        )
                    });
                } else if self.plan.copies == 1 {
                    self.group.restart_primary();
                    self.note(|| "the primary is killed and starts again".to_owned());
                } else {
                    return false;
                }
                self.scans.lose_all();
                self.visible = self.group.documents().into_iter().collect();
                return true;
            }
            2 => self.group.drop_dead(),
            _ => {
                if let Some(node) = self.group.down() {
                    self.note(|| format!("node {node} comes back"));
                    self.group.rejoin(&mut self.rng, node);
                }
            }
        }
        false
    }

    /// The log loses an operation that it has acknowledged, and closes the gap.
    pub fn lose_record(&mut self) {
        let topic = self.topic.clone();
        let partition = self.kafka.partition(&topic);
        let packed = partition
            .records
            .iter()
            .enumerate()
            .skip(partition.low as usize);
        let records = packed.flat_map(|(at, packed)| {
            packed
                .iter()
                .enumerate()
                .map(move |(nth, one)| (at, nth, one))
        });
        let operations = records.filter(|(_, _, record)| matches!(record.body, Body::Operation(_)));
        let places: Vec<(usize, usize)> = operations.map(|(at, nth, _)| (at, nth)).collect();
        let Some((at, nth)) = self.rng.choice(places) else {
            return;
        };
        let lost = self.kafka.partition(&topic).records[at][nth].clone();
        // Its place is taken by a record without meaning, as if offsets had never been given to it.
        let nothing = Record {
            body: Body::Heartbeat {
                global_checkpoint: lost.seq_no,
                next_within_ms: 0,
            },
            seq_no: SeqNo::NONE,
            ..lost
        };
        self.note(|| format!("the log loses {at}: {}", lost.seq_no));
        self.kafka.partition(&topic).records[at][nth] = nothing;
        self.checks.is_log_damaged = true;
    }
}

/// A record in few words, without what differs from run to run.
fn describe(record: &Record) -> String {
    let what = match &record.body {
        Body::Operation(operation) => match &operation.kind {
            OperationKind::Index { id, source, .. } => {
                format!("put {id} {}", String::from_utf8_lossy(source))
            }
            OperationKind::Delete { id, .. } => format!("delete {id}"),
            OperationKind::NoOp => "no-op".to_owned(),
        },
        Body::Metadata(metadata) => format!("mapping {}", metadata.versions.mapping),
        Body::Heartbeat {
            global_checkpoint, ..
        } => format!("heartbeat {global_checkpoint}"),
        Body::Gap { from } => format!("gap from {from}"),
        Body::Rewound { from } => format!("rewound from {from}"),
        Body::ResyncBegin(begin) => format!("resync {} to {}", begin.from, begin.to),
        Body::ResyncDocument { seq_no, .. } => format!("document of {seq_no}"),
        Body::ResyncIds { ids, .. } => format!("ids {ids:?}"),
        Body::ResyncEnd(end) => format!(
            "resync ends, {} documents, complete: {}",
            end.documents, end.complete
        ),
        Body::SnapshotBegin(begin) => format!("snapshot at {} from {}", begin.seq_no, begin.offset),
        Body::SnapshotEnd(end) => format!("snapshot ends at {}", end.max_seq_no),
    };
    format!("[{}] {what}", record.seq_no)
}
