//! Withdraws requests for snapshots that nobody needs any more.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::subscriptions::Subscriptions;
use crate::membership::Slot;

const TIDY_INTERVAL: Duration = Duration::from_secs(1);

/// Tidies until stopped; one agent does it for its cluster.
pub(crate) async fn run(subscriptions: Arc<Subscriptions>, stop: CancellationToken) {
    let tidying = async {
        loop {
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
