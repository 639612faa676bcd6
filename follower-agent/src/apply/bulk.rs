//! Sends a batch and reads the answer item by item: applied, already there, to be tried again, or refused for good.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use reqwest::Method;
use serde::Deserialize;
use shardline_common::opensearch::{OpenSearch, OpenSearchError, path_segment};
use shardline_common::types::{ExternalVersion, IndexName, SeqNo};
use tracing::{debug, warn};

use super::batch::{Target, Write, bulk_body};
use crate::metrics::Metrics;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the follower cluster may keep a request for a primary that is away; sent again it is in any case.
const PRIMARY_TIMEOUT: &str = "30s";

/// Why a shard cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("document [{id}] at seq_no {seq_no} is refused by the follower index: [{error_type}] {reason}")]
    Rejected { id: String, seq_no: SeqNo, error_type: String, reason: String },
    #[error(
        "document [{id}] at seq_no {seq_no} stands in the follower index with version {found}, which this replication \
         cannot have written (at most {highest}): something else writes to the index"
    )]
    ForeignWrite { id: String, seq_no: SeqNo, found: i64, highest: i64 },
    #[error(transparent)]
    OpenSearch(#[from] OpenSearchError),
}

/// What an item's status and error mean.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Applied,
    Retry,
    Foreign { found: i64 },
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
}

/// A follower index to which batches are sent.
pub struct Sink<'a> {
    pub opensearch: &'a OpenSearch,
    pub index: &'a IndexName,
    pub target: Target,
    pub metrics: &'a Metrics,
}

impl Sink<'_> {
    /// Returns once the follower cluster has acknowledged every write. What it cannot take now is sent again, as long
    /// as it takes; `highest` is the highest sequence number that this replication can have written to the shard.
    pub async fn write(&self, mut writes: Vec<Write>, highest: SeqNo) -> Result<Written, ApplyError> {
        let backoff = || {
            ExponentialBuilder::default()
                .with_min_delay(Duration::from_millis(100))
                .with_max_delay(Duration::from_secs(10))
                .with_jitter()
                .without_max_times()
                .build()
        };
        let mut delays = backoff();
        let mut written = Written::default();
        while !writes.is_empty() {
            match self.timed_request(&writes).await {
                Ok(answer) => {
                    let before = writes.len();
                    written.seq_nos.extend(answer.items.iter().filter_map(|Item::Done(result)| result.seq_no));
                    writes = self.sort_out(writes, answer, highest)?;
                    if writes.len() < before {
                        delays = backoff();
                    }
                }
                Err(error) if error.retryable() => {
                    warn!(index = %self.index, shard = %self.target.shard, %error, "bulk request failed; trying again");
                }
                Err(error) => return Err(error.into()),
            }
            if writes.is_empty() {
                break;
            }
            written.repeated = true;
            self.metrics.retried_writes.with_label_values(&[self.index.as_str()]).inc_by(writes.len() as u64);
            tokio::time::sleep(delays.next().unwrap_or(Duration::from_secs(10))).await;
        }
        Ok(written)
    }

    /// Sends a request and counts how it went.
    async fn timed_request(&self, writes: &[Write]) -> Result<Answer, OpenSearchError> {
        let labels = [self.index.as_str(), &self.target.shard.to_string()];
        let sent = Instant::now();
        let outcome = self.request(writes).await;
        self.metrics.write_seconds.with_label_values(&labels).inc_by(sent.elapsed().as_secs_f64());
        match &outcome {
            Ok(answer) if answer.items.iter().any(|Item::Done(item)| item.status == 429) => {
                self.metrics.throttled_requests.with_label_values(&labels).inc();
            }
            Ok(_) => {}
            Err(error) if error.status() == Some(429) => {
                self.metrics.throttled_requests.with_label_values(&labels).inc();
            }
            Err(_) => self.metrics.failed_requests.with_label_values(&labels).inc(),
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
        let answer: Bytes = self.opensearch.send(Method::POST, &path, body, REQUEST_TIMEOUT).await?;
        let unexpected =
            |reason: String| OpenSearchError::Unexpected { method: "POST".to_owned(), path: path.clone(), reason };
        let answer: Answer = serde_json::from_slice(&answer).map_err(|error| unexpected(error.to_string()))?;
        if answer.items.len() != writes.len() {
            return Err(unexpected(format!("{} items for {} writes", answer.items.len(), writes.len())));
        }
        Ok(answer)
    }

    /// The writes that are still to be done.
    fn sort_out(&self, writes: Vec<Write>, answer: Answer, highest: SeqNo) -> Result<Vec<Write>, ApplyError> {
        if !answer.errors {
            return Ok(Vec::new());
        }
        let highest = ExternalVersion::new(self.target.epoch, SeqNo(highest.0.max(0))).0;
        let mut again = Vec::new();
        for (write, Item::Done(result)) in writes.into_iter().zip(answer.items) {
            let (id, seq_no) = (write.id.clone(), write.seq_no);
            match classify(result.status, result.error, highest) {
                Outcome::Applied => {}
                Outcome::Retry => again.push(write),
                Outcome::Foreign { found } => return Err(ApplyError::ForeignWrite { id, seq_no, found, highest }),
                Outcome::Rejected { error_type, reason } => {
                    return Err(ApplyError::Rejected { id, seq_no, error_type, reason });
                }
            }
        }
        debug!(index = %self.index, shard = %self.target.shard, again = again.len(), "some writes are to be repeated");
        Ok(again)
    }
}

fn classify(status: u16, error: Option<ItemError>, highest: i64) -> Outcome {
    let Some(error) = error else { return Outcome::Applied };
    match (status, error.error_type.as_str()) {
        (409, "version_conflict_engine_exception") => match current_version(&error.reason) {
            Some(found) if found <= highest => Outcome::Applied,
            Some(found) => Outcome::Foreign { found },
            None => Outcome::Rejected { error_type: error.error_type, reason: error.reason },
        },
        // A full disk's block goes away when there is room again.
        (429, _) | (403, "cluster_block_exception") => Outcome::Retry,
        (status, _) if status >= 500 => Outcome::Retry,
        _ => Outcome::Rejected { error_type: error.error_type, reason: error.reason },
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
        Some(ItemError { error_type: error_type.to_owned(), reason: reason.to_owned() })
    }

    #[test]
    fn a_conflict_counts_as_applied_only_below_what_this_replication_can_have_written() {
        let conflict = |version: i64| {
            let reason =
                format!("[1]: version conflict, current version [{version}] is higher than the one provided [3]");
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
        assert_eq!(classify(429, error("rejected_execution_exception", ""), 0), Outcome::Retry);
        assert_eq!(classify(503, error("unavailable_shards_exception", ""), 0), Outcome::Retry);
        assert_eq!(classify(403, error("cluster_block_exception", ""), 0), Outcome::Retry);
        assert!(matches!(classify(400, error("mapper_parsing_exception", "x"), 0), Outcome::Rejected { .. }));
    }
}
