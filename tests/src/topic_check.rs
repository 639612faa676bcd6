//! Reads an index's whole topic and proves what must hold for it: every operation in `seq_no` order
//! without a hole, a repeated one the same as before, no operation that the leader has rolled back,
//! and every field in the mapping that stands before it.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::{Message, Offset as KafkaOffset, TopicPartitionList};
use serde_json::{Value, json};
use shardline_common::config::KafkaConfig;
use shardline_common::kafka::Kafka;
use shardline_common::record::{Body, Operation, OperationKind, Record};
use shardline_common::types::{PrimaryTerm, SeqNo, ShardId, TopicName};

use crate::client::Client;

const PATIENCE: Duration = Duration::from_secs(30);

/// What a topic holds.
#[derive(Debug, Default)]
pub struct TopicReport {
    pub operations: u64,
    pub repeated: u64,
    pub resyncs: u64,
    /// The last operation on each document.
    last: HashMap<String, (SeqNo, PrimaryTerm, bool)>,
}

impl std::fmt::Display for TopicReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} operations, {} of them repeated, and {} resyncs",
            self.operations, self.repeated, self.resyncs
        )
    }
}

/// As an agent sees it that has the servers' addresses and nothing else.
pub fn kafka(servers: &str) -> Result<Kafka> {
    Ok(Kafka::new(KafkaConfig {
        bootstrap_servers: servers.to_owned(),
        topic_prefix: "shardline".to_owned(),
        replication_factor: 1,
        retention_hours: 1,
        properties: Default::default(),
        properties_files: Default::default(),
    })?)
}

pub async fn check(
    servers: &str,
    topic: &TopicName,
    leader: &Client,
    index: &str,
) -> Result<TopicReport> {
    let kafka = kafka(servers)?;
    let consumer = StreamConsumer::<rdkafka::consumer::DefaultConsumerContext>::from_config(
        &kafka.consumer("checker"),
    )?;
    let metadata = consumer.fetch_metadata(Some(topic.as_str()), PATIENCE)?;
    let partitions = metadata
        .topics()
        .first()
        .context("no such topic")?
        .partitions()
        .len();
    let mut report = TopicReport::default();
    for partition in 0..partitions {
        let shard = ShardId(u32::try_from(partition)?);
        check_partition(&kafka, &consumer, topic, shard, &mut report)
            .await
            .with_context(|| format!("{topic} partition {shard}"))?;
    }
    nothing_was_rolled_back(&report, leader, index).await?;
    Ok(report)
}

async fn check_partition(
    kafka: &Kafka,
    consumer: &StreamConsumer,
    topic: &TopicName,
    shard: ShardId,
    report: &mut TopicReport,
) -> Result<()> {
    let end = kafka.watermarks(topic, shard).await?.high;
    let mut position = TopicPartitionList::new();
    position.add_partition_offset(topic.as_str(), shard.partition(), KafkaOffset::Beginning)?;
    consumer.assign(&position)?;
    let mut records = consumer.stream();
    let mut partition = Partition::default();
    let mut offset = 0;
    while offset < end.0 {
        let message = tokio::time::timeout(PATIENCE, records.next())
            .await?
            .context("the stream ended")??;
        for record in Record::decode(&message)? {
            partition
                .take(record, report)
                .with_context(|| format!("offset {}", message.offset()))?;
        }
        offset = message.offset() + 1;
    }
    Ok(())
}

/// What a partition has held so far.
struct Partition {
    reached: i64,
    seen: HashMap<i64, (PrimaryTerm, u64)>,
    mappings: Value,
    resync: Option<(i64, i64)>,
}

impl Default for Partition {
    fn default() -> Self {
        Self {
            reached: -1,
            seen: HashMap::new(),
            mappings: Value::Null,
            resync: None,
        }
    }
}

impl Partition {
    fn take(
        &mut self,
        Record { seq_no, body, .. }: Record,
        report: &mut TopicReport,
    ) -> Result<()> {
        match body {
            Body::Operation(operation) => self.operation(seq_no, operation, report)?,
            Body::Metadata(metadata) => self.mappings = metadata.mappings,
            Body::Rewound { .. } => (self.reached, self.seen) = (seq_no.0, HashMap::new()),
            Body::Gap { .. } => self.reached = self.reached.max(seq_no.0),
            Body::ResyncBegin(begin) => {
                ensure!(
                    begin.from.0 <= self.reached + 1,
                    "a resync from {} after {}",
                    begin.from,
                    self.reached
                );
                self.resync = Some((begin.frame.0, begin.to.0));
            }
            Body::ResyncDocument {
                seq_no, operation, ..
            } => self.document(seq_no, &operation, report)?,
            Body::ResyncEnd(end) => {
                if let Some((_, to)) = self.resync.take_if(|(frame, _)| *frame == end.frame.0) {
                    ensure!(to == seq_no.0, "a resync to {to} ends at {seq_no}");
                    self.reached = self.reached.max(to);
                    report.resyncs += 1;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn operation(
        &mut self,
        seq_no: SeqNo,
        operation: Operation,
        report: &mut TopicReport,
    ) -> Result<()> {
        let mut hasher = DefaultHasher::new();
        format!("{:?}", operation.kind).hash(&mut hasher);
        let print = (operation.primary_term, hasher.finish());
        report.operations += 1;
        if let Some(before) = self.seen.insert(seq_no.0, print) {
            ensure!(
                before == print,
                "operation {seq_no} is another one than before: {operation:?}"
            );
            report.repeated += 1;
            return Ok(());
        }
        ensure!(
            seq_no.0 <= self.reached + 1,
            "operation {seq_no} comes after {}",
            self.reached
        );
        self.reached = self.reached.max(seq_no.0);
        self.document(seq_no, &operation, report)
    }

    fn document(
        &self,
        seq_no: SeqNo,
        operation: &Operation,
        report: &mut TopicReport,
    ) -> Result<()> {
        let (id, exists) = match &operation.kind {
            OperationKind::Index { id, source, .. } => {
                let source: Value = serde_json::from_slice(source)?;
                every_field_is_mapped(&source, &self.mappings)
                    .with_context(|| format!("operation {seq_no}"))?;
                (id, true)
            }
            OperationKind::Delete { id, .. } => (id, false),
            OperationKind::NoOp => return Ok(()),
        };
        let last =
            report
                .last
                .entry(id.clone())
                .or_insert((seq_no, operation.primary_term, exists));
        if last.0 <= seq_no {
            *last = (seq_no, operation.primary_term, exists);
        }
        Ok(())
    }
}

fn every_field_is_mapped(source: &Value, mapping: &Value) -> Result<()> {
    let Some(fields) = source.as_object() else {
        return Ok(());
    };
    for (name, value) in fields {
        let Some(field) = mapping["properties"].get(name) else {
            bail!("field {name} is in no mapping that precedes it");
        };
        every_field_is_mapped(value, field)?;
    }
    Ok(())
}

/// Every document is on the leader as the topic's last operation on it left it: the same operation
/// of the same term.
async fn nothing_was_rolled_back(report: &TopicReport, leader: &Client, index: &str) -> Result<()> {
    leader
        .ok("POST", &format!("/{index}/_refresh"), None)
        .await?;
    let pit = leader
        .ok(
            "POST",
            &format!("/{index}/_search/point_in_time?keep_alive=5m"),
            None,
        )
        .await?;
    let mut documents = HashMap::new();
    let mut after = Value::Null;
    loop {
        let mut search = json!({
            "size": 10_000, "_source": false, "seq_no_primary_term": true, "track_total_hits": false,
            "pit": {"id": pit["pit_id"], "keep_alive": "5m"}, "sort": ["_shard_doc"],
        });
        if !after.is_null() {
            search["search_after"] = after;
        }
        let page = leader.ok("POST", "/_search", Some(&search)).await?;
        let hits = page["hits"]["hits"].as_array().context("no hits")?.clone();
        let Some(last) = hits.last() else { break };
        after = last["sort"].clone();
        for hit in hits {
            let id = hit["_id"].as_str().context("no _id")?.to_owned();
            let position = (
                hit["_seq_no"].as_i64().unwrap_or(-1),
                hit["_primary_term"].as_i64().unwrap_or(-1),
            );
            documents.insert(id, position);
        }
    }
    leader
        .ok(
            "DELETE",
            "/_search/point_in_time",
            Some(&json!({"pit_id": [pit["pit_id"]]})),
        )
        .await?;
    for (id, (seq_no, term)) in &documents {
        let found = report
            .last
            .get(id)
            .with_context(|| format!("document {id} is not in the topic"))?;
        ensure!(
            *found == (SeqNo(*seq_no), PrimaryTerm(*term), true),
            "document {id} is of operation {seq_no} and term {term} on the leader, {found:?} in the topic"
        );
    }
    if report.resyncs == 0 {
        let gone = report
            .last
            .iter()
            .find(|(id, (_, _, exists))| *exists && !documents.contains_key(*id));
        ensure!(
            gone.is_none(),
            "the topic has a document that the leader has not: {gone:?}"
        );
    }
    Ok(())
}
