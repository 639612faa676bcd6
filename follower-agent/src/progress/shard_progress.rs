//! How far a followed index is, shard by shard: written by the shards' tasks, read by status and
//! metrics.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use shardline_common::clock::now_ms;
use shardline_common::standstill::{Cause, StandstillReason};
use shardline_common::types::{SeqNo, ShardId};

use super::external_versions::ExternalVersionsSeen;
use crate::metrics::Metrics;

/// Within which the agents tell each other when they last heard of the leader, in milliseconds.
const HEARD_STEP_MS: i64 = 10_000;
/// How long nothing may have been heard of the leader after following began.
const FIRST_WORD_MS: i64 = 60_000;
/// The longest reason that others are told, in characters: what Kafka takes with a commit is
/// limited.
const HELD_UP_LENGTH: usize = 300;
/// A silence of so many times what was announced says that the leader's capture is not running.
const SILENT_TIMES: i64 = 3;
/// What is taken for announced before anything was: the most that leader agents announce by
/// themselves.
const NEXT_WITHIN_MS: i64 = 60_000;

#[derive(Debug, Default)]
pub struct IndexProgress {
    pub shards: Vec<ShardProgress>,
    pub started_ms: AtomicI64,
}

#[derive(Debug)]
pub struct ShardProgress {
    /// Whether the snapshot, if one was needed, is loaded.
    pub loaded: AtomicBool,
    pub documents_total: AtomicU64,
    pub documents_done: AtomicU64,
    pub bytes_done: AtomicU64,
    recovery: Mutex<Option<Recovery>>,
    follower_checkpoint: AtomicI64,
    leader_checkpoint: AtomicI64,
    /// Capture time of the oldest record that is not applied; 0 when there is none.
    oldest_pending_ms: AtomicI64,
    last_record_ms: AtomicI64,
    /// Within which the next record was announced, in milliseconds.
    next_within_ms: AtomicI64,
    /// Writes of others to the follower shard.
    pub foreign_writes: AtomicU64,
    /// Whether it is known how far the leader is: metadata of an index comes before anything that
    /// says so.
    heard: AtomicBool,
    /// Whether the partition was looked at: before that, it is not known whether a copy is needed.
    known: AtomicBool,
    resync: Mutex<Option<Resync>>,
    /// The highest of the follower shard's own numbers that is known to be durable.
    acknowledged: AtomicI64,
    /// Whether any of `standing` is set, which is asked for every record.
    is_standing: AtomicBool,
    /// Why it does not get on, by [`Source`].
    standing: Mutex<[Option<StandstillReason>; SOURCES]>,
    pub external_versions: ExternalVersionsSeen,
}

/// Who says that a shard stands still: each takes back its own word only. The first that does is
/// shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the follower cluster's own words.
    Writing,
    /// Whoever looks after the follower index as a whole.
    Index,
    Reading,
    Turn,
    /// The leader's agents, of the documents that they are to read for a copy.
    Scan,
    /// The leader's agents, of what they are to ship.
    Capture,
}

const SOURCES: usize = 6;

/// How far a shard is with the files of a snapshot repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    pub bytes_total: i64,
    pub bytes_done: i64,
    pub files_total: i64,
    pub files_done: i64,
}

/// A resync that a shard is going through: the leader could not ship this stretch as operations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resync {
    pub from: SeqNo,
    pub to: SeqNo,
    pub cause: String,
    /// Documents and ids.
    pub total: u64,
    pub done: u64,
}

/// How far a shard is, in the words that other agents read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardReport {
    #[serde(rename = "f")]
    pub follower: SeqNo,
    #[serde(rename = "l")]
    pub leader: SeqNo,
    /// Only while a snapshot is loaded: documents in all, documents and bytes done.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<(u64, u64, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync: Option<Resync>,
    /// Why the follower cluster does not take writes, while it does not.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub held_up: Option<String>,
    /// Its cause, and since when; earlier builds do not say.
    #[serde(rename = "y", default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<(Cause, i64)>,
    #[serde(rename = "w", default)]
    pub foreign_writes: u64,
    /// Capture time of the oldest operation that is not applied.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub pending_ms: Option<i64>,
    /// End of the [`HEARD_STEP_MS`] in which the leader was last heard of, or 0: seldom another, so
    /// that a quiet shard is seldom reported.
    #[serde(rename = "h", default)]
    pub heard_ms: i64,
    #[serde(rename = "n", default)]
    pub next_within_ms: i64,
}

impl Default for ShardReport {
    fn default() -> Self {
        Self {
            follower: SeqNo::NONE,
            leader: SeqNo::NONE,
            snapshot: None,
            resync: None,
            held_up: None,
            cause: None,
            foreign_writes: 0,
            pending_ms: None,
            heard_ms: 0,
            next_within_ms: 0,
        }
    }
}

impl IndexProgress {
    pub fn new(shards: u32) -> Self {
        Self {
            shards: (0..shards).map(|_| ShardProgress::default()).collect(),
            started_ms: AtomicI64::new(now_ms()),
        }
    }

    pub fn is_loaded(&self) -> bool {
        self.shards.iter().all(|shard| shard.loaded.load(Relaxed))
    }

    pub fn is_restored(&self) -> bool {
        self.shards.iter().all(ShardProgress::is_restored)
    }

    /// Whether each shard's partition was looked at, and no copy is needed.
    pub fn is_known(&self) -> bool {
        self.shards.iter().all(|shard| shard.known.load(Relaxed))
    }
}

impl Default for ShardProgress {
    fn default() -> Self {
        Self {
            loaded: AtomicBool::new(true),
            documents_total: AtomicU64::new(0),
            documents_done: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
            recovery: Mutex::new(None),
            follower_checkpoint: AtomicI64::new(SeqNo::NONE.0),
            leader_checkpoint: AtomicI64::new(SeqNo::NONE.0),
            oldest_pending_ms: AtomicI64::new(0),
            last_record_ms: AtomicI64::new(now_ms()),
            next_within_ms: AtomicI64::new(NEXT_WITHIN_MS),
            foreign_writes: AtomicU64::new(0),
            heard: AtomicBool::new(false),
            known: AtomicBool::new(false),
            resync: Mutex::new(None),
            acknowledged: AtomicI64::new(SeqNo::NONE.0),
            is_standing: AtomicBool::new(false),
            standing: Mutex::default(),
            external_versions: ExternalVersionsSeen::default(),
        }
    }
}

impl ShardProgress {
    pub fn follower_checkpoint(&self) -> SeqNo {
        SeqNo(self.follower_checkpoint.load(Relaxed))
    }

    pub fn leader_checkpoint(&self) -> SeqNo {
        SeqNo(
            self.leader_checkpoint
                .load(Relaxed)
                .max(self.follower_checkpoint.load(Relaxed)),
        )
    }

    /// The partition's end says that the leader is at least at `checkpoint`; it was not heard of
    /// now.
    pub fn note_known(&self, checkpoint: SeqNo) {
        self.leader_checkpoint.fetch_max(checkpoint.0, Relaxed);
        self.known.store(true, Relaxed);
        if checkpoint > SeqNo::NONE {
            self.heard.store(true, Relaxed);
        }
    }

    /// A record was read: the leader is at least at `checkpoint`.
    pub fn note_heard(&self, checkpoint: SeqNo, timestamp_ms: i64) {
        self.last_record_ms.store(timestamp_ms, Relaxed);
        self.note_known(checkpoint);
    }

    /// The leader is at `checkpoint`: [`SeqNo::NONE`] says that the shard is empty. It will be
    /// heard of again within `next_within_ms`.
    pub fn heartbeat(&self, checkpoint: SeqNo, timestamp_ms: i64, next_within_ms: i64) {
        self.note_heard(checkpoint, timestamp_ms);
        self.next_within_ms.store(next_within_ms, Relaxed);
        self.heard.store(true, Relaxed);
    }

    /// Whether how far the leader is, and so the lag, is known.
    pub fn is_heard(&self) -> bool {
        self.heard.load(Relaxed)
    }

    /// Whether nothing has to be copied before the stream: it has been, or the stream has got going
    /// without.
    pub fn is_restored(&self) -> bool {
        let is_empty = self.leader_checkpoint() == SeqNo::NONE;
        self.loaded.load(Relaxed)
            && self.is_heard()
            && (is_empty || self.follower_checkpoint() > SeqNo::NONE)
    }

    /// An operation captured at this time waits to be applied.
    pub fn note_pending(&self, timestamp_ms: i64) {
        let older = |known| {
            Some(if known == 0 {
                timestamp_ms
            } else {
                timestamp_ms.min(known)
            })
        };
        let _ = self.oldest_pending_ms.fetch_update(Relaxed, Relaxed, older);
    }

    /// `next_pending_ms` is the capture time of the oldest operation still waiting, 0 when none is.
    pub fn note_applied(&self, checkpoint: SeqNo, next_pending_ms: i64) {
        self.follower_checkpoint.store(checkpoint.0, Relaxed);
        self.oldest_pending_ms.store(next_pending_ms, Relaxed);
    }

    pub fn resync_began(&self, from: SeqNo, to: SeqNo, cause: String, total: u64) {
        self.note_heard(to, now_ms());
        *self.resync.lock() = Some(Resync {
            from,
            to,
            cause,
            total,
            done: 0,
        });
    }

    pub fn resynced(&self, more: u64) {
        if let Some(resync) = &mut *self.resync.lock() {
            resync.done += more;
        }
    }

    pub fn resync_ended(&self) {
        *self.resync.lock() = None;
    }

    pub fn resync(&self) -> Option<Resync> {
        self.resync.lock().clone()
    }

    /// Why the shard does not get on, as one source says; `None`: it does.
    pub fn set_standing(&self, source: Source, reason: Option<StandstillReason>) {
        if reason.is_none() && !self.is_standing.load(Relaxed) {
            return;
        }
        let mut standing = self.standing.lock();
        let of_source = &mut standing[source as usize];
        *of_source = reason.map(|reason| reason.following(of_source.as_ref()));
        let is_standing = standing.iter().any(Option::is_some);
        self.is_standing.store(is_standing, Relaxed);
    }

    /// As the sources say.
    fn told(&self) -> Option<StandstillReason> {
        self.standing.lock().iter().flatten().next().cloned()
    }

    /// Why the shard does not get on; also when nobody says so and nothing comes.
    pub fn standstill(&self) -> Option<StandstillReason> {
        self.told().or_else(|| self.silence(now_ms()))
    }

    fn silence(&self, now: i64) -> Option<StandstillReason> {
        let since = self.last_record_ms.load(Relaxed);
        let (longest, detail) = if self.is_heard() {
            let next_within = self.next_within_ms.load(Relaxed);
            let longest = next_within.saturating_mul(SILENT_TIMES);
            (longest, "no leader agent has been heard of since then")
        } else {
            (
                FIRST_WORD_MS,
                "no leader agent was heard of since following began",
            )
        };
        (now - since > longest)
            .then(|| StandstillReason::new(Cause::LeaderAgentSilent, since, detail))
    }

    /// The highest of the follower shard's own numbers that is known to be durable.
    pub fn note_acknowledged(&self, highest: SeqNo) {
        self.acknowledged.store(highest.0, Relaxed);
    }

    pub fn acknowledged(&self) -> SeqNo {
        SeqNo(self.acknowledged.load(Relaxed))
    }

    pub fn report(&self) -> ShardReport {
        let snapshot = (!self.loaded.load(Relaxed)).then(|| {
            let count = |counter: &AtomicU64| counter.load(Relaxed);
            (
                count(&self.documents_total),
                count(&self.documents_done),
                count(&self.bytes_done),
            )
        });
        let (follower, leader) = (self.follower_checkpoint(), self.leader_checkpoint());
        let pending = self.oldest_pending_ms.load(Relaxed);
        let step = self.last_record_ms.load(Relaxed) / HEARD_STEP_MS;
        let heard_ms = if self.is_heard() {
            (step + 1) * HEARD_STEP_MS
        } else {
            0
        };
        let told = self.told();
        ShardReport {
            follower,
            leader,
            snapshot,
            resync: self.resync(),
            cause: told.as_ref().map(|told| (told.cause, told.since_ms)),
            held_up: told.map(|told| told.detail.chars().take(HELD_UP_LENGTH).collect()),
            pending_ms: (pending > 0).then_some(pending),
            foreign_writes: self.foreign_writes.load(Relaxed),
            heard_ms,
            next_within_ms: self.next_within_ms.load(Relaxed),
        }
    }

    /// Takes over what the agent reports that has the shard.
    pub fn take_report(&self, report: ShardReport) {
        self.follower_checkpoint.store(report.follower.0, Relaxed);
        self.leader_checkpoint.store(report.leader.0, Relaxed);
        self.loaded.store(report.snapshot.is_none(), Relaxed);
        self.known.store(true, Relaxed);
        if let Some((total, done, bytes)) = report.snapshot {
            self.documents_total.store(total, Relaxed);
            self.documents_done.store(done, Relaxed);
            self.bytes_done.store(bytes, Relaxed);
        }
        self.foreign_writes.store(report.foreign_writes, Relaxed);
        self.oldest_pending_ms
            .store(report.pending_ms.unwrap_or_default(), Relaxed);
        if report.heard_ms > 0 {
            self.last_record_ms.store(report.heard_ms, Relaxed);
            self.next_within_ms.store(report.next_within_ms, Relaxed);
            self.heard.store(true, Relaxed);
        }
        *self.resync.lock() = report.resync;
        let (cause, since_ms) = report.cause.unwrap_or((Cause::Other, now_ms()));
        let told = report
            .held_up
            .map(|detail| StandstillReason::new(cause, since_ms, detail));
        // One word for all of the other agent's.
        for source in [Source::Writing, Source::Reading, Source::Turn] {
            self.set_standing(source, None);
        }
        self.set_standing(Source::Index, told);
    }

    /// Age of the oldest operation that is not applied, or of the last word from the leader if that
    /// is too long ago or there was none, or of what is in the way.
    pub fn lag_millis(&self) -> i64 {
        let now = now_ms();
        let pending = self.oldest_pending_ms.load(Relaxed);
        let silence = now - self.last_record_ms.load(Relaxed);
        let standing = self.told().map_or(0, |told| now - told.since_ms);
        let lag = if pending > 0 {
            now - pending
        } else if !self.is_heard()
            || silence
                > self
                    .next_within_ms
                    .load(Relaxed)
                    .saturating_mul(SILENT_TIMES)
        {
            silence
        } else {
            0
        };
        lag.max(standing).max(0)
    }

    pub fn recovered(&self, recovery: Recovery) {
        *self.recovery.lock() = Some(recovery);
    }

    /// None if it is not restored from a repository.
    pub fn recovery(&self) -> Option<Recovery> {
        *self.recovery.lock()
    }

    pub fn export(&self, metrics: &Metrics, index: &str, shard: ShardId) {
        let labels = [index, &shard.to_string()];
        let (leader, follower) = (self.leader_checkpoint().0, self.follower_checkpoint().0);
        metrics
            .follower_checkpoint
            .with_label_values(&labels)
            .set(follower);
        metrics
            .leader_checkpoint
            .with_label_values(&labels)
            .set(leader);
        let foreign_writes = i64::try_from(self.foreign_writes.load(Relaxed)).unwrap_or(i64::MAX);
        metrics
            .foreign_writes
            .with_label_values(&labels)
            .set(foreign_writes);
        metrics
            .lag_operations
            .with_label_values(&labels)
            .set(leader - follower);
        metrics
            .resyncing
            .with_label_values(&labels)
            .set(i64::from(self.resync.lock().is_some()));
        // Milliseconds of a lag are far below 2^52.
        metrics
            .lag_seconds
            .with_label_values(&labels)
            .set(self.lag_millis() as f64 / 1000.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_hears_nothing_says_so_and_lags_from_its_beginning() {
        let shard = ShardProgress::default();
        let began = now_ms() - 70_000;
        shard.last_record_ms.store(began, Relaxed);
        // Every attempt finds the partition empty.
        shard.note_known(SeqNo::NONE);
        assert!(shard.lag_millis() >= 70_000);
        let silent = shard.standstill().unwrap();
        assert_eq!(
            (silent.cause, silent.since_ms),
            (Cause::LeaderAgentSilent, began)
        );
        shard.heartbeat(SeqNo::NONE, now_ms(), 5_000);
        assert_eq!((shard.lag_millis(), shard.standstill()), (0, None));
    }

    #[test]
    fn each_source_takes_back_its_own_word_only() {
        let (here, there) = (ShardProgress::default(), ShardProgress::default());
        here.heartbeat(SeqNo(4), now_ms(), 5_000);
        here.note_applied(SeqNo(4), 0);
        let since = now_ms() - 9_000;
        let reason = |cause| Some(StandstillReason::new(cause, since, "why"));
        here.set_standing(Source::Reading, reason(Cause::TopicMissing));
        here.set_standing(Source::Writing, reason(Cause::FollowerClusterDenied));
        here.set_standing(Source::Writing, None);
        assert_eq!(here.standstill(), reason(Cause::TopicMissing));
        assert!(here.lag_millis() >= 9_000);
        there.take_report(here.report());
        assert_eq!(there.standstill(), reason(Cause::TopicMissing));
        // As the build before reports.
        let earlier = ShardReport {
            cause: None,
            ..here.report()
        };
        there.take_report(earlier);
        assert_eq!(
            there.standstill().map(|told| told.cause),
            Some(Cause::Other)
        );
        here.set_standing(Source::Reading, None);
        there.take_report(here.report());
        assert_eq!((here.standstill(), there.standstill()), (None, None));
    }

    #[test]
    fn another_agent_sees_the_lag_of_a_shard() {
        let (here, there) = (ShardProgress::default(), ShardProgress::default());
        let mut last = here.report();
        there.take_report(last.clone());
        assert!(!there.is_heard() && !there.is_restored());
        let tell = |last: &mut ShardReport| {
            *last = here.report();
            there.take_report(last.clone());
            there.lag_millis()
        };
        here.heartbeat(SeqNo(4), now_ms() - 2_000, 5_000);
        assert_eq!(tell(&mut last), 0);
        assert!(there.is_heard() && !there.is_restored());
        // A heartbeat soon after the last is no news.
        here.note_heard(SeqNo(4), 30_000);
        last = here.report();
        here.note_heard(SeqNo(4), 39_999);
        assert_eq!(here.report(), last);
        here.note_pending(now_ms() - 3_000);
        assert!((3_000..5_000).contains(&tell(&mut last)));
        here.note_applied(SeqNo(4), 0);
        assert!(tell(&mut last) > 15_000 && there.is_restored());
        here.note_heard(SeqNo(4), now_ms() - 14_000);
        assert_eq!(tell(&mut last), 0);
        here.heartbeat(SeqNo(4), now_ms() - 170_000, 60_000);
        assert_eq!(tell(&mut last), 0);
        here.heartbeat(SeqNo(4), now_ms() - 200_000, 60_000);
        assert!(tell(&mut last) > 180_000);
    }
}
