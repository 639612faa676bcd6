//! A partition in memory as a stream of records, and a partition wherever it is.

use shardline_common::kafka::memory::{Client, Reader, Readout, Stored};
use shardline_common::types::{Offset, ShardId, TopicName};

use super::StreamError;
use super::partition::PartitionStream;
use super::records::{Positioned, Records, Unpacked};

/// The records of a partition, from Kafka or from memory.
pub enum ShardRecords {
    Network(PartitionStream),
    Memory(MemoryRecords),
}

impl ShardRecords {
    /// See [`PartitionStream::telling`]. In memory nothing waits for a turn.
    pub(crate) fn telling(self, tell: impl Fn(bool) + Send + Sync + 'static) -> Self {
        match self {
            Self::Network(records) => Self::Network(records.telling(tell)),
            Self::Memory(records) => Self::Memory(records),
        }
    }
}

impl Records for ShardRecords {
    async fn next(&mut self) -> Result<Positioned, StreamError> {
        match self {
            Self::Network(records) => records.next().await,
            Self::Memory(records) => records.next().await,
        }
    }

    fn ready(&mut self) -> Option<Result<Positioned, StreamError>> {
        match self {
            Self::Network(records) => records.ready(),
            Self::Memory(records) => records.ready(),
        }
    }

    fn put_down(&mut self) {
        match self {
            Self::Network(records) => records.put_down(),
            // There is nothing to fetch again.
            Self::Memory(_) => {}
        }
    }
}

pub struct MemoryRecords {
    topic: TopicName,
    shard: ShardId,
    reader: Reader,
    unpacked: Unpacked,
}

impl MemoryRecords {
    pub(super) fn open(client: &Client, topic: &TopicName, shard: ShardId, from: Offset) -> Self {
        Self {
            topic: topic.clone(),
            shard,
            reader: Reader::new(client.clone(), topic.clone(), shard, from),
            unpacked: Unpacked::new(from, Vec::new()),
        }
    }

    fn unpack(&mut self, offset: Offset, stored: &Stored) -> Result<(), StreamError> {
        let records = stored.decode().map_err(|source| StreamError::Record {
            topic: self.topic.clone(),
            shard: self.shard,
            offset,
            source,
        })?;
        self.unpacked = Unpacked::new(offset, records);
        Ok(())
    }

    async fn next(&mut self) -> Result<Positioned, StreamError> {
        loop {
            if let Some(record) = self.unpacked.next() {
                return Ok(record);
            }
            let offset = self.reader.position();
            match self.reader.next().await {
                Readout::Record(offset, stored) => self.unpack(offset, &stored)?,
                Readout::End => {}
                Readout::Lost => {
                    return Err(StreamError::PositionLost {
                        topic: self.topic.clone(),
                        shard: self.shard,
                        offset,
                    });
                }
            }
        }
    }

    fn ready(&mut self) -> Option<Result<Positioned, StreamError>> {
        if let Some(record) = self.unpacked.next() {
            return Some(Ok(record));
        }
        let (offset, stored) = self.reader.ready()?;
        match self.unpack(offset, &stored) {
            Ok(()) => self.unpacked.next().map(Ok),
            Err(error) => Some(Err(error)),
        }
    }
}
