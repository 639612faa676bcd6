//! Kafka in memory, behind the same clients as the one on the network: topics, producers, readers
//! and consumer groups. Tests and the simulation run an agent's real code over it.
//!
//! Time is tokio's, so it may be paused. How long each message takes, and which are lost, is up to
//! a [`Conduct`].

mod group;
mod producer;
mod reader;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, OwnedHeaders};
use tokio::sync::{oneshot, watch};

use self::group::Coordinator;
use super::Watermarks;
use crate::record::{Record, RecordError};
use crate::words::types::{Offset, ShardId, TopicName};

pub use self::group::{Joining, Member, Rebalance};
pub(super) use self::producer::Sender;
pub use self::reader::{Reader, Readout};

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Append,
    Fetch,
    Ask,
    Heartbeat,
    Commit,
}

/// When a message arrives at the brokers, and their answer at the client; `None` is never.
#[derive(Clone, Copy, Debug)]
pub struct Fate {
    pub there: Option<Duration>,
    pub back: Option<Duration>,
}

impl Fate {
    pub const AT_ONCE: Self = Self {
        there: Some(Duration::ZERO),
        back: Some(Duration::ZERO),
    };
    pub const LOST: Self = Self {
        there: None,
        back: None,
    };
}

/// Decides what becomes of messages, and hears of what has come of them.
pub trait Conduct: Send + Sync {
    fn fate(&self, client: &str, act: Act) -> Fate;

    /// Whether a client's process has ended: nothing of it goes on.
    fn is_gone(&self, _client: &str) -> bool {
        false
    }

    /// What of a record arrives.
    fn arrives(&self, _client: &str, record: Stored) -> Stored {
        record
    }

    /// What of a committed position's metadata arrives.
    fn commits(&self, _client: &str, metadata: String) -> String {
        metadata
    }

    /// Whether commits of a member that is out are refused, as they have to be.
    fn is_fencing(&self) -> bool {
        true
    }

    /// A record stands in the log.
    fn appended(&self, _client: &str, _at: &Place, _record: &Stored) {}
}

/// Everything arrives at once.
pub struct Prompt;

impl Conduct for Prompt {
    fn fate(&self, _: &str, _: Act) -> Fate {
        Fate::AT_ONCE
    }
}

/// Where a record stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub topic: TopicName,
    pub shard: ShardId,
    pub offset: Offset,
}

/// A record in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Option<Bytes>)>,
}

impl Stored {
    /// An entry of a control topic; without a value it removes the one before.
    pub fn entry(key: &str, value: Option<&[u8]>) -> Self {
        Self {
            key: Some(Bytes::copy_from_slice(key.as_bytes())),
            value: value.map(Bytes::copy_from_slice),
            headers: Vec::new(),
        }
    }

    fn of(key: Option<&[u8]>, value: Option<&[u8]>, headers: &OwnedHeaders) -> Self {
        let headers = headers.iter().map(|header| {
            let value = header.value.map(Bytes::copy_from_slice);
            (header.key.to_owned(), value)
        });
        Self {
            key: key.map(Bytes::copy_from_slice),
            value: value.map(Bytes::copy_from_slice),
            headers: headers.collect(),
        }
    }

    /// What operations and other records of a shard it holds.
    pub fn decode(&self) -> Result<Vec<Record>, RecordError> {
        let headers = self.headers.iter();
        let pairs = headers.map(|(key, value)| (key.as_str(), value.as_deref()));
        Record::from_parts(self.key.as_deref(), self.value.as_deref(), pairs)
    }
}

struct Partition {
    low: Offset,
    end: Offset,
    records: BTreeMap<Offset, Stored>,
    news: watch::Sender<()>,
}

impl Default for Partition {
    fn default() -> Self {
        Self {
            low: Offset(0),
            end: Offset(0),
            records: BTreeMap::new(),
            news: watch::Sender::new(()),
        }
    }
}

#[derive(Default)]
struct State {
    topics: BTreeMap<TopicName, Vec<Partition>>,
    groups: BTreeMap<String, Coordinator>,
}

impl State {
    fn create(&mut self, topic: TopicName, partitions: u32) {
        let make = || (0..partitions).map(|_| Partition::default()).collect();
        self.topics.entry(topic).or_insert_with(make);
    }

    fn partition(&mut self, topic: &TopicName, shard: ShardId) -> Option<&mut Partition> {
        self.topics.get_mut(topic)?.get_mut(shard.0 as usize)
    }

    fn append(&mut self, topic: &TopicName, shard: ShardId, record: Stored) -> Option<Offset> {
        let partition = self.partition(topic, shard)?;
        let offset = partition.end;
        partition.records.insert(offset, record);
        partition.end = Offset(offset.0 + 1);
        partition.news.send_replace(());
        Some(offset)
    }
}

/// All brokers: what stands in their logs outlives every client.
#[derive(Clone)]
pub struct Brokers {
    state: Arc<Mutex<State>>,
    conduct: Arc<dyn Conduct>,
}

impl Brokers {
    pub fn new(conduct: Arc<dyn Conduct>) -> Self {
        Self {
            state: Arc::default(),
            conduct,
        }
    }

    /// The way of one agent to them.
    pub fn client(&self, name: &str) -> Client {
        Client {
            name: name.into(),
            brokers: self.clone(),
        }
    }

    pub fn topics(&self) -> Vec<TopicName> {
        self.state.lock().topics.keys().cloned().collect()
    }

    /// How many partitions a topic has; none unless it exists.
    pub fn partitions(&self, topic: &TopicName) -> u32 {
        let state = self.state.lock();
        let partitions = state.topics.get(topic).map_or(0, Vec::len);
        u32::try_from(partitions).unwrap_or(u32::MAX)
    }

    /// All records that a partition still has.
    pub fn records(&self, topic: &TopicName, shard: ShardId) -> Vec<(Offset, Stored)> {
        let mut state = self.state.lock();
        let partition = state.partition(topic, shard);
        let records = partition.map(|partition| partition.records.clone());
        records.unwrap_or_default().into_iter().collect()
    }

    /// Writes a record without any client; `None` when the partition does not exist.
    pub fn append(&self, topic: &TopicName, shard: ShardId, record: Stored) -> Option<Offset> {
        self.state.lock().append(topic, shard, record)
    }

    /// Makes a topic unless it exists.
    pub fn create(&self, topic: &TopicName, partitions: u32) {
        self.state.lock().create(topic.clone(), partitions);
    }

    pub fn delete(&self, topic: &TopicName) {
        self.state.lock().topics.remove(topic);
    }

    /// Compaction: of each key the newest record stays. One that removes its key stays too, for
    /// those who have not read it yet, unless it stands before an offset.
    pub fn compact(&self, topic: &TopicName, shard: ShardId, before: Offset) {
        let mut state = self.state.lock();
        let Some(partition) = state.partition(topic, shard) else {
            return;
        };
        let mut newest: BTreeMap<Option<Bytes>, Offset> = BTreeMap::new();
        for (offset, record) in &partition.records {
            newest.insert(record.key.clone(), *offset);
        }
        partition.records.retain(|offset, record| {
            let is_newest = newest.get(&record.key) == Some(offset);
            is_newest && (record.value.is_some() || *offset >= before)
        });
    }

    /// Retention: what stands before an offset is gone.
    pub fn truncate(&self, topic: &TopicName, shard: ShardId, low: Offset) {
        let mut state = self.state.lock();
        if let Some(partition) = state.partition(topic, shard) {
            partition.low = low.clamp(partition.low, partition.end);
            partition.records = partition.records.split_off(&partition.low);
        }
    }

    /// An unclean election: what stands from an offset on was never written.
    pub fn lose_tail(&self, topic: &TopicName, shard: ShardId, end: Offset) {
        let mut state = self.state.lock();
        if let Some(partition) = state.partition(topic, shard) {
            partition.end = end.clamp(partition.low, partition.end);
            drop(partition.records.split_off(&end));
            partition.news.send_replace(());
        }
    }

    /// The client that a group's coordinator has given a slot to.
    pub fn owner(&self, group: &str, slot: u32) -> Option<String> {
        self.state.lock().groups.get(group)?.owner(slot)
    }
}

/// The brokers as one agent reaches them.
#[derive(Clone)]
pub struct Client {
    name: Arc<str>,
    brokers: Brokers,
}

/// How long whoever waits between two attempts of something that did not arrive.
const RETRY: Duration = Duration::from_secs(1);

impl Client {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn brokers(&self) -> &Brokers {
        &self.brokers
    }

    fn fate(&self, act: Act) -> Fate {
        self.brokers.conduct.fate(&self.name, act)
    }

    fn is_gone(&self) -> bool {
        self.brokers.conduct.is_gone(&self.name)
    }

    /// Asks the brokers for something, which takes effect whether or not anybody still waits.
    async fn ask<T: Send + 'static>(
        &self,
        act: Act,
        within: Duration,
        effect: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> Result<T, KafkaError> {
        let fate = self.fate(act);
        let (sender, answer) = oneshot::channel();
        if let Some(there) = fate.there {
            let state = Arc::clone(&self.brokers.state);
            tokio::spawn(async move {
                tokio::time::sleep(there).await;
                let done = effect(&mut state.lock());
                let Some(back) = fate.back else {
                    return tokio::time::sleep(within).await;
                };
                tokio::time::sleep(back).await;
                // Nobody may wait for it any more.
                let _ = sender.send(done);
            });
        } else {
            // Held, so that the answer stays away rather than failing at once.
            tokio::spawn(async move {
                tokio::time::sleep(within).await;
                drop(sender);
            });
        }
        let away = KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut);
        match tokio::time::timeout(within, answer).await {
            Ok(Ok(done)) => Ok(done),
            _ => Err(away),
        }
    }

    pub(super) async fn create_topic(
        &self,
        topic: &TopicName,
        partitions: u32,
    ) -> Result<(), KafkaError> {
        let topic = topic.clone();
        self.ask(Act::Ask, super::CALL_TIMEOUT, move |state| {
            state.create(topic, partitions)
        })
        .await
    }

    pub(super) async fn delete_topic(&self, topic: &TopicName) -> Result<(), KafkaError> {
        let topic = topic.clone();
        self.ask(Act::Ask, super::CALL_TIMEOUT, move |state| {
            state.topics.remove(&topic);
        })
        .await
    }

    /// Waits until a question would have been answered; see [`Self::marks`] and
    /// [`Self::records`].
    pub(super) async fn question(&self) -> Result<(), KafkaError> {
        self.ask(Act::Ask, super::CALL_TIMEOUT, |_| ()).await
    }

    pub(super) fn marks(
        &self,
        topic: &TopicName,
        shard: ShardId,
    ) -> Result<Watermarks, KafkaError> {
        let mut state = self.brokers.state.lock();
        let partition = state.partition(topic, shard).ok_or_else(unknown)?;
        Ok(Watermarks {
            low: partition.low,
            high: partition.end,
        })
    }

    /// The records from an offset on, up to the one before `end`.
    pub(super) fn records(
        &self,
        topic: &TopicName,
        shard: ShardId,
        from: Offset,
        end: Offset,
    ) -> Result<Vec<(Offset, Stored)>, KafkaError> {
        let mut state = self.brokers.state.lock();
        let partition = state.partition(topic, shard).ok_or_else(unknown)?;
        let records = partition.records.range(from..end);
        Ok(records
            .map(|(offset, record)| (*offset, record.clone()))
            .collect())
    }
}

fn unknown() -> KafkaError {
    KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownPartition)
}
