//! Indices that stay read-only although the control topic does not say that they are followed: the
//! entry cannot be read, or is missing and was never removed. Nothing of them is forgotten before a
//! record says that they were stopped.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::RwLock;
use shardline::contract::service::ReplicationState;
use shardline::contract::{ApiError, ReplicationStatus};
use shardline_common::clock::now_ms;
use shardline_common::control::{Entry, StoppedSubscription, Subscription, SubscriptionState};
use shardline_common::kafka::ControlTopic;
use shardline_common::standstill::{Cause, StandstillReason};
use shardline_common::types::{ClusterUuid, IndexName, Offset};
use tracing::{error, warn};

use super::Subscriptions;
use crate::index::TransitionError;
use crate::progress::CheckpointStore;

/// The reason of an index that was taken up again after the control topic had lost it.
const TAKEN_UP: &str = "the control topic had lost the subscription";

/// An index that is held read-only.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// As this agent's data folder remembers it.
    pub(crate) subscription: Option<Subscription>,
    pub(crate) reason: StandstillReason,
}

/// What this agent's data folder remembers of subscriptions, and what follows from it.
pub(crate) struct Memory {
    checkpoints: CheckpointStore,
    /// As they are in the data folder.
    remembered: RwLock<HashMap<IndexName, Subscription>>,
    held: RwLock<Arc<BTreeMap<IndexName, Held>>>,
    /// The parts of the control topic that were compared last.
    compared: RwLock<Option<[Option<Offset>; 2]>>,
}

impl Memory {
    /// Of agents of the data folder's follower cluster.
    pub(crate) fn of(checkpoints: CheckpointStore, cluster: &ClusterUuid) -> Self {
        let remembered = checkpoints.remembered().unwrap_or_else(|error| {
            warn!(%error, "what was followed before is not known: only the control topic tells");
            Vec::new()
        });
        let own = remembered
            .into_iter()
            .filter(|subscription| subscription.follower_cluster == *cluster)
            .map(|subscription| (subscription.follower_index.clone(), subscription));
        Self {
            checkpoints,
            remembered: RwLock::new(own.collect()),
            held: RwLock::default(),
            compared: RwLock::default(),
        }
    }

    pub(crate) fn held(&self) -> Arc<BTreeMap<IndexName, Held>> {
        Arc::clone(&self.held.read())
    }

    /// Writes down what the control topic says, and finds out what it does not say.
    pub(crate) fn compare(&self, table: &ControlTopic, cluster: &ClusterUuid) {
        // Most records are of other things.
        let newest = Some([
            table.newest::<Subscription>(),
            table.newest::<StoppedSubscription>(),
        ]);
        if *self.compared.read() == newest {
            return;
        }
        *self.compared.write() = newest;
        let mut subscriptions = table.all::<Subscription>();
        subscriptions.retain(|subscription| subscription.follower_cluster == *cluster);
        self.remember(&subscriptions);
        let mut held = self.unreadable(table, cluster, &subscriptions);
        held.extend(self.lost(table));
        *self.held.write() = Arc::new(held);
    }

    /// What the control topic has, in a form that is not this build's.
    fn unreadable(
        &self,
        table: &ControlTopic,
        cluster: &ClusterUuid,
        subscriptions: &[Subscription],
    ) -> BTreeMap<IndexName, Held> {
        let read: HashSet<&IndexName> = subscriptions
            .iter()
            .map(|subscription| &subscription.follower_index)
            .collect();
        let prefix = format!("{}/{cluster}/", Subscription::KIND);
        let mut held = BTreeMap::new();
        for key in table.keys_below(&prefix) {
            let name = IndexName::from(&key[prefix.len()..]);
            if !read.contains(&name) && table.get::<Subscription>(&key).is_none() {
                let known = self.remembered.read().get(&name).cloned();
                let words = "the control topic's entry of this index cannot be read by this \
                             build: a newer one wrote it, or it is damaged";
                let found = self.hold(&name, known, Cause::NewerBuild, words);
                held.insert(name, found);
            }
        }
        held
    }

    /// What the control topic does not have, and nobody has stopped.
    fn lost(&self, table: &ControlTopic) -> BTreeMap<IndexName, Held> {
        let mut held = BTreeMap::new();
        let remembered: Vec<Subscription> = self.remembered.read().values().cloned().collect();
        for subscription in remembered {
            let name = subscription.follower_index.clone();
            if table.has(&subscription.key()) {
                continue;
            }
            if is_stopped(table, &subscription) {
                self.forget(&name);
                continue;
            }
            let words = "the control topic does not have this index, which was followed and never \
                         stopped: it has lost entries, or kafka.topic_prefix or the brokers are \
                         others than before";
            let cause = Cause::SubscriptionUnknown;
            let found = self.hold(&name, Some(subscription), cause, words);
            held.insert(name, found);
        }
        held
    }

    fn hold(
        &self,
        name: &IndexName,
        subscription: Option<Subscription>,
        cause: Cause,
        words: &str,
    ) -> Held {
        let before = self.held();
        let earlier = before.get(name).map(|held| &held.reason);
        if earlier.is_none() {
            error!(index = %name, reason = words, "the index is held read-only");
        }
        let reason = StandstillReason::new(cause, now_ms(), words).following(earlier);
        Held {
            subscription,
            reason,
        }
    }

    fn remember(&self, subscriptions: &[Subscription]) {
        for subscription in subscriptions {
            let name = &subscription.follower_index;
            if self.remembered.read().get(name) == Some(subscription) {
                continue;
            }
            match self.checkpoints.remember(subscription) {
                Ok(()) => {
                    let name = name.clone();
                    self.remembered.write().insert(name, subscription.clone());
                }
                Err(error) => {
                    let index = name;
                    warn!(%index, %error, "the subscription could not be noted in the data folder")
                }
            }
        }
    }

    fn forget(&self, name: &IndexName) {
        match self.checkpoints.forget_remembered(name) {
            Ok(()) => drop(self.remembered.write().remove(name)),
            Err(error) => warn!(index = %name, %error, "a stopped subscription stays noted"),
        }
    }
}

/// Whether a record says that a subscription which is not there any more was stopped.
pub(crate) fn is_stopped(table: &ControlTopic, subscription: &Subscription) -> bool {
    let key = StoppedSubscription::key_of(&subscription.follower_cluster, &subscription.id);
    table.has(&key) || table.was_removed(&subscription.key())
}

impl Subscriptions {
    /// An index that is held read-only, and not followed.
    pub(crate) fn held(&self, follower: &IndexName) -> Option<Held> {
        self.memory.held().get(follower).cloned()
    }

    /// What `_status` shows of it.
    pub(super) fn status_of_held(follower: &IndexName, held: Held) -> ReplicationStatus {
        let known = held.subscription.as_ref();
        ReplicationStatus {
            status: ReplicationState::Failed,
            reason: Some(held.reason.detail.clone()),
            leader_alias: known.map(|known| known.leader_alias.clone()),
            leader_index: known.map(|known| known.leader_index.to_string()),
            follower_index: Some(follower.to_string()),
            standstill: Some(held.reason.into()),
            ..ReplicationStatus::not_in_progress()
        }
    }

    /// Before a call that changes what is followed: writes down again, as paused, what the control
    /// topic has lost and this agent remembers.
    pub(super) async fn take_up(&self, follower: &IndexName) -> Result<(), ApiError> {
        let Some(held) = self.held(follower) else {
            return Ok(());
        };
        let lost = held
            .subscription
            .filter(|_| held.reason.cause == Cause::SubscriptionUnknown);
        let Some(lost) = lost else {
            return Err(ApiError::illegal_state(held.reason.detail));
        };
        let paused = Subscription {
            state: SubscriptionState::Paused,
            reason: TAKEN_UP.to_owned(),
            ..lost
        };
        let begun = self.context.begin(&paused).await;
        begun.map_err(|error| match error {
            TransitionError::Control(error) => ApiError::unavailable(&error),
            error => ApiError::status_exception(
                http::StatusCode::SERVICE_UNAVAILABLE,
                format!("[{follower}] could not be taken up again: {error}; try again"),
            ),
        })
    }
}
