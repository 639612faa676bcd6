//! What one partition cannot take stops that partition alone, against librdkafka's mock cluster.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use leader_agent::{Appender, PartitionLog, PublishError, Publisher};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use shardline_common::config::KafkaConfig;
use shardline_common::kafka::Kafka;
use shardline_common::record::{Body, Operation, OperationKind, Record};
use shardline_common::types::{Offset, PrimaryTerm, SeqNo, ShardId, TopicName};

const SHARD: ShardId = ShardId(0);
/// In which something happens that can happen.
const SOON: Duration = Duration::from_secs(30);
/// As much as fits into all that may be on its way three times.
const LARGE: usize = 4 * 1024 * 1024 - 16 * 1024;

struct World {
    cluster: MockCluster<'static, DefaultProducerContext>,
    kafka: Kafka,
    publisher: Publisher,
}

impl World {
    fn with_topics<'a>(topics: impl IntoIterator<Item = &'a str>) -> Self {
        let cluster = MockCluster::new(2).unwrap();
        for topic in topics {
            cluster.create_topic(topic, 1, 2).unwrap();
            cluster.partition_leader(topic, 0, Some(1)).unwrap();
        }
        let config = serde_json::json!({"bootstrap_servers": cluster.bootstrap_servers()});
        let kafka = Kafka::new(serde_json::from_value::<KafkaConfig>(config).unwrap()).unwrap();
        let publisher = Publisher::new(kafka.clone(), 32 * 1024).unwrap();
        Self {
            cluster,
            kafka,
            publisher,
        }
    }

    /// The next request with records is refused, for good.
    fn refuse_next(&self, error: RDKafkaRespErr) {
        self.cluster
            .request_errors(RDKafkaApiKey::Produce, &[error]);
    }

    async fn end(&self, topic: &str) -> Offset {
        let marks = self.kafka.watermarks(&TopicName::from(topic), SHARD).await;
        marks.unwrap().high
    }
}

fn records(numbers: impl IntoIterator<Item = i64>, bytes: usize) -> Vec<Record> {
    let record = |number| {
        let kind = OperationKind::Index {
            id: "id".to_owned(),
            source: Bytes::from(vec![b' '; bytes]),
            routing: None,
            version: 1,
        };
        Record {
            seq_no: SeqNo(number),
            timestamp_ms: 1,
            body: Body::Operation(Operation {
                primary_term: PrimaryTerm(1),
                kind,
            }),
        }
    };
    numbers.into_iter().map(record).collect()
}

async fn send(
    appender: &dyn Appender,
    topic: &str,
    records: &[Record],
) -> Result<Offset, PublishError> {
    let topic = TopicName::from(topic);
    let sent = async { appender.send(&topic, SHARD, records).await?.await };
    tokio::time::timeout(SOON, sent)
        .await
        .expect("Kafka answers")
}

/// The first refusal costs everybody a new appender; the ones that follow cost the refused
/// partition its own only.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_refuses_its_records_again_and_again_fails_alone() {
    let world = World::with_topics(["refused", "well"]);
    let before = world.publisher.appender();
    send(&*before, "well", &records([0], 10)).await.unwrap();
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_POLICY_VIOLATION;
    let appender = world.publisher.appender();
    world.refuse_next(refused);
    send(&*appender, "refused", &records([0], 10))
        .await
        .unwrap_err();

    let well = world.publisher.appender();
    send(&*well, "well", &records([1], 10)).await.unwrap();
    for number in 2..6 {
        let appender = world.publisher.appender();
        world.refuse_next(refused);
        let error = send(&*appender, "refused", &records([0], 10)).await;
        assert!(error.is_err());
        send(&*well, "well", &records([number], 10)).await.unwrap();
    }
    assert_eq!(world.end("refused").await, Offset(0));
}

/// What is behind a refused record in the same appender is never appended, neither with the shared
/// producer nor on the way back to it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_appended_behind_a_refused_record() {
    let world = World::with_topics(["refused"]);
    for _ in 0..3 {
        let appender = world.publisher.appender();
        world.refuse_next(RDKafkaRespErr::RD_KAFKA_RESP_ERR_POLICY_VIOLATION);
        let topic = TopicName::from("refused");
        // Each into a record of its own.
        let batch = records(0..50, 40 * 1024);
        let mut outcomes = Vec::new();
        for part in batch.chunks(10) {
            match appender.send(&topic, SHARD, part).await {
                Ok(sent) => outcomes.push(sent.await),
                Err(error) => outcomes.push(Err(error)),
            }
        }
        assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
        assert_eq!(world.end("refused").await, Offset(0));
    }
    let appender = world.publisher.appender();
    let all = records(0..50, 40 * 1024);
    assert_eq!(send(&*appender, "refused", &all).await.unwrap(), Offset(49));
}

/// Four times what all shards together may have on its way.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_without_a_leader_do_not_take_the_room_of_the_others() {
    let stuck: Vec<String> = (0..12).map(|n| format!("stuck-{n}")).collect();
    let topics = stuck.iter().map(String::as_str).chain(["well"]);
    let world = World::with_topics(topics);
    for topic in &stuck {
        world.cluster.partition_leader(topic, 0, None).unwrap();
    }
    let stuck: Vec<_> = stuck
        .into_iter()
        .map(|topic| {
            let publisher = world.publisher.clone();
            tokio::spawn(async move {
                let batch = records([0], LARGE);
                let topic = TopicName::from(topic.as_str());
                publisher
                    .appender()
                    .send(&topic, SHARD, &batch)
                    .await?
                    .await
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let appender = world.publisher.appender();
    for number in 0..5 {
        send(&*appender, "well", &records([number], LARGE))
            .await
            .unwrap();
    }
    for topic in 0..12 {
        let topic = format!("stuck-{topic}");
        world.cluster.partition_leader(&topic, 0, Some(1)).unwrap();
    }
    for sent in stuck {
        let sent = tokio::time::timeout(SOON, sent).await;
        sent.expect("it arrives").unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_about_partitions_that_do_not_answer_do_not_hold_up_the_others() {
    let stuck: Vec<String> = (0..24).map(|n| format!("stuck-{n}")).collect();
    let topics = stuck.iter().map(String::as_str).chain(["well"]);
    let world = World::with_topics(topics);
    for topic in &stuck {
        world.cluster.partition_leader(topic, 0, Some(2)).unwrap();
    }
    world.cluster.broker_down(2).unwrap();
    let stuck: Vec<_> = stuck
        .into_iter()
        .map(|topic| {
            let publisher = world.publisher.clone();
            tokio::spawn(async move {
                let topic = TopicName::from(topic.as_str());
                publisher.reach(&topic, SHARD).await.map(drop)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let well = TopicName::from("well");
    let asked = tokio::time::timeout(SOON, world.publisher.reach(&well, SHARD)).await;
    assert_eq!(asked.expect("Kafka answers").unwrap(), None);
    stuck.iter().for_each(tokio::task::JoinHandle::abort);
}

/// The mock cluster makes no topics, as a Kafka whose agents may not.
#[tokio::test(flavor = "multi_thread")]
async fn topics_that_exist_are_not_made() {
    let names: Vec<String> = (0..6).map(|n| format!("topic-{n}")).collect();
    let world = World::with_topics(names.iter().map(String::as_str));
    let topics: BTreeMap<TopicName, u32> = names
        .iter()
        .map(|name| (TopicName::from(name.as_str()), 1))
        .collect();
    let refused = world.kafka.create_replication_topics(&topics).await;
    assert!(refused.unwrap().is_empty());
    for topic in topics.keys() {
        let made = world.kafka.create_replication_topic(topic, 1).await;
        made.unwrap();
    }
}
