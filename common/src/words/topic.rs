//! Names of topics.

use crate::words::types::{ClusterUuid, IndexName, IndexUuid, TopicName};

/// Kafka's limit for a topic's name, in bytes.
const MAX_NAME: usize = 249;
/// Room that is left for the suffix of a bootstrap topic.
const SUFFIX_ROOM: usize = 48;

/// The topic of one incarnation of a leader index: `<prefix>.<cluster>.<index>.<first 8 characters
/// of the uuid>`.
///
/// A character that Kafka forbids becomes `_xx` for each of its UTF-8 bytes; a name that would be
/// too long is cut and gets a hash of the whole.
pub fn replication_topic(
    prefix: &str,
    cluster: &str,
    index: &IndexName,
    uuid: &IndexUuid,
) -> TopicName {
    let short_uuid: String = uuid.as_str().chars().take(8).collect();
    let full = format!(
        "{prefix}.{}.{}.{}",
        escape(cluster),
        escape(index.as_str()),
        escape(&short_uuid)
    );
    if full.len() <= MAX_NAME - SUFFIX_ROOM {
        return TopicName(full);
    }
    let hash = fnv1a(full.as_bytes());
    // The escaped name is ASCII apart from the prefix, which the configuration restricts to Kafka's
    // characters.
    let head: String = full.chars().take(MAX_NAME - SUFFIX_ROOM - 17).collect();
    TopicName(format!("{head}.{hash:016x}"))
}

/// The topic of one bootstrap of an index.
pub fn bootstrap_topic(replication: &TopicName, bootstrap_id: &str) -> TopicName {
    TopicName(format!("{replication}.bootstrap.{bootstrap_id}"))
}

/// Compacted: what leader agents announce.
pub fn leader_control_topic(prefix: &str) -> TopicName {
    TopicName(format!("{prefix}.control.leader"))
}

/// Compacted: what follower agents ask.
pub fn follower_control_topic(prefix: &str) -> TopicName {
    TopicName(format!("{prefix}.control.follower"))
}

/// Without records: its partitions are the slots that the follower agents of a cluster share among
/// themselves.
pub fn slots_topic(prefix: &str, follower_cluster: &ClusterUuid) -> TopicName {
    TopicName(format!(
        "{prefix}.follower.{}.slots",
        escape(follower_cluster.as_str())
    ))
}

/// Compacted: documents that a follower cluster refuses.
pub fn dead_letter_topic(prefix: &str, follower_cluster: &ClusterUuid) -> TopicName {
    TopicName(format!(
        "{prefix}.follower.{}.dead-letters",
        escape(follower_cluster.as_str())
    ))
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' => escaped.push(char::from(byte)),
            other => escaped.push_str(&format!("_{other:02x}")),
        }
    }
    escaped
}

/// FNV-1a, 64 bits: stable across builds, which the standard library's hasher is not.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topic(index: &str) -> String {
        replication_topic(
            "shardline",
            "eu",
            &index.into(),
            &"ibhFku_AQZ2fBjSXIclm_A".into(),
        )
        .0
    }

    #[test]
    fn a_plain_name_stays_readable() {
        assert_eq!(
            topic("logs-2026.11"),
            "shardline.eu.logs-2026.11.ibhFku_5fA"
        );
    }

    proptest! {
        #[test]
        fn names_are_legal_and_distinct(a in ".{1,255}", b in ".{1,255}") {
            let (first, second) = (topic(&a), topic(&b));
            prop_assert!(first.len() <= MAX_NAME - SUFFIX_ROOM);
            prop_assert!(first.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c)));
            prop_assert_eq!(a == b, first == second);
        }
    }
}
