//! Real translog folders, recorded from running servers: of OpenSearch 3.8.0, against what the
//! server's own reader says of them; and of older versions, against the requests that made them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use leader_agent::{Operation, OperationKind, ShardSpool, ShardTail, Spool, TailError};
use shardline_common::types::{SeqNo, ShardId};

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/translog-sample")
        .join(name)
}

fn of_version(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/versions")
        .join(name)
}

/// A copy of a sample, because tails link files into a spool beside it.
struct Shard {
    folder: tempfile::TempDir,
}

impl Shard {
    fn of(name: &str) -> Self {
        Self::copied(&sample(name))
    }

    fn copied(sample: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("translog")).unwrap();
        for entry in fs::read_dir(sample).unwrap() {
            let entry = entry.unwrap();
            fs::copy(
                entry.path(),
                folder.path().join("translog").join(entry.file_name()),
            )
            .unwrap();
        }
        Self { folder }
    }

    fn translog(&self) -> PathBuf {
        self.folder.path().join("translog")
    }

    fn spool(&self) -> ShardSpool {
        Spool::open(&self.folder.path().join("spool"), 1 << 30)
            .unwrap()
            .shard(&"uuid".into(), ShardId(0))
            .unwrap()
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
        OperationKind::Index {
            id,
            source,
            routing,
            version,
        } => {
            let routing = routing.as_deref().unwrap_or("null");
            let source = String::from_utf8_lossy(source);
            format!(
                "INDEX seq={seq} term={term} ver={version} id={id} routing={routing} source={source}"
            )
        }
        OperationKind::Delete { id, version } => {
            format!("DELETE seq={seq} term={term} ver={version} id={id}")
        }
        OperationKind::NoOp { reason } => format!("NO_OP seq={seq} term={term} reason={reason}"),
    }
}

fn dumped(name: &str) -> Vec<String> {
    let dump = fs::read_to_string(
        sample("..")
            .join("translog-sample")
            .join(format!("{name}.dump.txt")),
    )
    .unwrap();
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
        let first = dumped(name)[0]
            .split("seq=")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let read: Vec<String> = Shard::of(name)
            .operations(first)
            .iter()
            .map(describe)
            .collect();
        let dumped = dumped(name);
        assert_eq!(read.len(), dumped.len(), "{name}");
        for (read, dumped) in read.iter().zip(&dumped) {
            // Long and binary sources are cut short or escaped in the dump.
            let head = |line: &str| {
                let (fields, source) = line.split_once(" source=").unwrap_or((line, ""));
                let words = fields.split_whitespace().collect::<Vec<_>>().join(" ");
                let plain: String = source
                    .chars()
                    .take_while(char::is_ascii_graphic)
                    .take(40)
                    .collect();
                (
                    words,
                    plain.split("...").next().unwrap_or_default().to_owned(),
                )
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

/// What `tests/data/versions/record.sh` writes.
fn recorded() -> Vec<String> {
    let mut operations = vec![
        r#"INDEX seq=0 term=1 ver=1 id=1 routing=null source={"n":1,"text":"first"}"#.to_owned(),
        r#"INDEX seq=1 term=1 ver=1 id=2 routing=röute source={"n":2,"text":"ünïcode 😀"}"#
            .to_owned(),
        r#"INDEX seq=2 term=1 ver=1 id=3 routing=null source={"n":3}"#.to_owned(),
        r#"INDEX seq=3 term=1 ver=2 id=1 routing=null source={"n":10}"#.to_owned(),
        "DELETE seq=4 term=1 ver=2 id=3".to_owned(),
        "DELETE seq=5 term=1 ver=1 id=never".to_owned(),
        r#"INDEX seq=6 term=1 ver=77 id=ext routing=null source={"n":4}"#.to_owned(),
    ];
    let pad = "x".repeat(50);
    let bulk = (1..=20).map(|n| {
        format!(
            r#"INDEX seq={} term=1 ver=1 id=b{n} routing=null source={{"n":{n},"pad":"{pad}"}}"#,
            n + 6
        )
    });
    operations.extend(bulk);
    operations.push(r#"INDEX seq=27 term=1 ver=1 id=last routing=null source={"n":99}"#.to_owned());
    operations
}

#[test]
fn every_version_s_files_are_read() {
    for (version, operations) in [
        ("elasticsearch-6.3.2", 27),
        ("elasticsearch-6.8.0", 27),
        ("elasticsearch-7.10.2", 28),
        ("opensearch-1.3.2", 28),
        ("opensearch-2.19.1", 28),
    ] {
        let shard = Shard::copied(&of_version(version));
        let read: Vec<String> = shard.operations(0).iter().map(describe).collect();
        assert_eq!(read, recorded()[..operations], "{version}");
    }
}

#[test]
fn an_unknown_version_stops_the_shard_with_an_error_that_names_it() {
    for (file, at, value, expected) in [
        // Behind the magic number, the codec's name and its length.
        ("translog.ckp", 11, 9, "version 9"),
        ("translog-3.tlog", 16, 7, "version 7"),
    ] {
        let shard = Shard::copied(&of_version("opensearch-2.19.1"));
        let path = shard.translog().join(file);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] = value;
        fs::write(&path, bytes).unwrap();
        let outcome = shard
            .tail(0)
            .and_then(|mut tail| tail.next_batch(usize::MAX));
        let message = outcome
            .map(|batch| batch.operations.len())
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(file) && message.contains(expected) && message.contains("known"),
            "{message}"
        );
    }
}

#[test]
fn an_empty_translog_is_no_gap_until_something_is_wanted_of_it() {
    let shard = Shard::of("after-flush");
    let mut tail = shard.tail(0).unwrap();
    let Err(TailError::Gap {
        wanted,
        lowest: None,
        global_checkpoint,
    }) = tail.reaches_next()
    else {
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
    for name in [
        "translog-2.tlog",
        "translog-2.ckp",
        "translog-3.tlog",
        "translog-3.ckp",
    ] {
        fs::remove_file(shard.translog().join(name)).unwrap();
    }
    let seq_nos: Vec<i64> = shard
        .operations(0)
        .iter()
        .map(|operation| operation.seq_no.0)
        .collect();
    assert_eq!(seq_nos, (0..=15).collect::<Vec<_>>());
}

#[test]
fn a_generation_without_its_checkpoint_is_not_trusted() {
    let shard = Shard::of("generations");
    for name in ["translog-2.ckp", "translog-3.ckp"] {
        fs::remove_file(shard.translog().join(name)).unwrap();
    }
    assert!(matches!(
        shard.tail(0).unwrap().reaches_next(),
        Err(TailError::Gap { .. })
    ));
    assert_eq!(shard.operations(10).len(), 6);
}

#[test]
fn releasing_lets_go_of_what_kafka_has() {
    let shard = Shard::of("generations");
    let mut tail = shard.tail(0).unwrap();
    while !tail.next_batch(1000).unwrap().operations.is_empty() {}
    tail.release_up_to(SeqNo(9)).unwrap();
    let kept: Vec<i64> = shard
        .spool()
        .generations()
        .unwrap()
        .iter()
        .map(|generation| generation.0)
        .collect();
    assert_eq!(kept, [4, 5]);
}

#[test]
fn a_missing_folder_says_that_the_shard_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(&folder.path().join("spool"), 0)
        .unwrap()
        .shard(&"u".into(), ShardId(0))
        .unwrap();
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
        let outcome = shard
            .tail(0)
            .and_then(|mut tail| tail.next_batch(usize::MAX));
        // Whatever was flipped is covered by a checksum.
        let message = outcome
            .map(|batch| batch.operations.len())
            .unwrap_err()
            .to_string();
        assert!(message.contains("translog-2.tlog"), "byte {at}: {message}");
    }
}

/// A node may have thousands of shards, and each reads up to 1 MiB at once.
#[test]
fn a_shard_that_is_read_to_its_end_keeps_nothing_of_its_files() {
    let shard = Shard::of("before-flush");
    let mut tail = shard.tail(0).unwrap();
    let operations = tail.next_batch(usize::MAX).unwrap().operations;
    let source = operations
        .into_iter()
        .rev()
        .find_map(|operation| match operation.kind {
            OperationKind::Index { source, .. } => Some(source),
            _ => None,
        });
    assert!(
        source.unwrap().is_unique(),
        "the tail keeps what it has read"
    );
}
