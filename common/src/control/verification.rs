//! What the agents of two sides ask and answer in a verification, through the control topics.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::words::Entry;
use crate::words::metadata::IndexMetadata;
use crate::words::types::{ClusterUuid, IndexUuid, Nonce, SeqNo, ShardId};

/// Documents that are listed at once, at most, unless they are of one bucket.
pub(crate) const LISTED_DOCUMENTS_MAX: usize = 50_000;

/// `control.follower`: a question to the agent beside the primary of a leader shard; removed when
/// it is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    pub leader_cluster: ClusterUuid,
    pub leader_uuid: IndexUuid,
    pub shard: ShardId,
    /// The verification's id. It has one question at a time about a shard.
    pub verification: String,
    pub nonce: String,
    pub how: How,
    pub ask: Ask,
}

/// How documents are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct How {
    /// Whether sources are compared, too.
    pub content: bool,
    /// No more are read on either side; 0 is no limit.
    pub documents_per_second: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    Metadata,
    Digests { buckets: u32 },
    Documents { buckets: u32, of: BTreeSet<u32> },
    States { documents: Vec<DocumentName> },
}

/// `control.leader`: what became of a question; removed when the question is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    pub leader_cluster: ClusterUuid,
    pub leader_uuid: IndexUuid,
    pub shard: ShardId,
    pub verification: String,
    pub nonce: Nonce,
    pub answer: Answer,
}

/// What is told of documents is of their state when every operation up to the checkpoint had been
/// carried out, and perhaps later ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Scanning; so many documents have been read.
    Working {
        checkpoint: SeqNo,
        documents: u64,
    },
    Failed {
        reason: String,
    },
    Metadata(Box<IndexMetadata>),
    Digests {
        checkpoint: SeqNo,
        digests: Digests,
    },
    Documents {
        checkpoint: SeqNo,
        listing: Listing,
    },
    States {
        checkpoint: SeqNo,
        states: Vec<Option<Fingerprint>>,
    },
}

/// Enough to get a document by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DocumentName {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    pub seq_no: SeqNo,
    pub hash: u64,
}

/// The digests of all buckets of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenDigests", into = "WrittenDigests")]
pub struct Digests {
    pub documents: u64,
    sums: Vec<u64>,
}

/// Sums are written as base64 of little-endian numbers.
#[derive(Serialize, Deserialize)]
struct WrittenDigests {
    documents: u64,
    sums: String,
}

impl From<Digests> for WrittenDigests {
    fn from(digests: Digests) -> Self {
        let bytes: Vec<u8> = digests
            .sums
            .iter()
            .flat_map(|sum| sum.to_le_bytes())
            .collect();
        Self {
            documents: digests.documents,
            sums: STANDARD.encode(bytes),
        }
    }
}

impl TryFrom<WrittenDigests> for Digests {
    type Error = base64::DecodeError;

    fn try_from(written: WrittenDigests) -> Result<Self, Self::Error> {
        let bytes = STANDARD.decode(written.sums)?;
        let (sums, _) = bytes.as_chunks::<8>();
        Ok(Self {
            documents: written.documents,
            sums: sums.iter().copied().map(u64::from_le_bytes).collect(),
        })
    }
}

impl Digests {
    pub(crate) fn new(buckets: u32) -> Self {
        Self {
            documents: 0,
            sums: vec![0; buckets as usize],
        }
    }

    pub(crate) fn add(&mut self, bucket: u32, fingerprint: Fingerprint) {
        self.documents += 1;
        let sum = &mut self.sums[bucket as usize];
        *sum = sum.wrapping_add(fingerprint.hash);
    }

    /// The buckets in which the two sides differ.
    pub fn differing(&self, other: &Self) -> BTreeSet<u32> {
        let pairs = self.sums.iter().zip(&other.sums);
        (0..)
            .zip(pairs)
            .filter(|(_, (one, other))| one != other)
            .map(|(bucket, _)| bucket)
            .collect()
    }
}

/// The documents of some buckets: of all that are asked for and lie below `below`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    pub below: u32,
    pub(crate) documents: BTreeMap<u32, Vec<(DocumentName, Fingerprint)>>,
    #[serde(skip)]
    count: usize,
}

impl Listing {
    pub(crate) fn new(below: u32) -> Self {
        Self {
            below,
            documents: BTreeMap::new(),
            count: 0,
        }
    }

    pub(crate) fn add(&mut self, bucket: u32, name: DocumentName, fingerprint: Fingerprint) {
        if bucket >= self.below {
            return;
        }
        self.documents
            .entry(bucket)
            .or_default()
            .push((name, fingerprint));
        self.count += 1;
        if self.count > LISTED_DOCUMENTS_MAX
            && self.documents.len() > 1
            && let Some((last, documents)) = self.documents.pop_last()
        {
            self.below = last;
            self.count -= documents.len();
        }
    }

    /// The documents that are not the same in the two, of buckets that both list.
    pub fn differing(self, other: Self) -> Vec<DocumentName> {
        let below = self.below.min(other.below);
        let flat = |listing: Self| {
            let buckets = listing
                .documents
                .into_iter()
                .filter(move |(bucket, _)| *bucket < below);
            buckets
                .flat_map(|(_, documents)| documents)
                .map(|(name, print)| (name.id.clone(), (name, print)))
        };
        let mut others: BTreeMap<String, (DocumentName, Fingerprint)> = flat(other).collect();
        let mut differing = Vec::new();
        for (id, (name, fingerprint)) in flat(self) {
            match others.remove(&id) {
                Some((_, other)) if other == fingerprint => {}
                _ => differing.push(name),
            }
        }
        differing.extend(others.into_values().map(|(name, _)| name));
        differing
    }
}

fn key_of(
    kind: &str,
    cluster: &ClusterUuid,
    uuid: &IndexUuid,
    verification: &str,
    shard: ShardId,
) -> String {
    format!("{kind}/{cluster}/{uuid}/{verification}/{shard}")
}

impl Entry for Question {
    const KIND: &'static str = "question";
    fn key(&self) -> String {
        key_of(
            Self::KIND,
            &self.leader_cluster,
            &self.leader_uuid,
            &self.verification,
            self.shard,
        )
    }
}

impl Question {
    pub fn reply_key(&self) -> String {
        key_of(
            Reply::KIND,
            &self.leader_cluster,
            &self.leader_uuid,
            &self.verification,
            self.shard,
        )
    }

    pub fn reply(&self, answer: Answer) -> Reply {
        Reply {
            leader_cluster: self.leader_cluster.clone(),
            leader_uuid: self.leader_uuid.clone(),
            shard: self.shard,
            verification: self.verification.clone(),
            nonce: self.nonce.as_str().into(),
            answer,
        }
    }
}

impl Entry for Reply {
    const KIND: &'static str = "reply";
    fn key(&self) -> String {
        key_of(
            Self::KIND,
            &self.leader_cluster,
            &self.leader_uuid,
            &self.verification,
            self.shard,
        )
    }
}

impl Reply {
    pub fn question_key(&self) -> String {
        key_of(
            Question::KIND,
            &self.leader_cluster,
            &self.leader_uuid,
            &self.verification,
            self.shard,
        )
    }
}
