//! The invariants, watched while a schedule runs. The oracle is the leader's settled history, which
//! no agent sees.

use std::collections::{BTreeMap, BTreeSet};

use follower_agent::{Checkpoint, Refused};
use shardline_common::record::{Body, Operation, OperationKind, Record};
use shardline_common::types::{Epoch, ExternalVersion, SeqNo};

use crate::group::{Kind, Op};
use crate::world::World;

#[derive(Default)]
pub struct Checks {
    pub violation: Option<String>,
    /// How far the partition reaches in the shard's history.
    reached: i64,
    began: bool,
    frames: BTreeMap<i64, i64>,
    mapping: i64,
    /// Documents can have come by a scan: these show a later state than their place says.
    pub scanned: bool,
    /// The log itself was damaged: what stands in it is not the agents' fault.
    pub is_log_damaged: bool,
    /// Ids that somebody else wrote to.
    pub foreign: BTreeSet<String>,
}

impl Checks {
    pub fn fail(&mut self, violation: String) {
        self.violation.get_or_insert(violation);
    }
}

impl World {
    /// A record was appended to the replication topic.
    pub fn check_appended(&mut self, record: &Record) {
        let seq_no = record.seq_no.0;
        let checks = &mut self.checks;
        if !checks.began {
            (checks.began, checks.reached) = (true, -1);
        }
        match &record.body {
            Body::Operation(operation) => {
                if seq_no > checks.reached + 1 && !checks.is_log_damaged {
                    let reached = checks.reached;
                    checks.fail(format!(
                        "hole: operation {seq_no} stands in the log behind {reached}"
                    ));
                }
                checks.reached = checks.reached.max(seq_no);
                self.check_operation(SeqNo(seq_no), operation);
            }
            Body::Gap { .. } => checks.reached = checks.reached.max(seq_no),
            Body::Rewound { .. } => {
                checks.fail("the leader agent takes its shard for rewound".to_owned())
            }
            Body::Metadata(metadata) if metadata.versions.mapping > checks.mapping => {
                checks.mapping = metadata.versions.mapping;
                self.announced = Some((**metadata).clone());
            }
            Body::ResyncBegin(begin) => {
                checks.scanned = true;
                if begin.from.0 > checks.reached + 1 {
                    checks.fail(format!(
                        "hole: a resync begins with {} behind {}",
                        begin.from, checks.reached
                    ));
                }
                if begin.to.0 > self.group.settled() {
                    checks.fail(format!("a resync up to {}, which is not settled", begin.to));
                }
                checks.frames.insert(begin.frame.0, begin.to.0);
            }
            Body::ResyncDocument {
                seq_no, operation, ..
            } => self.check_operation(*seq_no, operation),
            Body::ResyncEnd(end) => {
                if let Some(to) = checks.frames.remove(&end.frame.0) {
                    checks.reached = checks.reached.max(to);
                }
            }
            _ => {}
        }
    }

    fn check_operation(&mut self, seq_no: SeqNo, operation: &Operation) {
        let Some(settled) = self.group.history.get(&seq_no.0) else {
            self.checks.fail(format!(
                "operation {seq_no} was shipped, and is not settled"
            ));
            return;
        };
        if !is_same(settled, operation) {
            self.checks.fail(format!(
                "operation {seq_no} was shipped as {operation:?}, and is {settled:?}"
            ));
        }
        if let Kind::Put { mapping, .. } = settled.kind
            && mapping > self.checks.mapping
        {
            let known = self.checks.mapping;
            self.checks.fail(format!(
                "operation {seq_no} needs mapping {mapping}, and the log has {known} before it"
            ));
        }
    }

    /// The follower agent is about to save a checkpoint.
    pub fn check_checkpoint(&mut self, epoch: Epoch, checkpoint: &Checkpoint) {
        let mut latest: BTreeMap<&str, &Op> = BTreeMap::new();
        for op in self.group.history.values() {
            if let Some(id) = op.id() {
                let is_covered = op.seq_no <= checkpoint.seq_no.0;
                // Of a scanned document only its latest state comes, in the place of that.
                if is_covered || self.checks.scanned {
                    latest.insert(id, op);
                }
            }
        }
        for (id, op) in latest {
            if op.seq_no > checkpoint.seq_no.0 {
                continue;
            }
            let due = ExternalVersion::new(epoch, SeqNo(op.seq_no)).0;
            let found = self.follower.documents.get(id);
            let is_done = match &op.kind {
                Kind::Put { .. } => found.is_some_and(|document| document.version >= due),
                _ => found
                    .is_none_or(|document| document.version >= due || document.source.is_none()),
            };
            // A later deletion may be done, and forgotten.
            let is_gone = found.is_none()
                && self.group.history.values().any(|later| {
                    later.seq_no > op.seq_no && later.kind == (Kind::Delete { id: id.to_owned() })
                });
            let is_letter = self.letters.contains_key(&Refused {
                id: id.to_owned(),
                seq_no: SeqNo(op.seq_no),
            });
            // A replay may show that there is a later operation, which comes by itself.
            let comes = self.plan.refusals
                && self
                    .group
                    .history
                    .values()
                    .any(|later| later.seq_no > op.seq_no && later.id() == Some(id));
            if !is_done && !is_gone && !is_letter && !comes && !self.checks.foreign.contains(id) {
                let reached = checkpoint.seq_no;
                self.checks.fail(format!(
                    "checkpoint {reached} before operation {} on {id} was done",
                    op.seq_no
                ));
                return;
            }
        }
    }

    /// Where the follower's documents differ from the leader's; `None` when they are equal.
    pub fn difference(&self, epoch: Epoch) -> Option<String> {
        let expected = self.group.documents();
        for (id, op) in &expected {
            let Kind::Put { source, .. } = &op.kind else {
                continue;
            };
            let due = ExternalVersion::new(epoch, SeqNo(op.seq_no)).0;
            match self.follower.documents.get(id) {
                Some(found) if found.source.as_ref() == Some(source) && found.version == due => {}
                found => {
                    return Some(format!(
                        "{id} is {op:?} on the leader and {found:?} on the follower"
                    ));
                }
            }
        }
        let extra = self
            .follower
            .live()
            .find(|(id, ..)| !expected.contains_key(*id));
        extra.map(|(id, document, _)| {
            format!("{id} is {document:?} on the follower, and not on the leader")
        })
    }
}

fn is_same(op: &Op, shipped: &Operation) -> bool {
    match (&op.kind, &shipped.kind) {
        (
            Kind::Put { id, source, .. },
            OperationKind::Index {
                id: shipped_id,
                source: shipped_source,
                ..
            },
        ) => id == shipped_id && source.as_bytes() == shipped_source,
        (Kind::Delete { id }, OperationKind::Delete { id: shipped_id, .. }) => id == shipped_id,
        (Kind::NoOp, OperationKind::NoOp) => true,
        _ => false,
    }
}
