//! One partition as a stream: see [`super::turns`] for when it is fetched.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::CString;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::bindings::{rd_kafka_get_watermark_offsets, rd_kafka_resp_err_t};
use rdkafka::consumer::stream_consumer::StreamPartitionQueue;
use rdkafka::consumer::{Consumer, DefaultConsumerContext, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use shardline_common::kafka::assignment;
use shardline_common::record::Record;
use shardline_common::types::Offset;
use tokio::task::spawn_blocking;
use tracing::warn;

use super::records::{Positioned, Records, Unpacked};
use super::turns::{
    A_RECORD, Distance, FAR_BEHIND, FetchTurns, LEAST_FAR, NEAR, OF_THE_MEAN, SILENT_TURN, Turn,
    far_behind,
};
use super::{Member, Partition, StreamError, Streams};

/// How long Kafka may take to tell who leads a topic's partitions.
const LEADERS_TIMEOUT: Duration = Duration::from_secs(10);

pub struct PartitionStream {
    members: Arc<Mutex<Vec<Member>>>,
    consumer: Arc<StreamConsumer>,
    partition: Partition,
    /// Since it was last assigned to the consumer.
    queue: Option<StreamPartitionQueue<DefaultConsumerContext>>,
    /// Of the next Kafka record.
    position: Offset,
    /// The partition's end when that was last looked at.
    end: Offset,
    /// What is left of the Kafka record before.
    unpacked: Unpacked,
    /// What a Kafka record weighs, in bytes.
    mean: i64,
    turns: Arc<FetchTurns>,
    /// Whether it has been near its end since it was opened.
    was_near: bool,
    /// How long a turn may be in which nothing comes.
    patience: Duration,
    fetching: Fetching,
    /// Is told whether it waits for a turn.
    tell: Box<dyn Fn(bool) + Send + Sync>,
}

/// Whether librdkafka fetches the partition.
enum Fetching {
    No,
    Waits(BoxFuture<'static, Option<Turn>>),
    /// As it is behind.
    InTurn(Turn),
    /// As it is near its end.
    Freely,
}

impl Records for PartitionStream {
    async fn next(&mut self) -> Result<Positioned, StreamError> {
        loop {
            if let Some(record) = self.unpacked.next() {
                return Ok(record);
            }
            self.receive().await?;
        }
    }

    fn ready(&mut self) -> Option<Result<Positioned, StreamError>> {
        self.next().now_or_never()
    }

    fn put_down(&mut self) {
        self.let_go();
        // What comes meanwhile is not known.
        self.end.0 = self
            .end
            .0
            .max(self.position.0 + 1 + NEAR / self.mean.max(1));
    }
}

impl PartitionStream {
    pub(super) fn new(
        streams: &Streams,
        consumer: Arc<StreamConsumer>,
        partition: Partition,
        known: Range<Offset>,
    ) -> Self {
        Self {
            members: Arc::clone(&streams.members),
            consumer,
            partition,
            queue: None,
            position: known.start,
            end: known.end,
            unpacked: Unpacked::new(known.start, Vec::new()),
            mean: A_RECORD,
            turns: Arc::clone(&streams.turns),
            was_near: false,
            patience: SILENT_TURN,
            fetching: Fetching::No,
            tell: Box::new(|_| {}),
        }
    }

    /// From now on somebody is told whether the stream waits for a turn.
    pub fn telling(mut self, tell: impl Fn(bool) + Send + Sync + 'static) -> Self {
        self.tell = Box::new(tell);
        self
    }

    /// Who leads the partitions of an assigned topic that it does not know yet, librdkafka asks
    /// once a second only. The question waits behind a fetch under way.
    pub(super) async fn know_leaders(&mut self) -> Result<(), KafkaError> {
        let (consumer, topic) = (Arc::clone(&self.consumer), self.partition.0.clone());
        let asked = spawn_blocking(move || {
            consumer
                .fetch_metadata(Some(topic.as_str()), LEADERS_TIMEOUT)
                .map(|_| ())
        });
        asked.await.unwrap_or(Err(KafkaError::Canceled))
    }

    fn list(&self) -> Result<TopicPartitionList, KafkaError> {
        assignment(&HashMap::from([(self.partition.clone(), self.position)]))
    }

    /// Waits for a turn if the partition is behind.
    async fn take_up(&mut self) -> Result<(), KafkaError> {
        loop {
            let behind = self.behind();
            match &mut self.fetching {
                Fetching::InTurn(_) | Fetching::Freely => return Ok(()),
                Fetching::No if behind > NEAR => {
                    let far = Distance::Far {
                        was_near: self.was_near,
                    };
                    let distance = if behind <= FAR_BEHIND {
                        Distance::Short
                    } else {
                        far
                    };
                    self.fetching = Fetching::Waits(self.turns.wait(distance, behind));
                }
                Fetching::No => {
                    self.fetch()?;
                    self.came_near();
                }
                Fetching::Waits(turn) => {
                    (self.tell)(true);
                    let turn = next_turn(turn, self.queue.as_ref()).await;
                    (self.tell)(false);
                    self.fetching = Fetching::No;
                    self.fetch()?;
                    self.fetching = turn.map_or(Fetching::Freely, Fetching::InTurn);
                }
            }
        }
    }

    fn fetch(&mut self) -> Result<(), KafkaError> {
        // The one before ends first: with it ends the waking of whoever reads. librdkafka may have
        // another by now.
        self.queue = None;
        // Split off before it is assigned, so that none of its records goes to the consumer's
        // common queue.
        let (topic, shard) = &self.partition;
        self.queue = self
            .consumer
            .split_partition_queue(topic.as_str(), shard.partition());
        self.list()
            .and_then(|list| self.consumer.incremental_assign(&list))
    }

    /// Ends what [`Self::fetch`] began. What was fetched would stay in the queue: it is outdated,
    /// and is not given out.
    fn let_go(&mut self) {
        if matches!(
            std::mem::replace(&mut self.fetching, Fetching::No),
            Fetching::No | Fetching::Waits(_)
        ) {
            return;
        }
        if let Err(error) = self
            .list()
            .and_then(|list| self.consumer.incremental_unassign(&list))
        {
            warn!(
                topic = %self.partition.0, shard = %self.partition.1, %error,
                "a partition could not be let go"
            );
        }
        if let Some(queue) = &self.queue {
            while queue.recv().now_or_never().is_some() {}
        }
    }

    fn came_near(&mut self) {
        (self.fetching, self.was_near) = (Fetching::Freely, true);
    }

    /// What the records weigh that are known to come, in bytes.
    fn behind(&self) -> i64 {
        (self.end.0 - self.position.0).saturating_mul(self.mean)
    }

    fn weigh(&mut self, bytes: i64) {
        self.mean += (bytes - self.mean) / OF_THE_MEAN;
        self.patience = SILENT_TURN;
        if let Fetching::InTurn(turn) = &mut self.fetching {
            turn.bytes = turn.bytes.saturating_add(bytes);
        }
    }

    /// Begins or ends a turn, as far as the partition is behind.
    fn take_turns(&mut self) {
        self.end = high_watermark(&self.consumer, &self.partition).unwrap_or(self.end);
        let behind = self.behind();
        match &self.fetching {
            Fetching::InTurn(_) if behind <= NEAR => self.came_near(),
            Fetching::InTurn(turn) if turn.distance == Distance::Short && behind > FAR_BEHIND => {
                self.begin_turn()
            }
            Fetching::InTurn(turn) if turn.is_over(self.patience) => self.begin_turn(),
            Fetching::Freely if behind > LEAST_FAR && behind > far_behind(self.streams()) => {
                self.begin_turn()
            }
            _ => {}
        }
    }

    /// How many streams there are.
    fn streams(&self) -> usize {
        self.members
            .lock()
            .iter()
            .map(|member| member.partitions.len())
            .sum()
    }

    /// Those who wait come first.
    fn begin_turn(&mut self) {
        if let Fetching::InTurn(turn) = &self.fetching {
            self.patience = turn.next_patience(self.patience);
            self.fetching = Fetching::Freely;
        }
        match self.turns.try_far(self.was_near) {
            Some(turn) => self.fetching = Fetching::InTurn(turn),
            None => self.let_go(),
        }
    }

    async fn receive(&mut self) -> Result<(), StreamError> {
        let (topic, shard) = self.partition.clone();
        let failed = |source| StreamError::Kafka {
            topic: topic.clone(),
            shard,
            source: Box::new(source),
        };
        self.take_up().await.map_err(failed)?;
        let Some(queue) = &self.queue else {
            return Err(failed(KafkaError::MessageConsumption(
                RDKafkaErrorCode::UnknownPartition,
            )));
        };
        let message = async {
            let message = queue.recv().await?;
            Ok::<_, KafkaError>((message.payload_len(), read(&self.partition, &message)))
        };
        let received = match &self.fetching {
            Fetching::InTurn(turn) => {
                match tokio::time::timeout_at(turn.end(self.patience), message).await {
                    Ok(received) => received,
                    Err(_) => {
                        self.take_turns();
                        return Ok(());
                    }
                }
            }
            _ => message.await,
        };
        match received {
            // Nothing is ever taken out of the middle of these topics.
            Ok((_, Ok((found, _)))) if found != self.position => Err(StreamError::Skipped {
                topic,
                shard,
                expected: self.position,
                found,
            }),
            Ok((bytes, Ok((offset, records)))) => {
                self.position = Offset(offset.0 + 1);
                self.unpacked = Unpacked::new(offset, records);
                self.weigh(i64::try_from(bytes).unwrap_or(i64::MAX));
                self.take_turns();
                Ok(())
            }
            Ok((_, Err(error))) => Err(error),
            Err(error) => match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                    Err(StreamError::PositionLost {
                        topic,
                        shard,
                        offset: self.position,
                    })
                }
                _ => Err(failed(error)),
            },
        }
    }
}

/// Waits for a turn, and takes out of the queue what a fetch that was under way brings after all.
async fn next_turn(
    turn: &mut BoxFuture<'static, Option<Turn>>,
    queue: Option<&StreamPartitionQueue<DefaultConsumerContext>>,
) -> Option<Turn> {
    let outdated = async {
        match queue {
            Some(queue) => loop {
                let _ = queue.recv().await;
            },
            None => std::future::pending::<Infallible>().await,
        }
    };
    tokio::select! {
        biased;
        turn = turn => turn,
        never = outdated => match never {},
    }
}

/// A partition's end as the last fetch has told it.
#[allow(unsafe_code)]
fn high_watermark(consumer: &StreamConsumer, (topic, shard): &Partition) -> Option<Offset> {
    let topic = CString::new(topic.as_str()).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the consumer outlives the call, and so do the topic's name and the two numbers, which
    // are what the call fills.
    let answer = unsafe {
        rd_kafka_get_watermark_offsets(
            consumer.client().native_ptr(),
            topic.as_ptr(),
            shard.partition(),
            &raw mut low,
            &raw mut high,
        )
    };
    // Negative ones are placeholders.
    (answer == rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(Offset(high))
}

fn read(
    (topic, shard): &Partition,
    message: &BorrowedMessage<'_>,
) -> Result<(Offset, Vec<Record>), StreamError> {
    let offset = Offset(message.offset());
    let records = Record::decode(message).map_err(|source| StreamError::Record {
        topic: topic.clone(),
        shard: *shard,
        offset,
        source,
    })?;
    Ok((offset, records))
}

impl Drop for PartitionStream {
    fn drop(&mut self) {
        self.let_go();
        // Before another stream may read the partition with this consumer.
        self.queue = None;
        let mut members = self.members.lock();
        if let Some(member) = members
            .iter_mut()
            .find(|member| Arc::ptr_eq(&member.consumer, &self.consumer))
        {
            member.partitions.remove(&self.partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prometheus::IntGauge;
    use rdkafka::mocking::MockCluster;
    use shardline_common::config::KafkaConfig;
    use shardline_common::kafka::{Group, Kafka, Outgoing};
    use shardline_common::record::{Body, Operation, OperationKind, packs};
    use shardline_common::types::{PrimaryTerm, SeqNo, ShardId, TopicName};
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;

    use super::super::turns::{BYTES_OF_A_TURN, LONGEST_SILENCE, TURNS};
    use super::*;

    /// A mock broker keeps 5 MB of a partition.
    const RECORD: i64 = 30 * 1024;
    const LENGTH: i64 = FAR_BEHIND / RECORD + 20;
    const NEAR_THE_END: i64 = LENGTH - NEAR / RECORD;
    const END: Offset = Offset(LENGTH);
    /// In which a record comes that can come.
    const SOON: Duration = Duration::from_secs(20);
    const A_WHILE: Duration = Duration::from_millis(1500);

    struct Topic {
        streams: Streams,
        topic: TopicName,
        _cluster: MockCluster<'static, rdkafka::producer::DefaultProducerContext>,
    }

    impl Topic {
        /// With `partitions` of [`LENGTH`] records each.
        async fn new(partitions: i32) -> Self {
            let cluster = MockCluster::new(1).unwrap();
            let topic = TopicName::from("topic");
            cluster.create_topic(topic.as_str(), partitions, 1).unwrap();
            let config = serde_json::json!({"bootstrap_servers": cluster.bootstrap_servers()});
            let kafka = Kafka::new(serde_json::from_value::<KafkaConfig>(config).unwrap()).unwrap();
            let producer = kafka.producer().unwrap();
            for shard in (0..partitions as u32).map(ShardId) {
                let (group, delivery) = Group::new(None);
                for n in 0..LENGTH {
                    let source = Bytes::from(vec![b' '; RECORD as usize]);
                    let kind = OperationKind::Index {
                        id: "id".to_owned(),
                        source,
                        routing: None,
                        version: 1,
                    };
                    let body = Body::Operation(Operation {
                        primary_term: PrimaryTerm(1),
                        kind,
                    });
                    let record = [Record {
                        seq_no: SeqNo(n),
                        timestamp_ms: 1,
                        body,
                    }];
                    let encoded = packs(&record, 1).next().unwrap().encode();
                    let outgoing = Outgoing {
                        key: encoded.key,
                        value: Some(&encoded.value),
                        headers: encoded.headers,
                        timestamp_ms: 1,
                    };
                    producer
                        .send(&topic, shard, outgoing, &group)
                        .await
                        .unwrap();
                }
                drop(group);
                delivery.wait().await.unwrap();
            }
            let waiting = IntGauge::new("waiting", "of a test").unwrap();
            let streams =
                Streams::of_shards(kafka.consumer("group"), waiting, CancellationToken::new());
            Self {
                streams,
                topic,
                _cluster: cluster,
            }
        }

        async fn open(&self, shard: usize, offset: i64) -> PartitionStream {
            self.streams
                .open_on_network(&self.topic, ShardId(shard as u32), Offset(offset)..END)
                .await
                .unwrap()
        }
    }

    async fn read(stream: &mut PartitionStream, offset: i64) {
        let record = tokio::time::timeout(SOON, stream.next())
            .await
            .expect("it comes")
            .unwrap();
        assert_eq!(
            (record.offset, record.record.seq_no),
            (Offset(offset), SeqNo(offset))
        );
    }

    async fn nothing_comes(stream: &mut PartitionStream) -> bool {
        tokio::time::timeout(A_WHILE, stream.next()).await.is_err()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn partitions_that_are_far_behind_take_turns() {
        let topic = Topic::new(TURNS as i32 + 3).await;
        let mut busy = Vec::new();
        for shard in 0..TURNS {
            let mut stream = topic.open(shard, 0).await;
            read(&mut stream, 0).await;
            busy.push(stream);
        }
        let mut waiting = topic.open(TURNS, 0).await;
        assert!(nothing_comes(&mut waiting).await);
        assert!(waiting.queue.is_none(), "it is not fetched either");
        assert_eq!(topic.streams.turns.waiting.get(), 1);
        // One that is near its end does not wait.
        let mut near = topic.open(TURNS + 1, NEAR_THE_END).await;
        for n in NEAR_THE_END..LENGTH {
            read(&mut near, n).await;
        }
        // Nor does one that is not much behind.
        let mut short = topic.open(TURNS, LENGTH - 40).await;
        read(&mut short, LENGTH - 40).await;
        drop(short);
        // One that has come near its end makes room.
        for n in 1..LENGTH {
            read(&mut busy[0], n).await;
        }
        read(&mut waiting, 0).await;
        assert_eq!(topic.streams.turns.waiting.get(), 0);
        // So does one that is put down; it goes on where it was.
        let mut other = topic.open(TURNS + 2, 0).await;
        assert!(nothing_comes(&mut other).await);
        busy[1].put_down();
        read(&mut other, 0).await;
        assert!(nothing_comes(&mut busy[1]).await);
        drop(other);
        for n in 1..LENGTH {
            read(&mut busy[1], n).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_turn_ends_if_others_wait() {
        let topic = Topic::new(TURNS as i32 + 1).await;
        let mut streams = Vec::new();
        for shard in 0..=TURNS {
            streams.push((topic.open(shard, 0).await, 0));
        }
        // As if each had been read for long.
        let end_turn = |stream: &mut PartitionStream| {
            if let Fetching::InTurn(turn) = &mut stream.fetching {
                turn.bytes = BYTES_OF_A_TURN;
            }
        };
        while streams.iter().any(|(_, read)| *read < LENGTH) {
            for (stream, position) in streams.iter_mut().filter(|(_, read)| *read < LENGTH) {
                end_turn(stream);
                if let Ok(record) =
                    tokio::time::timeout(Duration::from_millis(20), stream.next()).await
                {
                    assert_eq!(record.unwrap().offset, Offset(*position));
                    *position += 1;
                }
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_record_that_takes_longer_than_a_silent_turn_comes_in_a_later_one() {
        let topic = Topic::new(1).await;
        let mut stream = topic.open(0, 0).await;
        read(&mut stream, 0).await;
        let others = Arc::clone(&topic.streams.turns.returning)
            .acquire_many_owned(TURNS as u32 - 1)
            .await
            .unwrap();
        for silent in 1..=3 {
            let Fetching::InTurn(turn) = &mut stream.fetching else {
                panic!("it is far behind")
            };
            (turn.bytes, turn.since) = (0, Instant::now() - LONGEST_SILENCE);
            let waits = Arc::clone(&topic.streams.turns.returning).acquire_owned();
            tokio::pin!(waits);
            assert!(waits.as_mut().now_or_never().is_none());
            stream.take_turns();
            assert_eq!(stream.patience, SILENT_TURN * 2_u32.pow(silent));
            assert!(matches!(stream.fetching, Fetching::No), "others wait");
            drop(waits.await);
            stream.take_up().await.unwrap();
        }
        read(&mut stream, 1).await;
        assert_eq!(stream.patience, SILENT_TURN);
        drop(others);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stream_that_is_let_go_and_opened_again_begins_where_it_is_told() {
        let topic = Topic::new(1).await;
        for from in [0, 7, 3] {
            let mut stream = topic.open(0, from).await;
            for n in from..from + 50 {
                read(&mut stream, n).await;
            }
        }
    }
}
