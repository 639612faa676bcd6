//! Withdraws requests for snapshots that nobody needs any more, and removes templates that agents
//! have left.

use std::sync::Arc;
use std::time::Duration;

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
        }
    };
    tokio::select! {
        () = tidying => {}
        () = stop.cancelled() => {}
    }
}
