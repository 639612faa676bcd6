//! The record format of replication topics: what one Kafka record says. Described in
//! `docs/record-format.md`.

use std::borrow::Cow;

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use serde::{Deserialize, Serialize};

use crate::words::metadata::IndexMetadata;
use crate::words::types::{Offset, PrimaryTerm, SeqNo};

pub use crate::words::types::FrameId;

mod packed;

pub use packed::{Pack, packs};

/// The newest version of the format. Records say the lowest version that has their kind.
pub const FORMAT: &str = "3";
/// The format of records that hold one operation, or none.
const FORMAT_OF_ONE: &str = "2";
/// The versions that this build reads. Version 1 had no resync records, version 2 no packed
/// operations.
const READABLE: [&str; 3] = ["1", FORMAT_OF_ONE, FORMAT];
/// What a heartbeat announces that does not say it: those of earlier builds came every five
/// seconds.
const NEXT_WITHIN_MS: i64 = 5_000;

/// One record of a replication or bootstrap topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// For an operation its own sequence number; for everything else that of the last operation
    /// before it in the partition (−1: none), so that the last record of a partition always tells
    /// how far the partition reaches.
    pub seq_no: SeqNo,
    /// When the record was captured, in milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    Operation(Operation),
    /// The index's metadata from here on; precedes the first operation that needs it.
    Metadata(Box<IndexMetadata>),
    /// Nothing new; the leader's checkpoint at this time, and within which time the partition gets
    /// its next record.
    Heartbeat {
        global_checkpoint: SeqNo,
        next_within_ms: i64,
    },
    /// The partition begins here: operations up to this record's `seq_no` are older than the
    /// leader's translog.
    Gap {
        from: SeqNo,
    },
    /// The leader's shard lost acknowledged operations, and its history goes on from this record's
    /// `seq_no`: it was restored, or an outdated copy was made its primary. What stands before with
    /// a higher `seq_no` is not the leader's.
    Rewound {
        from: SeqNo,
    },
    /// What the leader's translog no longer has comes from a scan of the shard instead, up to the
    /// `ResyncEnd`. All records between them have the `seq_no` of the operation before the frame,
    /// so that a frame that was broken off counts for nothing.
    ResyncBegin(ResyncBegin),
    /// In a resync: a document that was last changed in the missing stretch, by the operation
    /// `seq_no`.
    ResyncDocument {
        frame: FrameId,
        seq_no: SeqNo,
        operation: Operation,
    },
    /// In a resync: ids of documents that exist and were not changed in the missing stretch.
    ResyncIds {
        frame: FrameId,
        ids: Vec<String>,
    },
    /// The partition now reaches this record's `seq_no`.
    ResyncEnd(ResyncEnd),
    /// Bootstrap topics: a scan of the shard begins.
    SnapshotBegin(SnapshotBegin),
    /// Bootstrap topics: the scan is complete.
    SnapshotEnd(SnapshotEnd),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    pub primary_term: PrimaryTerm,
    pub kind: OperationKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum OperationKind {
    Index {
        id: String,
        source: Bytes,
        routing: Option<String>,
        version: i64,
    },
    Delete {
        id: String,
        version: i64,
    },
    NoOp,
}

impl OperationKind {
    /// What it brings, in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Index {
                id,
                source,
                routing,
                ..
            } => id.len() + source.len() + routing.as_ref().map_or(0, String::len),
            Self::Delete { id, .. } => id.len(),
            Self::NoOp => 0,
        }
    }
}

/// What a resync is about to bring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResyncBegin {
    pub frame: FrameId,
    /// The first and the last operation of the missing stretch.
    pub from: SeqNo,
    pub to: SeqNo,
    pub cause: String,
    /// How many documents and ids the scan expects to find.
    pub documents: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResyncEnd {
    pub frame: FrameId,
    pub documents: u64,
    /// Whether the frame names every document that exists: one that the follower has, no newer than
    /// the stretch, and the frame does not name was deleted on the leader. Otherwise deletions of
    /// the stretch come with a later frame.
    pub complete: bool,
}

/// Where the stream takes over from a snapshot. A snapshot that was started again has several; the
/// first one counts, because a document that an earlier attempt scanned may have been deleted
/// since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotBegin {
    /// Every operation up to here is in the snapshot.
    pub seq_no: SeqNo,
    /// The replication topic's partition is to be read from here.
    pub offset: Offset,
    /// How many documents the scan expects to find; others may come and go meanwhile.
    pub documents: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotEnd {
    pub documents: u64,
    /// The highest sequence number in the scan; the copy is consistent once the stream has passed
    /// it.
    pub max_seq_no: SeqNo,
}

/// Why a record cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("header {0} is missing: the record was not written by a Shardline leader agent")]
    MissingHeader(&'static str),
    #[error("header {name} is {value:?}, expected {expected}")]
    BadHeader {
        name: &'static str,
        value: String,
        expected: &'static str,
    },
    #[error(
        "record format {0:?} is not known to this build (it reads up to \"{FORMAT}\"): upgrade the follower agent first"
    )]
    UnknownFormat(String),
    #[error("a record of kind {op} has no readable {what}: {reason}")]
    BadBody {
        op: String,
        what: &'static str,
        reason: String,
    },
}

/// A record in Kafka's terms.
pub struct Encoded<'a> {
    pub key: Option<&'a [u8]>,
    pub value: Cow<'a, [u8]>,
    pub headers: OwnedHeaders,
}

impl Record {
    pub fn encode(&self) -> Encoded<'_> {
        let mut headers = Written::common(FORMAT_OF_ONE, self.body.name(), self);
        let (key, value) = match &self.body {
            Body::Operation(operation) | Body::ResyncDocument { operation, .. } => {
                if let Body::ResyncDocument { frame, seq_no, .. } = &self.body {
                    headers = headers
                        .number("frame", frame.0)
                        .number("document_seq_no", seq_no.0);
                }
                headers = headers.number("primary_term", operation.primary_term.0);
                match &operation.kind {
                    OperationKind::Index {
                        id,
                        source,
                        routing,
                        version,
                    } => {
                        headers = headers.number("version", *version);
                        if let Some(routing) = routing {
                            headers = headers.text("routing", routing);
                        }
                        (Some(id.as_bytes()), source.as_ref().into())
                    }
                    OperationKind::Delete { id, version } => {
                        headers = headers.number("version", *version);
                        (Some(id.as_bytes()), Cow::default())
                    }
                    OperationKind::NoOp => (None, Cow::default()),
                }
            }
            Body::Metadata(metadata) => (None, json(metadata)),
            Body::Heartbeat {
                global_checkpoint,
                next_within_ms,
            } => {
                headers = headers.number("global_checkpoint", global_checkpoint.0);
                headers = headers.number("next_within", *next_within_ms);
                (None, Cow::default())
            }
            Body::Gap { from } | Body::Rewound { from } => {
                headers = headers.number("from", from.0);
                (None, Cow::default())
            }
            Body::ResyncBegin(begin) => (None, json(begin)),
            Body::ResyncIds { frame, ids } => {
                headers = headers.number("frame", frame.0);
                (None, json(ids))
            }
            Body::ResyncEnd(end) => (None, json(end)),
            Body::SnapshotBegin(begin) => (None, json(begin)),
            Body::SnapshotEnd(end) => (None, json(end)),
        };
        Encoded {
            key,
            value,
            headers: headers.0,
        }
    }

    /// Reads a record as Kafka delivered it: there is at least one in it. Sources are copied once,
    /// out of librdkafka's buffer.
    pub fn decode(message: &BorrowedMessage<'_>) -> Result<Vec<Self>, RecordError> {
        let headers = message.headers().ok_or(RecordError::MissingHeader("fmt"))?;
        let pairs = headers.iter().map(|header| (header.key, header.value));
        Self::from_parts(message.key(), message.payload(), pairs)
    }

    /// Reads what a Kafka record holds from its key, value and headers.
    pub fn from_parts<'a>(
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) -> Result<Vec<Self>, RecordError> {
        let fields = Fields::collect(headers)?;
        match fields.fmt {
            Some(known) if READABLE.contains(&known) => {}
            Some(other) => return Err(RecordError::UnknownFormat(other.to_owned())),
            None => return Err(RecordError::MissingHeader("fmt")),
        }
        let op = fields.op.ok_or(RecordError::MissingHeader("op"))?;
        let value = value.unwrap_or_default();
        let timestamp_ms = number("ts", fields.ts)?;
        if op == packed::OP {
            return packed::read(
                value,
                PrimaryTerm(number("primary_term", fields.primary_term)?),
                timestamp_ms,
            );
        }
        let index = || {
            fields.operation(OperationKind::Index {
                id: document_id(op, key)?,
                source: Bytes::copy_from_slice(value),
                routing: fields.routing.map(str::to_owned),
                version: number("version", fields.version)?,
            })
        };
        let body = match op {
            "index" => Body::Operation(index()?),
            "rewound" => Body::Rewound {
                from: SeqNo(number("from", fields.from)?),
            },
            "resync_document" => Body::ResyncDocument {
                frame: FrameId(number("frame", fields.frame)?),
                seq_no: SeqNo(number("document_seq_no", fields.document_seq_no)?),
                operation: index()?,
            },
            "resync_begin" => Body::ResyncBegin(from_json(op, value)?),
            "resync_ids" => Body::ResyncIds {
                frame: FrameId(number("frame", fields.frame)?),
                ids: from_json(op, value)?,
            },
            "resync_end" => Body::ResyncEnd(from_json(op, value)?),
            "delete" => Body::Operation(fields.operation(OperationKind::Delete {
                id: document_id(op, key)?,
                version: number("version", fields.version)?,
            })?),
            "noop" => Body::Operation(fields.operation(OperationKind::NoOp)?),
            "metadata" => Body::Metadata(Box::new(from_json(op, value)?)),
            "heartbeat" => Body::Heartbeat {
                global_checkpoint: SeqNo(number("global_checkpoint", fields.global_checkpoint)?),
                next_within_ms: match fields.next_within {
                    None => NEXT_WITHIN_MS,
                    given => number("next_within", given)?,
                },
            },
            "gap" => Body::Gap {
                from: SeqNo(number("from", fields.from)?),
            },
            "snapshot_begin" => Body::SnapshotBegin(from_json(op, value)?),
            "snapshot_end" => Body::SnapshotEnd(from_json(op, value)?),
            other => {
                return Err(RecordError::BadHeader {
                    name: "op",
                    value: other.to_owned(),
                    expected: "a kind of record that this build knows",
                });
            }
        };
        Ok(vec![Self {
            seq_no: SeqNo(number("seq_no", fields.seq_no)?),
            timestamp_ms,
            body,
        }])
    }
}

impl Body {
    fn name(&self) -> &'static str {
        match self {
            Self::Operation(Operation {
                kind: OperationKind::Index { .. },
                ..
            }) => "index",
            Self::Operation(Operation {
                kind: OperationKind::Delete { .. },
                ..
            }) => "delete",
            Self::Operation(Operation {
                kind: OperationKind::NoOp,
                ..
            }) => "noop",
            Self::Metadata(_) => "metadata",
            Self::Heartbeat { .. } => "heartbeat",
            Self::Gap { .. } => "gap",
            Self::Rewound { .. } => "rewound",
            Self::ResyncBegin(_) => "resync_begin",
            Self::ResyncDocument { .. } => "resync_document",
            Self::ResyncIds { .. } => "resync_ids",
            Self::ResyncEnd(_) => "resync_end",
            Self::SnapshotBegin(_) => "snapshot_begin",
            Self::SnapshotEnd(_) => "snapshot_end",
        }
    }
}

/// Headers being written. Six of them go with every operation, so nothing is allocated on the way
/// to librdkafka's list.
struct Written(OwnedHeaders);

impl Written {
    /// What every record has; `last` is the last of those in it.
    fn common(format: &str, op: &str, last: &Record) -> Self {
        Self(OwnedHeaders::new_with_capacity(8))
            .text("fmt", format)
            .text("op", op)
            .number("seq_no", last.seq_no.0)
            .number("ts", last.timestamp_ms)
    }

    fn text(self, key: &str, value: &str) -> Self {
        Self(self.0.insert(Header {
            key,
            value: Some(value),
        }))
    }

    fn number(self, key: &str, value: i64) -> Self {
        self.text(key, itoa::Buffer::new().format(value))
    }
}

#[derive(Default)]
struct Fields<'a> {
    fmt: Option<&'a str>,
    op: Option<&'a str>,
    seq_no: Option<&'a str>,
    ts: Option<&'a str>,
    primary_term: Option<&'a str>,
    version: Option<&'a str>,
    routing: Option<&'a str>,
    global_checkpoint: Option<&'a str>,
    next_within: Option<&'a str>,
    from: Option<&'a str>,
    frame: Option<&'a str>,
    document_seq_no: Option<&'a str>,
}

impl<'a> Fields<'a> {
    fn collect(
        headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) -> Result<Self, RecordError> {
        let mut fields = Self::default();
        for (name, value) in headers {
            let (name, slot) = match name {
                "fmt" => ("fmt", &mut fields.fmt),
                "op" => ("op", &mut fields.op),
                "seq_no" => ("seq_no", &mut fields.seq_no),
                "ts" => ("ts", &mut fields.ts),
                "primary_term" => ("primary_term", &mut fields.primary_term),
                "version" => ("version", &mut fields.version),
                "routing" => ("routing", &mut fields.routing),
                "global_checkpoint" => ("global_checkpoint", &mut fields.global_checkpoint),
                "next_within" => ("next_within", &mut fields.next_within),
                "from" => ("from", &mut fields.from),
                "frame" => ("frame", &mut fields.frame),
                "document_seq_no" => ("document_seq_no", &mut fields.document_seq_no),
                _ => continue, // a mirroring tool's own header
            };
            let value = value.unwrap_or_default();
            *slot = Some(
                std::str::from_utf8(value).map_err(|_| RecordError::BadHeader {
                    name,
                    value: String::from_utf8_lossy(value).into_owned(),
                    expected: "UTF-8 text",
                })?,
            );
        }
        Ok(fields)
    }

    fn operation(&self, kind: OperationKind) -> Result<Operation, RecordError> {
        Ok(Operation {
            primary_term: PrimaryTerm(number("primary_term", self.primary_term)?),
            kind,
        })
    }
}

fn number(name: &'static str, value: Option<&str>) -> Result<i64, RecordError> {
    let text = value.ok_or(RecordError::MissingHeader(name))?;
    text.parse().map_err(|_| RecordError::BadHeader {
        name,
        value: text.to_owned(),
        expected: "a decimal number of 64 bits",
    })
}

fn document_id(op: &str, key: Option<&[u8]>) -> Result<String, RecordError> {
    let bad = |reason: String| RecordError::BadBody {
        op: op.to_owned(),
        what: "key (the document's _id)",
        reason,
    };
    let key = key.ok_or_else(|| bad("there is none".to_owned()))?;
    String::from_utf8(key.to_vec()).map_err(|error| bad(error.to_string()))
}

fn json(value: &impl Serialize) -> Cow<'static, [u8]> {
    // Serialising plain structs with string keys into memory cannot fail.
    serde_json::to_vec(value).unwrap_or_default().into()
}

fn from_json<T: for<'de> Deserialize<'de>>(op: &str, value: &[u8]) -> Result<T, RecordError> {
    serde_json::from_slice(value).map_err(|error| RecordError::BadBody {
        op: op.to_owned(),
        what: "JSON value",
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(encoded: &Encoded<'_>) -> Result<Vec<Record>, RecordError> {
        let headers: Vec<_> = encoded.headers.iter().map(|h| (h.key, h.value)).collect();
        Record::from_parts(encoded.key, Some(&encoded.value), headers.into_iter())
    }

    fn bodies() -> impl Strategy<Value = Body> {
        let operation = |kind| {
            (any::<i64>(), kind).prop_map(|(term, kind)| {
                Body::Operation(Operation {
                    primary_term: PrimaryTerm(term),
                    kind,
                })
            })
        };
        let index = || {
            (
                ".{0,40}",
                prop::collection::vec(any::<u8>(), 0..200),
                prop::option::of(".{0,10}"),
                any::<i64>(),
            )
                .prop_map(|(id, source, routing, version)| OperationKind::Index {
                    id,
                    source: source.into(),
                    routing,
                    version,
                })
                .boxed()
        };
        prop_oneof![
            operation(index()),
            (any::<i64>(), any::<i64>(), any::<i64>(), index()).prop_map(
                |(frame, seq_no, term, kind)| {
                    Body::ResyncDocument {
                        frame: FrameId(frame),
                        seq_no: SeqNo(seq_no),
                        operation: Operation {
                            primary_term: PrimaryTerm(term),
                            kind,
                        },
                    }
                }
            ),
            (any::<i64>(), any::<i64>(), ".{0,20}", any::<u64>()).prop_map(
                |(from, to, cause, documents)| {
                    Body::ResyncBegin(ResyncBegin {
                        frame: FrameId(to),
                        from: SeqNo(from),
                        to: SeqNo(to),
                        cause,
                        documents,
                    })
                }
            ),
            (any::<i64>(), prop::collection::vec(".{0,10}", 0..5)).prop_map(|(frame, ids)| {
                Body::ResyncIds {
                    frame: FrameId(frame),
                    ids,
                }
            }),
            (any::<i64>(), any::<u64>(), any::<bool>()).prop_map(|(frame, documents, complete)| {
                Body::ResyncEnd(ResyncEnd {
                    frame: FrameId(frame),
                    documents,
                    complete,
                })
            }),
            operation(
                (".{0,40}", any::<i64>())
                    .prop_map(|(id, version)| OperationKind::Delete { id, version })
                    .boxed()
            ),
            operation(Just(OperationKind::NoOp).boxed()),
            any::<(i64, i64)>().prop_map(|(n, next_within_ms)| Body::Heartbeat {
                global_checkpoint: SeqNo(n),
                next_within_ms
            }),
            any::<i64>().prop_map(|n| Body::Gap { from: SeqNo(n) }),
            any::<i64>().prop_map(|n| Body::Rewound { from: SeqNo(n) }),
            (any::<i64>(), any::<i64>(), any::<u64>()).prop_map(|(s, o, documents)| {
                Body::SnapshotBegin(SnapshotBegin {
                    seq_no: SeqNo(s),
                    offset: Offset(o),
                    documents,
                })
            }),
            (any::<u64>(), any::<i64>()).prop_map(|(d, s)| Body::SnapshotEnd(SnapshotEnd {
                documents: d,
                max_seq_no: SeqNo(s)
            })),
        ]
    }

    proptest! {
        #[test]
        fn every_record_reads_back_as_it_was_written(seq_no: i64, timestamp_ms: i64, body in bodies()) {
            let record = Record { seq_no: SeqNo(seq_no), timestamp_ms, body };
            prop_assert_eq!(round_trip(&record.encode()), Ok(vec![record]));
        }

        /// However records are packed, they come out as they went in.
        #[test]
        fn packed_operations_read_back_as_they_were_written(
            bodies in prop::collection::vec(bodies(), 1..60),
            terms in prop::collection::vec(0i64..2, 60),
            most in 0usize..3_000,
        ) {
            let records: Vec<Record> = bodies.into_iter().zip(terms).enumerate().map(|(number, (mut body, term))| {
                if let Body::Operation(operation) = &mut body {
                    operation.primary_term = PrimaryTerm(term / 2);
                }
                Record { seq_no: SeqNo(number as i64 * 1_000), timestamp_ms: 17 + term, body }
            }).collect();
            let mut found = Vec::new();
            for pack in packs(&records, most) {
                let encoded = pack.encode();
                prop_assert!(pack.records().len() == 1 || encoded.value.len() <= most);
                found.extend(round_trip(&encoded).unwrap());
            }
            prop_assert_eq!(found, records);
        }

        #[test]
        fn damaged_packs_never_panic(value in prop::collection::vec(any::<u8>(), 0..80), cut in 0usize..400) {
            let _ = packed::read(&value, PrimaryTerm(1), 1);
            let kind = OperationKind::Index {
                id: "id".to_owned(),
                source: value.into(),
                routing: Some("r".to_owned()),
                version: 7,
            };
            let body = Body::Operation(Operation { primary_term: PrimaryTerm(1), kind });
            let record = Record { seq_no: SeqNo(70_000), timestamp_ms: 1, body };
            let whole = packed::value(&[record.clone(), record.clone(), record]);
            if let Ok(read) = packed::read(&whole[..cut.min(whole.len())], PrimaryTerm(1), 1) {
                prop_assert_eq!(read.len() * whole.len(), 3 * cut.min(whole.len()));
            }
        }

        #[test]
        fn arbitrary_records_never_panic(
            key in prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
            value in prop::collection::vec(any::<u8>(), 0..50),
            op in "index|delete|noop|operations|metadata|heartbeat|gap|rewound|resync_(begin|document|ids|end)|snapshot_begin|snapshot_end|.{0,5}",
            number in prop::collection::vec(any::<u8>(), 0..5),
        ) {
            let headers = [("fmt", Some(b"1".as_slice())), ("op", Some(op.as_bytes())), ("seq_no", Some(&number)), ("ts", Some(b"1".as_slice())), ("primary_term", Some(b"1".as_slice()))];
            let _ = Record::from_parts(key.as_deref(), Some(&value), headers.into_iter());
        }
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let error = Record::from_parts(None, None, [("fmt", Some(b"4".as_slice()))].into_iter());
        assert_eq!(error, Err(RecordError::UnknownFormat("4".to_owned())));
    }
}
