//! Verification: how documents of the two sides become comparable.
//!
//! A document's fingerprint covers its id, its routing, the leader's sequence number of the
//! operation that made it what it is and, if asked for, its source. Documents are dealt into
//! buckets by their ids. A bucket's digest is the sum of its fingerprints, so the order in which a
//! shard is scanned is of no matter.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::Instant;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::scan::{Hit, ScanError, ShardScan, Stretch};
use super::{OpenSearch, OpenSearchError, path_segment};
use crate::control::verification::{Digests, DocumentName, Fingerprint, How, Listing};
use crate::words::types::{ExternalVersion, IndexName, SeqNo, ShardId};

const BUCKETS_MIN: u64 = 256;
const BUCKETS_MAX: u64 = 65_536;
const DOCUMENTS_PER_BUCKET: u64 = 16;
const STATES_TIMEOUT: Duration = Duration::from_secs(60);

/// Into how many buckets a shard of so many documents is dealt.
pub fn buckets_for(documents: u64) -> u32 {
    let wanted = (documents / DOCUMENTS_PER_BUCKET).next_power_of_two();
    // At most 65,536.
    wanted.clamp(BUCKETS_MIN, BUCKETS_MAX) as u32
}

fn bucket_of(id: &str, buckets: u32) -> u32 {
    // Less than the number of buckets.
    (xxh3_64(id.as_bytes()) % u64::from(buckets.max(1))) as u32
}

fn fingerprint(name: &DocumentName, seq_no: SeqNo, source: Option<&[u8]>) -> Fingerprint {
    let mut hasher = Xxh3::new();
    for part in [Some(&name.id), name.routing.as_ref()] {
        let length = part.map_or(u64::MAX, |part| part.len() as u64);
        hasher.update(&length.to_le_bytes());
        hasher.update(part.map_or(&[], |part| part.as_bytes()));
    }
    hasher.update(&seq_no.0.to_le_bytes());
    if let Some(source) = source {
        // What is no JSON on one side is compared byte by byte.
        let hash = serde_json::from_slice(source)
            .map_or_else(|_| xxh3_64(source), |value: Value| content_hash(&value));
        hasher.update(&hash.to_le_bytes());
    }
    Fingerprint {
        seq_no,
        hash: hasher.digest(),
    }
}

/// Decimal digits that tell two doubles apart.
const EXACT_DIGITS: usize = 17;

/// The hash of a JSON value, which does not depend on spaces and the order of fields.
fn content_hash(value: &Value) -> u64 {
    let mut hasher = Xxh3::new();
    match value {
        Value::Array(items) => {
            hasher.update(b"[");
            items
                .iter()
                .for_each(|item| hasher.update(&content_hash(item).to_le_bytes()));
        }
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| {
                let mut hasher = Xxh3::with_seed(content_hash(value));
                hasher.update(name.as_bytes());
                hasher.digest()
            };
            let sum = fields.iter().map(field).fold(0, u64::wrapping_add);
            hasher.update(b"{");
            hasher.update(&sum.to_le_bytes());
        }
        Value::Number(number) => hasher.update(canonical(&number.to_string()).as_bytes()),
        scalar => hasher.update(scalar.to_string().as_bytes()),
    }
    hasher.digest()
}

/// A number as all that print it differently agree on, such as `1.0E10` and `10000000000`. One with
/// more digits than a double has stays as it is spelt.
fn canonical(text: &str) -> Cow<'_, str> {
    let is_fraction = text.contains(['.', 'e', 'E']);
    let digits = text
        .split(['e', 'E'])
        .next()
        .unwrap_or_default()
        .chars()
        .filter(char::is_ascii_digit)
        .count();
    match text.parse::<f64>() {
        Ok(number) if is_fraction && digits <= EXACT_DIGITS && number.is_finite() => {
            // Without an exponent, and for whole numbers without a point.
            Cow::Owned(if number == 0.0 {
                "0".to_owned()
            } else {
                number.to_string()
            })
        }
        _ => Cow::Borrowed(text),
    }
}

/// Whose shard is read: the two keep the leader's sequence numbers in different places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Leader,
    /// Documents with lower versions than that came with a snapshot, and kept the leader's sequence
    /// numbers.
    Follower {
        restored_below: i64,
    },
}

impl Side {
    /// The leader's, of the operation that made a document what it is.
    pub fn seq_no(self, own: SeqNo, version: i64) -> SeqNo {
        match self {
            Self::Follower { restored_below } if version >= restored_below => {
                ExternalVersion(version).seq_no()
            }
            Self::Leader | Self::Follower { .. } => own,
        }
    }
}

/// One side's copy of a shard.
pub struct Reader<'a> {
    pub opensearch: &'a OpenSearch,
    pub index: &'a IndexName,
    pub shard: ShardId,
    pub side: Side,
    pub how: How,
    /// Documents read so far.
    pub read: &'a AtomicU64,
    /// The last operation that the leader can have had by now. What is newer than `up_to` and not
    /// newer than that is left out, as not compared yet; what is newer still is nothing of the
    /// leader's.
    pub newest: Box<dyn Fn() -> SeqNo + Send + Sync + 'a>,
}

impl Reader<'_> {
    /// The digests of the documents whose last operation is not newer than `up_to`. The shard must
    /// have carried out everything up to there.
    pub async fn digests(&self, up_to: SeqNo, buckets: u32) -> Result<Digests, ScanError> {
        let mut digests = Digests::new(buckets);
        let add = |name: DocumentName, print| digests.add(bucket_of(&name.id, buckets), print);
        self.scan(up_to, |_| true, add).await?;
        Ok(digests)
    }

    pub async fn listing(
        &self,
        up_to: SeqNo,
        buckets: u32,
        of: &BTreeSet<u32>,
    ) -> Result<Listing, ScanError> {
        let mut listing = Listing::new(buckets);
        let is_wanted = |id: &str| of.contains(&bucket_of(id, buckets));
        self.scan(up_to, is_wanted, |name, print| {
            listing.add(bucket_of(&name.id, buckets), name, print)
        })
        .await?;
        Ok(listing)
    }

    async fn scan(
        &self,
        up_to: SeqNo,
        is_wanted: impl Fn(&str) -> bool,
        mut take: impl FnMut(DocumentName, Fingerprint),
    ) -> Result<(), ScanError> {
        let scan = ShardScan::refreshed(self.opensearch, self.index, self.shard).await?;
        let to = (self.side == Side::Leader).then_some(up_to);
        let stretch = Stretch { from: SeqNo(0), to };
        let scanned = async {
            let mut pages = if self.how.content {
                scan.unordered(stretch)
            } else {
                scan.ids(stretch)
            };
            if self.how.documents_per_second > 0 {
                pages = pages.of_at_most(
                    usize::try_from(self.how.documents_per_second).unwrap_or(usize::MAX),
                );
            }
            let started = Instant::now();
            let mut read = 0;
            loop {
                let page = pages.next().await?;
                if page.is_empty() {
                    return Ok(());
                }
                // All that the page shows had been heard of before.
                let newest = (self.newest)();
                read += page.len() as u64;
                self.read.fetch_add(page.len() as u64, Relaxed);
                for hit in page {
                    let Hit {
                        id,
                        seq_no,
                        version,
                        routing,
                        source,
                        ..
                    } = hit;
                    let seq_no = self.side.seq_no(seq_no, version);
                    if (seq_no <= up_to || seq_no > newest) && is_wanted(&id) {
                        let name = DocumentName { id, routing };
                        let print = fingerprint(&name, seq_no, source.as_deref());
                        take(name, print);
                    }
                }
                if self.how.documents_per_second > 0 {
                    // Rates and counts are far below 2^52.
                    let due =
                        Duration::from_secs_f64(read as f64 / self.how.documents_per_second as f64);
                    tokio::time::sleep_until(started + due).await;
                }
            }
        };
        let scanned = scanned.await;
        scan.close().await;
        scanned
    }

    /// What the documents are at this moment.
    pub async fn states(
        &self,
        documents: &[DocumentName],
    ) -> Result<Vec<Option<Fingerprint>>, ScanError> {
        let named = |name: &DocumentName| match &name.routing {
            Some(routing) => json!({"_id": name.id, "routing": routing}),
            None => json!({"_id": name.id}),
        };
        let body = json!({"docs": documents.iter().map(named).collect::<Vec<_>>()});
        let source = self.how.content;
        let path = format!(
            "/{}/_mget?preference=_primary&realtime=true&_source={source}",
            path_segment(self.index.as_str())
        );
        let body = Some(("application/json", body.to_string().into()));
        let answer = self
            .opensearch
            .send(Method::POST, &path, body, STATES_TIMEOUT)
            .await?;
        let found: Found<'_> = serde_json::from_slice(&answer)?;
        if found.docs.len() != documents.len() {
            let reason = format!(
                "{} documents where {} were asked for",
                found.docs.len(),
                documents.len()
            );
            return Err(OpenSearchError::Unexpected {
                method: "POST".to_owned(),
                path,
                reason,
            }
            .into());
        }
        let state = |document: FoundDocument<'_>| {
            let (id, seq_no) = (document._id, SeqNo(document._seq_no?));
            let name = DocumentName {
                id,
                routing: document._routing,
            };
            let seq_no = self.side.seq_no(seq_no, document._version?);
            let source = document._source.map(|source| source.get().as_bytes());
            Some(fingerprint(&name, seq_no, source))
        };
        if let Some(error) = found
            .docs
            .iter()
            .find_map(|document| document.error.as_ref())
        {
            let reason = error.to_string();
            return Err(OpenSearchError::Unexpected {
                method: "POST".to_owned(),
                path,
                reason,
            }
            .into());
        }
        Ok(found
            .docs
            .into_iter()
            .map(|document| document.found.then(|| state(document)).flatten())
            .collect())
    }
}

#[derive(Deserialize)]
struct Found<'a> {
    #[serde(borrow)]
    docs: Vec<FoundDocument<'a>>,
}

#[derive(Deserialize)]
struct FoundDocument<'a> {
    _id: String,
    #[serde(default)]
    found: bool,
    _seq_no: Option<i64>,
    _version: Option<i64>,
    _routing: Option<String>,
    #[serde(borrow)]
    _source: Option<&'a RawValue>,
    error: Option<Value>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::control::verification::LISTED_DOCUMENTS_MAX;
    use crate::words::types::Epoch;

    fn name(id: &str) -> DocumentName {
        DocumentName {
            id: id.to_owned(),
            routing: None,
        }
    }

    #[test]
    fn a_fingerprint_covers_everything_but_the_way_json_is_written() {
        let plain = |source: &str| fingerprint(&name("a"), SeqNo(3), Some(source.as_bytes()));
        assert_eq!(
            plain(r#"{"x":[1,2],"y":{"z":null}}"#),
            plain("{\"y\": {\"z\":null},\n \"x\":[1, 2]}")
        );
        assert_ne!(plain(r#"{"x":[1,2]}"#), plain(r#"{"x":[2,1]}"#));
        assert_ne!(plain(r#"{"x":"1"}"#), plain(r#"{"x":1}"#));
        assert_ne!(plain(r#"{"a":"b"}"#), plain(r#"{"b":"a"}"#));
        // As OpenSearch prints what a client sent as CBOR, and as it is when JSON was sent.
        for (one, other) in [
            ("1.0E10", "10000000000.0"),
            ("1.0", "1"),
            ("1.7E9", "1700000000"),
            ("-0.0", "0"),
            ("1E-4", "0.0001"),
        ] {
            assert_eq!(plain(one), plain(other), "{one} {other}");
        }
        let long = "0.1000000000000000000001";
        for (one, other) in [
            ("1.5", "1.25"),
            ("0.1", long),
            ("123456789012345678901", "123456789012345678902"),
        ] {
            assert_ne!(plain(one), plain(other), "{one} {other}");
        }
        let of = |name: &DocumentName, seq_no| fingerprint(name, SeqNo(seq_no), None).hash;
        assert_ne!(of(&name("a"), 3), of(&name("a"), 4));
        assert_ne!(
            of(&name("a"), 3),
            of(
                &DocumentName {
                    id: "a".into(),
                    routing: Some(String::new())
                },
                3
            )
        );
    }

    #[test]
    fn digests_survive_the_way_through_the_control_topic() {
        let mut digests = Digests::new(256);
        digests.add(7, fingerprint(&name("a"), SeqNo(1), None));
        digests.add(255, fingerprint(&name("b"), SeqNo(2), None));
        let written = serde_json::to_string(&digests).unwrap();
        assert_eq!(serde_json::from_str::<Digests>(&written).unwrap(), digests);
        assert_eq!(
            digests.differing(&Digests::new(256)),
            BTreeSet::from([7, 255])
        );
        assert_eq!(
            (
                buckets_for(0),
                buckets_for(1_000_000),
                buckets_for(u64::MAX / 2)
            ),
            (256, 65_536, 65_536)
        );
    }

    #[test]
    fn a_restored_document_has_its_own_number() {
        let side = |version| {
            Side::Follower {
                restored_below: 1 << 44,
            }
            .seq_no(SeqNo(7), version)
        };
        assert_eq!(
            (side(3), side(ExternalVersion::new(Epoch(1), SeqNo(5)).0)),
            (SeqNo(7), SeqNo(5))
        );
    }

    #[test]
    fn a_long_listing_ends_at_a_bucket() {
        let mut listing = Listing::new(8);
        for n in 0..(2 * LISTED_DOCUMENTS_MAX) {
            let id = n.to_string();
            listing.add(
                bucket_of(&id, 8),
                name(&id),
                fingerprint(&name(&id), SeqNo(0), None),
            );
        }
        let listed: usize = listing.documents.values().map(Vec::len).sum();
        assert!(listing.below < 8 && listing.below > 1, "{}", listing.below);
        assert!(listed <= LISTED_DOCUMENTS_MAX, "{listed}");
        assert!(
            listing
                .documents
                .keys()
                .all(|bucket| *bucket < listing.below)
        );
    }

    proptest! {
        /// Whatever differs is found in its bucket and named, and nothing else is.
        #[test]
        fn what_differs_is_named(
            documents in prop::collection::btree_map("[a-z]{1,3}", (0..5i64, prop::bool::weighted(0.1)), 0..200),
            absent in prop::collection::btree_set("[a-z]{1,3}", 0..5),
        ) {
            let side = |is_leader: bool| {
                let kept = documents.iter().filter(|(id, _)| is_leader || !absent.contains(*id));
                kept.map(|(id, (seq_no, differs))| {
                    let seq_no = SeqNo(if *differs && !is_leader { seq_no + 1 } else { *seq_no });
                    (name(id), fingerprint(&name(id), seq_no, None))
                }).collect::<Vec<_>>()
            };
            let digests = |side: &[(DocumentName, Fingerprint)]| {
                let mut digests = Digests::new(256);
                side.iter().for_each(|(name, print)| digests.add(bucket_of(&name.id, 256), *print));
                digests
            };
            let (leader, follower) = (side(true), side(false));
            let buckets = digests(&leader).differing(&digests(&follower));
            let listing = |side: Vec<(DocumentName, Fingerprint)>| {
                let mut listing = Listing::new(256);
                let wanted = side.into_iter().map(|(name, print)| (bucket_of(&name.id, 256), name, print));
                for (bucket, name, print) in wanted.filter(|(bucket, ..)| buckets.contains(bucket)) {
                    listing.add(bucket, name, print);
                }
                listing
            };
            let found: BTreeSet<_> = listing(leader).differing(listing(follower)).into_iter().map(|name| name.id).collect();
            let differs = |(id, (_, differs)): (&String, &(i64, bool))| (*differs || absent.contains(id)).then(|| id.clone());
            prop_assert_eq!(found, documents.iter().filter_map(differs).collect::<BTreeSet<_>>());
        }
    }
}
