//! Watches what becomes of the leader indices: a closed one pauses its followers until it is open
//! again, a deleted one for good, or is followed into its grave if
//! `plugins.replication.replicate.delete_index` says so.

use std::sync::Arc;
use std::time::Duration;

use shardline::contract::ReplicationService;
use shardline_common::control::{CatalogEntry, Subscription, SubscriptionState};
use shardline_common::kafka::ControlTopic;
use shardline_common::types::IndexName;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::evidence::{self, LeaderIndex};
use super::subscriptions::Subscriptions;
use crate::index::{IndexAdmin, STOPPING};

/// How often what could not be done is tried again.
const INTERVAL: Duration = Duration::from_secs(30);

/// Reasons as the plugin words them; the first also marks a pause that ends by itself.
fn closed_reason(follower: &IndexName) -> String {
    format!(
        "AutoPaused:  + [[{follower}][0] - org.opensearch.indices.IndexClosedException - \
         \"closed\"], "
    )
}

/// Ends by itself, too.
fn denied_reason(follower: &IndexName, denial: &str) -> String {
    format!(
        "AutoPaused:  + [[{follower}][0] - org.opensearch.OpenSearchSecurityException - \
         \"{denial}\"], "
    )
}

/// Why the leader does not let an index be followed any more under the roles with which that began.
fn denial(entry: &CatalogEntry, subscription: &Subscription) -> Option<String> {
    let roles = subscription.roles.as_ref()?;
    entry.denial(Some(roles))
}

fn is_denied(follower: &IndexName, reason: &str) -> bool {
    let whole = denied_reason(follower, "");
    let beginning = whole.trim_end_matches("\"], ");
    reason.starts_with(beginning)
}

fn deleted_reason(follower: &IndexName, leader: &IndexName) -> String {
    format!(
        "AutoPaused:  + [[{follower}][0] - org.opensearch.index.IndexNotFoundException - \"no \
         such index [{leader}]\"], "
    )
}

pub(crate) async fn run(
    subscriptions: Arc<Subscriptions>,
    leader_table: ControlTopic,
    stop: CancellationToken,
) {
    let mut changes = leader_table.changes();
    let mut slots = subscriptions.slots().changes();
    loop {
        let seen = leader_table.newest::<CatalogEntry>();
        for subscription in subscriptions.all() {
            // Another agent sees to the others.
            if subscriptions.looks_after(&subscription.follower_index) {
                tokio::select! {
                    () = check(&subscriptions, &leader_table, &subscription) => {}
                    () = stop.cancelled() => return,
                }
            }
        }
        tokio::select! {
            // Most changes are of other things.
            changed = changes.wait_for(|_| leader_table.newest::<CatalogEntry>() != seen) => if changed.is_err() { return },
            () = slots.next() => {}
            () = tokio::time::sleep(INTERVAL) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn check(
    subscriptions: &Subscriptions,
    leader_table: &ControlTopic,
    subscription: &Subscription,
) {
    let Subscription {
        follower_index,
        leader_index,
        ..
    } = subscription;
    let found = evidence::leader_index(leader_table, subscription);
    let why = match &found {
        LeaderIndex::Unknown(why) => Some(*why),
        _ => None,
    };
    subscriptions.note_unknown(subscription, why);
    match (found, subscription.state) {
        (LeaderIndex::Deleted, SubscriptionState::Paused)
            if subscription.reason == STOPPING
                && subscriptions.settings().deletes_with_leader() =>
        {
            delete_if_confirmed(subscriptions, leader_table, subscription).await;
        }
        (LeaderIndex::Deleted, SubscriptionState::Running) => {
            warn!(index = %follower_index, leader = %leader_index, "the leader index was deleted");
            match subscriptions.settings().deletes_with_leader() {
                true => delete_if_confirmed(subscriptions, leader_table, subscription).await,
                false => {
                    subscriptions
                        .auto_pause(subscription, deleted_reason(follower_index, leader_index))
                        .await
                }
            }
        }
        (LeaderIndex::There(entry), _) => follow_leader(subscriptions, &entry, subscription).await,
        _ => {}
    }
}

/// Pauses what the leader does not let be followed, and resumes what it lets again.
async fn follow_leader(
    subscriptions: &Subscriptions,
    entry: &CatalogEntry,
    subscription: &Subscription,
) {
    let Subscription {
        follower_index: index,
        leader_index: leader,
        reason,
        ..
    } = subscription;
    let denial = denial(entry, subscription);
    match (subscription.state, denial) {
        (SubscriptionState::Running, _) if !entry.open => {
            info!(%index, %leader, "the leader index was closed");
            let closed = closed_reason(index);
            subscriptions.auto_pause(subscription, closed).await;
        }
        (SubscriptionState::Running, Some(denial)) => {
            warn!(%index, %leader, denial, "the leader does not let the index be followed any more");
            let denied = denied_reason(index, &denial);
            subscriptions.auto_pause(subscription, denied).await;
        }
        (SubscriptionState::Paused, None)
            if entry.open && (*reason == closed_reason(index) || is_denied(index, reason)) =>
        {
            info!(%index, %leader, "the leader index is open again, or may be followed again");
            // Not if a user has paused it, or is stopping it, meanwhile.
            if let Err(error) = subscriptions.reopen(index, reason).await {
                warn!(%index, %error, "the index could not be resumed by itself");
            }
        }
        _ => {}
    }
}

/// Deletes the follower index once the leader's agents, asked now, still say that the leader index
/// was deleted.
async fn delete_if_confirmed(
    subscriptions: &Subscriptions,
    leader_table: &ControlTopic,
    subscription: &Subscription,
) {
    let index = &subscription.follower_index;
    let asked = subscriptions
        .leaders()
        .refresh(&subscription.leader_cluster);
    if let Err(error) = asked.await {
        return warn!(
            %index,
            %error,
            "the follower index is not deleted: no leader agent says now that its leader index was"
        );
    }
    match evidence::leader_index(leader_table, subscription) {
        LeaderIndex::Deleted => delete(subscriptions, subscription).await,
        found => {
            warn!(
                %index,
                ?found,
                "the follower index is not deleted: its leader index is not known to be"
            )
        }
    }
}

/// As `plugins.replication.replicate.delete_index` asks for.
async fn delete(subscriptions: &Subscriptions, subscription: &Subscription) {
    let name = &subscription.follower_index;
    let index = IndexAdmin::new(
        subscriptions.opensearch().clone(),
        name.clone(),
        subscription.settings.clone(),
    );
    if let Err(error) = subscriptions.stop(name.clone()).await {
        warn!(
            index = %name, %error, "the follower index is not deleted, as it could not be stopped"
        );
        return;
    }
    let Ok(_claim) = subscriptions.context().claim(name) else {
        return warn!(
            index = %name, "the follower index is not deleted: another agent looks after it now"
        );
    };
    if let Err(error) = index.delete().await {
        warn!(
            index = %name, %error, "the follower index could not be deleted with its leader index"
        );
    } else {
        info!(index = %name, "deleted with its leader index");
    }
}
