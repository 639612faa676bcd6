//! What the last records of a partition tell: how far it reaches in its shard's history, and which
//! operations it has there.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::record::{Body, FrameId, Operation, OperationKind, Record};
use crate::words::types::{Offset, SeqNo};

/// How many of a partition's last records are asked how far it reaches.
pub const REACH_RECORDS: i64 = 64;

/// How far a partition reaches in its shard's history.
#[derive(Clone, Debug, PartialEq)]
pub struct Reach {
    pub seq_no: SeqNo,
    /// The operation with that number, if it is among the last records. One that a scan found has
    /// no source: what a shard shows need not be what was written.
    pub last: Option<Operation>,
    /// The offset behind the last record.
    pub end: Offset,
    /// The last document that a scan found, with its number.
    scanned: Option<(SeqNo, Operation)>,
}

impl Reach {
    /// Of a partition that ends at `end`, from its last records, of which there are to be
    /// [`REACH_RECORDS`].
    pub fn of(last_records: impl IntoIterator<Item = Record>, end: Offset) -> Self {
        let mut reach = Self {
            seq_no: SeqNo::NONE,
            last: None,
            end,
            scanned: None,
        };
        last_records
            .into_iter()
            .for_each(|record| reach.extend(record));
        reach
    }

    pub(super) fn extend(&mut self, Record { seq_no, body, .. }: Record) {
        match body {
            Body::Rewound { .. } => (self.seq_no, self.last, self.scanned) = (seq_no, None, None),
            Body::Operation(operation) if seq_no >= self.seq_no => {
                (self.seq_no, self.last) = (seq_no, Some(operation));
            }
            Body::ResyncEnd(_) if seq_no > self.seq_no => {
                let found = self.scanned.take().filter(|(found, _)| *found == seq_no);
                (self.seq_no, self.last) = (seq_no, found.map(|(_, operation)| operation));
            }
            body => {
                if seq_no > self.seq_no {
                    (self.seq_no, self.last) = (seq_no, None);
                }
                if let Body::ResyncDocument {
                    seq_no, operation, ..
                } = body
                {
                    self.scanned = Some((seq_no, without_source(operation)));
                }
            }
        }
    }
}

/// See [`super::Kafka::last_operations`].
#[derive(Default)]
pub struct LastOperations {
    pub known: BTreeMap<SeqNo, Operation>,
    /// The frame that is being read, unless it ships again what a follower has asked for.
    frame: Option<FrameId>,
}

impl LastOperations {
    pub fn note(&mut self, Record { seq_no, body, .. }: Record) {
        match body {
            Body::Rewound { .. } => self.known.clear(),
            Body::ResyncBegin(begin) => {
                self.frame = (begin.from <= begin.to).then_some(begin.frame)
            }
            Body::ResyncDocument {
                frame,
                seq_no,
                operation,
            } if self.frame == Some(frame) => {
                self.known.insert(seq_no, without_source(operation));
            }
            Body::Operation(operation) => {
                self.known.insert(seq_no, without_source(operation));
            }
            _ => {}
        }
    }
}

fn without_source(mut operation: Operation) -> Operation {
    if let OperationKind::Index { source, .. } = &mut operation.kind {
        *source = Bytes::new();
    }
    operation
}

/// Where the records begin that all say `seq_no`, up to `end` and not below `lowest`. `said` tells
/// what the one at an offset says. Where two agents overlapped, it is where some of them begin.
pub(super) fn run_begins<E>(
    seq_no: SeqNo,
    lowest: Offset,
    end: Offset,
    mut said: impl FnMut(Offset) -> Result<SeqNo, E>,
) -> Result<Offset, E> {
    let (mut low, mut high) = (lowest.0, end.0 - 1);
    while low < high {
        let middle = low + (high - low) / 2;
        match said(Offset(middle))? == seq_no {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    Ok(Offset(low))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ResyncBegin, ResyncEnd};
    use crate::words::types::PrimaryTerm;

    fn operation(source: &'static str) -> Operation {
        let source = Bytes::from_static(source.as_bytes());
        let kind = OperationKind::Index {
            id: "a".to_owned(),
            source,
            routing: None,
            version: 1,
        };
        Operation {
            primary_term: PrimaryTerm(1),
            kind,
        }
    }

    fn record(seq_no: i64, body: Body) -> Record {
        Record {
            seq_no: SeqNo(seq_no),
            timestamp_ms: 0,
            body,
        }
    }

    fn heartbeat(seq_no: i64) -> Record {
        record(
            seq_no,
            Body::Heartbeat {
                global_checkpoint: SeqNo(seq_no),
                next_within_ms: 0,
            },
        )
    }

    fn frame(document: i64, to: i64) -> [Record; 2] {
        let frame = FrameId(1);
        let found = Body::ResyncDocument {
            frame,
            seq_no: SeqNo(document),
            operation: operation("{}"),
        };
        let end = Body::ResyncEnd(ResyncEnd {
            frame,
            documents: 1,
            complete: false,
        });
        [record(4, found), record(to, end)]
    }

    #[test]
    fn the_last_operation_is_known_until_the_shard_is_rewound_or_scanned() {
        let written = [record(4, Body::Operation(operation("{}"))), heartbeat(4)];
        let last = |more: &[Record]| Reach::of([&written[..], more].concat(), Offset(0)).last;
        assert_eq!(last(&[]), Some(operation("{}")));
        assert_eq!(
            last(&[record(4, Body::Rewound { from: SeqNo(4) }), heartbeat(4)]),
            None
        );
        assert_eq!(last(&frame(9, 9)), Some(operation("")));
        assert_eq!(last(&frame(8, 9)), None);
    }

    #[test]
    fn operations_of_another_history_and_documents_shipped_again_are_not_the_last_ones() {
        let of = |records: &[Record]| {
            let mut last = LastOperations::default();
            records.iter().for_each(|record| last.note(record.clone()));
            last.known
                .into_keys()
                .map(|seq_no| seq_no.0)
                .collect::<Vec<_>>()
        };
        let framed = |from: i64, to: i64| {
            let begin = ResyncBegin {
                frame: FrameId(7),
                from: SeqNo(from),
                to: SeqNo(to),
                cause: String::new(),
                documents: 0,
            };
            let document = Body::ResyncDocument {
                frame: FrameId(7),
                seq_no: SeqNo(6),
                operation: operation("{}"),
            };
            [
                record(from - 1, Body::ResyncBegin(begin)),
                record(from - 1, document),
            ]
        };
        let written = [
            record(3, Body::Operation(operation("{}"))),
            record(4, Body::Operation(operation("{}"))),
        ];
        assert_eq!(of(&[&written[..], &framed(5, 9)].concat()), [3, 4, 6]);
        assert_eq!(of(&[&written[..], &framed(9, 8)].concat()), [3, 4]);
        assert_eq!(
            of(&[&written[..], &[record(2, Body::Rewound { from: SeqNo(4) })]].concat()),
            [0; 0]
        );
    }

    /// Where the operation is that idle records follow, and how many were asked.
    fn begins(said: &[i64], seq_no: i64) -> (i64, usize) {
        let mut asked = 0;
        let begins = run_begins(
            SeqNo(seq_no),
            Offset(0),
            Offset(said.len() as i64),
            |offset| {
                asked += 1;
                Ok::<_, ()>(SeqNo(said[offset.0 as usize]))
            },
        );
        (begins.unwrap().0, asked)
    }

    #[test]
    fn the_last_operation_is_found_behind_any_number_of_heartbeats() {
        for idle in [1, 64, 65, 1_000, 60_000] {
            let said: Vec<i64> = (0..500).chain(std::iter::repeat_n(499, idle)).collect();
            let (begins, asked) = begins(&said, 499);
            assert_eq!(begins, 499);
            assert!(asked <= 16, "{asked} records were asked");
        }
        assert_eq!(begins(&[7; 100], 7).0, 0);
        // The history that a rewound shard lost is not looked into.
        let said: Vec<i64> = (0..60).chain(std::iter::repeat_n(55, 100)).collect();
        assert_eq!(begins(&said, 55).0, 60);
    }
}
