//! Random histories of a shard, written as OpenSearch writes them, against a model of what a tail must yield.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use leader_agent::translog::{OperationKind, ShardTail, Spool, TailError};
use proptest::prelude::*;
use shardline_common::types::{SeqNo, ShardId};

const CODEC_MAGIC: u32 = 0x3fd7_6c17;

#[derive(Debug, Clone)]
struct Generation {
    term: i64,
    /// In the order of the file: seq_no, term, document.
    operations: Vec<(i64, i64, String)>,
    /// Written but not durable when the node went down.
    lost: Vec<(i64, i64, String)>,
    trimmed_above: Option<i64>,
}

fn header() -> impl Fn(&str, i32) -> Vec<u8> {
    |name, version| {
        let mut bytes = CODEC_MAGIC.to_be_bytes().to_vec();
        bytes.push(name.len() as u8);
        bytes.extend(name.as_bytes());
        bytes.extend(version.to_be_bytes());
        bytes
    }
}

fn vint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn operation(seq_no: i64, term: i64, document: &str) -> Vec<u8> {
    let mut body = vec![2, 11];
    body.extend(vint(document.len()));
    body.extend(document.as_bytes());
    let source = format!("{{\"d\":\"{document}\",\"t\":{term}}}");
    body.extend(vint(source.len()));
    body.extend(source.as_bytes());
    body.push(0);
    for number in [1, -1, seq_no, term] {
        body.extend(number.to_be_bytes());
    }
    let mut bytes = (body.len() as u32 + 4).to_be_bytes().to_vec();
    bytes.extend(&body);
    bytes.extend(crc32fast::hash(&body).to_be_bytes());
    bytes
}

/// Writes a generation; returns its durable length.
fn write_generation(folder: &Path, number: usize, generation: &Generation) -> u64 {
    let mut bytes = header()("translog", 3);
    bytes.extend(22u32.to_be_bytes());
    bytes.extend(b"ibhFku_AQZ2fBjSXIclm_A");
    bytes.extend(generation.term.to_be_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
    for (seq_no, term, document) in &generation.operations {
        bytes.extend(operation(*seq_no, *term, document));
    }
    let durable = bytes.len() as u64;
    for (seq_no, term, document) in &generation.lost {
        bytes.extend(operation(*seq_no, *term, document));
    }
    fs::write(folder.join(format!("translog-{number}.tlog")), bytes).unwrap();
    durable
}

fn write_checkpoint(path: &Path, number: usize, generation: &Generation, offset: u64, global: i64) {
    let seq_nos = || generation.operations.iter().map(|(seq_no, ..)| *seq_no);
    let mut bytes = header()("ckp", 4);
    bytes.extend((offset as i64).to_le_bytes());
    bytes.extend((generation.operations.len() as i32).to_le_bytes());
    for value in [
        number as i64,
        seq_nos().min().unwrap_or(-1),
        seq_nos().max().unwrap_or(-1),
        global,
        1,
        generation.trimmed_above.unwrap_or(-2),
    ] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend((!CODEC_MAGIC).to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(i64::from(crc32fast::hash(&bytes)).to_be_bytes());
    fs::write(path, bytes).unwrap();
}

/// A history: operations 0..n, out of order within a window, cut into generations; then perhaps a failover that rolled
/// back what was above the global checkpoint and wrote it anew under the next term.
fn history() -> impl Strategy<Value = (Vec<Generation>, i64)> {
    (1usize..120, 1usize..5, any::<u64>(), 0usize..20, any::<bool>(), any::<bool>()).prop_map(
        |(count, generations, seed, rolled_back, trimmed, with_lost)| {
            let mut random = seed | 1;
            let mut next = move |below: usize| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                (random % below.max(1) as u64) as usize
            };
            let mut operations: Vec<_> =
                (0..count as i64).map(|seq_no| (seq_no, 1, format!("d{}", next(20)))).collect();
            for at in 0..count {
                let other = (at + next(8)).min(count - 1);
                operations.swap(at, other);
            }
            let mut files: Vec<Generation> = operations
                .chunks(count.div_ceil(generations))
                .map(|chunk| Generation { term: 1, operations: chunk.to_vec(), lost: Vec::new(), trimmed_above: None })
                .collect();
            let kept = count.saturating_sub(rolled_back) as i64;
            if with_lost {
                files.last_mut().unwrap().lost.push((kept, 1, "never happened".into()));
            }
            if rolled_back > 0 {
                let anew = (kept..kept + rolled_back as i64).map(|seq_no| (seq_no, 2, format!("n{seq_no}")));
                if trimmed {
                    for file in &mut files {
                        file.trimmed_above = Some(kept - 1);
                    }
                }
                files.push(Generation { term: 2, operations: anew.collect(), lost: Vec::new(), trimmed_above: None });
            }
            let highest = files.iter().flat_map(|file| &file.operations).map(|(seq_no, ..)| *seq_no).max().unwrap();
            let global = highest - next(4) as i64;
            (files, global)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// From any position on: every operation up to the global checkpoint, once, in order, each in its newest term. The
    /// first generations may have been closed and deleted while nobody held their checkpoints.
    #[test]
    fn a_tail_yields_what_the_model_says(
        (files, global) in history(),
        from in 0i64..130,
        batch in 1usize..4000,
        deleted in 0usize..3,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let translog = folder.path().join("translog");
        fs::create_dir(&translog).unwrap();
        let mut expected = BTreeMap::new();
        for (number, generation) in (1..).zip(&files) {
            let offset = write_generation(&translog, number, generation);
            let is_newest = number == files.len();
            let name = if is_newest { "translog.ckp".to_owned() } else { format!("translog-{number}.ckp") };
            write_checkpoint(&translog.join(name), number, generation, offset, global);
            for (seq_no, term, document) in &generation.operations {
                if generation.trimmed_above.is_none_or(|limit| *seq_no <= limit) {
                    expected.insert(*seq_no, (*term, document.clone()));
                }
            }
        }
        let expected: Vec<_> = expected.into_iter().filter(|(seq_no, _)| (from..=global).contains(seq_no)).collect();
        let spool = Spool::open(&folder.path().join("spool"), 1 << 30).unwrap().shard(&"u".into(), ShardId(0)).unwrap();
        for number in 1..=deleted.min(files.len() - 1) {
            let file = format!("translog-{number}.tlog");
            fs::rename(translog.join(&file), folder.path().join("spool/u/0").join(&file)).unwrap();
            fs::remove_file(translog.join(format!("translog-{number}.ckp"))).unwrap();
        }
        let mut tail = ShardTail::open(&translog, spool, SeqNo(from)).unwrap();
        let mut found = Vec::new();
        loop {
            match tail.next_batch(batch) {
                Ok(batch) if batch.operations.is_empty() => break,
                Ok(batch) => found.extend(batch.operations.into_iter().map(|operation| {
                    let OperationKind::Index { id, .. } = operation.kind else { panic!("only documents were written") };
                    (operation.seq_no.0, (operation.primary_term.0, id))
                })),
                Err(TailError::Gap { wanted, .. }) => {
                    prop_assert!(!expected.iter().any(|(seq_no, _)| *seq_no == wanted.0), "{wanted} is there");
                    break;
                }
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            }
        }
        prop_assert_eq!(found, expected);
    }
}
