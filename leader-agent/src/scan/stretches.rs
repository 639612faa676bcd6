//! All documents of a shard, so that a scan that was broken off can go on.
//!
//! In the order in which they are stored, documents cost the leader node a third of the CPU of
//! those in `_seq_no` order: it unpacks a block of them once, and not once for each. But only an
//! order says how far a scan came. So sequence numbers are divided into stretches of one length.
//! Where they are dense, a stretch is scanned as it is stored, once all below it is scanned; where
//! most belong to operations that later ones have superseded, in `_seq_no` order.
//!
//! Either way, once a document is found, all below the stretch that it is in were. From there a
//! scan goes on.

use shardline_common::scan::{Hit, Pages, ScanError, ShardScan, Stretch};
use shardline_common::types::SeqNo;

/// Sequence numbers of a stretch, for [`Stretches::after`]. As many documents may come twice when a
/// scan goes on.
pub(crate) const STRETCH_LENGTH: i64 = 100_000;
/// Dense is where at least one in so many sequence numbers is a document's.
const SEQ_NOS_PER_DOCUMENT_MAX: i64 = 4;

pub(crate) struct Stretches<'a> {
    scan: &'a ShardScan<'a>,
    length: i64,
    in_order: Pages<'a>,
    dense: Option<Dense<'a>>,
}

/// A stretch, or what is left of it, that is scanned as it is stored.
struct Dense<'a> {
    from: SeqNo,
    to: SeqNo,
    found: usize,
    pages: Pages<'a>,
}

impl<'a> Stretches<'a> {
    /// Goes on behind a scan whose last document was the one at `found`, or begins if there was
    /// none.
    pub(crate) fn after(scan: &'a ShardScan<'a>, found: SeqNo, length: i64) -> Self {
        let found = found.0.max(0);
        let from = SeqNo(found - found % length);
        Self {
            scan,
            length,
            in_order: scan.documents(Stretch { from, to: None }),
            dense: None,
        }
    }

    /// The next documents; none at the end.
    pub(crate) async fn next(&mut self) -> Result<Vec<Hit>, ScanError> {
        while let Some(dense) = &mut self.dense {
            let page = dense.pages.next().await?;
            if !page.is_empty() {
                dense.found += page.len();
                return Ok(page);
            }
            let from = dense.to.next();
            if is_dense(dense.found, dense.from, dense.to) {
                self.dense = Some(self.stored(from));
            } else {
                self.dense = None;
                self.in_order = self.scan.documents(Stretch { from, to: None });
            }
        }
        let mut page = self.in_order.next().await?;
        if let [first, .., last] = &*page
            && first.seq_no < last.seq_no
            && is_dense(page.len(), first.seq_no, last.seq_no)
        {
            // An index made by shrinking has several documents at one sequence number: the next
            // page begins with all of them.
            let from = last.seq_no;
            page.retain(|hit| hit.seq_no < from);
            self.dense = Some(self.stored(from));
        }
        Ok(page)
    }

    /// A scan, in stored order, from here to the end of the stretch.
    fn stored(&self, from: SeqNo) -> Dense<'a> {
        let to = SeqNo(from.0 - from.0 % self.length + self.length - 1);
        Dense {
            from,
            to,
            found: 0,
            pages: self.scan.unordered(Stretch { from, to: Some(to) }),
        }
    }
}

fn is_dense(documents: usize, from: SeqNo, to: SeqNo) -> bool {
    i64::try_from(documents)
        .unwrap_or(i64::MAX)
        .saturating_mul(SEQ_NOS_PER_DOCUMENT_MAX)
        > to.0 - from.0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use bytes::Bytes;
    use futures::future::BoxFuture;
    use proptest::prelude::*;
    use reqwest::StatusCode;
    use serde_json::{Value, json};
    use shardline_common::opensearch::{OpenSearch, Request, Transport};
    use shardline_common::types::ShardId;

    use super::*;

    /// A shard whose documents have these sequence numbers, in the order in which they are stored.
    struct Stored {
        seq_nos: Vec<i64>,
        page: usize,
        requests: AtomicUsize,
    }

    impl Transport for Stored {
        fn send<'a>(
            &'a self,
            request: Request<'a>,
        ) -> BoxFuture<'a, Result<(StatusCode, Bytes), String>> {
            let answer = if request.path.contains("point_in_time") {
                json!({"pit_id": "pit"})
            } else {
                self.requests.fetch_add(1, Relaxed);
                let (_, body) = request.body.expect("a search has a body");
                self.search(&serde_json::from_slice(&body).expect("a search is JSON"))
            };
            Box::pin(async move { Ok((StatusCode::OK, Bytes::from(answer.to_string()))) })
        }
    }

    impl Stored {
        fn search(&self, request: &Value) -> Value {
            let range = &request["query"]["bool"]["filter"][0]["range"]["_seq_no"];
            let from = range["gte"].as_i64().unwrap_or(0);
            let to = range["lte"].as_i64().unwrap_or(i64::MAX);
            let in_order = request["sort"][0]["_seq_no"] == "asc";
            let mut hits: Vec<(Vec<i64>, i64)> = self
                .seq_nos
                .iter()
                .zip(0..)
                .filter(|(seq_no, _)| (from..=to).contains(*seq_no))
                .map(|(seq_no, place)| {
                    (
                        if in_order {
                            vec![*seq_no, place]
                        } else {
                            vec![place]
                        },
                        *seq_no,
                    )
                })
                .collect();
            hits.sort();
            let after: Vec<i64> =
                serde_json::from_value(request["search_after"].clone()).unwrap_or_default();
            let page = hits.into_iter().filter(|(sort, _)| *sort > after).take(self.page).map(|(sort, seq_no)| {
                let id = format!("{}", sort.last().expect("sorted by something"));
                json!({"_id": id, "_seq_no": seq_no, "_primary_term": 1, "_version": 1, "_source": {}, "sort": sort})
            });
            json!({"hits": {"hits": page.collect::<Vec<_>>()}})
        }
    }

    /// The ids that a scan finds, page by page, after the document at `found`.
    async fn scanned(shard: &Arc<Stored>, found: i64, length: i64) -> Vec<Vec<(String, i64)>> {
        let opensearch = OpenSearch::over(
            "http://shard".to_owned(),
            Arc::clone(shard) as Arc<dyn Transport>,
        );
        let scan = ShardScan::open(&opensearch, &"index".into(), ShardId(0))
            .await
            .expect("a point in time");
        let mut stretches = Stretches::after(&scan, SeqNo(found), length);
        let mut pages = Vec::new();
        loop {
            let page = stretches.next().await.expect("a page");
            if page.is_empty() {
                return pages;
            }
            pages.push(page.into_iter().map(|hit| (hit.id, hit.seq_no.0)).collect());
        }
    }

    proptest! {
        /// Dense and sparse parts, in any order, with several documents at one sequence number;
        /// broken off after any document. Together both scans find every document; the first, none
        /// of them twice.
        #[test]
        fn nothing_is_left_out_wherever_a_scan_is_broken_off(
            parts in prop::collection::vec((prop_oneof![0..4i64, 4..60i64], 1..40usize), 1..6),
            page in 3..20usize,
            length in 1..50i64,
            shuffle in any::<prop::sample::Index>(),
            broken_off in any::<prop::sample::Index>(),
        ) {
            let mut next = 0;
            let mut seq_nos: Vec<i64> = Vec::new();
            for (step, count) in parts {
                seq_nos.extend((0..count).map(|_| { next += step; next }));
            }
            let middle = shuffle.index(seq_nos.len());
            seq_nos.rotate_left(middle);
            let all: BTreeSet<String> = (0..seq_nos.len()).map(|place| place.to_string()).collect();
            let shard = Arc::new(Stored { seq_nos, page, requests: AtomicUsize::new(0) });
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let found: Vec<_> = runtime.block_on(scanned(&shard, -1, length)).into_iter().flatten().collect();
            prop_assert_eq!(found.len(), all.len());
            prop_assert_eq!(found.iter().map(|(id, _)| id.clone()).collect::<BTreeSet<_>>(), all.clone());

            let (before, _) = found.split_at(broken_off.index(found.len()) + 1);
            let last = before.last().expect("at least one").1;
            let rest = runtime.block_on(scanned(&shard, last, length)).into_iter().flatten();
            let both: BTreeSet<String> = before.iter().cloned().chain(rest).map(|(id, _)| id).collect();
            prop_assert_eq!(both, all);
        }
    }

    #[test]
    fn sparse_sequence_numbers_cost_no_request_for_each_stretch() {
        let seq_nos = (0..1_000).map(|number| number * 1_000).collect();
        let shard = Arc::new(Stored {
            seq_nos,
            page: 100,
            requests: AtomicUsize::new(0),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let pages = runtime.block_on(scanned(&shard, -1, 100));
        assert_eq!((pages.len(), shard.requests.load(Relaxed)), (10, 11));
    }
}
