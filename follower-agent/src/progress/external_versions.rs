//! Which documents of a shard have versions that users have given.

use parking_lot::Mutex;
use shardline_common::control::VersionExample;
use shardline_common::types::SeqNo;

/// Whether users have given an operation its version. One that OpenSearch has given counts the
/// operations on the document, each of which had a sequence number of its own.
fn is_external(version: i64, seq_no: SeqNo) -> bool {
    version > seq_no.0.saturating_add(1)
}

/// The first document of a shard that was seen.
#[derive(Debug, Default)]
pub struct ExternalVersionsSeen(Mutex<Option<VersionExample>>);

impl ExternalVersionsSeen {
    pub(crate) fn note(&self, id: &str, version: i64, seq_no: SeqNo) {
        if !is_external(version, seq_no) {
            return;
        }
        self.0.lock().get_or_insert_with(|| VersionExample {
            id: id.to_owned(),
            version,
        });
    }

    pub(crate) fn first(&self) -> Option<VersionExample> {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_that_counting_cannot_reach_are_taken_for_users_own() {
        // The first operation of a shard makes version 1.
        assert!(!is_external(1, SeqNo(0)));
        assert!(is_external(2, SeqNo(0)));
        assert!(!is_external(201, SeqNo(200)));
        assert!(is_external(1_700_000_000_000, SeqNo(200)));
        let seen = ExternalVersionsSeen::default();
        seen.note("a", 1, SeqNo(5));
        assert_eq!(seen.first(), None);
        seen.note("b", 9, SeqNo(5));
        seen.note("c", 99, SeqNo(6));
        assert_eq!(seen.first().as_ref().map(|example| &*example.id), Some("b"));
    }
}
