//! Scans one shard of an index at a point in time, in `_seq_no` order or, for a third of the CPU,
//! as it is stored.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::point_in_time::PointInTime;
use super::{OpenSearch, OpenSearchError, path_segment};
use crate::words::types::{IndexName, PrimaryTerm, SeqNo, ShardId};

/// What a page is meant to weigh, in bytes; the number of documents asked for follows from the last
/// page's.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
const FIRST_PAGE: usize = 100;
/// Documents of a page, with their sources and without; OpenSearch gives no more than 10,000.
const LARGEST_PAGE: usize = 5_000;
const LARGEST_PAGE_OF_IDS: usize = 10_000;
/// What a page of several documents weighs at most, in bytes: one that is larger is asked for
/// again, with this part of its documents. It was meant to weigh a sixteenth.
const LARGEST_ANSWER: usize = 16 * PAGE_BYTES;
const SMALLER: usize = 16;
/// A page has at most so many times the documents of the one before, since these say little about
/// those to come.
const GROWTH: usize = 4;
const KEEP_ALIVE: &str = "10m";
/// A scan that silently left documents out would have followers delete them.
const SEARCH: &str = "/_search?allow_partial_search_results=false";
/// Instead of the index's `index.search.default_pipeline`, which would change what is found.
const NO_PIPELINE: &str = "&search_pipeline=_none";
/// Instead of the cluster's `search.default_search_timeout`, at which a search ends with what it
/// has found.
const NO_TIMEOUT: &str = "-1";
const PAGE_TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error(transparent)]
    OpenSearch(#[from] OpenSearchError),
    #[error("the scan's answer is not as expected: {0}")]
    Answer(#[from] serde_json::Error),
    #[error("the scan's answer leaves documents out: {0}")]
    Partial(&'static str),
}

impl ScanError {
    /// Whether a scan may succeed when it is tried again.
    pub fn retryable(&self) -> bool {
        match self {
            Self::OpenSearch(error) => error.retryable() || is_context_lost(error),
            Self::Answer(_) => false,
            Self::Partial(_) => true,
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
    pit: PointInTime,
    /// Documents that the index gives in a page at most: its `index.max_result_window`, once it has
    /// refused more.
    window: AtomicUsize,
    /// Whether the cluster knows search pipelines.
    has_pipelines: AtomicBool,
}

/// Which documents a scan yields: those last changed by an operation in this stretch, both ends
/// included.
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
    pub async fn refreshed(
        opensearch: &'a OpenSearch,
        index: &IndexName,
        shard: ShardId,
    ) -> Result<Self, ScanError> {
        let path = format!(
            "/{}/_refresh?filter_path=_shards.failed",
            path_segment(index.as_str())
        );
        let refreshed: Refreshed = opensearch.post(&path, &json!({})).await?;
        if refreshed._shards.failed > 0 {
            return Err(ScanError::Partial("a shard could not be refreshed"));
        }
        Self::open(opensearch, index, shard).await
    }

    /// Opens a point in time of what the shard shows now.
    pub async fn open(
        opensearch: &'a OpenSearch,
        index: &IndexName,
        shard: ShardId,
    ) -> Result<Self, ScanError> {
        let path = format!(
            "/{}/_search/point_in_time?keep_alive={KEEP_ALIVE}&preference=_shards:{shard}%7C_primary",
            path_segment(index.as_str())
        );
        let pit = PointInTime::open(opensearch.clone(), path).await?;
        Ok(Self {
            opensearch,
            pit,
            window: AtomicUsize::new(LARGEST_PAGE_OF_IDS),
            has_pipelines: AtomicBool::new(true),
        })
    }

    /// Closes the point in time, and returns when that is done. One that is dropped is closed, too.
    pub async fn close(self) {
        self.pit.close().await;
    }

    /// How many documents the shard has.
    pub async fn count(&self) -> Result<u64, ScanError> {
        let request = json!({"size": 0, "track_total_hits": true, "pit": {"id": self.pit.id()}, "timeout": NO_TIMEOUT});
        let answer = self.search("", &request, usize::MAX).await?;
        let counted: Counted = serde_json::from_slice(answer.as_deref().unwrap_or_default())?;
        check(counted.timed_out, &counted._shards)?;
        Ok(counted.hits.total.value)
    }

    /// A search of the point in time; `None` when the answer has more bytes than `at_most`.
    async fn search(
        &self,
        parameters: &str,
        request: &Value,
        at_most: usize,
    ) -> Result<Option<Bytes>, OpenSearchError> {
        loop {
            let has_pipelines = self.has_pipelines.load(Relaxed);
            let no_pipeline = if has_pipelines { NO_PIPELINE } else { "" };
            let path = format!("{SEARCH}{no_pipeline}{parameters}");
            let body = Some(("application/json", Bytes::from(request.to_string())));
            let asked =
                self.opensearch
                    .send_at_most(at_most, Method::POST, &path, body, PAGE_TIMEOUT);
            match asked.await {
                Err(error) if has_pipelines && is_unknown_pipeline_parameter(&error) => {
                    self.has_pipelines.store(false, Relaxed);
                }
                asked => return asked,
            }
        }
    }

    /// The documents of a stretch in the order of their sequence numbers.
    pub fn documents(&self, stretch: Stretch) -> Pages<'_> {
        Pages {
            scan: self,
            stretch,
            among: None,
            after: Vec::new(),
            with_source: true,
            in_order: true,
            size: FIRST_PAGE,
            largest: LARGEST_PAGE,
        }
    }

    /// The documents of a stretch in the order in which they are stored.
    pub fn unordered(&self, stretch: Stretch) -> Pages<'_> {
        Pages {
            in_order: false,
            ..self.documents(stretch)
        }
    }

    /// The documents of a stretch that have one of these ids.
    pub fn documents_among<'s>(&'s self, ids: &'s [String], stretch: Stretch) -> Pages<'s> {
        Pages {
            among: Some(ids),
            ..self.documents(stretch)
        }
    }

    /// Without their sources, in the order in which they are stored.
    pub fn ids(&self, stretch: Stretch) -> Pages<'_> {
        Pages {
            with_source: false,
            size: LARGEST_PAGE_OF_IDS,
            largest: LARGEST_PAGE_OF_IDS,
            ..self.unordered(stretch)
        }
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
    largest: usize,
}

impl Pages<'_> {
    /// With so many documents in a page at most.
    pub fn of_at_most(self, documents: usize) -> Self {
        let largest = documents.clamp(1, self.largest);
        Self {
            largest,
            size: self.size.min(largest),
            ..self
        }
    }

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
        // An index made by shrinking has documents of several shards in one, and with them equal
        // sequence numbers. In a point in time of one shard `_doc` tells all apart; OpenSearch
        // before 3.3 has no `_shard_doc`.
        let sort: Vec<_> = by_seq_no
            .into_iter()
            .chain([json!({"_doc": "asc"})])
            .collect();
        let mut request = json!({
            "pit": {"id": self.scan.pit.id(), "keep_alive": KEEP_ALIVE},
            "query": {"bool": {"filter": filters}},
            "sort": sort,
            "_source": self.with_source,
            "seq_no_primary_term": true,
            "version": true,
            "track_total_hits": false,
            "timeout": NO_TIMEOUT,
        });
        if !self.after.is_empty() {
            request["search_after"] = json!(self.after);
        }
        let answer = self.ask(request).await?;
        let mut page: Page<'_> = serde_json::from_slice(&answer)?;
        check(page.timed_out, &page._shards)?;
        if let Some(last) = page.hits.hits.last_mut() {
            self.after = std::mem::take(&mut last.sort);
        }
        let found: Vec<Hit> = page
            .hits
            .hits
            .into_iter()
            .map(|hit| hit.into_hit(&answer))
            .collect();
        if self.with_source {
            self.size = next_size(self.size, answer.len(), found.len()).min(self.largest);
        }
        Ok(found)
    }

    async fn ask(&mut self, mut request: Value) -> Result<Bytes, ScanError> {
        // Sources would be taken apart for a filter, and put together otherwise.
        let filter = "&filter_path=timed_out,_shards.failed,hits.hits.sort,hits.hits._id,hits.hits._seq_no,\
                      hits.hits._primary_term,hits.hits._version,hits.hits._routing,hits.hits._source";
        let parameters = if self.with_source { "" } else { filter };
        loop {
            self.size = self.size.min(self.scan.window.load(Relaxed));
            request["size"] = json!(self.size);
            // A document that is larger is let through.
            let at_most = if self.size == 1 {
                usize::MAX
            } else {
                LARGEST_ANSWER
            };
            match self.scan.search(parameters, &request, at_most).await {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => self.size = (self.size / SMALLER).max(1),
                // It may be made smaller while the scan is under way.
                Err(error) => match largest_window(&error).filter(|largest| *largest < self.size) {
                    Some(largest) => self.scan.window.store(largest, Relaxed),
                    None => return Err(error.into()),
                },
            }
        }
    }
}

/// OpenSearch before 2.7.
fn is_unknown_pipeline_parameter(error: &OpenSearchError) -> bool {
    matches!(error, OpenSearchError::Refused { status: 400, reason, .. }
        if reason.contains("unrecognized parameter") && reason.contains("search_pipeline"))
}

/// How many documents an index gives in a page that has refused to give more.
///
/// `Result window is too large, from + size must be less than or equal to: [50] but was [100]. …`
fn largest_window(error: &OpenSearchError) -> Option<usize> {
    let OpenSearchError::Refused {
        status: 400,
        reason,
        ..
    } = error
    else {
        return None;
    };
    let (_, rest) = reason
        .strip_prefix("Result window is too large")?
        .split_once("equal to: [")?;
    let largest: usize = rest.split_once(']')?.0.parse().ok()?;
    (largest > 0).then_some(largest)
}

/// How many documents to ask for behind a page of `size`, of which `found` came, with so many
/// bytes.
fn next_size(size: usize, bytes: usize, found: usize) -> usize {
    let weight = (bytes / found.max(1)).max(1);
    (PAGE_BYTES / weight)
        .min(size.saturating_mul(GROWTH))
        .clamp(1, LARGEST_PAGE)
}

#[derive(Deserialize)]
struct Refreshed {
    #[serde(default)]
    _shards: Shards,
}

/// The statistics of the one shard that a scan is about.
#[derive(Default, Deserialize)]
struct Shards {
    #[serde(default)]
    failed: u32,
}

/// An answer with a part of the documents is none.
fn check(timed_out: bool, shards: &Shards) -> Result<(), ScanError> {
    match (timed_out, shards.failed) {
        (true, _) => Err(ScanError::Partial("the search timed out")),
        (false, 1..) => Err(ScanError::Partial("the search failed on the shard")),
        (false, 0) => Ok(()),
    }
}

#[derive(Deserialize)]
struct Counted {
    #[serde(default)]
    timed_out: bool,
    #[serde(default)]
    _shards: Shards,
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
    #[serde(default)]
    timed_out: bool,
    #[serde(default)]
    _shards: Shards,
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
            source: self
                ._source
                .map(|source| answer.slice_ref(source.get().as_bytes())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::future::BoxFuture;
    use parking_lot::Mutex;
    use reqwest::StatusCode;

    use super::*;
    use crate::opensearch::{Request, Transport};

    /// A shard of documents that weigh so many bytes, in the order in which they are stored.
    struct Stored {
        weights: Vec<usize>,
        /// Added to every answer of a search.
        partial: Option<(&'static str, Value)>,
        sizes: Mutex<Vec<usize>>,
        /// `index.max_result_window`.
        window: AtomicUsize,
        /// Whether it is of a time without search pipelines.
        is_old: bool,
    }

    impl Transport for Stored {
        fn send<'a>(
            &'a self,
            request: Request<'a>,
        ) -> BoxFuture<'a, Result<(StatusCode, Bytes), String>> {
            let answer = if request.path.contains("point_in_time") {
                json!({"pit_id": "pit"})
            } else if request.path.contains("_refresh") {
                self.partial
                    .iter()
                    .map(|(key, value)| (key.to_string(), value.clone()))
                    .collect()
            } else {
                assert!(
                    request.path.contains("allow_partial_search_results=false"),
                    "{}",
                    request.path
                );
                let (_, body) = request.body.expect("a search has a body");
                let body: Value = serde_json::from_slice(&body).expect("a search is JSON");
                assert!(self.is_old || request.path.contains("search_pipeline=_none"));
                if let Some(refusal) = self.refusal(request.path, &body) {
                    let answer = json!({"error": {"type": "search_phase_execution_exception", "reason": "all shards failed",
                        "root_cause": [{"type": "illegal_argument_exception", "reason": refusal}]}});
                    let answer = (StatusCode::BAD_REQUEST, Bytes::from(answer.to_string()));
                    return Box::pin(async move { Ok(answer) });
                }
                self.search(&body)
            };
            Box::pin(async move { Ok((StatusCode::OK, Bytes::from(answer.to_string()))) })
        }
    }

    impl Stored {
        fn new(weights: Vec<usize>, partial: Option<(&'static str, Value)>) -> Arc<Self> {
            Arc::new(Self {
                weights,
                partial,
                sizes: Mutex::default(),
                window: AtomicUsize::new(10_000),
                is_old: false,
            })
        }

        /// As OpenSearch words it.
        fn refusal(&self, path: &str, request: &Value) -> Option<String> {
            if self.is_old && path.contains("search_pipeline") {
                return Some(format!(
                    "request [{path}] contains unrecognized parameter: [search_pipeline]"
                ));
            }
            let (size, window) = (request["size"].as_u64()?, self.window.load(Relaxed));
            (size as usize > window).then(|| {
                format!(
                    "Result window is too large, from + size must be less than or equal to: [{window}] but was [{size}]. See the scroll api."
                )
            })
        }

        fn search(&self, request: &Value) -> Value {
            let size = request["size"].as_u64().expect("a size") as usize;
            self.sizes.lock().push(size);
            let after = request["search_after"][0]
                .as_u64()
                .map_or(0, |place| place as usize + 1);
            let documents = self.weights.iter().enumerate().skip(after).take(size).map(|(place, weight)| {
                json!({"_id": place.to_string(), "_seq_no": place, "_primary_term": 1, "_version": 1, "sort": [place],
                       "_source": {"text": "x".repeat(*weight)}})
            });
            let hits = documents.collect::<Vec<_>>();
            let mut answer =
                json!({"hits": {"hits": hits, "total": {"value": self.weights.len()}}});
            if let Some((key, value)) = &self.partial {
                answer[*key] = value.clone();
            }
            answer
        }
    }

    const ALL: Stretch = Stretch {
        from: SeqNo(0),
        to: None,
    };

    async fn open(opensearch: &OpenSearch) -> ShardScan<'_> {
        ShardScan::open(opensearch, &"index".into(), ShardId(0))
            .await
            .unwrap()
    }

    fn over(shard: &Arc<Stored>) -> OpenSearch {
        OpenSearch::over(
            "http://shard".to_owned(),
            Arc::clone(shard) as Arc<dyn Transport>,
        )
    }

    #[test]
    fn pages_grow_step_by_step_and_shrink_at_once() {
        assert_eq!(next_size(100, 100 * 200, 100), 400);
        assert_eq!(next_size(4_000, 4_000 * 200, 4_000), LARGEST_PAGE);
        assert_eq!(next_size(5_000, 8 * PAGE_BYTES, 5_000), 625);
        assert_eq!(next_size(100, 3 * PAGE_BYTES, 1), 1);
        assert_eq!(next_size(100, 100, 0), 400);
    }

    #[tokio::test]
    async fn a_page_that_would_be_too_large_is_asked_for_again_with_fewer_documents() {
        let large = 1024 * 1024;
        let weights: Vec<usize> = std::iter::repeat_n(10, 300)
            .chain([large; 70])
            .chain([LARGEST_ANSWER])
            .collect();
        let shard = Stored::new(weights, None);
        let opensearch = over(&shard);
        let scan = open(&opensearch).await;
        let (mut pages, mut ids) = (scan.unordered(ALL), Vec::new());
        loop {
            let page = pages.next().await.unwrap();
            let bytes: usize = page
                .iter()
                .filter_map(|hit| hit.source.as_ref())
                .map(Bytes::len)
                .sum();
            assert!(
                page.len() == 1 || bytes <= LARGEST_ANSWER,
                "{} documents of {bytes} bytes",
                page.len()
            );
            if page.is_empty() {
                break;
            }
            ids.extend(page.into_iter().map(|hit| hit.id));
        }
        assert_eq!(
            ids,
            (0..371).map(|place| place.to_string()).collect::<Vec<_>>()
        );
        let sizes = shard.sizes.lock();
        assert_eq!(sizes[..3], [100, 400, 25]);
    }

    #[tokio::test]
    async fn pages_have_as_many_documents_as_they_may() {
        let shard = Stored::new(vec![10; 300], None);
        let opensearch = over(&shard);
        let scan = open(&opensearch).await;
        for mut pages in [
            scan.ids(ALL).of_at_most(70),
            scan.unordered(ALL).of_at_most(70),
        ] {
            while !pages.next().await.unwrap().is_empty() {}
        }
        assert_eq!(*shard.sizes.lock(), [70; 12]);
    }

    /// A scan would not show what the shard has not made visible.
    #[tokio::test]
    async fn a_shard_that_was_not_refreshed_is_not_scanned() {
        for (failed, is_opened) in [(0, true), (1, false)] {
            let shard = Stored::new(
                vec![1],
                Some(("_shards", json!({"total": 4, "failed": failed}))),
            );
            let opensearch = over(&shard);
            let opened = ShardScan::refreshed(&opensearch, &"index".into(), ShardId(0)).await;
            assert_eq!(opened.is_ok(), is_opened);
        }
    }

    #[tokio::test]
    async fn an_answer_that_leaves_documents_out_is_none() {
        for partial in [
            ("timed_out", json!(true)),
            ("_shards", json!({"total": 1, "failed": 1})),
        ] {
            let shard = Stored::new(vec![1, 1], Some(partial));
            let opensearch = over(&shard);
            let scan = open(&opensearch).await;
            for error in [
                scan.ids(ALL).next().await.unwrap_err(),
                scan.count().await.unwrap_err(),
            ] {
                assert!(
                    matches!(error, ScanError::Partial(_)) && error.retryable(),
                    "{error}"
                );
            }
        }
        let shard = Stored::new(
            vec![1, 1],
            Some(("_shards", json!({"total": 1, "failed": 0}))),
        );
        assert_eq!(open(&over(&shard)).await.count().await.unwrap(), 2);
    }

    #[tokio::test]
    async fn pages_fit_the_index_also_when_it_takes_less_meanwhile() {
        for window in [1, 2, 50, 999] {
            let shard = Stored::new(vec![10; 120], None);
            shard.window.store(window, Relaxed);
            let opensearch = over(&shard);
            let scan = open(&opensearch).await;
            for mut pages in [scan.ids(ALL), scan.documents(ALL)] {
                let mut found = 0;
                loop {
                    let page = pages.next().await.unwrap();
                    shard.window.store(window.div_ceil(2), Relaxed);
                    if page.is_empty() {
                        break;
                    }
                    assert!(page.len() <= window);
                    found += page.len();
                }
                assert_eq!(found, 120);
            }
            let refused = shard.sizes.lock().len();
            assert!(refused > 120 / window);
        }
    }

    #[tokio::test]
    async fn a_cluster_without_search_pipelines_is_scanned_too() {
        let shard = Arc::new(Stored {
            is_old: true,
            ..Arc::into_inner(Stored::new(vec![10; 7], None)).unwrap()
        });
        let opensearch = over(&shard);
        let scan = open(&opensearch).await;
        assert_eq!(scan.count().await.unwrap(), 7);
        assert_eq!(scan.ids(ALL).next().await.unwrap().len(), 7);
    }
}
