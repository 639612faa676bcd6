//! A member of the consumer group, as librdkafka has it or in memory.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset as KafkaOffset, TopicPartitionList};
use shardline_common::kafka::{Kafka, memory};
use shardline_common::types::{Offset, ShardId, TopicName};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::slots::Slot;

/// After this time without a word from a member Kafka gives its slots to others. The least that
/// brokers allow by default.
const SESSION: Duration = Duration::from_secs(6);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a member may take to let go of its slots.
const REBALANCE_TIMEOUT: Duration = Duration::from_secs(60);
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

pub(super) enum Rebalance {
    Assigned(BTreeSet<Slot>),
    Revoked { slots: BTreeSet<Slot>, lost: bool },
}

pub(super) struct Context {
    rebalances: mpsc::UnboundedSender<Rebalance>,
}

impl ClientContext for Context {}

impl ConsumerContext for Context {
    /// Only passes the word on: slots are taken and given up in [`super::Group::run`], and Kafka
    /// waits for that.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        error: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let slots: BTreeSet<Slot> = partitions
            .elements()
            .iter()
            .filter_map(|partition| u32::try_from(partition.partition()).ok())
            .map(Slot)
            .collect();
        let event = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Rebalance::Assigned(slots),
            _ => Rebalance::Revoked {
                slots,
                lost: consumer.assignment_lost(),
            },
        };
        if self.rebalances.send(event).is_err() {
            // Nobody works any more; the consumer is being closed.
            let outcome = match error {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                    consumer.incremental_assign(partitions)
                }
                _ => consumer.incremental_unassign(partitions),
            };
            if let Err(error) = outcome {
                debug!(%error, "slots could not be let go while leaving");
            }
        }
    }
}

pub(super) enum Member {
    Network(Arc<StreamConsumer<Context>>),
    Memory(memory::Member),
}

impl Member {
    /// Asks to join; rebalances arrive through the channel.
    pub(super) fn join(
        kafka: &Kafka,
        group: &str,
        topic: &TopicName,
        rebalances: mpsc::UnboundedSender<Rebalance>,
    ) -> Result<Self, KafkaError> {
        if let Some(client) = kafka.memory() {
            return Ok(Self::join_in_memory(client, group, topic, rebalances));
        }
        let mut settings = kafka.consumer(group);
        settings
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", SESSION.as_millis().to_string())
            .set("heartbeat.interval.ms", HEARTBEAT.as_millis().to_string())
            .set(
                "max.poll.interval.ms",
                REBALANCE_TIMEOUT.as_millis().to_string(),
            )
            .set("socket.timeout.ms", ASK_TIMEOUT.as_millis().to_string())
            // How long a commit waits for a coordinator.
            .set(
                "coordinator.query.interval.ms",
                ASK_TIMEOUT.as_millis().to_string(),
            );
        let consumer = StreamConsumer::from_config_and_context(&settings, Context { rebalances })?;
        consumer.subscribe(&[topic.as_str()])?;
        Ok(Self::Network(Arc::new(consumer)))
    }

    fn join_in_memory(
        client: &memory::Client,
        group: &str,
        topic: &TopicName,
        rebalances: mpsc::UnboundedSender<Rebalance>,
    ) -> Self {
        let joining = memory::Joining {
            group: group.to_owned(),
            topic: topic.clone(),
            session: SESSION,
            heartbeat: HEARTBEAT,
            rebalance: REBALANCE_TIMEOUT,
        };
        let slots = |slots: BTreeSet<u32>| slots.into_iter().map(Slot).collect();
        Self::Memory(memory::Member::join(
            client.clone(),
            joining,
            move |event| {
                let event = match event {
                    memory::Rebalance::Assigned(assigned) => Rebalance::Assigned(slots(assigned)),
                    memory::Rebalance::Revoked { slots: gone, lost } => Rebalance::Revoked {
                        slots: slots(gone),
                        lost,
                    },
                };
                rebalances.send(event).is_ok()
            },
        ))
    }

    /// Takes slots on. There is nothing to read of them.
    pub(super) fn assign(&self, list: &TopicPartitionList) -> Result<(), KafkaError> {
        match self {
            Self::Network(consumer) => {
                consumer.incremental_assign(list)?;
                consumer.pause(list)
            }
            Self::Memory(_) => Ok(()),
        }
    }

    /// Lets go of slots; nobody works on them any more.
    pub(super) fn unassign(&self, list: &TopicPartitionList) -> Result<(), KafkaError> {
        match self {
            Self::Network(consumer) => consumer.incremental_unassign(list),
            Self::Memory(member) => {
                let slots = list.elements().into_iter();
                let slots = slots.filter_map(|slot| u32::try_from(slot.partition()).ok());
                member.release(&slots.collect());
                Ok(())
            }
        }
    }

    /// Has the member's events served. Never returns.
    pub(super) async fn serve_events(&self, group: &str) {
        let Self::Network(consumer) = self else {
            return std::future::pending().await;
        };
        loop {
            if let Err(error) = consumer.recv().await {
                warn!(group, %error, "Kafka reports");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    pub(super) async fn commit(&self, list: TopicPartitionList) -> Result<(), KafkaError> {
        let committed = match self {
            Self::Network(consumer) => {
                let consumer = Arc::clone(consumer);
                let commit = move || consumer.commit(&list, CommitMode::Sync);
                let committed = tokio::task::spawn_blocking(commit).await;
                committed.unwrap_or(Err(KafkaError::Canceled))
            }
            Self::Memory(member) => {
                let positions = list.elements().into_iter().map(|found| {
                    let offset = match found.offset() {
                        KafkaOffset::Offset(offset) => Offset(offset),
                        _ => Offset(0),
                    };
                    (place(&found), offset, found.metadata().to_owned())
                });
                member.commit(positions.collect(), ASK_TIMEOUT).await
            }
        };
        match committed {
            // Of a topic that was deleted; the others are committed.
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::UnknownTopicOrPartition)) => Ok(()),
            outcome => outcome,
        }
    }

    /// The metadata committed for partitions; those without are left out.
    pub(super) async fn committed(
        &self,
        list: TopicPartitionList,
    ) -> Result<Vec<((TopicName, ShardId), String)>, KafkaError> {
        let list = match self {
            Self::Network(consumer) => {
                let consumer = Arc::clone(consumer);
                let ask = move || consumer.committed_offsets(list, ASK_TIMEOUT);
                let asked = tokio::task::spawn_blocking(ask).await;
                asked.unwrap_or(Err(KafkaError::Canceled))?
            }
            Self::Memory(member) => {
                let partitions: Vec<_> = list.elements().iter().map(place).collect();
                return member.committed(&partitions, ASK_TIMEOUT).await;
            }
        };
        let with_metadata = list.elements().into_iter();
        Ok(with_metadata
            .filter(|found| !found.metadata().is_empty())
            .map(|found| (place(&found), found.metadata().to_owned()))
            .collect())
    }

    /// Leaves the group, in which it holds nothing any more; false if that did not come to an end.
    pub(super) async fn leave(&self) -> bool {
        let consumer = match self {
            Self::Network(consumer) => consumer,
            Self::Memory(member) => {
                member.leave();
                return true;
            }
        };
        consumer.unsubscribe();
        let left = async {
            while consumer
                .assignment()
                .is_ok_and(|assignment| assignment.count() > 0)
            {
                // The revocation is answered while the consumer is polled.
                let _ = tokio::time::timeout(POLL, consumer.recv()).await;
            }
        };
        tokio::time::timeout(LEAVE_TIMEOUT, left).await.is_ok()
    }
}

fn place(
    found: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>,
) -> (TopicName, ShardId) {
    (
        TopicName::from(found.topic()),
        ShardId(u32::try_from(found.partition()).unwrap_or_default()),
    )
}
