//! The translog as a source: woken when it is written, and kept from deletion until Kafka has what is in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use shardline_common::types::SeqNo;

use super::{Change, ChangeSource};
use crate::capture::CaptureError;
use crate::resync::{Missing, Reason};
use crate::translog::{ShardSpool, ShardTail, TailError, TranslogWatcher, Wake};

/// How much of a shard is read at once, in bytes of sources.
const BATCH_BYTES: usize = 1024 * 1024;
/// How often a translog is looked at that cannot be watched. One that can is looked at with every heartbeat, because
/// watches are silent on network file systems.
const SLOW_POLL: Duration = Duration::from_secs(1);

pub struct TranslogSource {
    /// Away while a blocking task works with it.
    tail: Option<ShardTail>,
    spool: ShardSpool,
    wake: Wake,
    /// The translog begins behind this.
    missing: Option<SeqNo>,
    global_checkpoint: SeqNo,
}

impl TranslogSource {
    /// Opens the translog behind `sent`, or where it does not reach back that far, behind the global checkpoint.
    pub async fn open(
        folder: &Path,
        spool: ShardSpool,
        watcher: &TranslogWatcher,
        sent: SeqNo,
    ) -> Result<Self, CaptureError> {
        let wake = watcher.watch(folder, &spool);
        let (tail, missing) = open_tail(folder.to_owned(), spool.clone(), sent).await?;
        Ok(Self { tail: Some(tail), spool, wake, missing, global_checkpoint: SeqNo::NONE })
    }

    async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut ShardTail) -> Result<T, TailError> + Send + 'static,
    ) -> Result<T, CaptureError> {
        let mut tail = self.tail.take().ok_or(CaptureError::Interrupted)?;
        let (tail, outcome) = tokio::task::spawn_blocking(move || {
            let outcome = work(&mut tail);
            (tail, outcome)
        })
        .await?;
        self.tail = Some(tail);
        Ok(outcome?)
    }
}

impl ChangeSource for TranslogSource {
    fn global_checkpoint(&self) -> SeqNo {
        self.global_checkpoint
    }

    async fn next(&mut self, _sent: SeqNo) -> Result<Change, CaptureError> {
        if let Some(to) = self.missing.take() {
            return Ok(Change::Missing(Missing { to, reason: Reason::Lost }));
        }
        let batch = self.blocking(|tail| tail.refresh().and_then(|()| tail.next_batch(BATCH_BYTES))).await?;
        self.global_checkpoint = batch.global_checkpoint;
        Ok(if batch.operations.is_empty() { Change::Nothing } else { Change::Operations(batch.operations) })
    }

    async fn release(&mut self, acked: SeqNo) -> Result<(), CaptureError> {
        if self.tail.as_ref().is_some_and(|tail| tail.can_release(acked)) {
            self.blocking(move |tail| tail.release_up_to(acked)).await?;
        }
        Ok(())
    }

    fn held_bytes(&self) -> u64 {
        self.spool.extra_bytes()
    }

    async fn changed(&mut self) {
        if self.wake.is_watching() {
            self.wake.notified().await;
        } else {
            tokio::time::sleep(SLOW_POLL).await;
        }
    }
}

async fn open_tail(
    folder: PathBuf,
    spool: ShardSpool,
    sent: SeqNo,
) -> Result<(ShardTail, Option<SeqNo>), CaptureError> {
    let opened = tokio::task::spawn_blocking(move || {
        let mut tail = ShardTail::open(&folder, spool.clone(), sent.next())?;
        match tail.reaches_next() {
            Ok(()) => Ok((tail, None)),
            Err(TailError::Gap { global_checkpoint, .. }) => {
                let tail = ShardTail::open(&folder, spool, global_checkpoint.next())?;
                Ok((tail, Some(global_checkpoint)))
            }
            Err(error) => Err(error),
        }
    });
    Ok(opened.await??)
}
