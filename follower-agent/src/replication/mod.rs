//! What is followed on this follower cluster: subscriptions, the tasks that work for them
//! ([`tasks`]), and the calls that change them ([`calls`]).

mod aliases;
mod calls;
mod tasks;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use shardline_common::control::{Subscription, SubscriptionState};
use shardline_common::kafka::{ControlTopic, Derived};
use shardline_common::opensearch::{OpenSearch, OpenSearchError, StateOf};
use shardline_common::topic::bootstrap_topic;
use shardline_common::types::{ClusterUuid, IndexName, Offset, ShardId};
use tokio::sync::{OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::aliases::LeaderAliases;
use self::tasks::Tasks;
use crate::api::ReplicationStatus;
use crate::bulk::TaskIds;
use crate::followed::{Phase, Shared};
use crate::leaders::Leaders;
use crate::locks::EntryLocks;
use crate::own_gateway::OwnGateway;
use crate::positions::copy_key;
use crate::settings::ControlSettings;
use crate::slots::{Slot, Slots};
use crate::state::Command;
use crate::{status, verify};

pub use self::calls::refuse_leaders_settings;

pub struct Replication {
    shared: Arc<Shared>,
    leaders: Leaders,
    cluster: ClusterUuid,
    tasks: Tasks,
    /// Subscriptions that this agent may keep something of: by id, with the number of shards if it
    /// is known.
    known: Mutex<HashMap<String, (IndexName, u32)>>,
    /// The control topic's position up to which the tasks are as it says.
    acted: watch::Sender<Offset>,
    followed: Derived<HashSet<IndexName>>,
    aliases: LeaderAliases,
    /// Held by a call that changes what is followed.
    calls: EntryLocks,
    settings: ControlSettings,
    own_gateway: OwnGateway,
    task_ids: TaskIds,
    stop: CancellationToken,
}

impl Replication {
    /// `acted` is told how far the tasks are with the control topic.
    pub fn new(
        shared: Arc<Shared>,
        leaders: Leaders,
        settings: ControlSettings,
        own_gateway: OwnGateway,
        cluster: ClusterUuid,
        acted: watch::Sender<Offset>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let followed = Derived::default();
        let task_ids = TaskIds::default();
        let tasks = Tasks::new(Arc::clone(&shared), stop.clone());
        let (known, calls) = (Mutex::default(), EntryLocks::default());
        Arc::new(Self {
            shared,
            leaders,
            cluster,
            tasks,
            known,
            acted,
            followed,
            aliases: LeaderAliases::default(),
            calls,
            settings,
            own_gateway,
            task_ids,
            stop,
        })
    }

    pub fn cluster(&self) -> &ClusterUuid {
        &self.cluster
    }

    pub fn leaders(&self) -> &Leaders {
        &self.leaders
    }

    pub fn settings(&self) -> &ControlSettings {
        &self.settings
    }

    pub fn own_gateway(&self) -> &OwnGateway {
        &self.own_gateway
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What follower agents have written.
    pub fn follower_table(&self) -> &ControlTopic {
        &self.shared.follower_table
    }

    /// Held by whoever changes an entry of the control topic.
    pub async fn lock(&self, key: &str) -> OwnedMutexGuard<()> {
        self.calls.lock(key).await
    }

    /// The follower cluster.
    pub fn opensearch(&self) -> &OpenSearch {
        &self.shared.opensearch
    }

    /// Keeps a task for each subscription that runs, in the state in which the control topic has
    /// it.
    pub async fn run(&self) {
        let mut changes = self.shared.follower_table.changes();
        loop {
            let position = *changes.borrow_and_update();
            let subscriptions = self.subscriptions();
            self.tasks.keep(&subscriptions).await;
            self.forget_stopped(&subscriptions);
            self.acted.send_replace(position);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Forgets what this agent kept for subscriptions that are no more.
    fn forget_stopped(&self, subscriptions: &[Subscription]) {
        let mut known = self.known.lock();
        let ids: HashSet<&str> = subscriptions
            .iter()
            .map(|subscription| subscription.id.as_str())
            .collect();
        for (id, (follower, shards)) in known.extract_if(|id, _| !ids.contains(id.as_str())) {
            if let Err(error) = self.shared.checkpoints.forget(&id) {
                warn!(index = %follower, %error, "checkpoints of a stopped index stay behind; they do no harm");
            }
            self.shared.metrics.forget(follower.as_str(), shards);
            info!(index = %follower, "no longer followed");
        }
        for subscription in subscriptions {
            let (_, shards) = known
                .entry(subscription.id.clone())
                .or_insert_with(|| (subscription.follower_index.clone(), 0));
            if *shards == 0 {
                let capture = self.shared.capture(subscription);
                *shards = capture.map_or(0, |capture| capture.metadata.number_of_shards);
            }
        }
    }

    pub fn slots(&self) -> &Slots {
        &self.shared.slots
    }

    /// Whether this agent looks after an index: makes it, copies it, and changes its subscription.
    pub fn looks_after(&self, follower: &IndexName) -> bool {
        self.shared.slots.holds(Slot::of_index(follower))
    }

    /// Takes over what other agents report of the shards that they have.
    pub async fn hear_others(&self) {
        let mut partitions = HashMap::new();
        for (subscription, phase) in self.tasks.phases() {
            let Some(topic) = self.shared.topic(&subscription) else {
                continue;
            };
            let (topic, copy, progress) =
                match (&phase, &subscription.bootstrap, &subscription.copy) {
                    (_, Some(id), _)
                        if self
                            .shared
                            .requests
                            .for_files(&subscription.leader_cluster, id)
                            .is_some() =>
                    {
                        continue;
                    }
                    (Phase::Bootstrapping(progress), Some(id), _) => {
                        (bootstrap_topic(&topic, id), id, progress)
                    }
                    (Phase::Syncing(progress), None, Some(copy)) => (topic, &copy.id, progress),
                    _ => continue,
                };
            for shard in (0..).map(ShardId).take(progress.shards.len()) {
                let slot = match phase {
                    Phase::Bootstrapping(_) => Slot::of_index(&subscription.follower_index),
                    _ => Slot::of_shard(&topic, shard),
                };
                if !self.shared.slots.holds(slot) {
                    let of = (copy_key(&subscription.id, copy), Arc::clone(progress));
                    partitions
                        .entry((topic.clone(), shard))
                        .or_insert_with(Vec::new)
                        .push(of);
                }
            }
        }
        if partitions.is_empty() {
            return;
        }
        let asked: Vec<_> = partitions.keys().cloned().collect();
        let committed = match self.shared.group.committed(&asked).await {
            Ok(committed) => committed,
            Err(error) => return warn!(%error, "what other agents report is not known"),
        };
        for (partition, committed) in committed {
            for (key, progress) in partitions.remove(&partition).unwrap_or_default() {
                if let Some(position) = committed.0.get(&key) {
                    progress.shards[partition.1.0 as usize].reported(position.report.clone());
                }
            }
        }
    }

    /// Ends every task; each saves its checkpoint.
    pub async fn shut_down(&self) {
        self.tasks.end_all().await;
    }

    /// The subscriptions of this follower cluster.
    pub fn subscriptions(&self) -> Vec<Subscription> {
        let all = self.shared.follower_table.all::<Subscription>();
        all.into_iter()
            .filter(|subscription| subscription.follower_cluster == self.cluster)
            .collect()
    }

    /// Writes what `/metrics` shows of progress.
    pub fn export_metrics(&self) {
        for subscription in self.subscriptions() {
            let index = subscription.follower_index.as_str();
            let phase = self.phase(&subscription.follower_index);
            let state = match (&subscription.state, &phase) {
                (SubscriptionState::Paused, _) => 3,
                (SubscriptionState::Failed, _) => 4,
                (_, Some(Phase::Bootstrapping(_))) => 2,
                _ => 1,
            };
            self.shared
                .metrics
                .state
                .with_label_values(&[index])
                .set(state);
            let dead_letters =
                i64::try_from(self.dead_letters_of(&subscription)).unwrap_or(i64::MAX);
            self.shared
                .metrics
                .dead_letters
                .with_label_values(&[index])
                .set(dead_letters);
            verify::export(self, &subscription);
            if let Some(Phase::Syncing(progress) | Phase::Bootstrapping(progress)) = phase
                && let Some(topic) = self.shared.topic(&subscription)
            {
                for (shard, progress) in (0..).map(ShardId).zip(&progress.shards) {
                    match self.shared.slots.holds(Slot::of_shard(&topic, shard)) {
                        true => progress.export(&self.shared.metrics, index, shard),
                        false => self.shared.metrics.forget_progress(index, shard),
                    }
                }
            }
        }
    }

    /// Stops following at the agent's own decision.
    pub async fn auto_pause(&self, subscription: &Subscription, reason: String) {
        if let Err(error) = self
            .shared
            .transition(subscription, Command::AutoPause { reason })
            .await
        {
            warn!(index = %subscription.follower_index, %error, "the index could not be paused");
        }
    }

    fn key(&self, follower: &IndexName) -> String {
        Subscription::key_of(&self.cluster, follower)
    }

    pub fn subscription(&self, follower: &IndexName) -> Option<Subscription> {
        self.shared.follower_table.get(&self.key(follower))
    }

    /// What the index is doing, if it is running.
    pub fn phase(&self, follower: &IndexName) -> Option<Phase> {
        self.tasks.phase(follower)
    }

    /// The indices that are followed, from memory while nothing changes.
    pub fn followed_indices(&self) -> Arc<HashSet<IndexName>> {
        self.followed
            .get(&self.shared.follower_table, |all: Vec<Subscription>| {
                let own = all
                    .into_iter()
                    .filter(|subscription| subscription.follower_cluster == self.cluster);
                own.map(|subscription| subscription.follower_index)
                    .collect()
            })
    }

    /// The indices that the follower cluster has.
    pub async fn local_indices(&self) -> Result<HashSet<IndexName>, OpenSearchError> {
        let state: Value = self
            .shared
            .opensearch
            .cluster_state(StateOf::Manager, "metadata", "metadata.indices.*.state")
            .await?;
        let indices = state
            .pointer("/metadata/indices")
            .and_then(Value::as_object);
        Ok(indices
            .into_iter()
            .flatten()
            .map(|(name, _)| IndexName::from(name.as_str()))
            .collect())
    }

    fn dead_letters_of(&self, subscription: &Subscription) -> usize {
        self.shared.letter_box(subscription).count()
    }

    fn status_in(
        &self,
        subscription: &Subscription,
        phase: Option<Phase>,
        verbose: bool,
    ) -> ReplicationStatus {
        let dead_letters = self.dead_letters_of(subscription);
        let dead_letters = (dead_letters > 0).then_some(dead_letters as u64);
        ReplicationStatus {
            dead_letters,
            ..status::of(subscription, phase, verbose)
        }
    }

    pub fn status_of(&self, follower: &IndexName, verbose: bool) -> ReplicationStatus {
        match self.subscription(follower) {
            Some(subscription) => self.status_in(&subscription, self.phase(follower), verbose),
            None => ReplicationStatus::not_in_progress(),
        }
    }
}
