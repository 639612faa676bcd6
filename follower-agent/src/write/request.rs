//! Sends a batch and reads the answer item by item: applied, already there, to be tried again, or
//! refused for good.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::BackoffBuilder as _;
use bytes::Bytes;
use reqwest::Method;
use serde::Deserialize;
use shardline_common::backoff::doubling;
use shardline_common::clock::now_ms;
use shardline_common::opensearch::{OpenSearch, OpenSearchError, path_segment};
use shardline_common::standstill::{Cause, StandstillReason};
use shardline_common::types::{ExternalVersion, IndexName, SeqNo};
use tokio::sync::Mutex;
use tracing::warn;

use super::batch::{Target, Write, bulk_body};
use super::lenient::Lenience;
use super::memory::Memory;
use super::outcome::{ApplyError, DeadLetters, Refused, Rejection, Written};
use crate::metrics::Metrics;
use crate::progress::{IndexProgress, Source};

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
        let mut told = None;
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
                    self.held_up(again.reason, &mut told);
                    refused.extend(again.refused);
                    writes = again.writes;
                }
                // A whole request that is not found did not reach the follower cluster.
                Err(error) if error.retryable() || error.is_not_found() => {
                    written.throttled |= error.status() == Some(OVERLOAD);
                    let cause = error.cause();
                    let reason = StandstillReason::new(cause, now_ms(), error.to_string());
                    self.held_up(Some(reason), &mut told);
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

    /// Says why the shard does not get on, or that it does; in the log once, until it changes.
    fn held_up(&self, reason: Option<StandstillReason>, told: &mut Option<String>) {
        if let Some(reason) = &reason
            && told.as_ref() != Some(&reason.detail)
        {
            warn!(
                index = %self.index,
                shard = %self.target.shard,
                reason = reason.detail,
                "the follower cluster does not take writes; trying again"
            );
            *told = Some(reason.detail.clone());
        }
        self.progress.shards[self.target.shard.0 as usize].set_standing(Source::Writing, reason);
    }

    /// Sends a request and counts how it went.
    async fn timed_request(&self, writes: &[Write]) -> Result<Answer, OpenSearchError> {
        let labels = [self.index.as_str(), &self.target.shard.to_string()];
        let sent = Instant::now();
        let outcome = self.request(writes).await;
        let took = sent.elapsed().as_secs_f64();
        self.metrics
            .write_seconds
            .with_label_values(&labels)
            .inc_by(took);
        self.metrics.request_seconds.observe(took);
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

    /// The shard's dead letters by document.
    fn kept(&self) -> HashMap<String, Vec<Refused>> {
        let mut kept: HashMap<String, Vec<Refused>> = HashMap::new();
        for refused in self.dead_letters.kept(self.target.shard) {
            kept.entry(refused.id.clone()).or_default().push(refused);
        }
        kept
    }

    /// Finds the writes that are still to be done.
    async fn sort_out(
        &self,
        writes: Vec<Write>,
        answer: Answer,
        highest: SeqNo,
    ) -> Result<Again, ApplyError> {
        let shard = self.target.shard;
        let mut kept = self.kept();
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
                    let cause = Cause::of_answer(result.status, &error_type);
                    again.reason.get_or_insert_with(|| {
                        StandstillReason::new(cause, now_ms(), format!("[{error_type}] {reason}"))
                    });
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
                    match rejection.may_be_of_the_past() {
                        true => again.refused.push((write, rejection)),
                        false => rejected.push(rejection),
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
    reason: Option<StandstillReason>,
    /// By the index's mapping.
    refused: Vec<(Write, Rejection)>,
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
        // The document's own fault. An index is closed while some of its settings change, which is
        // not.
        (400, error_type) if error_type != "index_closed_exception" => Outcome::Rejected {
            error_type: error.error_type,
            reason: error.reason,
        },
        (409 | 413, _) => Outcome::Rejected {
            error_type: error.error_type,
            reason: error.reason,
        },
        // Whatever else is in the way goes away: a block when there is room again, a refusal when
        // the agent's user may write again.
        _ => Outcome::Retry {
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
                "[1]: version conflict, current version [{version}] is higher than the one \
                 provided [3]"
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
            (401, "security_exception"),
            (403, "security_exception"),
            (404, "shard_not_found_exception"),
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
        for (status, error_type) in [
            (400, "mapper_parsing_exception"),
            (400, "illegal_argument_exception"),
            (413, "content_too_long_exception"),
        ] {
            assert!(matches!(
                classify(status, error(error_type, "x"), 0),
                Outcome::Rejected { .. }
            ));
        }
    }
}
