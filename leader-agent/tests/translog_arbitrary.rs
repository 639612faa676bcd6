//! Damaged, cut and made-up translog files: errors, and never a panic, an endless loop or a wrong
//! operation.
#![allow(clippy::unwrap_used)]

mod arbitrary;

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

/// All recorded files with this extension.
fn samples(extension: &str) -> Vec<Vec<u8>> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<PathBuf> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                files.push(fs::read(path).unwrap());
            }
        }
    }
    assert!(files.len() > 5);
    files
}

/// A file as it was recorded, then cut, and changed in some places.
fn damaged(extension: &str) -> impl Strategy<Value = Vec<u8>> {
    let file = prop::sample::select(samples(extension));
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (file, any::<prop::sample::Index>(), any::<bool>(), changes).prop_map(
        |(mut file, end, is_cut, changes)| {
            if is_cut {
                file.truncate(end.index(file.len() + 1));
            }
            if !file.is_empty() {
                for (at, value) in changes {
                    let at = at.index(file.len());
                    file[at] = value;
                }
            }
            file
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn damaged_generations(bytes in damaged("tlog")) {
        arbitrary::generation(&bytes);
    }

    #[test]
    fn damaged_checkpoints(bytes in damaged("ckp")) {
        arbitrary::checkpoint(&bytes);
    }

    #[test]
    fn made_up_files(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        arbitrary::generation(&bytes);
        arbitrary::checkpoint(&bytes);
    }

    /// Behind a header that is right: operations of any content with checksums that are right.
    #[test]
    fn made_up_operations(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..80), 0..5)) {
        let sample = samples("tlog").remove(0);
        let uuid = u32::from_be_bytes(sample[17..21].try_into().unwrap()) as usize;
        let mut file = sample[..21 + uuid + 12].to_vec();
        for body in bodies {
            file.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
            file.extend(&body);
            file.extend(crc32fast::hash(&body).to_be_bytes());
        }
        arbitrary::generation(&file);
    }
}
