//! Deletes what the leader no longer has: documents of a shard that a scan of the leader did not
//! name.
//!
//! The names wait in RocksDB, so that memory does not grow with the shard. A deletion carries the
//! version of the scan's last operation: it wins against everything that was there before, and
//! loses to everything that comes after.

use shardline_common::scan::{Hit, ShardScan, Stretch};
use shardline_common::types::{ExternalVersion, SeqNo};
use tracing::info;

use super::{ShardError, ShardPorts};
use crate::write::{ApplyError, Destination, Write};

/// Deletes the documents that the scan, complete up to `newest`, did not name. Returns how many.
/// May be repeated as long as the names are there: whoever calls it forgets them once it has noted
/// that the sweep is done.
pub(crate) async fn sweep(
    index: &impl ShardPorts,
    destination: &Destination,
    newest: SeqNo,
    highest: SeqNo,
) -> Result<u64, ShardError> {
    let shard = destination.target.shard;
    let scan = ShardScan::refreshed(&destination.opensearch, &destination.index, shard).await?;
    let swept = delete_unnamed(index, destination, &scan, newest, highest).await;
    scan.close().await;
    let swept = swept?;
    info!(
        index = %destination.index, %shard, deleted = swept,
        "documents that the leader no longer has were deleted"
    );
    Ok(swept)
}

async fn delete_unnamed(
    index: &impl ShardPorts,
    destination: &Destination,
    scan: &ShardScan<'_>,
    newest: SeqNo,
    highest: SeqNo,
) -> Result<u64, ShardError> {
    let target = destination.target;
    let newest = SeqNo(newest.0.max(0));
    let highest = highest.max(newest);
    let limit = ExternalVersion::new(target.epoch, newest).0;
    let possible = ExternalVersion::new(target.epoch, highest).0;
    let mut deleted = 0;
    let mut pages = scan.ids(Stretch {
        from: SeqNo(0),
        to: None,
    });
    loop {
        let page = pages.next().await?;
        if page.is_empty() {
            return Ok(deleted);
        }
        if let Some(Hit { id, version, .. }) = page.iter().find(|hit| hit.version > possible) {
            let (id, seq_no, found) = (id.clone(), newest, *version);
            return Err(ApplyError::ForeignWrite {
                id,
                seq_no,
                found,
                highest: possible,
            }
            .into());
        }
        let older: Vec<Hit> = page
            .into_iter()
            .filter(|hit| hit.version <= limit)
            .collect();
        let named = index.checkpoints().are_named(
            index.key(),
            target.shard,
            older.iter().map(|hit| &*hit.id),
        )?;
        let unnamed = older.into_iter().zip(named).filter(|(_, named)| !named);
        let writes: Vec<Write> = unnamed
            .map(|(hit, _)| Write {
                id: hit.id,
                seq_no: newest,
                source: None,
                routing: hit.routing,
            })
            .collect();
        if !writes.is_empty() {
            deleted += writes.len() as u64;
            destination.write(writes, highest).await?;
        }
    }
}
