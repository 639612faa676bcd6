//! What must hold for any bytes in the place of OpenSearch's files; for property tests, and for the
//! fuzz target in `fuzz`.

use std::fs;

use bytes::Bytes;
use leader_agent::Checkpoint;
use leader_agent::GenerationFile;
use shardline_common::types::Generation;

/// Reads the bytes as a generation: it ends, and every operation that it yields has the checksum
/// that stands behind it.
pub fn generation(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("translog-7.tlog");
    fs::write(&path, bytes).unwrap();
    let Ok(mut file) = GenerationFile::open(&path, Generation(7)) else {
        return;
    };
    let mut position = file.position() as usize;
    while let Ok(Some(_)) = file.next(bytes.len() as u64) {
        let next = file.position() as usize;
        let (body, checksum) = bytes[position + 4..next].split_at(next - position - 8);
        assert_eq!(
            checksum,
            crc32fast::hash(body).to_be_bytes(),
            "a wrong operation was let through"
        );
        assert!(next > position);
        position = next;
    }
}

pub fn checkpoint(bytes: &[u8]) {
    let _ = Checkpoint::parse(Bytes::copy_from_slice(bytes));
}
