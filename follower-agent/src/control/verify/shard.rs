//! Compares one shard with the leader's: digests of buckets, then the documents of those that
//! differ, then the states of the documents that do.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde_json::Value;
use shardline::contract::verify::Findings;
use shardline_common::control::Entry;
use shardline_common::kafka::ControlError;
use shardline_common::metadata::IndexMetadata;
use shardline_common::opensearch::{OpenSearchError, path_segment};
use shardline_common::scan::ScanError;
use shardline_common::types::{SeqNo, ShardId};
use shardline_common::verify::{
    Answer, Ask, DocumentName, How, Question, Reader, Reply, Side, buckets_for,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::Subject;
use super::judge::{Sight, State, Verdict};

/// How long no leader agent may say anything.
const SILENCE: Duration = Duration::from_secs(60);
/// How long the follower may take to apply what the leader has been asked about.
const CATCH_UP: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(50);
/// Documents whose states are asked for at once.
const STATES: usize = 2_000;
/// How often a document is looked at that changes all the time.
const ROUNDS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(200);
/// A shard is given up as different once so many of its documents are known to be.
const ENOUGH: u64 = 1_000;

#[derive(Debug, thiserror::Error)]
pub(super) enum VerifyError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    OpenSearch(#[from] OpenSearchError),
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error("the index is not SYNCING any more")]
    NotSyncing,
    #[error("no leader agent answers for shard {shard} within {}s", SILENCE.as_secs())]
    NoAnswer { shard: ShardId },
    #[error("the leader's agent cannot read shard {shard}: {reason}")]
    Leader { shard: ShardId, reason: String },
    #[error("shard {shard} has not reached operation {checkpoint} within {}s", CATCH_UP.as_secs())]
    Behind { shard: ShardId, checkpoint: SeqNo },
}

/// A question that a leader agent answers.
struct Asked<'a> {
    subject: &'a Subject,
    question: Question,
    read: &'a AtomicU64,
}

impl<'a> Asked<'a> {
    async fn ask(
        subject: &'a Subject,
        shard: ShardId,
        how: How,
        ask: Ask,
        read: &'a AtomicU64,
    ) -> Result<Self, VerifyError> {
        let question = Question {
            leader_cluster: subject.subscription.leader_cluster.clone(),
            leader_uuid: subject.subscription.leader_uuid.clone(),
            shard,
            verification: subject.verification.clone(),
            nonce: Uuid::new_v4().simple().to_string(),
            how,
            ask,
        };
        subject.context.follower_table.publish(&question).await?;
        Ok(Self {
            subject,
            question,
            read,
        })
    }

    /// The first answer that is wanted.
    async fn until<T>(
        &self,
        mut wanted: impl FnMut(Answer) -> Option<T>,
    ) -> Result<T, VerifyError> {
        let table = &self.subject.context.leader_table;
        let (key, shard) = (self.question.reply_key(), self.question.shard);
        let mut changes = table.changes();
        let (mut silent_since, mut last) = (Instant::now(), 0);
        loop {
            changes.mark_unchanged();
            let reply = table
                .get::<Reply>(&key)
                .filter(|reply| reply.nonce == self.question.nonce);
            match reply.map(|reply| reply.answer) {
                Some(Answer::Failed { reason }) => {
                    return Err(VerifyError::Leader { shard, reason });
                }
                Some(answer) => {
                    if let Answer::Working { documents, .. } = answer
                        && documents > last
                    {
                        self.read.fetch_add(documents - last, Relaxed);
                        (last, silent_since) = (documents, Instant::now());
                    }
                    if let Some(wanted) = wanted(answer) {
                        return Ok(wanted);
                    }
                }
                None => {}
            }
            if tokio::time::timeout_at(silent_since + SILENCE, changes.changed())
                .await
                .is_err()
            {
                return Err(VerifyError::NoAnswer { shard });
            }
        }
    }

    /// Up to where the leader's agent is reading.
    async fn checkpoint(&self) -> Result<SeqNo, VerifyError> {
        self.until(|answer| match answer {
            Answer::Working { checkpoint, .. }
            | Answer::Digests { checkpoint, .. }
            | Answer::Documents { checkpoint, .. } => Some(checkpoint),
            _ => None,
        })
        .await
    }

    async fn done(self) -> Result<(), VerifyError> {
        Ok(self
            .subject
            .context
            .follower_table
            .remove(&self.question.key())
            .await?)
    }
}

/// One shard of a verification.
pub(super) struct Comparison<'a> {
    pub subject: &'a Subject,
    pub shard: ShardId,
    pub how: How,
    /// Documents read so far, on either side.
    pub read: &'a AtomicU64,
    pub findings: &'a mut Findings,
}

impl Comparison<'_> {
    fn own(&self) -> Reader<'_> {
        Reader {
            opensearch: &self.subject.context.opensearch,
            index: &self.subject.subscription.follower_index,
            shard: self.shard,
            side: Side::Follower {
                restored_below: self.subject.restored_below(),
            },
            how: self.how,
            read: self.read,
            newest: Box::new(|| self.newest()),
        }
    }

    /// The leader's last operation that has been heard of.
    fn newest(&self) -> SeqNo {
        let progress = self.subject.progress();
        let shard = progress
            .as_ref()
            .and_then(|progress| progress.shards.get(self.shard.0 as usize));
        shard.map_or(SeqNo(i64::MAX), |shard| shard.leader_checkpoint())
    }

    async fn ask(&self, ask: Ask) -> Result<Asked<'_>, VerifyError> {
        Asked::ask(self.subject, self.shard, self.how, ask, self.read).await
    }

    pub(crate) async fn run(mut self) -> Result<(), VerifyError> {
        let buckets = buckets_for(self.count().await?);
        let mut differing = self.digests(buckets).await?;
        let mut found = 0;
        while !differing.is_empty() && found < ENOUGH {
            let (below, candidates) = self.documents(buckets, &differing).await?;
            differing = differing.split_off(&below);
            for candidates in candidates.chunks(STATES) {
                found += self.states(candidates.to_vec()).await?;
                if found >= ENOUGH {
                    break;
                }
            }
        }
        if found >= ENOUGH {
            self.findings.cut_short.push(self.shard);
        }
        Ok(())
    }

    async fn count(&self) -> Result<u64, VerifyError> {
        let index = path_segment(self.subject.subscription.follower_index.as_str());
        let path = format!(
            "/{index}/_search?preference=_shards:{}&size=0&track_total_hits=true\
             &search_pipeline=_none",
            self.shard
        );
        let counted: Value = self.subject.context.opensearch.get(&path).await?;
        Ok(counted["hits"]["total"]["value"]
            .as_u64()
            .unwrap_or_default())
    }

    /// The buckets in which the sides differ; both are scanned at the same time.
    async fn digests(&mut self, buckets: u32) -> Result<BTreeSet<u32>, VerifyError> {
        let asked = self.ask(Ask::Digests { buckets }).await?;
        let own = async {
            let checkpoint = asked.checkpoint().await?;
            self.reach(checkpoint).await?;
            Ok(self.own().digests(checkpoint, buckets).await?)
        };
        let leader = asked.until(|answer| match answer {
            Answer::Digests { digests, .. } => Some(digests),
            _ => None,
        });
        let (leader, own) = tokio::try_join!(leader, own)?;
        asked.done().await?;
        self.findings.documents += leader.documents;
        Ok(leader.differing(&own))
    }

    /// The documents of these buckets that may differ, and the first bucket that was not looked at.
    async fn documents(
        &self,
        buckets: u32,
        of: &BTreeSet<u32>,
    ) -> Result<(u32, Vec<DocumentName>), VerifyError> {
        let asked = self
            .ask(Ask::Documents {
                buckets,
                of: of.clone(),
            })
            .await?;
        let own = async {
            let checkpoint = asked.checkpoint().await?;
            self.reach(checkpoint).await?;
            Ok(self.own().listing(checkpoint, buckets, of).await?)
        };
        let leader = asked.until(|answer| match answer {
            Answer::Documents { listing, .. } => Some(listing),
            _ => None,
        });
        let (leader, own) = tokio::try_join!(leader, own)?;
        asked.done().await?;
        let below = leader.below.min(own.below);
        Ok((below, leader.differing(own)))
    }

    /// Judges documents; returns how many differ.
    async fn states(&mut self, mut documents: Vec<DocumentName>) -> Result<u64, VerifyError> {
        let mut found = 0;
        // Nothing was before the first look.
        let mut floor = SeqNo::NONE;
        let (mut checkpoint, mut before) = self.leader_states(&documents).await?;
        for round in 1..=ROUNDS {
            self.reach(checkpoint).await?;
            let own = self.own().states(&documents).await?;
            let (newest, after) = self.leader_states(&documents).await?;
            let mut unclear = Vec::new();
            for (((name, before), follower), after) in
                documents.into_iter().zip(before).zip(own).zip(after)
            {
                match (Sight {
                    floor,
                    before,
                    follower,
                    after,
                    newest,
                })
                .judge()
                {
                    Verdict::Equal => continue,
                    Verdict::Unclear => {
                        unclear.push((name, after));
                        continue;
                    }
                    Verdict::Missing => self.findings.missing.add(name.id),
                    Verdict::Extra => self.findings.extra.add(name.id),
                    Verdict::Different => self.findings.different.add(name.id),
                }
                found += 1;
            }
            (documents, before) = unclear.into_iter().unzip();
            (floor, checkpoint) = (checkpoint, newest);
            if documents.is_empty() {
                return Ok(found);
            }
            tokio::time::sleep(PAUSE * round).await;
        }
        self.findings.unclear += documents.len() as u64;
        Ok(found)
    }

    async fn leader_states(
        &self,
        documents: &[DocumentName],
    ) -> Result<(SeqNo, Vec<State>), VerifyError> {
        let asked = self
            .ask(Ask::States {
                documents: documents.to_vec(),
            })
            .await?;
        let states = asked.until(|answer| match answer {
            Answer::States { checkpoint, states } => Some((checkpoint, states)),
            _ => None,
        });
        let states = states.await?;
        asked.done().await?;
        Ok(states)
    }

    /// Waits until the follower shard has everything up to a checkpoint.
    async fn reach(&self, checkpoint: SeqNo) -> Result<(), VerifyError> {
        let until = Instant::now() + CATCH_UP;
        loop {
            let progress = self.subject.progress().ok_or(VerifyError::NotSyncing)?;
            let shard = progress
                .shards
                .get(self.shard.0 as usize)
                .ok_or(VerifyError::NotSyncing)?;
            if shard.follower_checkpoint() >= checkpoint {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(VerifyError::Behind {
                    shard: self.shard,
                    checkpoint,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The leader index's metadata as it is now.
pub(super) async fn leader_metadata(
    subject: &Subject,
    how: How,
) -> Result<IndexMetadata, VerifyError> {
    let read = AtomicU64::new(0);
    let asked = Asked::ask(subject, ShardId(0), how, Ask::Metadata, &read).await?;
    let metadata = asked.until(|answer| match answer {
        Answer::Metadata(metadata) => Some(*metadata),
        _ => None,
    });
    let metadata = metadata.await?;
    asked.done().await?;
    Ok(metadata)
}
