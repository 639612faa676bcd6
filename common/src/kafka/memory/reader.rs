//! A consumer of one partition.

use super::{Act, Client, RETRY, Stored};
use crate::words::types::{Offset, ShardId, TopicName};

/// What comes next of a partition.
#[derive(Debug, PartialEq, Eq)]
pub enum Readout {
    Record(Offset, Stored),
    /// For now there is nothing behind; said once each time that it is reached.
    End,
    /// The position is not there any more; the reader goes on with what is.
    Lost,
}

pub struct Reader {
    client: Client,
    topic: TopicName,
    shard: ShardId,
    position: Offset,
    /// Up to here records have been fetched.
    fetched: Offset,
    said_end: bool,
}

enum Look {
    Has(Offset),
    AtEnd(tokio::sync::watch::Receiver<()>),
    Outside(Offset),
    NoTopic,
}

impl Reader {
    pub fn new(client: Client, topic: TopicName, shard: ShardId, position: Offset) -> Self {
        Self {
            client,
            topic,
            shard,
            position,
            fetched: position,
            said_end: false,
        }
    }

    pub fn position(&self) -> Offset {
        self.position
    }

    /// Goes on, or back, to an offset.
    pub fn begin_at(&mut self, position: Offset) {
        (self.position, self.fetched) = (position, position);
        self.said_end = false;
    }

    fn look(&self) -> Look {
        let mut state = self.client.brokers.state.lock();
        let Some(partition) = state.partition(&self.topic, self.shard) else {
            return Look::NoTopic;
        };
        if self.position < partition.low || self.position > partition.end {
            Look::Outside(partition.low)
        } else if self.position < partition.end {
            Look::Has(partition.end)
        } else {
            Look::AtEnd(partition.news.subscribe())
        }
    }

    /// The next record if it has been fetched; compaction leaves gaps.
    pub fn ready(&mut self) -> Option<(Offset, Stored)> {
        let mut state = self.client.brokers.state.lock();
        let partition = state.partition(&self.topic, self.shard)?;
        let until = self.fetched.min(partition.end);
        if self.position >= until {
            return None;
        }
        let next = partition.records.range(self.position..until).next();
        let next = next.map(|(offset, record)| (*offset, record.clone()));
        self.position = next
            .as_ref()
            .map_or(until, |(offset, _)| Offset(offset.0 + 1));
        next
    }

    /// Nothing is lost when the future is dropped before it resolves.
    pub async fn next(&mut self) -> Readout {
        loop {
            match self.look() {
                Look::Outside(low) => {
                    self.begin_at(low);
                    return Readout::Lost;
                }
                Look::Has(_) if self.position < self.fetched => {
                    if let Some((offset, record)) = self.ready() {
                        self.said_end = false;
                        return Readout::Record(offset, record);
                    }
                }
                Look::Has(end) => match self.client.fate(Act::Fetch).there {
                    Some(there) => {
                        tokio::time::sleep(there).await;
                        self.fetched = end;
                    }
                    None if self.client.is_gone() => std::future::pending().await,
                    None => tokio::time::sleep(RETRY).await,
                },
                Look::AtEnd(_) if !self.said_end => {
                    self.said_end = true;
                    return Readout::End;
                }
                // An error when the topic is deleted, which the next look finds.
                Look::AtEnd(mut news) => drop(news.changed().await),
                Look::NoTopic => tokio::time::sleep(RETRY).await,
            }
        }
    }
}
