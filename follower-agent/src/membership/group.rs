//! Membership in the consumer group that the follower agents of a cluster form: which slots are
//! this agent's, the lease on its writes, and what is committed to Kafka.
//!
//! The group is subscribed to the slots topic, which holds no records. Two kinds of offsets are
//! committed, both with this member's generation, so that Kafka refuses them when the member has
//! lost its session:
//! - of the slots, with the agent's address and how far it has acted on the control topic. Such a
//!   commit renews the member's session, and with it the lease.
//! - of the partitions that the agent follows, with their checkpoints (see [`Positions`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use shardline_common::kafka::{Kafka, TopicError};
use shardline_common::lease::LeaseKeeper;
use shardline_common::topic::{follower_control_topic, slots_topic};
use shardline_common::types::{ClusterUuid, Offset, ShardId, TopicName};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::member::{Member, Rebalance};
use super::slots::SLOTS;
use super::{Committed, Partition, Positions, Slot, Slots};

/// How long a commit that Kafka took permits to write, from when it was sent on: less than the
/// session, for what is sent in the last moment.
const LEASE: Duration = Duration::from_millis(4_500);
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// All slots are committed this often even if nothing has changed, else one of them, for the lease.
const FULL_COMMIT_INTERVAL: Duration = Duration::from_secs(15);
const LAST_COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Partitions of one question or commit. Kafka takes the positions of a commit as one message, of 1
/// MB by default.
const AT_ONCE: usize = 500;
const POLL: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    #[error("consumer group {group}: {source}")]
    Kafka { group: String, source: KafkaError },
    #[error("a background task that talks to Kafka was cancelled")]
    Cancelled,
}

/// How long to wait for this agent to act on what others have acted on, before looking whether the
/// control topic still has it.
const CONTROL_PATIENCE: Duration = Duration::from_secs(5);

/// What is committed for a slot by the agent that holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// Base URL of the agent's gateway.
    pub address: String,
    /// The control topic's position up to which the agent does what it says.
    pub acted: Offset,
}

pub(crate) struct Group {
    kafka: Kafka,
    member: Member,
    name: String,
    topic: TopicName,
    address: String,
    slots: Arc<Slots>,
    positions: Arc<Positions>,
    lease: LeaseKeeper,
    /// Where this agent's tasks are with the control topic.
    acted: watch::Receiver<Offset>,
    /// When all slots were committed last, and with what; also keeps two commits apart.
    committed: Mutex<Option<(Instant, BTreeSet<Slot>, Offset)>>,
}

/// What a [`Group`] is made of beside Kafka.
pub(crate) struct Membership {
    pub cluster: ClusterUuid,
    pub address: String,
    pub slots: Arc<Slots>,
    pub positions: Arc<Positions>,
    pub lease: LeaseKeeper,
    pub acted: watch::Receiver<Offset>,
}

/// Rebalances that wait to be carried out.
pub(crate) struct Rebalances(mpsc::UnboundedReceiver<Rebalance>);

impl Group {
    /// Makes the topic that the group is about, unless it exists.
    pub(crate) async fn make_slots(kafka: &Kafka, cluster: &ClusterUuid) -> Result<(), TopicError> {
        let topic = slots_topic(kafka.topic_prefix(), cluster);
        kafka
            .create_topic(&topic, SLOTS, &[("retention.ms", "3600000".to_owned())])
            .await
    }

    /// Asks to join.
    pub(crate) fn join(
        kafka: &Kafka,
        membership: Membership,
    ) -> Result<(Arc<Self>, Rebalances), GroupError> {
        let Membership {
            cluster,
            address,
            slots,
            positions,
            lease,
            acted,
        } = membership;
        let topic = slots_topic(kafka.topic_prefix(), &cluster);
        let name = format!("{}.follower.{cluster}", kafka.topic_prefix());
        let (sender, rebalances) = mpsc::unbounded_channel();
        let joined = Member::join(kafka, &name, &topic, sender);
        let member = joined.map_err(|source| GroupError::Kafka {
            group: name.clone(),
            source,
        })?;
        let kafka = kafka.clone();
        let group = Self {
            kafka,
            member,
            name,
            topic,
            address,
            slots,
            positions,
            lease,
            acted,
            committed: Mutex::new(None),
        };
        Ok((Arc::new(group), Rebalances(rebalances)))
    }

    /// Takes part in the group until stopped; then gives up all slots and leaves.
    pub(crate) async fn run(&self, mut rebalances: Rebalances, stop: CancellationToken) {
        let work = async {
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    rebalance = rebalances.0.recv() => match rebalance {
                        // Whatever Kafka is told to wait for has to be answered, so this is never
                        // broken off.
                        Some(rebalance) => self.carry_out(rebalance, &stop).await,
                        None => return,
                    },
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = self.member.serve_events(&self.name) => {}
            () = self.commit_now_and_then() => {}
        }
        let held = self.slots.held();
        self.slots.give_up(&held).await;
        self.last_commit().await;
        self.lease.end();
        while let Ok(rebalance) = rebalances.0.try_recv() {
            self.carry_out(rebalance, &stop).await;
        }
        drop(rebalances);
        if !self.member.leave().await {
            warn!(group = self.name, "the consumer group was not left cleanly");
        }
    }

    async fn last_commit(&self) {
        if tokio::time::timeout(LAST_COMMIT_TIMEOUT, self.commit(&self.slots.held()))
            .await
            .is_err()
        {
            warn!(
                group = self.name,
                "the last positions of some shards could not be committed"
            );
        }
    }

    async fn carry_out(&self, rebalance: Rebalance, stop: &CancellationToken) {
        let outcome = match rebalance {
            Rebalance::Assigned(slots) => {
                let assigned = self
                    .partitions(&slots)
                    .and_then(|list| self.member.assign(&list));
                let caught_up = tokio::select! {
                    () = self.wait_for_control(&slots) => true,
                    () = stop.cancelled() => false,
                };
                if assigned.is_ok() && caught_up && !slots.is_empty() {
                    let mut held = self.slots.held();
                    held.extend(&slots);
                    self.commit(&held).await;
                    self.slots.take(&slots);
                    info!(
                        group = self.name,
                        gained = slots.len(),
                        held = held.len(),
                        "slots taken"
                    );
                }
                assigned
            }
            Rebalance::Revoked { slots, lost } => {
                if lost {
                    warn!(
                        group = self.name,
                        slots = slots.len(),
                        "the session was lost, and the slots with it"
                    );
                    self.lease.end();
                }
                self.slots.give_up(&slots).await;
                if !lost {
                    self.last_commit().await;
                }
                self.positions.forget(&slots);
                info!(
                    group = self.name,
                    gone = slots.len(),
                    held = self.slots.held().len(),
                    "slots given up"
                );
                self.partitions(&slots)
                    .and_then(|list| self.member.unassign(&list))
            }
        };
        if let Err(error) = outcome {
            warn!(group = self.name, %error, "a rebalance could not be carried out");
        }
    }

    /// Who held the slots before may have acted on more of the control topic than this agent has;
    /// what it had stopped must not begin again.
    async fn wait_for_control(&self, slots: &BTreeSet<Slot>) {
        if slots.is_empty() {
            return;
        }
        let holders = loop {
            match self.holders().await {
                Ok(holders) => break holders,
                Err(error) => {
                    warn!(group = self.name, %error, "the slots' former holders are not known yet")
                }
            }
            tokio::time::sleep(POLL).await;
        };
        let acted = holders
            .into_iter()
            .filter(|(slot, _)| slots.contains(slot))
            .map(|(_, holder)| holder.acted)
            .max();
        let Some(acted) = acted else { return };
        let mut own = self.acted.clone();
        let control = follower_control_topic(self.kafka.topic_prefix());
        loop {
            // It ends with the agent only.
            if tokio::time::timeout(CONTROL_PATIENCE, own.wait_for(|own| *own >= acted))
                .await
                .is_ok()
            {
                return;
            }
            let now = *own.borrow();
            match self.kafka.watermarks(&control, ShardId(0)).await {
                Ok(marks) if now >= marks.high => {
                    warn!(group = self.name, topic = %control, end = %marks.high, %acted, "the control topic has lost its last records: \
                          what they said no longer holds");
                    return;
                }
                Ok(marks) => {
                    warn!(
                        group = self.name, %now, end = %marks.high,
                        "slots wait for the control topic to be acted on"
                    )
                }
                Err(error) => warn!(group = self.name, %error, "slots wait for the control topic"),
            }
        }
    }

    fn partitions(&self, slots: &BTreeSet<Slot>) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::with_capacity(slots.len());
        for slot in slots {
            list.add_partition_offset(
                self.topic.as_str(),
                ShardId(slot.0).partition(),
                KafkaOffset::Offset(0),
            )?;
        }
        Ok(list)
    }

    async fn commit_now_and_then(&self) {
        let mut acted = self.acted.clone();
        loop {
            tokio::select! {
                () = tokio::time::sleep(COMMIT_INTERVAL) => {}
                changed = acted.changed() => match changed {
                    // Changes often come several at a time.
                    Ok(()) => tokio::time::sleep(POLL).await,
                    Err(_) => std::future::pending().await,
                },
            }
            self.commit(&self.slots.held()).await;
        }
    }

    /// Commits what has changed, and renews the lease.
    async fn commit(&self, held: &BTreeSet<Slot>) {
        self.lease.check();
        let mut committed = self.committed.lock().await;
        let (sent, acted) = (self.lease.now(), *self.acted.borrow());
        let full = !committed.as_ref().is_some_and(|(when, slots, up_to)| {
            when.elapsed() < FULL_COMMIT_INTERVAL && slots == held && *up_to == acted
        });
        let slots = if full {
            held.clone()
        } else {
            held.iter().take(1).copied().collect()
        };
        let positions = self.positions.changed();
        if slots.is_empty() && positions.is_empty() {
            return;
        }
        if !slots.is_empty() {
            let list = self.slots_to_commit(&slots, acted);
            match self.commit_list(list).await {
                // Whatever becomes of the positions.
                Ok(()) => self.lease.extend(sent, LEASE),
                Err(error) => {
                    debug!(group = self.name, %error, "the slots could not be committed");
                    self.positions
                        .not_committed(positions.into_iter().map(|(partition, _)| partition));
                    *committed = None;
                    return;
                }
            }
        }
        for (n, some) in positions.chunks(AT_ONCE).enumerate() {
            if let Err(error) = self.commit_list(positions_to_commit(some)).await {
                warn!(group = self.name, %error, "positions could not be committed");
                // The lease is renewed before Kafka is asked for more.
                let rest = positions[n * AT_ONCE..].iter();
                self.positions
                    .not_committed(rest.map(|(partition, _)| partition.clone()));
                break;
            }
        }
        if full {
            *committed = Some((Instant::now(), held.clone(), acted));
        }
    }

    async fn commit_list(
        &self,
        list: Result<TopicPartitionList, KafkaError>,
    ) -> Result<(), KafkaError> {
        let list = list?;
        if list.count() == 0 {
            return Ok(());
        }
        self.member.commit(list).await
    }

    fn slots_to_commit(
        &self,
        slots: &BTreeSet<Slot>,
        acted: Offset,
    ) -> Result<TopicPartitionList, KafkaError> {
        let mut list = self.partitions(slots)?;
        let holder = Holder {
            address: self.address.clone(),
            acted,
        };
        // A plain struct of a text and a number can be written.
        let metadata = serde_json::to_string(&holder).unwrap_or_default();
        for slot in slots {
            if let Some(mut partition) =
                list.find_partition(self.topic.as_str(), ShardId(slot.0).partition())
            {
                partition.set_metadata(&metadata);
            }
        }
        list.set_all_offsets(KafkaOffset::Offset(0))?;
        Ok(list)
    }

    /// What is committed for partitions; those without are left out.
    pub(crate) async fn committed(
        &self,
        partitions: &[Partition],
    ) -> Result<HashMap<Partition, Committed>, GroupError> {
        let found = self.ask(partitions).await?;
        Ok(found
            .into_iter()
            .map(|(partition, metadata)| (partition, Committed::parse(&metadata)))
            .collect())
    }

    /// Base URL of this agent's gateway, as the others know it.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Which agent holds which slot, as far as it has said so. It may be gone.
    pub(crate) async fn holders(&self) -> Result<BTreeMap<Slot, Holder>, GroupError> {
        let partitions: Vec<_> = (0..SLOTS)
            .map(|slot| (self.topic.clone(), ShardId(slot)))
            .collect();
        let found = self.ask(&partitions).await?;
        let holder = |(partition, metadata): (Partition, String)| {
            Some((Slot(partition.1.0), serde_json::from_str(&metadata).ok()?))
        };
        Ok(found.into_iter().filter_map(holder).collect())
    }

    /// librdkafka and brokers look through such lists again and again, so long ones are cut.
    async fn ask(&self, partitions: &[Partition]) -> Result<Vec<(Partition, String)>, GroupError> {
        let mut found = Vec::new();
        for some in partitions.chunks(AT_ONCE) {
            let mut list = TopicPartitionList::with_capacity(some.len());
            for (topic, shard) in some {
                list.add_partition(topic.as_str(), shard.partition());
            }
            let asked = self.member.committed(list).await;
            found.extend(asked.map_err(|source| GroupError::Kafka {
                group: self.name.clone(),
                source,
            })?);
        }
        Ok(found)
    }

    /// Waits until whoever holds these slots acts on the control topic up to a position.
    pub(crate) async fn acted_on(&self, position: Offset, slots: &BTreeSet<Slot>) {
        let mut own = self.acted.clone();
        let mut changes = self.slots.changes();
        loop {
            if own.wait_for(|own| *own >= position).await.is_err() {
                return;
            }
            let elsewhere: Vec<Slot> = slots
                .iter()
                .copied()
                .filter(|slot| !self.slots.holds(*slot))
                .collect();
            if elsewhere.is_empty() {
                return;
            }
            match self.holders().await {
                Ok(holders) => {
                    let acted = |slot| {
                        holders
                            .get(slot)
                            .is_some_and(|holder: &Holder| holder.acted >= position)
                    };
                    if elsewhere.iter().all(acted) {
                        return;
                    }
                }
                Err(error) => debug!(group = self.name, %error, "the slots' holders are not known"),
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = changes.next() => {}
            }
        }
    }
}

fn positions_to_commit(
    positions: &[(Partition, Committed)],
) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for ((topic, shard), committed) in positions {
        let Some((offset, metadata)) = committed.encode() else {
            continue;
        };
        let mut partition = list.add_partition(topic.as_str(), shard.partition());
        partition.set_offset(KafkaOffset::Offset(offset.0))?;
        partition.set_metadata(metadata);
    }
    Ok(list)
}
