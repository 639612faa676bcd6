//! Random histories of a shard, written as OpenSearch writes them, against a model of what a tail
//! must yield.
#![allow(clippy::unwrap_used)]

mod writer;

use std::collections::BTreeMap;
use std::fs;

use leader_agent::{OperationKind, ShardTail, Spool, TailError};
use proptest::prelude::*;
use shardline_common::types::{SeqNo, ShardId};
use writer::{Generation, UUID, write_checkpoint, write_generation};

/// A history: operations 0..n, out of order within a window, cut into generations; then perhaps a
/// failover that rolled back what was above the global checkpoint and wrote it anew under the next
/// term.
fn history() -> impl Strategy<Value = (Vec<Generation>, i64)> {
    (
        1usize..120,
        1usize..5,
        any::<u64>(),
        0usize..20,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(count, generations, seed, rolled_back, trimmed, with_lost)| {
                let mut random = seed | 1;
                let mut next = move |below: usize| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    (random % below.max(1) as u64) as usize
                };
                let mut operations: Vec<_> = (0..count as i64)
                    .map(|seq_no| (seq_no, 1, format!("d{}", next(20))))
                    .collect();
                for at in 0..count {
                    let other = (at + next(8)).min(count - 1);
                    operations.swap(at, other);
                }
                let mut files: Vec<Generation> = operations
                    .chunks(count.div_ceil(generations))
                    .map(|chunk| Generation {
                        term: 1,
                        operations: chunk.to_vec(),
                        lost: Vec::new(),
                        trimmed_above: None,
                    })
                    .collect();
                let kept = count.saturating_sub(rolled_back) as i64;
                if with_lost {
                    files
                        .last_mut()
                        .unwrap()
                        .lost
                        .push((kept, 1, "never happened".into()));
                }
                if rolled_back > 0 {
                    let anew = (kept..kept + rolled_back as i64)
                        .map(|seq_no| (seq_no, 2, format!("n{seq_no}")));
                    if trimmed {
                        for file in &mut files {
                            file.trimmed_above = Some(kept - 1);
                        }
                    }
                    files.push(Generation {
                        term: 2,
                        operations: anew.collect(),
                        lost: Vec::new(),
                        trimmed_above: None,
                    });
                }
                let highest = files
                    .iter()
                    .flat_map(|file| &file.operations)
                    .map(|(seq_no, ..)| *seq_no)
                    .max()
                    .unwrap();
                let global = highest - next(4) as i64;
                (files, global)
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// From any position on: every operation up to the global checkpoint, once, in order, each in
    /// its newest term. The first generations may have been closed and deleted while nobody held
    /// their checkpoints.
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
            let offset = write_generation(&translog, UUID, number, generation);
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
