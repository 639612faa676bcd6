//! Operations that the primary's agent missed while it was away, from the agents beside the shard's
//! other copies. These hold what Kafka does not have, and ship it when the primary's agent asks in
//! the control topic. Only what nobody holds has to be scanned for.

use std::time::Duration;

use shardline_common::blocking::blocking;
use shardline_common::clock::now_ms;
use shardline_common::control::{Entry, FillRequest};
use shardline_common::tasks::changed_or_never;
use shardline_common::types::{Nonce, SeqNo};
use tokio::task::JoinError;
use tokio::time::Instant;
use tracing::{info, warn};
use uuid::Uuid;

use super::{Capture, CaptureError, Context};
use crate::node::Shard;
use crate::publish::PublishError;
use crate::source::{Files, Missing, to_record};
use crate::translog::{Operation, ShardTail, TailError};

/// How long no operation may arrive before the agents beside other copies are given up on.
const FILL_SILENCE_MAX: Duration = Duration::from_secs(3);
const FILL_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long a copy may take to learn that the primary's global checkpoint has gone up.
const CHECKPOINT_LAG_MAX: Duration = Duration::from_secs(10);
const FILL_BATCH_BYTES: usize = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
enum FillError {
    #[error(transparent)]
    Tail(#[from] TailError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("reading the translog did not come to an end: {0}")]
    Reader(#[from] JoinError),
}

impl Capture<'_> {
    /// Has the agents beside other copies ship what is missing; whether they did.
    pub(super) async fn fill(&mut self, missing: &Missing) -> Result<bool, CaptureError> {
        let Shard { index, shard, .. } = self.shard;
        let (from, to) = (self.sent.next(), missing.to);
        let request = FillRequest {
            cluster_uuid: self.context.cluster.clone(),
            index_uuid: self.shard.uuid.clone(),
            shard: *shard,
            from,
            to,
            nonce: Uuid::new_v4().to_string().into(),
        };
        self.context.board.post(&request).await?;
        let filled = self.await_fill(to).await;
        self.context.board.take_down(&request.key()).await?;
        let filled = filled?;
        if filled {
            self.context
                .metrics
                .fills
                .with_label_values(&self.labels())
                .inc();
            info!(%index, %shard, %from, %to, "filled: agents beside other copies had these operations");
        }
        Ok(filled)
    }

    async fn await_fill(&mut self, to: SeqNo) -> Result<bool, CaptureError> {
        let (mut reached, mut since) = (self.sent, Instant::now());
        while since.elapsed() < FILL_SILENCE_MAX {
            tokio::time::sleep(FILL_POLL_INTERVAL).await;
            let Some(reach) = self
                .context
                .log
                .reach(&self.shard.topic, self.shard.shard)
                .await?
            else {
                continue;
            };
            if reach.seq_no >= to {
                self.sent = to;
                self.acknowledged(to, reach.end);
                return Ok(true);
            }
            if reach.seq_no > reached {
                (reached, since) = (reach.seq_no, Instant::now());
            }
        }
        Ok(false)
    }
}

/// Beside a copy that is not the primary: ships what the primary's agent asks for, as far as it is
/// held. Never returns.
pub(super) async fn serve(
    shard: &Shard,
    files: &Files,
    context: &Context,
    served: &mut Option<Nonce>,
) {
    let key = FillRequest::key_of(&context.cluster, &shard.uuid, shard.shard);
    let mut changes = context.board.changes();
    loop {
        changes.mark_unchanged();
        let request = context
            .board
            .posted(&key)
            .filter(|request| Some(&request.nonce) != served.as_ref());
        if let Some(request) = request {
            *served = Some(request.nonce.clone());
            match ship(shard, files, context, &request).await {
                Ok(shipped) if shipped > 0 => {
                    info!(index = %shard.index, shard = %shard.shard, shipped, from = %request.from, to = %request.to,
                          "shipped what the primary's agent had missed");
                }
                Ok(_) => {}
                Err(error) => {
                    warn!(index = %shard.index, shard = %shard.shard, %error,
                          "what the primary's agent has missed cannot be shipped from here");
                }
            }
        }
        changed_or_never(&mut changes).await;
    }
}

/// Returns how many operations were shipped.
async fn ship(
    shard: &Shard,
    files: &Files,
    context: &Context,
    request: &FillRequest,
) -> Result<u64, FillError> {
    let appender = context.log.appender();
    let (mut next, until) = (request.from, Instant::now() + CHECKPOINT_LAG_MAX);
    'looks: while Instant::now() < until {
        // Opened anew for each look: this copy may be rolled back at any time, and only what stood
        // in its translog with the global checkpoint above it is certain.
        let Files { translog, spool } = files.clone();
        let mut turn = context.turns.read().await;
        let opened = blocking(move || {
            let mut tail = ShardTail::open(&translog, spool, next)?;
            tail.reaches_next().map(|()| tail)
        });
        let mut tail = match opened.await? {
            Err(TailError::Gap { .. }) => break,
            opened => opened?,
        };
        loop {
            let read = blocking(move || {
                let operations = tail.next_batch(FILL_BATCH_BYTES)?.operations;
                tail.put_down();
                Ok::<_, TailError>((tail, operations))
            });
            let (returned, mut operations): (ShardTail, Vec<Operation>) = read.await??;
            tail = returned;
            operations.retain(|operation| operation.seq_no <= request.to);
            let Some(last) = operations.last().map(|operation| operation.seq_no) else {
                break;
            };
            let is_wanted = context.board.posted(&request.key());
            if is_wanted.is_none_or(|current| current.nonce != request.nonce) {
                break 'looks;
            }
            let timestamp_ms = now_ms();
            let records: Vec<_> = operations
                .into_iter()
                .map(|operation| to_record(operation, timestamp_ms))
                .collect();
            let sent = turn
                .through(appender.send(&shard.topic, shard.shard, &records))
                .await?;
            turn.end();
            sent.await?;
            next = last.next();
            turn = context.turns.read().await;
        }
        turn.end();
        if next > request.to {
            break;
        }
        tokio::time::sleep(FILL_POLL_INTERVAL).await;
    }
    Ok((next.0 - request.from.0).unsigned_abs())
}
