//! A stretch of operations as one bulk request: within it, the latest operation of each document
//! wins. Pure.

use std::collections::HashMap;

use bytes::Bytes;
use serde::Serialize;
use shardline_common::record::OperationKind;
use shardline_common::types::{Epoch, ExternalVersion, SeqNo, ShardId};

use super::json_line::to_json_line;
use super::outcome::Rejection;
use super::routing::Spread;

/// One write of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub id: String,
    pub seq_no: SeqNo,
    /// The new source, one line of JSON; `None` deletes.
    pub source: Option<Bytes>,
    pub routing: Option<String>,
}

/// Operations collected for one request.
#[derive(Debug, Default)]
pub struct Batch {
    writes: Vec<Write>,
    unreadable: Vec<Rejection>,
    by_id: HashMap<String, usize>,
    operations: u64,
    bytes: usize,
    last: Option<SeqNo>,
}

/// What a write weighs beside its id and source, in bytes.
const WRITE_OVERHEAD: usize = 100;

impl Batch {
    /// Adds an operation.
    pub fn add(&mut self, seq_no: SeqNo, kind: OperationKind) {
        self.operations += 1;
        self.last = Some(self.last.map_or(seq_no, |last| last.max(seq_no)));
        let write = match kind {
            OperationKind::NoOp => return,
            OperationKind::Delete { id, .. } => Write {
                id,
                seq_no,
                source: None,
                routing: None,
            },
            OperationKind::Index {
                id,
                source,
                routing,
                ..
            } => match to_json_line(source) {
                Ok(source) => Write {
                    id,
                    seq_no,
                    source: Some(source),
                    routing,
                },
                Err(error) => {
                    let (error_type, reason) = ("unreadable_source".to_owned(), error.to_string());
                    return self.unreadable.push(Rejection {
                        id,
                        seq_no,
                        error_type,
                        reason,
                    });
                }
            },
        };
        if let Some(&at) = self.by_id.get(&write.id) {
            // Documents of a resync may stand before operations that are older.
            if self.writes[at].seq_no <= write.seq_no {
                self.bytes = self.bytes + write.weight() - self.writes[at].weight();
                self.writes[at] = write;
            }
        } else {
            self.bytes += write.weight();
            self.by_id.insert(write.id.clone(), self.writes.len());
            self.writes.push(write);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.operations == 0
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many operations went in; at least as many as there are writes.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// The writes, and operations whose documents cannot be read.
    pub fn into_parts(self) -> (Vec<Write>, Vec<Rejection>) {
        (self.writes, self.unreadable)
    }

    /// The highest sequence number that went in.
    pub fn last(&self) -> Option<SeqNo> {
        self.last
    }
}

impl Write {
    fn weight(&self) -> usize {
        self.id.len() + self.source.as_ref().map_or(0, Bytes::len) + WRITE_OVERHEAD
    }
}

/// What the versions and routings of a shard's writes are made from.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub shard: ShardId,
    pub epoch: Epoch,
    pub spread: Spread,
}

#[derive(Serialize)]
struct Action<'a> {
    _id: &'a str,
    version: i64,
    version_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    routing: Option<&'a str>,
}

/// The body of a `_bulk` request for these writes.
pub fn bulk_body(writes: &[Write], target: &Target) -> Bytes {
    let size = writes.iter().map(Write::weight).sum();
    let mut body = Vec::with_capacity(size);
    for write in writes {
        let synthetic = write
            .source
            .is_none()
            .then(|| target.spread.routing_to(target.shard, &write.id));
        let action = Action {
            _id: &write.id,
            version: ExternalVersion::new(target.epoch, write.seq_no).0,
            version_type: "external_gte",
            routing: write.routing.as_deref().or(synthetic.as_deref()),
        };
        body.extend_from_slice(if write.source.is_some() {
            b"{\"index\":"
        } else {
            b"{\"delete\":"
        });
        // Writing a plain struct into memory cannot fail.
        let _ = serde_json::to_writer(&mut body, &action);
        body.extend_from_slice(b"}\n");
        if let Some(source) = &write.source {
            body.extend_from_slice(source);
            body.push(b'\n');
        }
    }
    Bytes::from(body)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn target() -> Target {
        let spread = Spread {
            number_of_shards: 1,
            routing_num_shards: 1024,
            partition_size: 1,
        };
        Target {
            shard: ShardId(0),
            epoch: Epoch(0),
            spread,
        }
    }

    fn index(id: &str, source: &str) -> OperationKind {
        OperationKind::Index {
            id: id.into(),
            source: source.to_owned().into(),
            routing: None,
            version: 1,
        }
    }

    #[test]
    fn the_body_carries_external_versions_and_quoted_ids() {
        let mut batch = Batch::default();
        batch.add(SeqNo(4), index("a\"/ü", "{}"));
        batch.add(
            SeqNo(5),
            OperationKind::Delete {
                id: "b".into(),
                version: 9,
            },
        );
        assert_eq!(
            std::str::from_utf8(&bulk_body(batch.writes(), &target())).unwrap(),
            "{\"index\":{\"_id\":\"a\\\"/ü\",\"version\":5,\"version_type\":\"external_gte\"}}\n{}\n\
             {\"delete\":{\"_id\":\"b\",\"version\":6,\"version_type\":\"external_gte\",\"routing\":\"0\"}}\n"
        );
    }

    proptest! {
        /// A batch does to the documents what its operations do one after the other.
        #[test]
        fn the_last_operation_of_a_document_wins(operations in prop::collection::vec((0u8..6, prop::option::of(0u16..1000)), 0..60)) {
            let (mut batch, mut expected) = (Batch::default(), BTreeMap::new());
            for (seq_no, (id, value)) in operations.iter().enumerate() {
                let (id, seq_no) = (id.to_string(), SeqNo(seq_no as i64));
                let kind = match value {
                    Some(value) => index(&id, &format!("{{\"v\":{value}}}")),
                    None => OperationKind::Delete { id: id.clone(), version: 1 },
                };
                expected.insert(id, (seq_no, value.map(|value| format!("{{\"v\":{value}}}").into_bytes())));
                batch.add(seq_no, kind);
            }
            prop_assert_eq!(batch.operations(), operations.len() as u64);
            let weight: usize = batch.writes().iter().map(Write::weight).sum();
            prop_assert_eq!(batch.bytes(), weight);
            let found: BTreeMap<_, _> = batch
                .into_parts()
                .0
                .into_iter()
                .map(|write| (write.id, (write.seq_no, write.source.map(|source| source.to_vec()))))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
