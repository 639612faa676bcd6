//! Sends a batch and reads the answer item by item: applied, already there, to be tried again, or
//! refused for good.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::BackoffBuilder as _;
use bytes::Bytes;
use futures::future::BoxFuture;
use reqwest::Method;
use serde::Deserialize;
use shardline_common::backoff::doubling;
use shardline_common::kafka::ControlError;
use shardline_common::opensearch::{OpenSearch, OpenSearchError, path_segment};
use shardline_common::types::{ExternalVersion, IndexName, SeqNo, ShardId};
use tokio::sync::Mutex;
use tracing::warn;

use super::batch::{Target, Write, bulk_body};
use super::lenient::Lenience;
use super::pipeline::Memory;
use crate::metrics::Metrics;
use crate::progress::IndexProgress;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);
/// How long the follower cluster may keep a request for a primary that is away; sent again it is in
/// any case.
const PRIMARY_TIMEOUT: &str = "30s";
/// The status of a full queue, of indexing pressure, of a circuit breaker and of the block that a
/// full disk sets.
const OVERLOAD: u16 = 429;
const CREATED: u16 = 201;

/// A document that the follower index will never take as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "document [{id}] at seq_no {seq_no} is refused by the follower index: [{error_type}] {reason}"
)]
pub struct Rejection {
    pub id: String,
    pub seq_no: SeqNo,
    pub error_type: String,
    pub reason: String,
}

/// Why a shard cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Rejected(Rejection),
    #[error(
        "{0}; the index has {1} dead letters, and no more are kept: mend what is refused, and replay them"
    )]
    TooManyDeadLetters(Rejection, usize),
    #[error("a dead letter cannot be written down: {0}")]
    DeadLetters(#[from] ControlError),
    #[error(
        "document [{id}] at seq_no {seq_no} stands in the follower index with version {found}, which this replication \
         cannot have written (at most {highest}): something else writes to the index"
    )]
    ForeignWrite {
        id: String,
        seq_no: SeqNo,
        found: i64,
        highest: i64,
    },
    #[error("the follower index cannot be made lenient for a document: {0}")]
    Leniency(ControlError),
    #[error("the follower index is gone")]
    IndexGone,
    #[error(transparent)]
    OpenSearch(#[from] OpenSearchError),
}

impl ApplyError {
    pub fn retryable(&self) -> bool {
        match self {
            Self::OpenSearch(error) => error.retryable(),
            Self::DeadLetters(_) | Self::Leniency(_) => true,
            _ => false,
        }
    }
}

/// An operation on a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    pub id: String,
    pub seq_no: SeqNo,
}

/// Where documents are written down that the follower index refuses for good.
pub trait DeadLetters: Send + Sync {
    /// Returns once they are; or why the shard is to stop for them.
    fn keep(
        &self,
        shard: ShardId,
        rejected: Vec<Rejection>,
    ) -> BoxFuture<'_, Result<(), ApplyError>>;

    /// The operations of a shard that are written down.
    fn kept(&self, shard: ShardId) -> Vec<Refused>;

    /// These operations are of the past: the same or a later one on their documents got through.
    fn resolve(
        &self,
        shard: ShardId,
        refused: Vec<Refused>,
    ) -> BoxFuture<'_, Result<(), ApplyError>>;
}

/// What an item's status and error mean.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Applied,
    Retry { error_type: String, reason: String },
    Foreign { found: i64 },
    IndexGone,
    Rejected { error_type: String, reason: String },
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    errors: bool,
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
enum Item {
    #[serde(rename = "index", alias = "delete")]
    Done(ItemResult),
}

#[derive(Deserialize)]
struct ItemResult {
    status: u16,
    #[serde(rename = "_seq_no")]
    seq_no: Option<SeqNo>,
    error: Option<ItemError>,
}

#[derive(Deserialize)]
struct ItemError {
    #[serde(rename = "type")]
    error_type: String,
    #[serde(default)]
    reason: String,
}

/// What the follower cluster said of a request's writes.
#[derive(Debug, Default)]
pub struct Written {
    /// The follower shard's own numbers of them; a write that was there already has none.
    pub seq_nos: Vec<SeqNo>,
    /// Whether something was sent again: what was sent before may have got numbers too.
    pub repeated: bool,
    /// Whether anything was refused for overload.
    pub throttled: bool,
    /// Documents that were not there before.
    pub created: u64,
}

/// A shard of a follower index to which batches are sent.
#[derive(Clone)]
pub struct Destination {
    pub opensearch: OpenSearch,
    pub index: IndexName,
    pub target: Target,
    pub metrics: Arc<Metrics>,
    pub progress: Arc<IndexProgress>,
    pub memory: Arc<Memory>,
    pub dead_letters: Arc<dyn DeadLetters>,
    pub lenience: Arc<dyn Lenience>,
    /// Held while the index is lenient for the shard.
    pub lenient: Arc<Mutex<()>>,
}

impl Destination {
    /// Returns once the follower cluster has acknowledged every write, or it is a dead letter. What
    /// the cluster cannot take now is sent again, as long as it takes; `highest` is the highest
    /// sequence number that this replication can have written to the shard.
    pub async fn write(&self, writes: Vec<Write>, highest: SeqNo) -> Result<Written, ApplyError> {
        let (mut written, refused) = self.send(writes, highest).await?;
        if !refused.is_empty() {
            self.write_leniently(refused, highest, &mut written).await?;
        }
        Ok(written)
    }

    /// Sends until everything is written, or refused for the index's mapping.
    pub(super) async fn send(
        &self,
        mut writes: Vec<Write>,
        highest: SeqNo,
    ) -> Result<(Written, Vec<(Write, Rejection)>), ApplyError> {
        let backoff = || doubling(FIRST_RETRY, LAST_RETRY).with_jitter().build();
        let mut delays = backoff();
        let (mut written, mut refused) = (Written::default(), Vec::new());
        while !writes.is_empty() {
            match self.timed_request(&writes).await {
                Ok(answer) => {
                    let before = writes.len();
                    written.seq_nos.extend(
                        answer
                            .items
                            .iter()
                            .filter_map(|Item::Done(result)| result.seq_no),
                    );
                    let created = |item: &&Item| {
                        let Item::Done(result) = item;
                        result.status == CREATED
                    };
                    written.created += answer.items.iter().filter(created).count() as u64;
                    written.throttled |= answer
                        .items
                        .iter()
                        .any(|Item::Done(item)| item.status == OVERLOAD);
                    let again = self.sort_out(writes, answer, highest).await?;
                    if again.writes.len() < before {
                        delays = backoff();
                    }
                    self.held_up(again.reason);
                    refused.extend(again.refused);
                    writes = again.writes;
                }
                Err(error) if error.retryable() => {
                    written.throttled |= error.status() == Some(OVERLOAD);
                    self.held_up(Some(error.to_string()));
                }
                Err(error) => return Err(error.into()),
            }
            if writes.is_empty() {
                break;
            }
            written.repeated = true;
            self.metrics
                .retried_writes
                .with_label_values(&[self.index.as_str()])
                .inc_by(writes.len() as u64);
            tokio::time::sleep(delays.next().unwrap_or(LAST_RETRY)).await;
        }
        Ok((written, refused))
    }

    /// Says why the shard does not get on, or that it does.
    fn held_up(&self, reason: Option<String>) {
        if let Some(reason) = &reason {
            warn!(index = %self.index, shard = %self.target.shard, reason, "the follower cluster does not take writes; trying again");
        }
        self.progress.shards[self.target.shard.0 as usize].held_up(reason);
    }

    /// Sends a request and counts how it went.
    async fn timed_request(&self, writes: &[Write]) -> Result<Answer, OpenSearchError> {
        let labels = [self.index.as_str(), &self.target.shard.to_string()];
        let sent = Instant::now();
        let outcome = self.request(writes).await;
        self.metrics
            .write_seconds
            .with_label_values(&labels)
            .inc_by(sent.elapsed().as_secs_f64());
        match &outcome {
            Ok(answer)
                if answer
                    .items
                    .iter()
                    .any(|Item::Done(item)| item.status == OVERLOAD) =>
            {
                self.metrics
                    .throttled_requests
                    .with_label_values(&labels)
                    .inc();
            }
            Ok(_) => {}
            Err(error) if error.status() == Some(OVERLOAD) => {
                self.metrics
                    .throttled_requests
                    .with_label_values(&labels)
                    .inc();
            }
            Err(_) => self
                .metrics
                .failed_requests
                .with_label_values(&labels)
                .inc(),
        }
        outcome
    }

    async fn request(&self, writes: &[Write]) -> Result<Answer, OpenSearchError> {
        let path = format!(
            "/{}/_bulk?pipeline=_none&timeout={PRIMARY_TIMEOUT}&filter_path=errors,items.*.status,items.*._seq_no,\
             items.*.error.type,items.*.error.reason",
            path_segment(self.index.as_str())
        );
        let body = Some(("application/x-ndjson", bulk_body(writes, &self.target)));
        let answer: Bytes = self
            .opensearch
            .send(Method::POST, &path, body, REQUEST_TIMEOUT)
            .await?;
        let unexpected = |reason: String| OpenSearchError::Unexpected {
            method: "POST".to_owned(),
            path: path.clone(),
            reason,
        };
        let answer: Answer =
            serde_json::from_slice(&answer).map_err(|error| unexpected(error.to_string()))?;
        if answer.items.len() != writes.len() {
            return Err(unexpected(format!(
                "{} items for {} writes",
                answer.items.len(),
                writes.len()
            )));
        }
        Ok(answer)
    }

    /// Finds the writes that are still to be done.
    async fn sort_out(
        &self,
        writes: Vec<Write>,
        answer: Answer,
        highest: SeqNo,
    ) -> Result<Again, ApplyError> {
        let shard = self.target.shard;
        let mut kept: HashMap<String, Vec<Refused>> = HashMap::new();
        for refused in self.dead_letters.kept(shard) {
            kept.entry(refused.id.clone()).or_default().push(refused);
        }
        let mut again = Again::default();
        if !answer.errors && kept.is_empty() {
            return Ok(again);
        }
        let highest = ExternalVersion::new(self.target.epoch, SeqNo(highest.0.max(0))).0;
        let (mut rejected, mut resolved) = (Vec::new(), Vec::new());
        for (write, Item::Done(result)) in writes.into_iter().zip(answer.items) {
            let seq_no = write.seq_no;
            match classify(result.status, result.error, highest) {
                Outcome::Applied => {
                    let of_document = kept.remove(&write.id).unwrap_or_default();
                    resolved.extend(
                        of_document
                            .into_iter()
                            .filter(|refused| refused.seq_no <= seq_no),
                    );
                }
                Outcome::Retry { error_type, reason } => {
                    again
                        .reason
                        .get_or_insert_with(|| format!("[{error_type}] {reason}"));
                    again.writes.push(write);
                }
                Outcome::Foreign { found } => {
                    return Err(ApplyError::ForeignWrite {
                        id: write.id,
                        seq_no,
                        found,
                        highest,
                    });
                }
                Outcome::IndexGone => return Err(ApplyError::IndexGone),
                Outcome::Rejected { error_type, reason } => {
                    let rejection = Rejection {
                        id: write.id.clone(),
                        seq_no,
                        error_type,
                        reason,
                    };
                    if rejection.may_be_of_the_past() {
                        again.refused.push((write, rejection));
                    } else {
                        rejected.push(rejection);
                    }
                }
            }
        }
        if !rejected.is_empty() {
            self.dead_letters.keep(shard, rejected).await?;
        }
        if !resolved.is_empty() {
            self.dead_letters.resolve(shard, resolved).await?;
        }
        Ok(again)
    }
}

/// What a request left to do, and the first reason why.
#[derive(Default)]
struct Again {
    writes: Vec<Write>,
    reason: Option<String>,
    /// By the index's mapping.
    refused: Vec<(Write, Rejection)>,
}

impl Written {
    pub(super) fn add(&mut self, other: Self) {
        self.seq_nos.extend(other.seq_nos);
        self.repeated |= other.repeated;
        self.throttled |= other.throttled;
        self.created += other.created;
    }
}

fn classify(status: u16, error: Option<ItemError>, highest: i64) -> Outcome {
    let Some(error) = error else {
        return Outcome::Applied;
    };
    match (status, error.error_type.as_str()) {
        (409, "version_conflict_engine_exception") => match current_version(&error.reason) {
            Some(found) if found <= highest => Outcome::Applied,
            Some(found) => Outcome::Foreign { found },
            None => Outcome::Rejected {
                error_type: error.error_type,
                reason: error.reason,
            },
        },
        (404, "index_not_found_exception") => Outcome::IndexGone,
        // A full disk's block goes away when there is room again; an index is closed while some of
        // its settings change.
        (OVERLOAD, _)
        | (403, "cluster_block_exception")
        | (400, "index_closed_exception")
        | (500.., _) => Outcome::Retry {
            error_type: error.error_type,
            reason: error.reason,
        },
        _ => Outcome::Rejected {
            error_type: error.error_type,
            reason: error.reason,
        },
    }
}

/// `… current version [7] is higher than the one provided [5]`
fn current_version(reason: &str) -> Option<i64> {
    let (_, rest) = reason.split_once("current version [")?;
    rest.split_once(']')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(error_type: &str, reason: &str) -> Option<ItemError> {
        Some(ItemError {
            error_type: error_type.to_owned(),
            reason: reason.to_owned(),
        })
    }

    #[test]
    fn a_conflict_counts_as_applied_only_below_what_this_replication_can_have_written() {
        let conflict = |version: i64| {
            let reason = format!(
                "[1]: version conflict, current version [{version}] is higher than the one provided [3]"
            );
            classify(409, error("version_conflict_engine_exception", &reason), 10)
        };
        assert_eq!(conflict(10), Outcome::Applied);
        assert_eq!(conflict(11), Outcome::Foreign { found: 11 });
    }

    #[test]
    fn a_missing_document_is_deleted() {
        assert_eq!(classify(404, None, 0), Outcome::Applied);
    }

    #[test]
    fn overload_and_blocks_are_waited_out_and_bad_documents_are_not() {
        for (status, error_type) in [
            (429, "rejected_execution_exception"),
            (429, "circuit_breaking_exception"),
            (503, "unavailable_shards_exception"),
            (403, "cluster_block_exception"),
            (429, "cluster_block_exception"),
            (400, "index_closed_exception"),
        ] {
            let outcome = classify(status, error(error_type, "why"), 0);
            assert_eq!(
                outcome,
                Outcome::Retry {
                    error_type: error_type.to_owned(),
                    reason: "why".to_owned()
                }
            );
        }
        assert_eq!(
            classify(404, error("index_not_found_exception", "no such index"), 0),
            Outcome::IndexGone
        );
        assert!(matches!(
            classify(400, error("mapper_parsing_exception", "x"), 0),
            Outcome::Rejected { .. }
        ));
    }
}
