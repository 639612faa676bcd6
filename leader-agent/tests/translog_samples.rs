//! Real translog folders, recorded from a running OpenSearch 3.8.0, against what the server's own reader says of them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use leader_agent::translog::{Operation, OperationKind, ShardSpool, ShardTail, Spool, TailError};
use shardline_common::types::{SeqNo, ShardId};

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/translog-sample").join(name)
}

/// A copy of a sample, because tails link files into a spool beside it.
struct Shard {
    folder: tempfile::TempDir,
}

impl Shard {
    fn of(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("translog")).unwrap();
        for entry in fs::read_dir(sample(name)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), folder.path().join("translog").join(entry.file_name())).unwrap();
        }
        Self { folder }
    }

    fn translog(&self) -> PathBuf {
        self.folder.path().join("translog")
    }

    fn spool(&self) -> ShardSpool {
        Spool::open(&self.folder.path().join("spool"), 1 << 30).unwrap().shard(&"uuid".into(), ShardId(0)).unwrap()
    }

    fn tail(&self, next: i64) -> Result<ShardTail, TailError> {
        ShardTail::open(&self.translog(), self.spool(), SeqNo(next))
    }

    fn operations(&self, next: i64) -> Vec<Operation> {
        let mut tail = self.tail(next).unwrap();
        let mut operations = Vec::new();
        loop {
            let batch = tail.next_batch(500).unwrap();
            if batch.operations.is_empty() {
                return operations;
            }
            operations.extend(batch.operations);
        }
    }
}

/// One operation as the server's reader prints it, without the end of long sources.
fn describe(operation: &Operation) -> String {
    let (seq, term) = (operation.seq_no, operation.primary_term);
    match &operation.kind {
        OperationKind::Index { id, source, routing, version } => {
            let routing = routing.as_deref().unwrap_or("null");
            let source = String::from_utf8_lossy(source);
            format!("INDEX seq={seq} term={term} ver={version} id={id} routing={routing} source={source}")
        }
        OperationKind::Delete { id, version } => format!("DELETE seq={seq} term={term} ver={version} id={id}"),
        OperationKind::NoOp { reason } => format!("NO_OP seq={seq} term={term} reason={reason}"),
    }
}

fn dumped(name: &str) -> Vec<String> {
    let dump = fs::read_to_string(sample("..").join("translog-sample").join(format!("{name}.dump.txt"))).unwrap();
    let operations = dump.lines().filter_map(|line| line.strip_prefix("  "));
    operations
        .map(|line| {
            line.split(' ')
                .filter(|word| !word.is_empty() && !word.starts_with("autoTs="))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect()
}

#[test]
fn samples_read_as_the_server_reads_them() {
    for name in ["before-flush", "after-flush-3-ops", "generations"] {
        let first = dumped(name)[0].split("seq=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let read: Vec<String> = Shard::of(name).operations(first).iter().map(describe).collect();
        let dumped = dumped(name);
        assert_eq!(read.len(), dumped.len(), "{name}");
        for (read, dumped) in read.iter().zip(&dumped) {
            // Long and binary sources are cut short or escaped in the dump.
            let head = |line: &str| {
                let (fields, source) = line.split_once(" source=").unwrap_or((line, ""));
                let words = fields.split_whitespace().collect::<Vec<_>>().join(" ");
                let plain: String = source.chars().take_while(char::is_ascii_graphic).take(40).collect();
                (words, plain.split("...").next().unwrap_or_default().to_owned())
            };
            let ((fields, source), (expected_fields, expected_source)) = (head(read), head(dumped));
            assert_eq!(fields, expected_fields, "{name}");
            assert!(
                source.starts_with(&expected_source) || expected_source.starts_with(&source),
                "{name}: {read}\n{dumped}"
            );
        }
    }
}

#[test]
fn an_empty_translog_is_no_gap_until_something_is_wanted_of_it() {
    let shard = Shard::of("after-flush");
    let mut tail = shard.tail(0).unwrap();
    let Err(TailError::Gap { wanted, lowest: None, global_checkpoint }) = tail.reaches_next() else {
        panic!("a flushed translog has nothing");
    };
    assert_eq!(wanted, SeqNo(0));
    let mut tail = shard.tail(global_checkpoint.0 + 1).unwrap();
    tail.reaches_next().unwrap();
    assert!(tail.next_batch(1000).unwrap().operations.is_empty());
}

#[test]
fn a_deleted_generation_is_read_from_the_spool() {
    let shard = Shard::of("generations");
    drop(shard.tail(0).unwrap());
    for name in ["translog-2.tlog", "translog-2.ckp", "translog-3.tlog", "translog-3.ckp"] {
        fs::remove_file(shard.translog().join(name)).unwrap();
    }
    let seq_nos: Vec<i64> = shard.operations(0).iter().map(|operation| operation.seq_no.0).collect();
    assert_eq!(seq_nos, (0..=15).collect::<Vec<_>>());
}

#[test]
fn a_generation_without_its_checkpoint_is_not_trusted() {
    let shard = Shard::of("generations");
    for name in ["translog-2.ckp", "translog-3.ckp"] {
        fs::remove_file(shard.translog().join(name)).unwrap();
    }
    assert!(matches!(shard.tail(0).unwrap().reaches_next(), Err(TailError::Gap { .. })));
    assert_eq!(shard.operations(10).len(), 6);
}

#[test]
fn releasing_lets_go_of_what_kafka_has() {
    let shard = Shard::of("generations");
    let mut tail = shard.tail(0).unwrap();
    while !tail.next_batch(1000).unwrap().operations.is_empty() {}
    tail.release_up_to(SeqNo(9)).unwrap();
    let kept: Vec<i64> = shard.spool().generations().unwrap().iter().map(|generation| generation.0).collect();
    assert_eq!(kept, [4, 5]);
}

#[test]
fn a_missing_folder_says_that_the_shard_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(&folder.path().join("spool"), 0).unwrap().shard(&"u".into(), ShardId(0)).unwrap();
    let opened = ShardTail::open(&folder.path().join("nowhere"), spool, SeqNo(0));
    assert!(matches!(opened, Err(TailError::ShardGone(_))));
}

#[test]
fn damaged_files_are_errors_that_name_the_file() {
    let shard = Shard::of("before-flush");
    let path = shard.translog().join("translog-2.tlog");
    let pristine = fs::read(&path).unwrap();
    for at in (0..pristine.len()).step_by(7) {
        let mut bytes = pristine.clone();
        bytes[at] ^= 0x40;
        fs::remove_file(&path).unwrap();
        fs::write(&path, &bytes).unwrap();
        let _ = fs::remove_dir_all(shard.folder.path().join("spool"));
        let outcome = shard.tail(0).and_then(|mut tail| tail.next_batch(usize::MAX));
        // Whatever was flipped is covered by a checksum.
        let message = outcome.map(|batch| batch.operations.len()).unwrap_err().to_string();
        assert!(message.contains("translog-2.tlog"), "byte {at}: {message}");
    }
}
