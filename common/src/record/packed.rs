//! Several operations in one Kafka record. Under load a record for each operation costs producers,
//! brokers and consumers more than its content does; see
//! `docs/decisions/0016-packed-operations.md`.
//!
//! The value is a sequence of MessagePack arrays, one for each operation.

use bytes::Bytes;
use rmp::decode::{NumValueReadError, ValueReadError};
use rmp::{decode, encode};

use super::{Body, Encoded, FORMAT, Operation, OperationKind, Record, RecordError, Written};
use crate::words::types::{PrimaryTerm, SeqNo};

/// The kind of these records.
pub(super) const OP: &str = "operations";
/// What an operation takes in a pack at most, beside its texts and its source.
const OPERATION_OVERHEAD: usize = 40;

/// What goes into one Kafka record: operations that follow each other, or one record of any kind.
pub struct Pack<'a> {
    records: &'a [Record],
    last: &'a Record,
}

/// Cuts records into packs. Several operations go into one only as far as they take `most` bytes
/// together.
pub fn packs(records: &[Record], most: usize) -> impl Iterator<Item = Pack<'_>> {
    let mut rest = records;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let mut bytes = weight(first);
        let fitting = rest[1..].iter().take_while(|next| {
            bytes = bytes.saturating_add(weight(next));
            bytes <= most && belong_together(first, next)
        });
        let (records, others) = rest.split_at(1 + fitting.count());
        rest = others;
        Some(Pack {
            records,
            last: records.last()?,
        })
    })
}

impl<'a> Pack<'a> {
    pub fn records(&self) -> &'a [Record] {
        self.records
    }

    pub fn last(&self) -> &'a Record {
        self.last
    }

    pub fn encode(&self) -> Encoded<'a> {
        let (Body::Operation(Operation { primary_term, .. }), [_, _, ..]) =
            (&self.last.body, self.records)
        else {
            return self.last.encode();
        };
        let headers = Written::common(FORMAT, OP, self.last).number("primary_term", primary_term.0);
        Encoded {
            key: None,
            value: value(self.records).into(),
            headers: headers.0,
        }
    }
}

fn belong_together(first: &Record, next: &Record) -> bool {
    match (&first.body, &next.body) {
        (Body::Operation(first_operation), Body::Operation(operation)) => {
            first_operation.primary_term == operation.primary_term
                && first.timestamp_ms == next.timestamp_ms
        }
        _ => false,
    }
}

fn weight(record: &Record) -> usize {
    let Body::Operation(operation) = &record.body else {
        return 0;
    };
    operation.kind.bytes() + OPERATION_OVERHEAD
}

/// The value of a record that holds these operations.
pub(super) fn value(pack: &[Record]) -> Vec<u8> {
    let mut value = Vec::with_capacity(pack.iter().map(weight).sum());
    for record in pack {
        // Writing into memory cannot fail.
        let _ = write(&mut value, record);
    }
    value
}

fn write(
    value: &mut Vec<u8>,
    Record { seq_no, body, .. }: &Record,
) -> Result<(), encode::ValueWriteError> {
    let Body::Operation(Operation { kind, .. }) = body else {
        return Ok(());
    };
    match kind {
        OperationKind::NoOp => {
            encode::write_array_len(value, 1)?;
            encode::write_sint(value, seq_no.0)?;
        }
        OperationKind::Delete { id, version } => {
            encode::write_array_len(value, 3)?;
            encode::write_sint(value, seq_no.0)?;
            encode::write_sint(value, *version)?;
            encode::write_str(value, id)?;
        }
        OperationKind::Index {
            id,
            source,
            routing,
            version,
        } => {
            encode::write_array_len(value, if routing.is_some() { 5 } else { 4 })?;
            encode::write_sint(value, seq_no.0)?;
            encode::write_sint(value, *version)?;
            encode::write_str(value, id)?;
            encode::write_bin(value, source)?;
            if let Some(routing) = routing {
                encode::write_str(value, routing)?;
            }
        }
    }
    Ok(())
}

/// Reads what [`value`] wrote. The sources share one copy of it.
pub(super) fn read(
    value: &[u8],
    primary_term: PrimaryTerm,
    timestamp_ms: i64,
) -> Result<Vec<Record>, RecordError> {
    let whole = Bytes::copy_from_slice(value);
    let mut reader = Reader {
        whole: &whole,
        rest: &whole,
    };
    let mut records = Vec::new();
    while !reader.rest.is_empty() {
        let (seq_no, kind) = reader.operation().map_err(|reason| RecordError::BadBody {
            op: OP.to_owned(),
            what: "operation",
            reason: format!("number {}: {reason}", records.len()),
        })?;
        let body = Body::Operation(Operation { primary_term, kind });
        records.push(Record {
            seq_no,
            timestamp_ms,
            body,
        });
    }
    if records.is_empty() {
        let reason = "the value is empty".to_owned();
        return Err(RecordError::BadBody {
            op: OP.to_owned(),
            what: "operation",
            reason,
        });
    }
    Ok(records)
}

struct Reader<'a> {
    whole: &'a Bytes,
    /// What is left of it.
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn operation(&mut self) -> Result<(SeqNo, OperationKind), String> {
        let fields = decode::read_array_len(&mut self.rest).map_err(unreadable)?;
        if !matches!(fields, 1 | 3 | 4 | 5) {
            return Err(format!("an array of {fields}, expected 1, 3, 4 or 5"));
        }
        let seq_no = SeqNo(self.number()?);
        if fields == 1 {
            return Ok((seq_no, OperationKind::NoOp));
        }
        let (version, id) = (self.number()?, self.text()?);
        if fields == 3 {
            return Ok((seq_no, OperationKind::Delete { id, version }));
        }
        let length = decode::read_bin_len(&mut self.rest).map_err(unreadable)?;
        let source = self.whole.slice_ref(self.bytes(length)?);
        let routing = if fields == 5 {
            Some(self.text()?)
        } else {
            None
        };
        Ok((
            seq_no,
            OperationKind::Index {
                id,
                source,
                routing,
                version,
            },
        ))
    }

    fn number(&mut self) -> Result<i64, String> {
        decode::read_int(&mut self.rest).map_err(|error: NumValueReadError| error.to_string())
    }

    fn text(&mut self) -> Result<String, String> {
        let length = decode::read_str_len(&mut self.rest).map_err(unreadable)?;
        let bytes = self.bytes(length)?;
        Ok(std::str::from_utf8(bytes)
            .map_err(|error| error.to_string())?
            .to_owned())
    }

    fn bytes(&mut self, length: u32) -> Result<&'a [u8], String> {
        let (bytes, rest) = self
            .rest
            .split_at_checked(length as usize)
            .ok_or("the value ends in the middle of it")?;
        self.rest = rest;
        Ok(bytes)
    }
}

fn unreadable(error: ValueReadError) -> String {
    error.to_string()
}
