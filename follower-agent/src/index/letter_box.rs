//! Documents that the follower index refuses for good, where users want the index to go on without
//! them: each is written down before its shard goes past it, and is taken off when a later
//! operation on the document gets through.
//!
//! What was refused is not kept with it: it stands in the partition, at the operation that is
//! named, and on the leader. To replay is to have the leader's agent ship the documents again as
//! they are then, so that nothing old comes back.

use std::collections::{BTreeSet, HashMap};

use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use shardline_common::clock::now_ms;
use shardline_common::control::{Entry, FailedRedelivery, Redelivery, Subscription};
use shardline_common::kafka::{ControlError, ControlTopic};
use shardline_common::record::FrameId;
use shardline_common::types::{ClusterUuid, IndexName, SeqNo, ShardId, TopicName};
use tracing::{info, warn};
use uuid::Uuid;

use super::{AgentContext, ControlSettings};
use crate::write::{ApplyError, DeadLetters, Refused, Rejection};

/// Of an index. All of them are in every agent's memory.
const MOST: usize = 1_000;
/// Of a reason, in characters.
const LONGEST_REASON: usize = 1_000;

/// Under its key in the dead-letter topic: the last refused operation on a document. Each operation
/// has a key of its own, so that a write which arrives late cannot take a later operation's letter
/// off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeadLetter {
    pub follower_cluster: ClusterUuid,
    pub follower_index: IndexName,
    /// Where the operation stands: the partition is that of the shard.
    pub topic: TopicName,
    pub shard: ShardId,
    pub seq_no: SeqNo,
    pub id: String,
    pub error_type: String,
    pub reason: String,
    /// When it was refused, in milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// In which it was refused again, if it was.
    pub redelivery: Option<FrameId>,
}

impl Entry for DeadLetter {
    const KIND: &'static str = "dead-letter";
    fn key(&self) -> String {
        let of_index = Self::keys_of(&self.follower_cluster, &self.follower_index);
        format!("{of_index}{}/{}/{}", self.shard, self.seq_no, self.id)
    }
}

impl DeadLetter {
    /// What the keys of an index begin with.
    fn keys_of(cluster: &ClusterUuid, index: &IndexName) -> String {
        format!("{}/{cluster}/{index}/", Self::KIND)
    }
}

/// The dead letters of one index.
#[derive(Clone)]
pub(crate) struct LetterBox {
    /// The dead-letter topic.
    table: ControlTopic,
    requests: ControlTopic,
    /// What leader agents have written.
    leader_table: ControlTopic,
    settings: ControlSettings,
    cluster: ClusterUuid,
    index: IndexName,
    /// From which the index is followed; only its shards need to know.
    topic: Option<TopicName>,
}

impl LetterBox {
    /// The letters of a subscription's index, as `context`'s agent has them.
    pub(crate) fn new(context: &AgentContext, subscription: &Subscription) -> Self {
        let cluster = subscription.follower_cluster.clone();
        Self {
            table: context.dead_letters.clone(),
            requests: context.follower_table.clone(),
            leader_table: context.leader_table.clone(),
            settings: ControlSettings::new(context.follower_table.clone(), cluster.clone()),
            cluster,
            index: subscription.follower_index.clone(),
            topic: None,
        }
    }

    /// For what is refused of this topic's records.
    pub(crate) fn of(self, topic: TopicName) -> Self {
        Self {
            topic: Some(topic),
            ..self
        }
    }

    pub(crate) fn all(&self) -> Vec<DeadLetter> {
        self.table
            .below(&DeadLetter::keys_of(&self.cluster, &self.index))
    }

    pub(crate) fn count(&self) -> usize {
        self.table
            .count_below(&DeadLetter::keys_of(&self.cluster, &self.index))
    }

    /// The requests that stand and that the leader's agents could not serve.
    pub(crate) fn failed_replays(&self) -> Vec<FailedRedelivery> {
        let keys = FailedRedelivery::keys_of(&self.cluster, &self.index);
        let mut failed: Vec<FailedRedelivery> = self.leader_table.below(&keys);
        failed.retain(|failed| {
            let request: Option<Redelivery> = self.requests.get(&failed.request_key());
            request.is_some_and(|request| request.frame == failed.frame)
        });
        failed
    }

    fn of_shard(&self, shard: ShardId) -> Vec<DeadLetter> {
        self.table.below(&format!(
            "{}{shard}/",
            DeadLetter::keys_of(&self.cluster, &self.index)
        ))
    }

    /// Forgets all of them: the index is another one, or followed no more.
    pub(crate) async fn clear(&self) -> Result<(), ControlError> {
        let of_index = |request: &Redelivery| {
            request.follower_cluster == self.cluster && request.follower_index == self.index
        };
        for request in self
            .requests
            .all::<Redelivery>()
            .into_iter()
            .filter(of_index)
        {
            self.requests.remove(&request.key()).await?;
        }
        self.remove(&self.all()).await
    }

    async fn remove(&self, letters: &[DeadLetter]) -> Result<(), ControlError> {
        for letter in letters {
            self.table.remove(&letter.key()).await?;
        }
        Ok(())
    }

    /// Everything of a frame has been applied, which shows documents as of the operation `up_to`.
    /// If it was asked for, the documents that have not been refused again got through, or are no
    /// more.
    pub(crate) async fn redelivered(
        &self,
        shard: ShardId,
        frame: FrameId,
        up_to: SeqNo,
    ) -> Result<(), ControlError> {
        let key = Redelivery::key_of(&self.cluster, &self.index, shard);
        let Some(request) = self
            .requests
            .get::<Redelivery>(&key)
            .filter(|request| request.frame == frame)
        else {
            return Ok(());
        };
        let mut done = self.of_shard(shard);
        done.retain(|letter| {
            letter.seq_no <= up_to
                && request.ids.contains(&letter.id)
                && letter.redelivery != Some(frame)
        });
        info!(index = %self.index, %shard, documents = request.ids.len(), "dead letters replayed");
        self.remove(&done).await?;
        self.requests.remove(&key).await
    }

    /// Asks the leader's agents for the documents; how many they are.
    pub(crate) async fn replay(&self, subscription: &Subscription) -> Result<usize, ControlError> {
        let mut by_shard: HashMap<ShardId, BTreeSet<String>> = HashMap::new();
        for letter in self.all() {
            by_shard.entry(letter.shard).or_default().insert(letter.id);
        }
        let documents = by_shard.values().map(BTreeSet::len).sum();
        for (shard, ids) in by_shard {
            let request = Redelivery {
                follower_cluster: self.cluster.clone(),
                follower_index: self.index.clone(),
                leader_cluster: subscription.leader_cluster.clone(),
                leader_uuid: subscription.leader_uuid.clone(),
                shard,
                frame: FrameId((Uuid::new_v4().as_u128() >> 65) as i64),
                ids: ids.into_iter().collect(),
            };
            self.requests.publish(&request).await?;
        }
        Ok(documents)
    }
}

impl DeadLetters for LetterBox {
    fn keep(
        &self,
        shard: ShardId,
        rejected: Vec<Rejection>,
    ) -> BoxFuture<'_, Result<(), ApplyError>> {
        async move {
            let redelivery = self.requests.get::<Redelivery>(&Redelivery::key_of(
                &self.cluster,
                &self.index,
                shard,
            ));
            for rejection in rejected {
                let Some(topic) = self
                    .topic
                    .clone()
                    .filter(|_| self.settings.keeps_dead_letters())
                else {
                    return Err(ApplyError::Rejected(rejection));
                };
                let mut of_document = self.of_shard(shard);
                of_document.retain(|letter| letter.id == rejection.id);
                let count = self.count();
                if count >= MOST && of_document.is_empty() {
                    return Err(ApplyError::TooManyDeadLetters(rejection, count));
                }
                warn!(
                    index = %self.index, %shard, error = %rejection,
                    "a document becomes a dead letter"
                );
                let Rejection {
                    id,
                    seq_no,
                    error_type,
                    reason,
                } = rejection;
                let asked = redelivery
                    .as_ref()
                    .filter(|request| request.ids.contains(&id));
                let letter = DeadLetter {
                    follower_cluster: self.cluster.clone(),
                    follower_index: self.index.clone(),
                    topic,
                    shard,
                    seq_no,
                    error_type,
                    reason: reason.chars().take(LONGEST_REASON).collect(),
                    timestamp_ms: now_ms(),
                    redelivery: asked.map(|request| request.frame),
                    id,
                };
                self.table.publish(&letter).await?;
                of_document.retain(|earlier| earlier.seq_no < seq_no);
                self.remove(&of_document).await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn kept(&self, shard: ShardId) -> Vec<Refused> {
        self.of_shard(shard)
            .into_iter()
            .map(|letter| Refused {
                id: letter.id,
                seq_no: letter.seq_no,
            })
            .collect()
    }

    fn resolve(
        &self,
        shard: ShardId,
        refused: Vec<Refused>,
    ) -> BoxFuture<'_, Result<(), ApplyError>> {
        async move {
            let mut letters = self.of_shard(shard);
            letters.retain(|letter| {
                refused
                    .iter()
                    .any(|one| one.id == letter.id && one.seq_no == letter.seq_no)
            });
            Ok(self.remove(&letters).await?)
        }
        .boxed()
    }
}
