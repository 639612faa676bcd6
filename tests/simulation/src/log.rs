//! Kafka: partitions, producers whose records are on their way, consumers that fetch. Producers are
//! idempotent and gapless, as the agents configure them: what follows a record that is lost is lost
//! too.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Poll, Waker};

use follower_agent::{Positioned, Unpacked};
use futures::channel::oneshot;
use futures::future::BoxFuture;
use leader_agent::{Appender, Board, PartitionLog, Pending, PublishError};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Headers;
use shardline_common::control::{
    Entry, FailedRedelivery, FillRequest, ScanStandstill, ShardHistory,
};
use shardline_common::kafka::{
    ControlError, LastOperations, REACH_RECORDS, Reach, TopicError, Watermarks,
};
use shardline_common::record::{Body, Operation, Pack, Record, packs};
use shardline_common::types::{Offset, SeqNo, ShardId, TopicName};
use tokio::sync::watch;

use crate::calls::{Target, call};
use crate::sabotage::Sabotage;
use crate::world::Shared;

/// What one of Kafka's records holds.
pub type Packed = Vec<Record>;

#[derive(Default)]
pub struct Partition {
    /// The first offset that is still there.
    pub low: i64,
    pub records: Vec<Packed>,
}

impl Partition {
    pub fn end(&self) -> i64 {
        self.records.len() as i64
    }

    pub fn reach(&self) -> Option<Reach> {
        let from = self.low.max(self.end() - REACH_RECORDS);
        let last = self.records[from as usize..].iter().flatten().cloned();
        (self.end() > self.low).then(|| Reach::of(last, Offset(self.end())))
    }

    pub fn first(&self) -> Vec<(Offset, Record)> {
        let packs = (self.low..)
            .zip(self.records.iter().skip(self.low as usize))
            .take(4);
        packs
            .flat_map(|(offset, pack)| {
                pack.iter()
                    .map(move |record| (Offset(offset), record.clone()))
            })
            .collect()
    }

    pub fn marks(&self) -> Watermarks {
        Watermarks {
            low: Offset(self.low),
            high: Offset(self.end()),
        }
    }
}

/// The records that one agent has handed over and the log does not have yet.
#[derive(Default)]
pub struct Producer {
    batches: VecDeque<Batch>,
    /// Delivered, and not known to be.
    unreported: VecDeque<(Report, Offset)>,
    /// How often it had to be made anew.
    failures: u32,
    /// Its agent is gone: what is on its way may still arrive, for a while.
    pub is_orphan: bool,
}

type Report = oneshot::Sender<Result<Offset, KafkaError>>;

struct Batch {
    topic: TopicName,
    records: VecDeque<Packed>,
    report: Report,
}

#[derive(Default)]
pub struct Kafka {
    pub partitions: BTreeMap<TopicName, Partition>,
    pub producers: BTreeMap<u64, Producer>,
    pub fetches: BTreeMap<u64, Fetch>,
    next_id: u64,
}

/// How far a consumer has fetched.
pub struct Fetch {
    pub fetched: i64,
    waker: Option<Waker>,
}

impl Kafka {
    pub fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn partition(&mut self, topic: &TopicName) -> &mut Partition {
        self.partitions.entry(topic.clone()).or_default()
    }

    /// The next record of a producer arrives. Gives it, with where it stands.
    pub fn deliver(&mut self, producer: u64) -> Option<(TopicName, Offset)> {
        let producer = self.producers.get_mut(&producer)?;
        let batch = producer.batches.front_mut()?;
        let record = batch.records.pop_front()?;
        let topic = batch.topic.clone();
        let is_last = batch.records.is_empty();
        let done = is_last.then(|| producer.batches.pop_front()).flatten();
        let partition = self.partitions.entry(topic.clone()).or_default();
        let offset = Offset(partition.end());
        partition.records.push(record);
        if let Some(Batch { report, .. }) = done {
            producer.unreported.push_back((report, offset));
        }
        Some((topic, offset))
    }

    /// The oldest delivery becomes known to the agent.
    pub fn report(&mut self, producer: u64) -> bool {
        let reported = self
            .producers
            .get_mut(&producer)
            .and_then(|producer| producer.unreported.pop_front());
        let Some((report, offset)) = reported else {
            return false;
        };
        let _ = report.send(Ok(offset));
        true
    }

    /// Everything on its way is lost, and so are the reports about what arrived.
    pub fn fail(&mut self, producer: u64) {
        let Some(producer) = self.producers.get_mut(&producer) else {
            return;
        };
        producer.failures += 1;
        let lost = producer.batches.drain(..).map(|batch| batch.report);
        for report in lost.chain(producer.unreported.drain(..).map(|(report, _)| report)) {
            let _ = report.send(Err(KafkaError::MessageProduction(RDKafkaErrorCode::Fatal)));
        }
    }

    pub fn fetch_up_to(&mut self, fetch: u64, offset: i64) {
        if let Some(fetch) = self.fetches.get_mut(&fetch) {
            fetch.fetched = fetch.fetched.max(offset);
            fetch.waker.take().into_iter().for_each(Waker::wake);
        }
    }
}

/// How much goes into one of Kafka's records at most, in bytes: some operations.
const MOST_PACKED: usize = 400;

/// Records travel in their encoded form.
fn transported(pack: &Pack<'_>) -> Packed {
    let encoded = pack.encode();
    let headers: Vec<(String, Option<Vec<u8>>)> = encoded
        .headers
        .iter()
        .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
        .collect();
    let pairs = headers
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_deref()));
    let decoded = Record::from_parts(encoded.key, Some(&encoded.value), pairs);
    decoded.expect("a record that was just written can be read")
}

/// The log as one leader agent has it.
pub struct AgentsLog {
    pub world: Shared,
    pub producer: u64,
}

pub fn away(topic: &TopicName) -> TopicError {
    let source = Box::new(KafkaError::MetadataFetch(
        RDKafkaErrorCode::OperationTimedOut,
    ));
    TopicError::Failed {
        servers: "simulated".to_owned(),
        action: "ask",
        topic: topic.clone(),
        source,
        heard: String::new(),
    }
}

/// Asks Kafka about a partition.
pub async fn ask<T: Send + 'static>(
    world: &Shared,
    topic: &TopicName,
    what: &str,
    question: impl FnOnce(&mut Partition) -> T + Send + 'static,
) -> Result<T, TopicError> {
    let asked = topic.clone();
    let label = format!("{what} of {topic}");
    let answer = call(world, Target::Log, label, move |world| {
        question(world.kafka.partition(&asked))
    })
    .await;
    answer.ok_or_else(|| away(topic))
}

impl PartitionLog for AgentsLog {
    fn reach<'a>(
        &'a self,
        topic: &'a TopicName,
        _: ShardId,
    ) -> BoxFuture<'a, Result<Option<Reach>, TopicError>> {
        Box::pin(ask(&self.world, topic, "reach", |partition| {
            partition.reach()
        }))
    }

    fn last_operation<'a>(
        &'a self,
        topic: &'a TopicName,
        _: ShardId,
        reach: &'a Reach,
    ) -> BoxFuture<'a, Result<Option<Operation>, TopicError>> {
        let (seq_no, end) = (reach.seq_no, reach.end);
        Box::pin(ask(
            &self.world,
            topic,
            "last operation",
            move |partition| {
                let records = partition
                    .records
                    .iter()
                    .take(end.0 as usize)
                    .skip(partition.low as usize);
                let reach = Reach::of(records.flatten().cloned(), end);
                reach.last.filter(|_| reach.seq_no == seq_no)
            },
        ))
    }

    fn last_operations<'a>(
        &'a self,
        topic: &'a TopicName,
        _: ShardId,
        reach: &'a Reach,
    ) -> BoxFuture<'a, Result<BTreeMap<SeqNo, Operation>, TopicError>> {
        let end = reach.end;
        Box::pin(ask(
            &self.world,
            topic,
            "last operations",
            move |partition| {
                let records = partition
                    .records
                    .iter()
                    .take(end.0 as usize)
                    .skip(partition.low as usize);
                let mut found = LastOperations::default();
                records
                    .flatten()
                    .for_each(|record| found.note(record.clone()));
                found.known
            },
        ))
    }

    fn last_record<'a>(
        &'a self,
        topic: &'a TopicName,
        _: ShardId,
    ) -> BoxFuture<'a, Result<Option<(Offset, Record)>, TopicError>> {
        Box::pin(ask(&self.world, topic, "last record", |partition| {
            let last = partition
                .records
                .last()
                .filter(|_| partition.end() > partition.low)
                .and_then(|packed| packed.last());
            last.map(|record| (Offset(partition.end() - 1), record.clone()))
        }))
    }

    fn create_replication_topic<'a>(
        &'a self,
        topic: &'a TopicName,
        _: u32,
    ) -> BoxFuture<'a, Result<(), TopicError>> {
        Box::pin(ask(&self.world, topic, "creation", |_| ()))
    }

    fn appender(&self) -> Arc<dyn Appender> {
        let failures = self
            .world
            .lock()
            .kafka
            .producers
            .entry(self.producer)
            .or_default()
            .failures;
        Arc::new(AgentsAppender {
            world: Arc::clone(&self.world),
            producer: self.producer,
            failures,
        })
    }
}

/// Ends with the first failure of its producer.
struct AgentsAppender {
    world: Shared,
    producer: u64,
    failures: u32,
}

impl Appender for AgentsAppender {
    fn send<'a>(
        &'a self,
        topic: &'a TopicName,
        shard: ShardId,
        records: &'a [Record],
    ) -> BoxFuture<'a, Result<Pending, PublishError>> {
        let mut world = self.world.lock();
        let has_failed = world
            .kafka
            .producers
            .get(&self.producer)
            .is_none_or(|p| p.failures > self.failures);
        if has_failed {
            let source = Box::new(KafkaError::MessageProduction(RDKafkaErrorCode::Fatal));
            return Box::pin(std::future::ready(Err(PublishError::Kafka {
                topic: topic.clone(),
                shard,
                source,
            })));
        }
        let is_dropped = |record: &&Record| {
            matches!(record.body, Body::Metadata(_)) && world.sabotage == Some(Sabotage::NoMetadata)
        };
        let records: Vec<Record> = records
            .iter()
            .filter(|record| !is_dropped(record))
            .cloned()
            .collect();
        let pack_bytes = world.rng.usize(0..MOST_PACKED);
        let transported: VecDeque<Packed> = packs(&records, pack_bytes)
            .map(|pack| transported(&pack))
            .collect();
        let (report, delivered) = oneshot::channel();
        let assumed = Offset(world.kafka.partition(topic).end() + transported.len() as i64 - 1);
        let is_assumed =
            transported.is_empty() || world.sabotage == Some(Sabotage::ShippedBeforeDelivered);
        if !transported.is_empty() {
            let producer = world.kafka.producers.entry(self.producer).or_default();
            producer.batches.push_back(Batch {
                topic: topic.clone(),
                records: transported,
                report,
            });
        }
        let topic = topic.clone();
        let pending: Pending = Box::pin(async move {
            if is_assumed {
                return Ok(assumed);
            }
            let delivered = delivered.await.unwrap_or(Err(KafkaError::Canceled));
            delivered.map_err(|source| PublishError::Kafka {
                topic,
                shard,
                source: Box::new(source),
            })
        });
        Box::pin(std::future::ready(Ok(pending)))
    }
}

/// What leader agents tell each other.
pub struct Posted {
    pub posted: BTreeMap<String, FillRequest>,
    pub histories: BTreeMap<String, ShardHistory>,
    pub failed: BTreeMap<String, FailedRedelivery>,
    pub changed: watch::Sender<Offset>,
}

impl Default for Posted {
    fn default() -> Self {
        Self {
            posted: BTreeMap::new(),
            histories: BTreeMap::new(),
            failed: BTreeMap::new(),
            changed: watch::Sender::new(Offset(0)),
        }
    }
}

impl Board for AgentsLog {
    fn post<'a>(&'a self, request: &'a FillRequest) -> BoxFuture<'a, Result<(), ControlError>> {
        let request = request.clone();
        let label = format!("fill request {} to {}", request.from, request.to);
        let posted = call(&self.world, Target::Log, label, move |world| {
            world.board.posted.insert(request.key(), request);
            world.board.changed.send_modify(|offset| offset.0 += 1);
        });
        Box::pin(async move { posted.await.ok_or_else(control_away) })
    }

    fn take_down<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), ControlError>> {
        let key = key.to_owned();
        let removed = call(
            &self.world,
            Target::Log,
            "fill request removed".to_owned(),
            move |world| {
                world.board.posted.remove(&key);
                world.board.changed.send_modify(|offset| offset.0 += 1);
            },
        );
        Box::pin(async move { removed.await.ok_or_else(control_away) })
    }

    fn posted(&self, key: &str) -> Option<FillRequest> {
        self.world.lock().board.posted.get(key).cloned()
    }

    fn history(&self, key: &str) -> Option<ShardHistory> {
        self.world.lock().board.histories.get(key).cloned()
    }

    fn note_history<'a>(
        &'a self,
        history: &'a ShardHistory,
    ) -> BoxFuture<'a, Result<(), ControlError>> {
        let history = history.clone();
        let noted = call(
            &self.world,
            Target::Log,
            "history".to_owned(),
            move |world| {
                world.board.histories.insert(history.key(), history);
            },
        );
        Box::pin(async move { noted.await.ok_or_else(control_away) })
    }

    fn tell_failed<'a>(
        &'a self,
        failed: &'a FailedRedelivery,
    ) -> BoxFuture<'a, Result<(), ControlError>> {
        let failed = failed.clone();
        let label = format!("failed redelivery: {}", failed.reason);
        let told = call(&self.world, Target::Log, label, move |world| {
            world.board.failed.insert(failed.key(), failed);
        });
        Box::pin(async move { told.await.ok_or_else(control_away) })
    }

    fn tell<'a>(
        &'a self,
        standstill: &'a ScanStandstill,
    ) -> BoxFuture<'a, Result<(), ControlError>> {
        let label = format!("scan: {}", standstill.why.detail);
        let told = call(&self.world, Target::Log, label, |_| ());
        Box::pin(async move { told.await.ok_or_else(control_away) })
    }

    fn changes(&self) -> watch::Receiver<Offset> {
        self.world.lock().board.changed.subscribe()
    }
}

fn control_away() -> ControlError {
    ControlError::Timeout {
        topic: "control".into(),
    }
}

/// A consumer's stream of a partition.
pub struct Stream {
    world: Shared,
    id: u64,
    topic: TopicName,
    position: i64,
    /// What is left of the Kafka record before `position`.
    unpacked: Unpacked,
}

impl Stream {
    pub fn open(world: &Shared, topic: &TopicName, offset: Offset) -> Self {
        let mut locked = world.lock();
        let id = locked.kafka.id();
        let fetch = Fetch {
            fetched: offset.0,
            waker: None,
        };
        locked.kafka.fetches.insert(id, fetch);
        Self {
            world: Arc::clone(world),
            id,
            topic: topic.clone(),
            position: offset.0,
            unpacked: Unpacked::new(offset, Vec::new()),
        }
    }

    /// The next record; an error when it was removed before it was fetched.
    pub fn poll(&mut self, waker: Option<&Waker>) -> Poll<Result<Positioned, ()>> {
        let mut world = self.world.lock();
        let kafka = &mut world.kafka;
        let partition = kafka.partitions.entry(self.topic.clone()).or_default();
        let Some(fetch) = kafka.fetches.get_mut(&self.id) else {
            return Poll::Pending;
        };
        if let Some(record) = self.unpacked.next() {
            return Poll::Ready(Ok(record));
        }
        if self.position < fetch.fetched.min(partition.end()) {
            self.unpacked = Unpacked::new(
                Offset(self.position),
                partition.records[self.position as usize].clone(),
            );
            self.position += 1;
            return self
                .unpacked
                .next()
                .map_or(Poll::Pending, |first| Poll::Ready(Ok(first)));
        }
        if self.position < partition.low || self.position > partition.end() {
            return Poll::Ready(Err(()));
        }
        if waker.is_some() {
            fetch.waker = waker.cloned();
        }
        Poll::Pending
    }
}

impl Stream {
    pub fn position(&self) -> Offset {
        Offset(self.position)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.world.lock().kafka.fetches.remove(&self.id);
    }
}
