//! The leader's part of a verification: answers what follower agents ask about a shard, beside its
//! primary.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use shardline_common::kafka::{ControlError, ControlTopic};
use shardline_common::opensearch::{OpenSearch, OpenSearchError};
use shardline_common::scan::ScanError;
use shardline_common::shard_stats::primaries;
use shardline_common::types::SeqNo;
use shardline_common::verify::{Answer, Ask, Question, Reader, Side};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::capture::Shipped;
use crate::node::{self, Shard};

/// How often a scan says how far it is.
const PROGRESS_REPORT_INTERVAL: Duration = Duration::from_secs(1);
const ANSWER_RETRY_DELAY: Duration = Duration::from_secs(1);
const ANSWER_ATTEMPTS_MAX: usize = 5;

#[derive(Debug, thiserror::Error)]
enum VerifyError {
    #[error(transparent)]
    OpenSearch(#[from] OpenSearchError),
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("the index is not on this cluster any more")]
    IndexGone,
    #[error("the shard's primary does not say what its last operation is")]
    NoPrimary,
    #[error("the shard's capture has ended")]
    NoCapture,
}

/// Answers one question; what fails is tried again a few times, and then said.
pub(crate) async fn answer_question(
    shard: Shard,
    question: Question,
    opensearch: OpenSearch,
    leader_table: ControlTopic,
    mut shipped: watch::Receiver<Option<Shipped>>,
    stop: CancellationToken,
) {
    let answered = async {
        for attempt in 1.. {
            let error =
                match try_answer(&shard, &question, &opensearch, &leader_table, &mut shipped).await
                {
                    Ok(()) => return,
                    Err(error) => error,
                };
            warn!(index = %shard.index, shard = %shard.shard, %error, "a verification's question could not be answered");
            if attempt == ANSWER_ATTEMPTS_MAX {
                let answer = Answer::Failed {
                    reason: error.to_string(),
                };
                if let Err(error) = leader_table.publish(&question.reply(answer)).await {
                    warn!(index = %shard.index, shard = %shard.shard, %error, "a reply could not be written");
                }
                return;
            }
            tokio::time::sleep(ANSWER_RETRY_DELAY).await;
        }
    };
    tokio::select! {
        () = answered => {}
        () = stop.cancelled() => {}
    }
}

async fn try_answer(
    shard: &Shard,
    question: &Question,
    opensearch: &OpenSearch,
    leader_table: &ControlTopic,
    shipped: &mut watch::Receiver<Option<Shipped>>,
) -> Result<(), VerifyError> {
    let read = AtomicU64::new(0);
    let reader = Reader {
        opensearch,
        index: &shard.index,
        shard: shard.shard,
        side: Side::Leader,
        how: question.how,
        read: &read,
        newest: Box::new(|| SeqNo(i64::MAX)),
    };
    let answer = match &question.ask {
        Ask::Metadata => {
            let state = node::local_state(opensearch, &shard.index, &shard.uuid).await?;
            let state = state.ok_or(VerifyError::IndexGone)?;
            Answer::Metadata(Box::new(
                node::fetch_metadata(opensearch, &shard.index, &shard.uuid, &state).await?,
            ))
        }
        Ask::Digests { buckets } => {
            let checkpoint = checkpoint(shipped).await?;
            let scanned = reader.digests(checkpoint, *buckets);
            let digests = reporting(question, leader_table, &read, checkpoint, scanned).await?;
            Answer::Digests {
                checkpoint,
                digests,
            }
        }
        Ask::Documents { buckets, of } => {
            let checkpoint = checkpoint(shipped).await?;
            let scanned = reader.listing(checkpoint, *buckets, of);
            let listing = reporting(question, leader_table, &read, checkpoint, scanned).await?;
            Answer::Documents {
                checkpoint,
                listing,
            }
        }
        Ask::States { documents } => {
            let states = reader.states(documents).await?;
            // Nothing that these show is newer.
            let primaries = primaries(opensearch, &shard.index).await?;
            let checkpoint = primaries
                .shards
                .get(&shard.shard)
                .ok_or(VerifyError::NoPrimary)?
                .max_seq_no;
            Answer::States { checkpoint, states }
        }
    };
    debug!(index = %shard.index, shard = %shard.shard, "a verification's question is answered");
    Ok(leader_table.publish(&question.reply(answer)).await?)
}

/// Up to where Kafka has the shard: a scan that begins later sees it all.
async fn checkpoint(shipped: &mut watch::Receiver<Option<Shipped>>) -> Result<SeqNo, VerifyError> {
    let shipped = shipped
        .wait_for(Option::is_some)
        .await
        .map_err(|_| VerifyError::NoCapture)?;
    Ok(shipped.map_or(SeqNo::NONE, |shipped| shipped.seq_no))
}

/// Says how far a scan is while it goes on.
async fn reporting<T>(
    question: &Question,
    leader_table: &ControlTopic,
    read: &AtomicU64,
    checkpoint: SeqNo,
    scan: impl Future<Output = Result<T, ScanError>>,
) -> Result<T, VerifyError> {
    let report = async {
        loop {
            let answer = Answer::Working {
                checkpoint,
                documents: read.load(Relaxed),
            };
            if let Err(error) = leader_table.publish(&question.reply(answer)).await {
                break error;
            }
            tokio::time::sleep(PROGRESS_REPORT_INTERVAL).await;
        }
    };
    tokio::select! {
        scanned = scan => Ok(scanned?),
        error = report => Err(error.into()),
    }
}
