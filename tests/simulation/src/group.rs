//! The leader's shard group: a primary and its replicas, each with the operations that it holds and
//! a translog on disk.
//!
//! Modelled after OpenSearch: the primary numbers operations and passes them on; each copy syncs
//! its translog by itself; the global checkpoint is what every in-sync copy has synced without a
//! gap, and travels behind the operations. A new primary begins a new term, fills the gaps it has
//! with no-ops, and the others go back to the global checkpoint and take the rest from it. What is
//! at or below the global checkpoint is *settled*: it can never be taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use fastrand::Rng;

use crate::files::Translog;
use crate::sabotage::Sabotage;

#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    pub seq_no: i64,
    pub term: i64,
    /// The document's `_version` on the leader.
    pub version: i64,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Put {
        id: String,
        source: String,
        /// Which mapping the source needs.
        mapping: i64,
    },
    Delete {
        id: String,
    },
    NoOp,
}

impl Op {
    pub fn id(&self) -> Option<&str> {
        match &self.kind {
            Kind::Put { id, .. } | Kind::Delete { id } => Some(id),
            Kind::NoOp => None,
        }
    }
}

#[derive(Clone)]
enum Message {
    Op(Op),
    GlobalCheckpoint(i64),
    TrimAbove { term: i64, above: i64 },
}

pub struct Copy {
    /// Whether its node's process runs.
    pub is_up: bool,
    pub in_sync: bool,
    pub translog: Translog,
    pub ops: BTreeMap<i64, Op>,
    /// In the engine, not in the translog yet.
    unwritten: Vec<i64>,
    /// In the translog, not durable yet.
    unsynced: BTreeSet<i64>,
    /// Came as files: durable, and not in the translog.
    base: i64,
    pub global_checkpoint: i64,
    /// Its durable part of the engine reaches to here.
    committed: i64,
    /// What its node's cluster state has.
    pub mapping: i64,
    inbox: Vec<Message>,
}

impl Copy {
    fn local_checkpoint(&self) -> i64 {
        let mut reached = self.base;
        while self.ops.contains_key(&(reached + 1))
            && !self.unsynced.contains(&(reached + 1))
            && !self.unwritten.contains(&(reached + 1))
        {
            reached += 1;
        }
        reached
    }

    pub fn max_seq_no(&self) -> i64 {
        self.ops.keys().next_back().copied().unwrap_or(-1)
    }

    fn has(&mut self, op: Op) {
        self.unwritten.push(op.seq_no);
        self.ops.insert(op.seq_no, op);
    }

    fn write_all(&mut self) {
        for seq_no in std::mem::take(&mut self.unwritten) {
            self.translog.append(&self.ops[&seq_no]);
            self.unsynced.insert(seq_no);
        }
    }

    fn drop_above(&mut self, seq_no: i64) {
        self.ops.split_off(&(seq_no + 1));
        self.unwritten.retain(|at| *at <= seq_no);
        self.unsynced.retain(|at| *at <= seq_no);
        self.base = self.base.min(seq_no);
    }
}

pub struct Group {
    pub copies: Vec<Copy>,
    pub primary: usize,
    pub term: i64,
    pub mapping: i64,
    folder: PathBuf,
    /// What is settled, for good.
    pub history: BTreeMap<i64, Op>,
    lies_about_checkpoint: bool,
    hides_terms: bool,
    uuids: u64,
}

impl Group {
    pub fn new(folder: &Path, copies: usize, sabotage: Option<Sabotage>) -> Self {
        let mut group = Self {
            copies: Vec::new(),
            primary: 0,
            term: 1,
            mapping: 1,
            folder: folder.to_owned(),
            history: BTreeMap::new(),
            lies_about_checkpoint: sabotage == Some(Sabotage::AboveGlobalCheckpoint),
            hides_terms: sabotage == Some(Sabotage::NoTerms),
            uuids: 0,
        };
        for node in 0..copies {
            let translog = group.new_translog(node, -1);
            group.copies.push(Copy {
                is_up: true,
                in_sync: true,
                translog,
                ops: BTreeMap::new(),
                unwritten: Vec::new(),
                unsynced: BTreeSet::new(),
                base: -1,
                global_checkpoint: -1,
                committed: -1,
                mapping: 1,
                inbox: Vec::new(),
            });
        }
        group
    }

    fn new_translog(&mut self, node: usize, global_checkpoint: i64) -> Translog {
        self.uuids += 1;
        let uuid = format!("history-{node}-{:012}", self.uuids);
        Translog::create(
            &self.translog_of(node),
            uuid,
            self.term,
            global_checkpoint,
            self.hides_terms,
        )
    }

    pub fn translog_of(&self, node: usize) -> PathBuf {
        self.folder.join(format!("node-{node}")).join("translog")
    }

    pub fn spool_of(&self, node: usize) -> PathBuf {
        self.folder.join(format!("node-{node}")).join("spool")
    }

    pub fn primary(&self) -> &Copy {
        &self.copies[self.primary]
    }

    pub fn is_serving(&self) -> bool {
        self.primary().is_up
    }

    /// What is settled reaches to here.
    pub fn settled(&self) -> i64 {
        self.history.keys().next_back().copied().unwrap_or(-1)
    }

    /// Whether an operation above `seq_no` is on this document.
    pub fn changed_since(&self, id: &str, seq_no: i64) -> bool {
        self.history
            .range(seq_no + 1..)
            .any(|(_, op)| op.id() == Some(id))
    }

    /// The documents as the primary has them: id to the operation that made them.
    pub fn documents(&self) -> BTreeMap<String, Op> {
        let mut documents = BTreeMap::new();
        for op in self.primary().ops.values() {
            match &op.kind {
                Kind::Put { id, .. } => drop(documents.insert(id.clone(), op.clone())),
                Kind::Delete { id } => drop(documents.remove(id)),
                Kind::NoOp => {}
            }
        }
        documents
    }

    /// A client's write reaches the primary. `text` makes the source; `needs_new_mapping` a field
    /// that was not there.
    pub fn write(
        &mut self,
        rng: &mut Rng,
        id: String,
        deletes: bool,
        needs_new_mapping: bool,
    ) -> i64 {
        if needs_new_mapping && !deletes {
            self.mapping += 1;
            self.copies[self.primary].mapping = self.mapping;
        }
        let mapping = self.copies[self.primary].mapping;
        let seq_no = self.primary().max_seq_no() + 1;
        let before = self
            .primary()
            .ops
            .values()
            .rev()
            .find(|op| op.id() == Some(&id))
            .cloned();
        let version = match before {
            // Its deletion may be forgotten, and `_version` begins anew.
            Some(Op {
                kind: Kind::Delete { .. },
                ..
            }) if rng.bool() => 1,
            Some(op) => op.version + 1,
            None => 1,
        };
        let kind = if deletes {
            Kind::Delete { id }
        } else {
            let field = if needs_new_mapping {
                mapping
            } else {
                rng.i64(1..=mapping)
            };
            Kind::Put {
                id,
                source: format!("{{\"f{field}\":{seq_no},\"t\":{}}}", self.term),
                mapping: field,
            }
        };
        let op = Op {
            seq_no,
            term: self.term,
            version,
            kind,
        };
        for (node, copy) in self.copies.iter_mut().enumerate() {
            if node == self.primary {
                copy.has(op.clone());
            } else if copy.is_up {
                copy.inbox.push(Message::Op(op.clone()));
            }
        }
        seq_no
    }

    /// One thing that happens within the group by itself. Says whether anything did.
    pub fn step(&mut self, rng: &mut Rng) -> bool {
        let node = rng.usize(0..self.copies.len());
        if !self.copies[node].is_up {
            return false;
        }
        match rng.u8(0..8) {
            0..=2 => self.receive(rng, node),
            3..=4 => self.append_one(rng, node),
            _ => self.sync(node),
        }
    }

    fn receive(&mut self, rng: &mut Rng, node: usize) -> bool {
        let copy = &mut self.copies[node];
        if copy.inbox.is_empty() {
            return false;
        }
        // Nearly in order, as operations travel over several connections.
        let message = copy.inbox.remove(rng.usize(0..copy.inbox.len().min(4)));
        self.take(node, message);
        true
    }

    fn take(&mut self, node: usize, message: Message) {
        let copy = &mut self.copies[node];
        match message {
            Message::Op(op) => {
                if let Kind::Put { mapping, .. } = op.kind {
                    copy.mapping = copy.mapping.max(mapping);
                }
                if copy.ops.get(&op.seq_no) == Some(&op) {
                    // It comes a second time, and stands in the translog twice.
                    if op.seq_no > copy.base && !copy.unwritten.contains(&op.seq_no) {
                        copy.translog.append(&op);
                    }
                } else {
                    copy.has(op);
                }
            }
            // One that is still catching up does not note what it does not have.
            Message::GlobalCheckpoint(known) if known > copy.local_checkpoint() => {}
            Message::GlobalCheckpoint(known) => {
                copy.global_checkpoint = copy.global_checkpoint.max(known)
            }
            Message::TrimAbove { term, above } => {
                copy.translog
                    .trim_above(term, above, copy.global_checkpoint);
            }
        }
    }

    fn append_one(&mut self, rng: &mut Rng, node: usize) -> bool {
        let copy = &mut self.copies[node];
        if copy.unwritten.is_empty() {
            return false;
        }
        let seq_no = copy
            .unwritten
            .swap_remove(rng.usize(0..copy.unwritten.len().min(4)));
        copy.translog.append(&copy.ops[&seq_no]);
        copy.unsynced.insert(seq_no);
        true
    }

    /// Syncs a copy's translog; on the primary the global checkpoint may rise by that.
    fn sync(&mut self, node: usize) -> bool {
        let copy = &mut self.copies[node];
        copy.unsynced.clear();
        let shown = if self.lies_about_checkpoint {
            copy.max_seq_no()
        } else {
            copy.global_checkpoint
        };
        copy.translog.sync(shown);
        self.advance();
        true
    }

    /// The primary works out the global checkpoint anew.
    fn advance(&mut self) {
        if !self.is_serving() {
            return;
        }
        for copy in &mut self.copies {
            // A copy that has caught up counts from then on.
            if copy.is_up
                && !copy.in_sync
                && copy.local_checkpoint() >= self.history.len() as i64 - 1
            {
                copy.in_sync = true;
            }
        }
        let in_sync = self.copies.iter().filter(|copy| copy.in_sync);
        let Some(reached) = in_sync.map(Copy::local_checkpoint).min() else {
            return;
        };
        let primary = self.primary;
        if reached <= self.copies[primary].global_checkpoint {
            return;
        }
        self.copies[primary].global_checkpoint = reached;
        for (seq_no, settled) in self.history.range(..=reached) {
            assert_eq!(
                Some(settled),
                self.copies[primary].ops.get(seq_no),
                "the simulated leader lost what was settled"
            );
        }
        for seq_no in self.settled() + 1..=reached {
            self.history
                .insert(seq_no, self.copies[primary].ops[&seq_no].clone());
        }
        for (node, copy) in self.copies.iter_mut().enumerate() {
            if node != primary && copy.is_up {
                copy.inbox.push(Message::GlobalCheckpoint(reached));
            }
        }
    }

    /// Commits the engine, begins a new generation and deletes those that are no longer needed.
    pub fn flush(&mut self, node: usize) {
        let copy = &mut self.copies[node];
        if !copy.is_up {
            return;
        }
        copy.write_all();
        self.sync(node);
        let copy = &mut self.copies[node];
        let term = self.term;
        copy.translog.roll(term, copy.global_checkpoint);
        if copy.max_seq_no() <= copy.global_checkpoint {
            copy.committed = copy.max_seq_no();
        }
        copy.translog.trim(copy.committed);
    }

    /// Lets the group come to rest: everything delivered, durable and settled.
    pub fn settle(&mut self) {
        self.drop_dead();
        for _ in 0..3 {
            for node in 0..self.copies.len() {
                if self.copies[node].is_up {
                    for message in std::mem::take(&mut self.copies[node].inbox) {
                        self.take(node, message);
                    }
                    self.copies[node].write_all();
                    self.sync(node);
                }
            }
            let (serving, known) = (self.is_serving(), self.primary().global_checkpoint);
            for copy in self
                .copies
                .iter_mut()
                .filter(|copy| serving && copy.is_up && copy.in_sync)
            {
                copy.global_checkpoint = copy
                    .global_checkpoint
                    .max(known.min(copy.local_checkpoint()));
            }
        }
    }

    /// The primary no longer waits for copies that are gone.
    pub fn drop_dead(&mut self) {
        if self.is_serving() {
            for copy in &mut self.copies {
                copy.in_sync &= copy.is_up;
            }
            self.advance();
        }
    }

    /// The primary's node dies, or the others lose touch with it; a replica takes over. False when
    /// there is none.
    pub fn fail_over(&mut self, rng: &mut Rng, dies: bool) -> bool {
        let old = self.primary;
        let heirs: Vec<usize> = (0..self.copies.len())
            .filter(|node| *node != old && self.copies[*node].is_up && self.copies[*node].in_sync)
            .collect();
        if heirs.is_empty() {
            return false;
        }
        let heir = heirs[rng.usize(0..heirs.len())];
        // Some of what was under way still arrives.
        for node in 0..self.copies.len() {
            let inbox = std::mem::take(&mut self.copies[node].inbox);
            if node != old && self.copies[node].is_up {
                for message in inbox {
                    if rng.bool() {
                        self.take(node, message);
                    }
                }
            }
        }
        self.copies[old].in_sync = false;
        if dies {
            self.kill(old);
        } else {
            // It may go on for a moment, but nobody acknowledges what it does.
            self.copies[old].is_up = false;
            self.copies[old].write_all();
            let (shown, old) = (self.copies[old].global_checkpoint, &mut self.copies[old]);
            old.unsynced.clear();
            let shown = if self.lies_about_checkpoint {
                old.max_seq_no()
            } else {
                shown
            };
            old.translog.sync(shown);
        }
        self.promote(heir);
        true
    }

    /// The only copy's process is killed and starts again.
    pub fn restart_primary(&mut self) {
        let node = self.primary;
        self.kill(node);
        self.come_back(node);
        self.promote(node);
    }

    fn kill(&mut self, node: usize) {
        let copy = &mut self.copies[node];
        copy.is_up = false;
        copy.inbox.clear();
        for seq_no in copy
            .unwritten
            .drain(..)
            .chain(std::mem::take(&mut copy.unsynced))
        {
            copy.ops.remove(&seq_no);
        }
    }

    fn come_back(&mut self, node: usize) {
        let term = self.term;
        let copy = &mut self.copies[node];
        copy.is_up = true;
        copy.translog.reopen(term, copy.global_checkpoint);
    }

    fn promote(&mut self, heir: usize) {
        self.term += 1;
        self.primary = heir;
        let (term, state) = (self.term, self.mapping);
        let copy = &mut self.copies[heir];
        copy.in_sync = true;
        copy.mapping = state;
        copy.write_all();
        copy.unsynced.clear();
        // What it rolled back under an earlier primary, and did not get anew, it has in its
        // translog.
        let processed = copy.local_checkpoint();
        for (seq_no, op) in copy.translog.history().split_off(&(processed + 1)) {
            copy.ops.entry(seq_no).or_insert(op);
        }
        copy.translog.roll(term, copy.global_checkpoint);
        let max = copy.max_seq_no();
        for seq_no in 0..max {
            if seq_no > copy.base && !copy.ops.contains_key(&seq_no) {
                copy.has(Op {
                    seq_no,
                    term,
                    version: 1,
                    kind: Kind::NoOp,
                });
            }
        }
        copy.write_all();
        for node in 0..self.copies.len() {
            if node != heir && self.copies[node].is_up {
                self.follow(node, max);
            }
        }
        self.advance();
    }

    /// A copy goes back to the global checkpoint and takes the rest from the primary.
    fn follow(&mut self, node: usize, max: i64) {
        let (term, known) = (self.term, self.primary().global_checkpoint);
        let copy = &mut self.copies[node];
        copy.write_all();
        copy.unsynced.clear();
        let keep = copy
            .global_checkpoint
            .max(known)
            .min(copy.local_checkpoint());
        copy.global_checkpoint = copy.global_checkpoint.min(keep).max(known.min(keep));
        copy.translog.roll(term, copy.global_checkpoint);
        copy.drop_above(keep);
        copy.inbox.clear();
        let rest = self
            .primary()
            .ops
            .range(known.min(keep) + 1..)
            .map(|(_, op)| op.clone());
        let rest: Vec<Message> = rest.map(Message::Op).collect();
        let inbox = &mut self.copies[node].inbox;
        inbox.extend(rest);
        inbox.push(Message::TrimAbove { term, above: max });
    }

    /// A node that was away is there again, and recovers its copy: from its own translog and the
    /// primary's operations, or by a copy of the primary's files.
    pub fn rejoin(&mut self, rng: &mut Rng, node: usize) {
        if self.copies[node].is_up || !self.is_serving() {
            return;
        }
        let (known, max) = (
            self.primary().global_checkpoint,
            self.primary().max_seq_no(),
        );
        if rng.bool() {
            self.come_back(node);
            // What it has above the global checkpoint that it knows may be another history's.
            let own = self.copies[node].global_checkpoint;
            self.copies[node].drop_above(own);
            self.follow(node, max);
            return;
        }
        let translog = self.new_translog(node, known);
        // The files are those of a safe commit; what came later is sent as operations.
        let (mut ops, mapping) = (self.primary().ops.clone(), self.mapping);
        let rest = ops.split_off(&(known + 1));
        let copy = &mut self.copies[node];
        copy.translog = translog;
        (copy.ops, copy.base, copy.committed) = (ops, known, known);
        copy.unwritten.clear();
        copy.unsynced.clear();
        copy.inbox = rest.into_values().map(Message::Op).collect();
        (copy.global_checkpoint, copy.mapping, copy.is_up) = (known, mapping, true);
    }

    pub fn down(&self) -> Option<usize> {
        (0..self.copies.len()).find(|node| !self.copies[*node].is_up)
    }
}
