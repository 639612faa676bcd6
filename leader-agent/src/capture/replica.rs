//! Beside a copy that is not the primary: holds what Kafka does not have yet, so that it can be
//! shipped from here.

use std::sync::Arc;
use std::time::Duration;

use shardline_common::blocking::blocking;
use shardline_common::types::SeqNo;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Context, fill};
use crate::node::Shard;
use crate::source::Files;
use crate::translog::ShardTail;

/// How often an agent beside a replica asks Kafka what it may let go.
const HOLD_INTERVAL: Duration = Duration::from_secs(5);
const UNWATCHED_HOLD_INTERVAL: Duration = Duration::from_secs(1);
const MISSING_FOLDER_INTERVAL: Duration = Duration::from_millis(50);

/// Beside a copy that is not the primary: keeps generations from deletion until Kafka has what is
/// in them, so that this copy can be shipped from should it become the primary.
pub async fn hold_replica(
    shard: Shard,
    files: Files,
    context: Arc<Context>,
    stop: CancellationToken,
) {
    let mut served = None;
    loop {
        // Generations are linked as they come.
        let wake = context.watcher.watch(&files.translog, &files.spool);
        let interval = if wake.is_watching() {
            HOLD_INTERVAL
        } else if files.translog.exists() {
            UNWATCHED_HOLD_INTERVAL
        } else {
            MISSING_FOLDER_INTERVAL
        };
        let released = async {
            while files.translog.exists() {
                release(&shard, &files, &context).await;
                tokio::time::sleep(interval).await;
                if !wake.is_watching() {
                    return;
                }
            }
            tokio::time::sleep(interval).await;
        };
        tokio::select! {
            () = released => {}
            () = wake.lost() => {}
            () = fill::serve(&shard, &files, &context, &mut served) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Lets go of what Kafka has.
async fn release(shard: &Shard, files: &Files, context: &Context) {
    let reach = match context.log.reach(&shard.topic, shard.shard).await {
        Ok(reach) => reach,
        Err(error) => {
            warn!(index = %shard.index, shard = %shard.shard, %error, "the shard's tail is unknown");
            return;
        }
    };
    let acknowledged = reach.map_or(SeqNo::NONE, |reach| reach.seq_no);
    let Files { translog, spool } = files.clone();
    let held = blocking(move || {
        let mut tail = ShardTail::open(&translog, spool, acknowledged.next())?;
        tail.release_up_to(acknowledged)
    });
    match held.await {
        Ok(Ok(())) => {}
        // A recovery may be making it.
        Ok(Err(_)) if !files.translog.exists() => {}
        Ok(Err(error)) => {
            warn!(index = %shard.index, shard = %shard.shard, %error, "replica not held")
        }
        Err(error) => warn!(%error, "holding a replica's translog did not come to an end"),
    }
}
