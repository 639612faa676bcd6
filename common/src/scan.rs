//! Scans one shard of an index at a point in time, in `_seq_no` order or, for a third of the CPU, as it is stored.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tracing::warn;

use crate::opensearch::{OpenSearch, OpenSearchError, path_segment};
use crate::types::{IndexName, PrimaryTerm, SeqNo, ShardId};

/// What a page is meant to weigh, in bytes; the number of documents asked for follows from the last page's.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
const FIRST_PAGE: usize = 100;
/// Documents of a page, with their sources and without; OpenSearch gives no more than 10,000.
const LARGEST_PAGE: usize = 5_000;
const LARGEST_PAGE_OF_IDS: usize = 10_000;
const KEEP_ALIVE: &str = "10m";
const PAGE_TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error(transparent)]
    OpenSearch(#[from] OpenSearchError),
    #[error("the scan's answer is not as expected: {0}")]
    Answer(#[from] serde_json::Error),
}

impl ScanError {
    /// Whether a scan may succeed when it is tried again.
    pub fn retryable(&self) -> bool {
        match self {
            Self::OpenSearch(error) => error.retryable() || is_context_lost(error),
            Self::Answer(_) => false,
        }
    }
}

/// A point in time does not outlive its node, or the shard's move to another one.
fn is_context_lost(error: &OpenSearchError) -> bool {
    matches!(error, OpenSearchError::Refused { status: 404, error_type, .. } if error_type != "index_not_found_exception")
}

/// A point in time of a shard's primary.
pub struct ShardScan<'a> {
    opensearch: &'a OpenSearch,
    pit_id: String,
}

/// Which documents a scan yields: those last changed by an operation in this stretch, both ends included.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    pub from: SeqNo,
    pub to: Option<SeqNo>,
}

/// A document as the scan found it.
#[derive(Debug)]
pub struct Hit {
    pub id: String,
    pub seq_no: SeqNo,
    pub primary_term: PrimaryTerm,
    pub version: i64,
    pub routing: Option<String>,
    /// `None` if it was not asked for, or is not kept by the index.
    pub source: Option<Bytes>,
}

impl<'a> ShardScan<'a> {
    /// Makes everything visible that the shard has acknowledged, and opens a point in time of it.
    pub async fn refreshed(opensearch: &'a OpenSearch, index: &IndexName, shard: ShardId) -> Result<Self, ScanError> {
        let _: Value = opensearch.post(&format!("/{}/_refresh", path_segment(index.as_str())), &json!({})).await?;
        Self::open(opensearch, index, shard).await
    }

    /// Opens a point in time of what the shard shows now.
    pub async fn open(opensearch: &'a OpenSearch, index: &IndexName, shard: ShardId) -> Result<Self, ScanError> {
        let path = format!(
            "/{}/_search/point_in_time?keep_alive={KEEP_ALIVE}&preference=_shards:{shard}%7C_primary",
            path_segment(index.as_str())
        );
        let PointInTime { pit_id } = opensearch.post(&path, &json!({})).await?;
        Ok(Self { opensearch, pit_id })
    }

    pub async fn close(self) {
        let body = json!({"pit_id": [self.pit_id]});
        let closed: Result<Value, _> = self.opensearch.delete("/_search/point_in_time", Some(&body)).await;
        if let Err(error) = closed {
            warn!(%error, "a point in time could not be closed; it expires by itself");
        }
    }

    /// How many documents the shard has.
    pub async fn count(&self) -> Result<u64, ScanError> {
        let request = json!({"size": 0, "track_total_hits": true, "pit": {"id": self.pit_id}});
        let counted: Counted = self.opensearch.post("/_search", &request).await?;
        Ok(counted.hits.total.value)
    }

    /// In the order of their sequence numbers.
    pub fn documents(&self, stretch: Stretch) -> Pages<'_> {
        Pages {
            scan: self,
            stretch,
            among: None,
            after: Vec::new(),
            with_source: true,
            in_order: true,
            size: FIRST_PAGE,
        }
    }

    /// In the order in which they are stored.
    pub fn unordered(&self, stretch: Stretch) -> Pages<'_> {
        Pages { in_order: false, ..self.documents(stretch) }
    }

    /// Those with one of these ids.
    pub fn documents_among<'s>(&'s self, ids: &'s [String], stretch: Stretch) -> Pages<'s> {
        Pages { among: Some(ids), ..self.documents(stretch) }
    }

    /// Without their sources, in the order in which they are stored.
    pub fn ids(&self, stretch: Stretch) -> Pages<'_> {
        Pages { with_source: false, size: LARGEST_PAGE_OF_IDS, ..self.unordered(stretch) }
    }
}

pub struct Pages<'a> {
    scan: &'a ShardScan<'a>,
    stretch: Stretch,
    among: Option<&'a [String]>,
    /// Where the last page ended.
    after: Vec<i64>,
    with_source: bool,
    in_order: bool,
    size: usize,
}

impl Pages<'_> {
    /// The next documents; none at the end.
    pub async fn next(&mut self) -> Result<Vec<Hit>, ScanError> {
        let mut range = json!({"gte": self.stretch.from.0});
        if let Some(to) = self.stretch.to {
            range["lte"] = json!(to.0);
        }
        let mut filters = vec![json!({"range": {"_seq_no": range}})];
        if let Some(ids) = self.among {
            filters.push(json!({"ids": {"values": ids}}));
        }
        let by_seq_no = self.in_order.then(|| json!({"_seq_no": "asc"}));
        // An index made by shrinking has documents of several shards in one, and with them equal sequence numbers. In a point
        // in time of one shard `_doc` tells all apart; OpenSearch before 3.3 has no `_shard_doc`.
        let sort: Vec<_> = by_seq_no.into_iter().chain([json!({"_doc": "asc"})]).collect();
        let mut request = json!({
            "size": self.size,
            "pit": {"id": self.scan.pit_id, "keep_alive": KEEP_ALIVE},
            "query": {"bool": {"filter": filters}},
            "sort": sort,
            "_source": self.with_source,
            "seq_no_primary_term": true,
            "version": true,
            "track_total_hits": false,
        });
        if !self.after.is_empty() {
            request["search_after"] = json!(self.after);
        }
        let body = Some(("application/json", Bytes::from(request.to_string())));
        let path = "/_search?filter_path=hits.hits.sort,hits.hits._id,hits.hits._seq_no,hits.hits._primary_term,hits.hits._version,\
                    hits.hits._routing,hits.hits._source";
        let path = if self.with_source { "/_search" } else { path };
        let answer = self.scan.opensearch.send(Method::POST, path, body, PAGE_TIMEOUT).await?;
        let mut page: Page<'_> = serde_json::from_slice(&answer)?;
        if let Some(last) = page.hits.hits.last_mut() {
            self.after = std::mem::take(&mut last.sort);
        }
        let found: Vec<Hit> = page.hits.hits.into_iter().map(|hit| hit.into_hit(&answer)).collect();
        if self.with_source {
            self.size = (PAGE_BYTES / (answer.len() / found.len().max(1)).max(1)).clamp(1, LARGEST_PAGE);
        }
        Ok(found)
    }
}

#[derive(Deserialize)]
struct PointInTime {
    pit_id: String,
}

#[derive(Deserialize)]
struct Counted {
    hits: CountedHits,
}

#[derive(Deserialize)]
struct CountedHits {
    total: Total,
}

#[derive(Deserialize)]
struct Total {
    value: u64,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow, default)]
    hits: PageHits<'a>,
}

#[derive(Default, Deserialize)]
struct PageHits<'a> {
    #[serde(borrow, default)]
    hits: Vec<PageHit<'a>>,
}

#[derive(Deserialize)]
struct PageHit<'a> {
    _id: String,
    _seq_no: i64,
    _primary_term: i64,
    _version: i64,
    _routing: Option<String>,
    sort: Vec<i64>,
    #[serde(borrow)]
    _source: Option<&'a RawValue>,
}

impl PageHit<'_> {
    /// The source stays where it is, in the answer.
    fn into_hit(self, answer: &Bytes) -> Hit {
        Hit {
            id: self._id,
            seq_no: SeqNo(self._seq_no),
            primary_term: PrimaryTerm(self._primary_term),
            version: self._version,
            routing: self._routing,
            source: self._source.map(|source| answer.slice_ref(source.get().as_bytes())),
        }
    }
}
