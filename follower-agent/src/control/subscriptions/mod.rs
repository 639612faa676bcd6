//! What is followed on this follower cluster: subscriptions, the tasks that work for them
//! ([`tasks`]), and the calls that change them ([`calls`]).

mod aliases;
mod calls;
mod captures;
mod held;
mod tasks;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use shardline::contract::ReplicationStatus;
use shardline::contract::service::RefusedAlias;
use shardline_common::clock::now_ms;
use shardline_common::control::{ExternalVersions, Subscription, SubscriptionState};
use shardline_common::kafka::{ControlTopic, Derived};
use shardline_common::leader_stats::NodeReads;
use shardline_common::opensearch::{OpenSearch, OpenSearchError, StateOf};
use shardline_common::standstill::{Cause, StandstillReason};
use shardline_common::topic::bootstrap_topic;
use shardline_common::types::{ClusterUuid, IndexName, Offset, ShardId};
use tokio::sync::{OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::aliases::LeaderAliases;
use self::held::Memory;
use self::tasks::Tasks;
use crate::control::bulk_tasks::TaskIds;
use crate::control::leaders::Leaders;
use crate::control::locks::EntryLocks;
use crate::control::own_gateway::OwnGateway;
use crate::control::{status, verify};
use crate::index::{AgentContext, Command, ControlSettings, LetterBox, Phase};
use crate::membership::{Slot, Slots, copy_key};
use crate::metrics::Standstill;

pub(crate) use self::calls::refuse_leaders_settings;

/// How often what is remembered is compared with the control topic although nothing came.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// For how long Kafka may not confirm the agent's place in its group before a status says so: a
/// rebalance is shorter.
const UNCONFIRMED: Duration = Duration::from_secs(3);
/// How the reason of a pause begins that the agent decided on.
const AUTO_PAUSED: &str = "AutoPaused:";

pub(crate) struct Subscriptions {
    context: Arc<AgentContext>,
    leaders: Leaders,
    cluster: ClusterUuid,
    tasks: Tasks,
    /// Subscriptions that this agent may keep something of: by id, with the number of shards if it
    /// is known.
    known: Mutex<HashMap<String, (IndexName, u32)>>,
    /// The control topic's position up to which the tasks are as it says.
    acted: watch::Sender<Offset>,
    followed: Derived<HashSet<IndexName>>,
    /// Leader agents with captures that stand still.
    standing: Derived<Vec<NodeReads>>,
    /// What this agent's data folder remembers, and what is held read-only.
    memory: Memory,
    /// Since when it is not known what has become of the leader index: by the subscription's id.
    unknown: Mutex<HashMap<String, StandstillReason>>,
    aliases: LeaderAliases,
    /// Held by a call that changes what is followed.
    calls: EntryLocks,
    settings: ControlSettings,
    own_gateway: OwnGateway,
    task_ids: TaskIds,
    stop: CancellationToken,
}

impl Subscriptions {
    /// `acted` is told how far the tasks are with the control topic.
    pub(crate) fn new(
        context: Arc<AgentContext>,
        leaders: Leaders,
        settings: ControlSettings,
        own_gateway: OwnGateway,
        cluster: ClusterUuid,
        acted: watch::Sender<Offset>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let followed = Derived::default();
        let task_ids = TaskIds::default();
        let tasks = Tasks::new(Arc::clone(&context), stop.clone());
        let (known, calls) = (Mutex::default(), EntryLocks::default());
        let memory = Memory::of(context.checkpoints.clone(), &cluster);
        let subscriptions = Arc::new(Self {
            memory,
            unknown: Mutex::default(),
            context,
            leaders,
            cluster,
            tasks,
            known,
            acted,
            followed,
            standing: Derived::default(),
            aliases: LeaderAliases::default(),
            calls,
            settings,
            own_gateway,
            task_ids,
            stop,
        });
        // Before the gateway answers anything.
        subscriptions.compare_memory();
        subscriptions
    }

    fn compare_memory(&self) {
        let table = &self.context.follower_table;
        self.memory.compare(table, &self.cluster);
    }

    /// Notes that it is not known what has become of a leader index; `None`: it is.
    pub(crate) fn note_unknown(&self, subscription: &Subscription, why: Option<&str>) {
        let mut unknown = self.unknown.lock();
        match why {
            Some(why) => {
                let reason = StandstillReason::new(Cause::LeaderIndexUnknown, now_ms(), why);
                let reason = reason.following(unknown.get(&subscription.id));
                unknown.insert(subscription.id.clone(), reason);
            }
            None => drop(unknown.remove(&subscription.id)),
        }
    }

    /// Announces again what the control topics have lost, of the entries of indices that this agent
    /// looks after.
    async fn announce_again(&self) {
        let slots = &self.context.slots;
        let is_own = |key: &str, _| {
            let mut parts = key.splitn(4, '/');
            let (kind, cluster, index) = (parts.next(), parts.next(), parts.next());
            let of_index = matches!(
                kind,
                Some("subscription" | "applied" | "request" | "redelivery" | "verification")
            );
            match index {
                Some(index) if of_index && cluster == Some(self.cluster.as_str()) => {
                    slots.holds(Slot::of_index(&IndexName::from(index)))
                }
                _ => slots.holds(Slot(0)) && key.contains(self.cluster.as_str()),
            }
        };
        for table in [&self.context.follower_table, &self.context.dead_letters] {
            if let Err(error) = table.announce_again(is_own).await {
                warn!(%error, "what the control topic lost could not be announced again");
            }
        }
    }

    pub(crate) fn cluster(&self) -> &ClusterUuid {
        &self.cluster
    }

    pub(crate) fn leaders(&self) -> &Leaders {
        &self.leaders
    }

    pub(crate) fn settings(&self) -> &ControlSettings {
        &self.settings
    }

    pub(crate) fn own_gateway(&self) -> &OwnGateway {
        &self.own_gateway
    }

    pub(crate) fn context(&self) -> &Arc<AgentContext> {
        &self.context
    }

    /// What follower agents have written.
    pub(crate) fn follower_table(&self) -> &ControlTopic {
        &self.context.follower_table
    }

    /// Held by whoever changes an entry of the control topic.
    pub(crate) async fn lock(&self, key: &str) -> OwnedMutexGuard<()> {
        self.calls.lock(key).await
    }

    /// The follower cluster.
    pub(crate) fn opensearch(&self) -> &OpenSearch {
        &self.context.opensearch
    }

    /// Keeps a task for each subscription that runs, in the state in which the control topic has
    /// it.
    pub(crate) async fn run(&self) {
        let mut changes = self.context.follower_table.changes();
        loop {
            let position = *changes.borrow_and_update();
            let subscriptions = self.all();
            self.tasks.keep(&subscriptions).await;
            self.compare_memory();
            self.forget_stopped(&subscriptions);
            self.acted.send_replace(position);
            self.announce_again().await;
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_AGAIN) => {}
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
        let held = self.memory.held();
        let is_over = |id: &str, follower: &IndexName| {
            let is_held = held.get(follower).is_some_and(|held| {
                let known = held.subscription.as_ref();
                known.is_none_or(|known| known.id == id)
            });
            !ids.contains(id) && !is_held
        };
        let over = known.extract_if(|id, (follower, _)| is_over(id, follower));
        for (id, (follower, shards)) in over {
            if let Err(error) = self.context.checkpoints.forget(&id) {
                warn!(
                    index = %follower, %error,
                    "checkpoints of a stopped index stay behind; they do no harm"
                );
            }
            self.context.metrics.forget(follower.as_str(), shards);
            info!(index = %follower, "no longer followed");
        }
        for subscription in subscriptions {
            let (_, shards) = known
                .entry(subscription.id.clone())
                .or_insert_with(|| (subscription.follower_index.clone(), 0));
            if *shards == 0 {
                let capture = self.context.capture(subscription);
                *shards = capture.map_or(0, |capture| capture.metadata.number_of_shards);
            }
        }
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.context.slots
    }

    /// Whether this agent looks after an index: makes it, copies it, and changes its subscription.
    pub(super) fn looks_after(&self, follower: &IndexName) -> bool {
        self.context.slots.holds(Slot::of_index(follower))
    }

    /// Takes over what other agents report of the shards that they have.
    pub(crate) async fn hear_others(&self) {
        let mut partitions = HashMap::new();
        for (subscription, phase) in self.tasks.phases() {
            let Some(topic) = self.context.topic(&subscription) else {
                continue;
            };
            let (topic, copy, progress) =
                match (&phase, &subscription.bootstrap, &subscription.copy) {
                    (_, Some(id), _)
                        if self
                            .context
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
                if !self.context.slots.holds(slot) {
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
        let committed = match self.context.group.committed(&asked).await {
            Ok(committed) => committed,
            Err(error) => return warn!(%error, "what other agents report is not known"),
        };
        for (partition, committed) in committed {
            for (key, progress) in partitions.remove(&partition).unwrap_or_default() {
                if let Some(position) = committed.0.get(&key) {
                    progress.shards[partition.1.0 as usize].take_report(position.report.clone());
                }
            }
        }
    }

    /// Ends every task; each saves its checkpoint.
    pub(crate) async fn shut_down(&self) {
        self.tasks.end_all().await;
    }

    /// The subscriptions of this follower cluster.
    pub(crate) fn all(&self) -> Vec<Subscription> {
        let all = self.context.follower_table.all::<Subscription>();
        all.into_iter()
            .filter(|subscription| subscription.follower_cluster == self.cluster)
            .collect()
    }

    /// Writes what `/metrics` shows of progress.
    pub(crate) fn export_metrics(&self) {
        let metrics = &self.context.metrics;
        let mut standing = HashSet::new();
        let mut without_roles = 0;
        for (index, held) in &*self.memory.held() {
            let status = Self::status_of_held(index, held.clone());
            standing.extend(Standstill::of(index, &status));
        }
        for subscription in self.all() {
            let index = subscription.follower_index.as_str();
            let phase = self.phase(&subscription.follower_index);
            let status = self.status_in(&subscription, phase.clone(), false);
            standing.extend(Standstill::of(&subscription.follower_index, &status));
            without_roles += i64::from(status.without_roles);
            let state = match (&subscription.state, &phase) {
                (SubscriptionState::Paused, _) if subscription.reason.starts_with(AUTO_PAUSED) => {
                    "auto_paused"
                }
                (SubscriptionState::Paused, _) => "paused",
                (SubscriptionState::Failed, _) => "failed",
                (_, Some(Phase::Bootstrapping(_))) => "bootstrapping",
                _ => "syncing",
            };
            metrics.show_state(index, state);
            let dead_letters = i64::try_from(status.dead_letters.unwrap_or(0));
            metrics
                .dead_letters
                .with_label_values(&[index])
                .set(dead_letters.unwrap_or(i64::MAX));
            verify::export(self, &subscription);
            if let Some(Phase::Syncing(progress) | Phase::Bootstrapping(progress)) = phase
                && let Some(topic) = self.context.topic(&subscription)
            {
                for (shard, progress) in (0..).map(ShardId).zip(&progress.shards) {
                    match self.context.slots.holds(Slot::of_shard(&topic, shard)) {
                        true => progress.export(metrics, index, shard),
                        false => metrics.forget_progress(index, shard),
                    }
                }
            }
        }
        metrics.show_standstills(standing);
        metrics.without_roles.set(without_roles);
    }

    /// Stops following at the agent's own decision.
    pub(super) async fn auto_pause(&self, subscription: &Subscription, reason: String) {
        if let Err(error) = self
            .context
            .transition(subscription, Command::AutoPause { reason })
            .await
        {
            warn!(index = %subscription.follower_index, %error, "the index could not be paused");
        }
    }

    fn key(&self, follower: &IndexName) -> String {
        Subscription::key_of(&self.cluster, follower)
    }

    pub(crate) fn subscription(&self, follower: &IndexName) -> Option<Subscription> {
        self.context.follower_table.get(&self.key(follower))
    }

    /// What the index is doing, if it is running.
    pub(crate) fn phase(&self, follower: &IndexName) -> Option<Phase> {
        self.tasks.phase(follower)
    }

    /// The indices that are followed, from memory while nothing changes.
    pub(crate) fn followed_indices(&self) -> Arc<HashSet<IndexName>> {
        let followed = self
            .followed
            .get(&self.context.follower_table, |all: Vec<Subscription>| {
                let own = all
                    .into_iter()
                    .filter(|subscription| subscription.follower_cluster == self.cluster);
                own.map(|subscription| subscription.follower_index)
                    .collect()
            });
        let held = self.memory.held();
        if held.is_empty() {
            return followed;
        }
        Arc::new(followed.iter().chain(held.keys()).cloned().collect())
    }

    /// The indices that the follower cluster has.
    pub(super) async fn local_indices(&self) -> Result<HashSet<IndexName>, OpenSearchError> {
        let state: Value = self
            .context
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
        LetterBox::new(&self.context, subscription).count()
    }

    fn status_in(
        &self,
        subscription: &Subscription,
        phase: Option<Phase>,
        verbose: bool,
    ) -> ReplicationStatus {
        let dead_letters = self.dead_letters_of(subscription);
        let dead_letters = (dead_letters > 0).then_some(dead_letters as u64);
        let waits = self.tasks.waits(&subscription.follower_index);
        let waits = waits.or_else(|| self.unknown.lock().get(&subscription.id).cloned());
        let waits = waits.or_else(|| {
            let tables = [&self.context.follower_table, &self.context.leader_table];
            let fault = tables.into_iter().find_map(ControlTopic::fault)?;
            Some(StandstillReason::new(Cause::ControlTopic, now_ms(), fault))
        });
        let applied = self.context.applied(subscription);
        let refused = applied.map(|applied| applied.refused_aliases);
        let refused_aliases = refused.unwrap_or_default().into_iter();
        let refused_aliases = refused_aliases
            .map(|(alias, reason)| RefusedAlias { alias, reason })
            .collect();
        let key =
            ExternalVersions::key_of(&subscription.follower_cluster, &subscription.follower_index);
        let versions: Option<ExternalVersions> = self.context.follower_table.get(&key);
        let external_versions = versions
            .filter(|versions| versions.subscription == subscription.id)
            .map(|versions| versions.example);
        let mut status = status::of(subscription, phase, verbose);
        let waits = waits.or_else(|| {
            let unconfirmed = self.unconfirmed()?;
            // Whoever does not hear from Kafka does not hear of leader agents either.
            let held_up = &mut status.held_up;
            held_up.retain(|held| held.why.cause != Cause::LeaderAgentSilent);
            Some(unconfirmed)
        });
        ReplicationStatus {
            dead_letters,
            refused_aliases,
            external_versions,
            standstill: waits.map(Into::into),
            without_roles: self.own_gateway.is_asked() && subscription.roles.is_none(),
            ..status
        }
    }

    /// Says so when Kafka has not confirmed the agent's place in its consumer group for a while:
    /// nothing is written meanwhile.
    fn unconfirmed(&self) -> Option<StandstillReason> {
        let over_for = self.context.lease.over_for()?;
        let since_ms = now_ms() - i64::try_from(over_for.as_millis()).unwrap_or(i64::MAX);
        let words = "Kafka does not confirm this agent's place in its consumer group";
        (over_for > UNCONFIRMED).then(|| StandstillReason::new(Cause::KafkaAway, since_ms, words))
    }

    pub(super) fn status_of(&self, follower: &IndexName, verbose: bool) -> ReplicationStatus {
        match self.subscription(follower) {
            Some(subscription) => self.status_in(&subscription, self.phase(follower), verbose),
            None => match self.held(follower) {
                Some(held) => Self::status_of_held(follower, held),
                None => ReplicationStatus::not_in_progress(),
            },
        }
    }
}
