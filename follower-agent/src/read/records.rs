//! Records as they come out of a partition, wherever they come from.

use std::collections::VecDeque;

use shardline_common::late::noticing;
use shardline_common::record::Record;
use shardline_common::types::Offset;

use super::StreamError;

/// The records of a partition, one after the other; of operations that are packed together each
/// counts as one.
pub trait Records: Send {
    /// Nothing is lost when the future is dropped before it resolves.
    fn next(&mut self) -> impl Future<Output = Result<Positioned, StreamError>> + Send;

    /// The next record if one has arrived already.
    fn ready(&mut self) -> Option<Result<Positioned, StreamError>>;

    /// Keeps nothing in memory that can be fetched again, until the next record is asked for.
    fn put_down(&mut self);
}

/// Does what records have to wait for. They are put down if that takes long, as when the follower
/// cluster is away.
pub(crate) async fn before_more<T>(records: &mut impl Records, work: impl Future<Output = T>) -> T {
    noticing(work, || records.put_down()).await
}

/// A record, and where it stands.
#[derive(Debug)]
pub struct Positioned {
    pub offset: Offset,
    /// Where reading goes on once this record is dealt with: behind it, or at its own offset while
    /// others are packed together with it.
    pub next: Offset,
    pub record: Record,
}

/// What is left of a Kafka record.
#[derive(Debug)]
pub struct Unpacked {
    offset: Offset,
    records: VecDeque<Record>,
}

impl Unpacked {
    pub fn new(offset: Offset, records: Vec<Record>) -> Self {
        Self {
            offset,
            records: records.into(),
        }
    }
}

impl Iterator for Unpacked {
    type Item = Positioned;

    fn next(&mut self) -> Option<Positioned> {
        let record = self.records.pop_front()?;
        let next = if self.records.is_empty() {
            Offset(self.offset.0 + 1)
        } else {
            self.offset
        };
        Some(Positioned {
            offset: self.offset,
            next,
            record,
        })
    }
}
