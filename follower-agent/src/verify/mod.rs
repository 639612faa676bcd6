//! Verification: proves that a follower index is equal to its leader's while both are in use, or
//! names what differs, and repairs it.
//!
//! A verification lives in the control topic; the agent that looks after the index carries it out,
//! from the beginning if another one had begun.

mod judge;
mod shard;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shardline_common::control::{AppliedMetadata, Ask, Entry, ShardRequest, Subscription};
use shardline_common::kafka::ControlTopic;
use shardline_common::metadata::{IndexMetadata, MetadataVersions, copied_aliases};
use shardline_common::types::{ClusterUuid, IndexName, ShardId};
use shardline_common::verify::{DocumentName, How, Question};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use self::shard::{Comparison, VerifyError, leader_metadata};
use crate::api::ApiError;
use crate::followed::{Phase, Shared};
use crate::index::FollowerIndex;
use crate::leaders::from_control;
use crate::progress::{IndexProgress, now_ms};
use crate::replication::Replication;
use crate::slots::Slot;

/// Ids of a kind that are shown; all are counted.
const SHOWN: usize = 100;
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(250);
/// How long the follower may take to bring metadata over before it counts as different.
const METADATA_PATIENCE: Duration = Duration::from_secs(30);

/// What a user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// Whether an index that differs is copied anew.
    pub repair: bool,
    #[serde(flatten)]
    pub how: How,
}

/// `control.follower`: the last verification of an index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    pub follower_cluster: ClusterUuid,
    pub follower_index: IndexName,
    /// Of which start of the replication.
    pub subscription: String,
    pub id: String,
    pub request: VerifyRequest,
    pub state: VerificationState,
    /// Why it failed.
    pub reason: Option<String>,
    /// Milliseconds since the epoch.
    pub start_time: i64,
    pub end_time: Option<i64>,
    pub shards_total: u32,
    pub shards_done: u32,
    /// Read so far, on both sides together.
    pub documents_read: u64,
    pub found: Findings,
    /// What had been found when a repair began.
    pub before_repair: Option<Findings>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerificationState {
    Comparing,
    Repairing,
    Equal,
    Different,
    Failed,
}

impl VerificationState {
    pub fn is_done(self) -> bool {
        matches!(self, Self::Equal | Self::Different | Self::Failed)
    }
}

/// How the two sides differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// That the leader has, up to the checkpoints of its shards.
    pub documents: u64,
    pub missing: Named,
    pub extra: Named,
    pub different: Named,
    /// Documents that changed whenever they were looked at.
    pub unclear: u64,
    /// Shards with so many differences that not all were looked for.
    pub cut_short: Vec<ShardId>,
    pub metadata: Vec<String>,
}

impl Findings {
    pub fn is_equal(&self) -> bool {
        self.missing.count + self.extra.count + self.different.count == 0
            && self.metadata.is_empty()
    }

    fn add(&mut self, other: Self) {
        self.documents += other.documents;
        for (own, other) in [
            (&mut self.missing, other.missing),
            (&mut self.extra, other.extra),
            (&mut self.different, other.different),
        ] {
            own.count += other.count;
            own.ids.extend(other.ids);
            own.ids.truncate(SHOWN);
        }
        self.unclear += other.unclear;
        self.cut_short.extend(other.cut_short);
        self.metadata.extend(other.metadata);
    }

    fn has_documents(&self) -> bool {
        self.missing.count + self.extra.count + self.different.count > 0
    }
}

/// Documents of a kind: how many, and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Named {
    pub count: u64,
    pub ids: Vec<String>,
}

impl Named {
    fn add(&mut self, name: DocumentName) {
        self.count += 1;
        if self.ids.len() < SHOWN {
            self.ids.push(name.id);
        }
    }
}

impl Entry for Verification {
    const KIND: &'static str = "verification";
    fn key(&self) -> String {
        Self::key_of(&self.follower_cluster, &self.follower_index)
    }
}

impl Verification {
    pub fn key_of(cluster: &ClusterUuid, index: &IndexName) -> String {
        format!("{}/{cluster}/{index}", Self::KIND)
    }
}

/// Writes down that an index is to be verified; returns the verification's id.
pub async fn begin(
    replication: &Replication,
    index: IndexName,
    request: VerifyRequest,
) -> Result<String, ApiError> {
    let key = Verification::key_of(replication.cluster(), &index);
    let _one_at_a_time = replication.lock(&key).await;
    let subscription = replication.subscription(&index).ok_or_else(|| {
        ApiError::illegal_argument(format!("No replication in progress for index:{index}"))
    })?;
    let Some(Phase::Syncing(progress)) = replication.phase(&index) else {
        let reason = format!(
            "Index {index} is not SYNCING; its status says what it is. Verify it when it is"
        );
        return Err(ApiError::illegal_argument(reason));
    };
    let table = replication.follower_table();
    if table
        .get::<Verification>(&key)
        .is_some_and(|last| !last.state.is_done() && last.subscription == subscription.id)
    {
        let reason =
            format!("Index {index} is being verified already; DELETE {index}/_verify ends that");
        return Err(ApiError::resource_already_exists(reason));
    }
    let verification = Verification {
        follower_cluster: replication.cluster().clone(),
        follower_index: index,
        subscription: subscription.id,
        id: Uuid::new_v4().simple().to_string(),
        request,
        state: VerificationState::Comparing,
        reason: None,
        start_time: now_ms(),
        end_time: None,
        shards_total: u32::try_from(progress.shards.len()).unwrap_or(u32::MAX),
        shards_done: 0,
        documents_read: 0,
        found: Findings::default(),
        before_repair: None,
    };
    table
        .publish(&verification)
        .await
        .map_err(|error| from_control(&error))?;
    Ok(verification.id)
}

pub fn last(replication: &Replication, index: &IndexName) -> Result<Verification, ApiError> {
    let last = replication
        .follower_table()
        .get(&Verification::key_of(replication.cluster(), index));
    last.ok_or_else(|| ApiError::resource_not_found(format!("Index {index} has not been verified")))
}

/// Shows in the metrics what the last verification found, where the index is looked after.
pub fn export(replication: &Replication, subscription: &Subscription) {
    let index = &subscription.follower_index;
    let (metric, labels) = (
        &replication.shared().metrics.verified_equal,
        &[index.as_str()],
    );
    let is_ours = replication.shared().slots.holds(Slot::of_index(index));
    let last = last(replication, index)
        .ok()
        .filter(|last| last.subscription == subscription.id && is_ours);
    match last.map(|last| last.state) {
        Some(state) if state.is_done() => {
            metric
                .with_label_values(labels)
                .set((state == VerificationState::Equal).into());
        }
        Some(_) => {}
        None => {
            let _ = metric.remove_label_values(labels);
        }
    }
}

/// Ends the verification that is under way, and forgets the last one.
pub async fn forget(replication: &Replication, index: &IndexName) -> Result<(), ApiError> {
    let key = last(replication, index)?.key();
    let _one_at_a_time = replication.lock(&key).await;
    replication
        .follower_table()
        .remove(&key)
        .await
        .map_err(|error| from_control(&error))
}

/// What is verified, and where its agents tell of it.
struct Subject {
    replication: Arc<Replication>,
    shared: Arc<Shared>,
    subscription: Subscription,
    verification: String,
}

impl Subject {
    /// Documents with lower versions came from a snapshot repository.
    fn restored_below(&self) -> i64 {
        let latest = self
            .replication
            .subscription(&self.subscription.follower_index);
        latest
            .as_ref()
            .unwrap_or(&self.subscription)
            .restored_below()
    }

    fn progress(&self) -> Option<Arc<IndexProgress>> {
        match self.replication.phase(&self.subscription.follower_index) {
            Some(Phase::Syncing(progress)) => Some(progress),
            _ => None,
        }
    }
}

struct Running {
    stop: CancellationToken,
    worker: JoinHandle<()>,
}

/// Carries out what is written down, until told to stop.
pub async fn run(replication: Arc<Replication>, stop: CancellationToken) {
    let table = replication.follower_table().clone();
    let (mut changes, mut slots) = (table.changes(), replication.slots().changes());
    let mut running: HashMap<String, Running> = HashMap::new();
    loop {
        changes.mark_unchanged();
        let verifications = table.all::<Verification>();
        if replication.slots().holds(Slot::CLUSTER) {
            withdraw_questions(&table, &verifications).await;
        }
        let verifications = verifications.into_iter();
        let wanted: HashMap<String, Verification> = verifications
            .filter(|verification| {
                verification.follower_cluster == *replication.cluster()
                    && !verification.state.is_done()
                    && replication.looks_after(&verification.follower_index)
            })
            .map(|verification| (verification.id.clone(), verification))
            .collect();
        running.retain(|id, running| {
            if !wanted.contains_key(id) {
                running.stop.cancel();
            }
            !running.worker.is_finished()
        });
        for (id, verification) in wanted {
            running.entry(id).or_insert_with(|| {
                let stop = stop.child_token();
                let worker =
                    tokio::spawn(work(Arc::clone(&replication), verification, stop.clone()));
                Running { stop, worker }
            });
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { break },
            () = slots.next() => {}
            () = stop.cancelled() => break,
        }
    }
    for running in running.into_values() {
        if let Err(error) = running.worker.await {
            warn!(%error, "a verification did not end cleanly");
        }
    }
}

/// Removes what was asked for verifications that have ended: the leader's agents would go on
/// reading, and read again with each restart.
async fn withdraw_questions(table: &ControlTopic, verifications: &[Verification]) {
    let under_way: HashSet<&str> = verifications
        .iter()
        .filter(|one| !one.state.is_done())
        .map(|one| one.id.as_str())
        .collect();
    for question in table
        .all::<Question>()
        .iter()
        .filter(|asked| !under_way.contains(asked.verification.as_str()))
    {
        if let Err(error) = table.remove(&question.key()).await {
            warn!(%error, "a question of a verification that has ended could not be removed");
        }
    }
}

async fn work(
    replication: Arc<Replication>,
    mut verification: Verification,
    stop: CancellationToken,
) {
    let index = verification.follower_index.clone();
    let subscription = replication
        .subscription(&index)
        .filter(|found| found.id == verification.subscription);
    let carried_out = async {
        let subscription = subscription.ok_or(VerifyError::NotSyncing)?;
        let shared = Arc::clone(replication.shared());
        let subject = Subject {
            replication: Arc::clone(&replication),
            shared,
            subscription,
            verification: verification.id.clone(),
        };
        carry_out(&subject, &mut verification).await
    };
    let outcome = tokio::select! {
        outcome = carried_out => outcome,
        () = stop.cancelled() => return,
    };
    verification.end_time = Some(now_ms());
    match outcome {
        Ok(()) if verification.found.is_equal() => verification.state = VerificationState::Equal,
        Ok(()) => verification.state = VerificationState::Different,
        Err(error) => {
            verification.state = VerificationState::Failed;
            verification.reason = Some(error.to_string());
        }
    }
    let Findings {
        documents,
        missing,
        extra,
        different,
        ..
    } = &verification.found;
    let (missing, extra, different) = (missing.count, extra.count, different.count);
    info!(%index, state = ?verification.state, reason = verification.reason, documents, missing, extra, different, "verified");
    write(&replication, &verification).await;
}

/// An entry that is gone was removed by the user.
async fn write(replication: &Replication, verification: &Verification) {
    let table = replication.follower_table();
    let _one_at_a_time = replication.lock(&verification.key()).await;
    let current = table.get::<Verification>(&verification.key());
    if current.is_some_and(|current| current.id == verification.id)
        && let Err(error) = table.publish(verification).await
    {
        warn!(index = %verification.follower_index, %error, "the state of a verification could not be written down");
    }
}

async fn carry_out(subject: &Subject, verification: &mut Verification) -> Result<(), VerifyError> {
    compare(subject, verification).await?;
    if verification.found.is_equal() || !verification.request.repair {
        return Ok(());
    }
    verification.state = VerificationState::Repairing;
    write(&subject.replication, verification).await;
    repair(subject, verification).await?;
    verification.before_repair = Some(std::mem::take(&mut verification.found));
    verification.state = VerificationState::Comparing;
    compare(subject, verification).await
}

async fn compare(subject: &Subject, verification: &mut Verification) -> Result<(), VerifyError> {
    verification.found = Findings::default();
    verification.shards_done = 0;
    let how = verification.request.how;
    let read = AtomicU64::new(verification.documents_read);
    for shard in (0..verification.shards_total).map(ShardId) {
        let mut findings = Findings::default();
        let comparison = Comparison {
            subject,
            shard,
            how,
            read: &read,
            findings: &mut findings,
        };
        let progress = async {
            loop {
                verification.documents_read = read.load(Relaxed);
                write(&subject.replication, verification).await;
                tokio::time::sleep(PROGRESS_INTERVAL).await;
            }
        };
        tokio::select! {
            compared = comparison.run() => compared?,
            () = progress => {}
        }
        verification.found.add(findings);
        verification.shards_done += 1;
    }
    verification.documents_read = read.load(Relaxed);
    verification.found.metadata = differing_metadata(subject, how).await?.1;
    Ok(())
}

/// The leader's metadata, and how the follower index's differs from it.
async fn differing_metadata(
    subject: &Subject,
    how: How,
) -> Result<(IndexMetadata, Vec<String>), VerifyError> {
    let until = Instant::now() + METADATA_PATIENCE;
    loop {
        let leader = leader_metadata(subject, how).await?;
        let table = &subject.shared.follower_table;
        let index = &subject.subscription.follower_index;
        let applied = table.get::<AppliedMetadata>(&AppliedMetadata::key_of(
            subject.replication.cluster(),
            index,
        ));
        let is_old = applied.is_none_or(|applied| {
            let is_settling =
                applied.wanted_aliases.is_some() && applied.refused_aliases.is_empty();
            leader.versions.newer_than(applied.versions)
                || is_settling
                || applied.leniency.is_some()
        });
        let differences = follower_index(subject).differences(&leader).await?;
        // It may have changed since it was asked for.
        let is_now = leader_metadata(subject, how).await?.versions == leader.versions;
        if differences.is_empty() || (is_now && !is_old) || Instant::now() >= until {
            return Ok((leader, differences));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn follower_index(subject: &Subject) -> FollowerIndex {
    let latest = subject
        .replication
        .subscription(&subject.subscription.follower_index);
    let settings = latest.map_or_else(
        || subject.subscription.settings.clone(),
        |latest| latest.settings,
    );
    FollowerIndex::new(
        subject.shared.opensearch.clone(),
        subject.subscription.follower_index.clone(),
        settings,
    )
}

/// Brings metadata over again, and has the index copied anew in place, which outranks whatever
/// stands there.
async fn repair(subject: &Subject, verification: &Verification) -> Result<(), VerifyError> {
    if !verification.found.metadata.is_empty() {
        let (leader, _) = differing_metadata(subject, verification.request.how).await?;
        let index = follower_index(subject);
        index
            .apply(&leader, MetadataVersions::default(), None)
            .await?;
        index.set_aliases(&copied_aliases(&leader.aliases)).await?;
    }
    if !verification.found.has_documents() {
        return Ok(());
    }
    let index = &subject.subscription.follower_index;
    let current = || {
        subject
            .replication
            .subscription(index)
            .filter(|found| found.id == verification.subscription)
    };
    let copy = current()
        .and_then(|current| current.copy)
        .ok_or(VerifyError::NotSyncing)?;
    let request = ShardRequest {
        follower_cluster: subject.replication.cluster().clone(),
        follower_index: index.clone(),
        shard: ShardId(0),
        subscription: verification.subscription.clone(),
        copy: copy.id.clone(),
        ask: Ask::Copy {
            reason: "a verification found differences".to_owned(),
        },
    };
    subject.shared.follower_table.publish(&request).await?;
    loop {
        let latest = current().ok_or(VerifyError::NotSyncing)?;
        let is_copied = latest.copy.is_some_and(|latest| latest.id != copy.id);
        if is_copied
            && subject
                .progress()
                .is_some_and(|progress| progress.is_loaded())
        {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}
