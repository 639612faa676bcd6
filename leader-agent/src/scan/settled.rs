//! Scans that show nothing that can be taken back.
//!
//! A primary shows operations as soon as it has them, and loses those that its replicas do not have
//! yet should it fail in that moment: a document could be shipped as it never was, or be left out
//! for a change that never came. So a point in time counts only once the global checkpoint has
//! reached all that it can show, under the primary that showed it.

use std::time::Duration;

use shardline_common::opensearch::{OpenSearch, OpenSearchError};
use shardline_common::scan::{ScanError, ShardScan};
use shardline_common::shard_stats::primaries;
use shardline_common::types::SeqNo;
use tokio::time::Instant;
use tracing::info;

use crate::node::{Shard, primary_term};

/// The pause between two looks at the global checkpoint.
const CHECKPOINT_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long the global checkpoint may take to rise before another point in time is tried.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
const SETTLE_RETRY_DELAY: Duration = Duration::from_millis(500);

/// Opens a point in time that shows every operation up to `at_least`, and only settled ones.
pub(crate) async fn open_settled<'a>(
    opensearch: &'a OpenSearch,
    shard: &Shard,
    at_least: SeqNo,
) -> Result<ShardScan<'a>, ScanError> {
    loop {
        let term = primary_term(opensearch, &shard.index, shard.shard).await?;
        let scan = ShardScan::refreshed(opensearch, &shard.index, shard.shard).await?;
        let settled = async {
            let reached = is_reached(opensearch, shard, at_least).await?;
            Ok::<_, OpenSearchError>(
                reached && primary_term(opensearch, &shard.index, shard.shard).await? == term,
            )
        };
        match settled.await {
            Ok(true) => return Ok(scan),
            outcome => {
                scan.close().await;
                outcome?;
            }
        }
        info!(index = %shard.index, shard = %shard.shard, "the primary changed during a scan, or does not settle; scanning again");
        tokio::time::sleep(SETTLE_RETRY_DELAY).await;
    }
}

/// Waits until the global checkpoint is where the last operation was at the first look.
async fn is_reached(
    opensearch: &OpenSearch,
    shard: &Shard,
    at_least: SeqNo,
) -> Result<bool, OpenSearchError> {
    let (began, mut shown) = (Instant::now(), None);
    while began.elapsed() < SETTLE_TIMEOUT {
        if let Some(primary) = primaries(opensearch, &shard.index)
            .await?
            .shards
            .get(&shard.shard)
        {
            let shown = *shown.get_or_insert(primary.max_seq_no);
            if shown < at_least {
                return Ok(false);
            }
            if primary.global_checkpoint >= shown {
                return Ok(true);
            }
        }
        tokio::time::sleep(CHECKPOINT_POLL_INTERVAL).await;
    }
    Ok(false)
}
