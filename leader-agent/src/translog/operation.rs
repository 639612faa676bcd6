//! The operations in a translog.
//!
//! Source: OpenSearch's `Translog.Index`, `Delete` and `NoOp`; all numbers big-endian. Formats of
//! index operations: 8 (Elasticsearch 6.0) has a document type, a parent and a version type; 9 has
//! no parent; 10 no version type; 11 (OpenSearch 2) no document type. Formats of delete operations:
//! 4 (Elasticsearch 6.0) to 6 have a document type and the uid as a term, 4 and 5 a version type
//! too; 7 (OpenSearch 2) has none of these.

use bytes::Bytes;
use shardline_common::types::{PrimaryTerm, SeqNo};

use super::codec::{FormatError, Reader};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub seq_no: SeqNo,
    pub primary_term: PrimaryTerm,
    pub kind: OperationKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
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
    NoOp {
        reason: String,
    },
}

impl Operation {
    /// Reads the body of an operation, without its size and checksum. The source is not copied.
    pub(super) fn parse(mut reader: Reader<'_>) -> Result<Self, FormatError> {
        match reader.u8("the operation's type")? {
            // 1 was "create".
            1 | 2 => Self::index(&mut reader),
            3 => Self::delete(&mut reader),
            4 => Self::no_op(&mut reader),
            other => {
                let found = i64::from(other);
                Err(FormatError::UnknownVersion {
                    what: "operation type",
                    found,
                    known: "1 to 4",
                })
            }
        }
    }

    fn index(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let format = reader.vint("the format")?;
        if !(8..=11).contains(&format) {
            let found = i64::from(format);
            return Err(FormatError::UnknownVersion {
                what: "index operation",
                found,
                known: "8 to 11",
            });
        }
        let id = reader.string("the id")?;
        if format < 11 {
            reader.string("the document type")?;
        }
        let source = reader.byte_array("the source")?;
        let routing = reader.optional_string("the routing")?;
        if format < 9 {
            reader.optional_string("the parent")?;
        }
        let version = reader.i64("the version")?;
        if format < 10 {
            reader.u8("the version type")?;
        }
        reader.i64("the timestamp of the generated id")?;
        let (seq_no, primary_term) = position(reader)?;
        Ok(Self {
            seq_no,
            primary_term,
            kind: OperationKind::Index {
                id,
                source,
                routing,
                version,
            },
        })
    }

    fn delete(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let format = reader.vint("the format")?;
        if !(4..=7).contains(&format) {
            let found = i64::from(format);
            return Err(FormatError::UnknownVersion {
                what: "delete operation",
                found,
                known: "4 to 7",
            });
        }
        if format < 7 {
            reader.string("the document type")?;
        }
        let id = reader.string("the id")?;
        if format < 7 {
            reader.string("the uid's field")?;
            reader.byte_array("the uid")?;
        }
        let version = reader.i64("the version")?;
        if format < 6 {
            reader.u8("the version type")?;
        }
        let (seq_no, primary_term) = position(reader)?;
        Ok(Self {
            seq_no,
            primary_term,
            kind: OperationKind::Delete { id, version },
        })
    }

    fn no_op(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let (seq_no, primary_term) = position(reader)?;
        let reason = reader.string("the reason")?;
        Ok(Self {
            seq_no,
            primary_term,
            kind: OperationKind::NoOp { reason },
        })
    }
}

fn position(reader: &mut Reader<'_>) -> Result<(SeqNo, PrimaryTerm), FormatError> {
    let seq_no = reader.i64("the seq_no")?;
    if seq_no < 0 {
        return Err(FormatError::Impossible {
            what: "the seq_no",
            value: seq_no,
        });
    }
    Ok((SeqNo(seq_no), PrimaryTerm(reader.i64("the primary term")?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..6, format in 0u8..14) {
            let mut bytes = vec![kind, format];
            bytes.extend(body);
            let _ = Operation::parse(Reader::new(&bytes.into()));
        }
    }
}
