//! Copies that were rolled back, promoted, or made anew while a tail was open or nobody looked:
//! cases that the simulation found.
#![allow(clippy::unwrap_used)]

mod writer;

use std::fs;
use std::path::PathBuf;

use leader_agent::{OperationKind, ShardSpool, ShardTail, Spool, TailError};
use shardline_common::types::{self, SeqNo, ShardId};
use writer::{Generation, UUID, write_checkpoint, write_generation};

struct Shard {
    folder: tempfile::TempDir,
    spool: ShardSpool,
}

impl Shard {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("translog")).unwrap();
        let spool = Spool::open(&folder.path().join("spool"), 1 << 30).unwrap();
        let spool = spool.shard(&"u".into(), ShardId(0)).unwrap();
        Self { folder, spool }
    }

    fn translog(&self) -> PathBuf {
        self.folder.path().join("translog")
    }

    /// Operations of a term; `newest` has the global checkpoint of the shard, and of the generation
    /// before it.
    fn write(
        &self,
        uuid: &str,
        number: usize,
        term: i64,
        operations: &[(i64, i64, &str)],
        is_newest: bool,
        global: i64,
    ) {
        let operations = operations
            .iter()
            .map(|(seq_no, term, id)| (*seq_no, *term, (*id).to_owned()))
            .collect();
        let generation = Generation {
            term,
            operations,
            lost: Vec::new(),
            trimmed_above: None,
        };
        let offset = write_generation(&self.translog(), uuid, number, &generation);
        let name = if is_newest {
            "translog.ckp".to_owned()
        } else {
            format!("translog-{number}.ckp")
        };
        write_checkpoint(
            &self.translog().join(name),
            number,
            &generation,
            offset,
            global,
        );
    }

    fn open(&self) -> ShardTail {
        ShardTail::open(&self.translog(), self.spool.clone(), SeqNo(0)).unwrap()
    }
}

fn read(tail: &mut ShardTail) -> Vec<(i64, String)> {
    let operations = tail.next_batch(1 << 20).unwrap().operations.into_iter();
    let named = operations.map(|operation| {
        let OperationKind::Index { id, .. } = operation.kind else {
            panic!("only documents were written")
        };
        (operation.seq_no.0, id)
    });
    named.collect()
}

fn expected(operations: &[(i64, &str)]) -> Vec<(i64, String)> {
    operations
        .iter()
        .map(|(seq_no, id)| (*seq_no, (*id).to_owned()))
        .collect()
}

/// A primary of term 2 filled a gap, and was followed by a copy that had the operation of term 1
/// all the time.
#[test]
fn the_newest_generation_counts_whatever_the_operations_terms_are() {
    let shard = Shard::new();
    shard.write(UUID, 1, 1, &[(0, 1, "a"), (1, 1, "b")], false, 0);
    shard.write(UUID, 2, 2, &[(1, 2, "filled")], false, 0);
    shard.write(UUID, 3, 3, &[(1, 1, "b again")], true, 1);
    assert_eq!(
        read(&mut shard.open()),
        expected(&[(0, "a"), (1, "b again")])
    );
}

#[test]
fn what_is_rolled_back_after_the_tail_was_opened_does_not_come() {
    let shard = Shard::new();
    shard.write(
        UUID,
        1,
        1,
        &[(0, 1, "a"), (1, 1, "b"), (2, 1, "rolled back")],
        true,
        0,
    );
    let mut tail = shard.open();
    assert_eq!(read(&mut tail), expected(&[(0, "a")]));
    shard.write(
        UUID,
        1,
        1,
        &[(0, 1, "a"), (1, 1, "b"), (2, 1, "rolled back")],
        false,
        0,
    );
    shard.write(UUID, 2, 2, &[], true, 0);
    tail.refresh().unwrap();
    assert_eq!(read(&mut tail), []);
    let path = shard.translog().join("translog-2.tlog");
    let empty = fs::metadata(&path).unwrap().len();
    shard.write(UUID, 2, 2, &[(1, 1, "b"), (2, 2, "c")], true, 2);
    assert!(fs::metadata(&path).unwrap().len() > empty);
    tail.refresh().unwrap();
    assert_eq!(read(&mut tail), expected(&[(1, "b"), (2, "c")]));
}

/// A copy that was made from another one's files begins with generation 1 again.
#[test]
fn a_translog_that_is_made_anew_is_noticed() {
    let shard = Shard::new();
    shard.write(UUID, 1, 1, &[(0, 1, "a"), (1, 1, "rolled back")], true, 0);
    let mut tail = shard.open();
    assert_eq!(read(&mut tail), expected(&[(0, "a")]));
    fs::remove_dir_all(shard.translog()).unwrap();
    fs::create_dir(shard.translog()).unwrap();
    shard.write("another-uuid-of-22-char", 1, 2, &[], true, 1);
    assert!(matches!(tail.refresh(), Err(TailError::Replaced(_))));
}

#[test]
fn a_held_checkpoint_goes_with_its_generation() {
    let shard = Shard::new();
    shard.write(UUID, 1, 1, &[(0, 1, "a"), (1, 1, "b")], false, 1);
    shard.write(UUID, 2, 1, &[], true, 1);
    shard.spool.keep(&shard.translog()).unwrap();
    assert!(shard.spool.path(types::Generation(1), "ckp").exists());
    fs::remove_dir_all(shard.translog()).unwrap();
    fs::create_dir(shard.translog()).unwrap();
    shard.write("another-uuid-of-22-char", 1, 2, &[], true, 1);
    shard.spool.keep(&shard.translog()).unwrap();
    assert!(!shard.spool.path(types::Generation(1), "ckp").exists());
}

/// Generation 2 began a term, and came and went while no agent was there: it may have had another
/// operation 1.
#[test]
fn a_generation_that_nobody_held_makes_those_before_it_uncertain() {
    let shard = Shard::new();
    shard.write(UUID, 1, 1, &[(0, 1, "a"), (1, 1, "rolled back")], false, 0);
    shard.write(UUID, 3, 2, &[], true, 1);
    let mut tail = shard.open();
    assert_eq!(read(&mut tail), expected(&[(0, "a")]));
    assert!(matches!(
        tail.next_batch(1),
        Err(TailError::Gap {
            wanted: SeqNo(1),
            ..
        })
    ));
}

/// The operations of the generation are damaged: whoever reads them meets an error.
#[test]
fn a_gap_is_found_without_reading_what_comes_behind_it() {
    let shard = Shard::new();
    shard.write(UUID, 2, 1, &[(10, 1, "a"), (11, 1, "b")], true, 11);
    let path = shard.translog().join("translog-2.tlog");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 80..].fill(0);
    fs::write(&path, bytes).unwrap();
    let mut tail = shard.open();
    assert!(matches!(tail.reaches_next(), Err(TailError::Gap { .. })));
}

#[test]
fn what_stands_above_the_global_checkpoint_is_looked_up() {
    let shard = Shard::new();
    shard.write(UUID, 2, 1, &[(0, 1, "a"), (1, 1, "b")], false, 1);
    shard.write(UUID, 3, 2, &[(1, 2, "c"), (2, 2, "d")], true, 0);
    let tail = shard.open();
    let id = |seq_no| {
        let found = tail.look_up(SeqNo(seq_no)).unwrap();
        found.map(|operation| match operation.kind {
            OperationKind::Index { id, .. } => id,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(id(2).as_deref(), Some("d"));
    assert_eq!(id(1).as_deref(), Some("c"));
    assert_eq!(id(3), None);
}
