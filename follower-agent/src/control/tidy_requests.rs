//! Withdraws requests for snapshots that nobody needs any more, removes templates that agents have
//! left, and what a subscription that was stopped has left: an agent that stopped it may have ended
//! before it was done, and what a shard's agent asks may arrive behind the stop.

use std::sync::Arc;
use std::time::Duration;

use shardline_common::control::{AppliedMetadata, Entry, ShardRequest, StoppedSubscription};
use shardline_common::kafka::ControlError;
use shardline_common::types::{ClusterUuid, IndexName};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::subscriptions::Subscriptions;
use crate::index::tidy_templates;
use crate::membership::Slot;

const TIDY_INTERVAL: Duration = Duration::from_secs(1);
const TEMPLATES_INTERVAL: Duration = Duration::from_secs(60);

/// Tidies until stopped; one agent does it for its cluster.
pub(crate) async fn run(subscriptions: Arc<Subscriptions>, stop: CancellationToken) {
    let tidying = async {
        let mut templates_at = Instant::now();
        loop {
            if subscriptions.slots().holds(Slot::CLUSTER) && templates_at <= Instant::now() {
                tidy_templates(&subscriptions.context().opensearch).await;
                templates_at = Instant::now() + TEMPLATES_INTERVAL;
            }
            tokio::time::sleep(TIDY_INTERVAL).await;
            if subscriptions.slots().holds(Slot::CLUSTER)
                && let Err(error) = subscriptions
                    .context()
                    .requests
                    .tidy(&subscriptions.all())
                    .await
            {
                warn!(
                    %error,
                    "a request for a snapshot that nobody needs any more could not be withdrawn"
                );
            }
            if let Err(error) = remove_left(&subscriptions).await {
                warn!(%error, "what a stopped index has left could not be removed");
            }
        }
    };
    tokio::select! {
        () = tidying => {}
        () = stop.cancelled() => {}
    }
}

/// An entry of a subscription.
struct Left {
    key: String,
    cluster: ClusterUuid,
    index: IndexName,
    subscription: String,
}

impl From<AppliedMetadata> for Left {
    fn from(applied: AppliedMetadata) -> Self {
        Self {
            key: applied.key(),
            cluster: applied.follower_cluster,
            index: applied.follower_index,
            subscription: applied.subscription,
        }
    }
}

impl From<ShardRequest> for Left {
    fn from(request: ShardRequest) -> Self {
        Self {
            key: request.key(),
            cluster: request.follower_cluster,
            index: request.follower_index,
            subscription: request.subscription,
        }
    }
}

/// Of the indices that this agent looks after.
async fn remove_left(subscriptions: &Subscriptions) -> Result<(), ControlError> {
    let table = subscriptions.follower_table();
    let applied = table.all::<AppliedMetadata>().into_iter().map(Left::from);
    let asked = table.all::<ShardRequest>().into_iter().map(Left::from);
    let is_over = |left: &Left| {
        let stopped = StoppedSubscription::key_of(subscriptions.cluster(), &left.subscription);
        left.cluster == *subscriptions.cluster()
            && subscriptions.looks_after(&left.index)
            && subscriptions.subscription(&left.index).is_none()
            && table.has(&stopped)
    };
    for left in applied.chain(asked).filter(is_over) {
        // Nobody starts it meanwhile.
        let key = subscriptions.key(&left.index);
        let _one_at_a_time = subscriptions.lock(&key).await;
        let claim = subscriptions.context().claim(&left.index);
        if claim.is_ok() && is_over(&left) {
            table.remove(&left.key).await?;
        }
    }
    Ok(())
}
