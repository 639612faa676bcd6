//! Verification: proves that a follower index is equal to its leader's while both are in use, or
//! names what differs, and repairs it.
//!
//! A verification lives in the control topic; the agent that looks after the index carries it out,
//! from the beginning if another one had begun.

mod entry;
mod judge;
mod shard;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use shardline::contract::ApiError;
use shardline::contract::verify::{Findings, VerificationState, VerifyRequest};
use shardline_common::clock::now_ms;
use shardline_common::control::{AppliedMetadata, Ask, Entry, ShardRequest, Subscription};
use shardline_common::kafka::ControlTopic;
use shardline_common::metadata::{IndexMetadata, MetadataVersions, copied_aliases};
use shardline_common::types::{IndexName, ShardId};
use shardline_common::verify::{How, Question};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use self::shard::{Comparison, VerifyError, leader_metadata};
use crate::control::subscriptions::Subscriptions;
use crate::index::{AgentContext, IndexAdmin, Phase};
use crate::membership::Slot;
use crate::progress::IndexProgress;

pub(crate) use self::entry::Verification;

const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(250);
/// How long the follower may take to bring metadata over before it counts as different.
const METADATA_PATIENCE: Duration = Duration::from_secs(30);

/// Writes down that an index is to be verified; returns the verification's id.
pub(crate) async fn begin(
    subscriptions: &Subscriptions,
    index: IndexName,
    request: VerifyRequest,
) -> Result<String, ApiError> {
    let key = Verification::key_of(subscriptions.cluster(), &index);
    let _one_at_a_time = subscriptions.lock(&key).await;
    let subscription = subscriptions.subscription(&index).ok_or_else(|| {
        ApiError::illegal_argument(format!("No replication in progress for index:{index}"))
    })?;
    let Some(Phase::Syncing(progress)) = subscriptions.phase(&index) else {
        let reason = format!(
            "Index {index} is not SYNCING; its status says what it is. Verify it when it is"
        );
        return Err(ApiError::illegal_argument(reason));
    };
    let table = subscriptions.follower_table();
    if table
        .get::<Verification>(&key)
        .is_some_and(|last| !last.state.is_done() && last.subscription == subscription.id)
    {
        let reason =
            format!("Index {index} is being verified already; DELETE {index}/_verify ends that");
        return Err(ApiError::resource_already_exists(reason));
    }
    let verification = Verification {
        follower_cluster: subscriptions.cluster().clone(),
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
        .map_err(|error| ApiError::unavailable(&error))?;
    Ok(verification.id)
}

pub(crate) fn last(
    subscriptions: &Subscriptions,
    index: &IndexName,
) -> Result<Verification, ApiError> {
    let last = subscriptions
        .follower_table()
        .get(&Verification::key_of(subscriptions.cluster(), index));
    last.ok_or_else(|| ApiError::resource_not_found(format!("Index {index} has not been verified")))
}

/// Shows in the metrics what the last verification found, where the index is looked after.
pub(crate) fn export(subscriptions: &Subscriptions, subscription: &Subscription) {
    let index = &subscription.follower_index;
    let (metric, labels) = (
        &subscriptions.context().metrics.verified_equal,
        &[index.as_str()],
    );
    let is_ours = subscriptions.context().slots.holds(Slot::of_index(index));
    let last = last(subscriptions, index)
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
pub(crate) async fn forget(
    subscriptions: &Subscriptions,
    index: &IndexName,
) -> Result<(), ApiError> {
    let key = last(subscriptions, index)?.key();
    let _one_at_a_time = subscriptions.lock(&key).await;
    subscriptions
        .follower_table()
        .remove(&key)
        .await
        .map_err(|error| ApiError::unavailable(&error))
}

/// What is verified, and where its agents tell of it.
struct Subject {
    subscriptions: Arc<Subscriptions>,
    context: Arc<AgentContext>,
    subscription: Subscription,
    verification: String,
}

impl Subject {
    /// Documents with lower versions came from a snapshot repository.
    fn restored_below(&self) -> i64 {
        let latest = self
            .subscriptions
            .subscription(&self.subscription.follower_index);
        latest
            .as_ref()
            .unwrap_or(&self.subscription)
            .restored_below()
    }

    fn progress(&self) -> Option<Arc<IndexProgress>> {
        match self.subscriptions.phase(&self.subscription.follower_index) {
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
pub(crate) async fn run(subscriptions: Arc<Subscriptions>, stop: CancellationToken) {
    let table = subscriptions.follower_table().clone();
    let (mut changes, mut slots) = (table.changes(), subscriptions.slots().changes());
    let mut running: HashMap<String, Running> = HashMap::new();
    loop {
        changes.mark_unchanged();
        let verifications = table.all::<Verification>();
        if subscriptions.slots().holds(Slot::CLUSTER) {
            withdraw_questions(&table, &verifications).await;
        }
        let verifications = verifications.into_iter();
        let wanted: HashMap<String, Verification> = verifications
            .filter(|verification| {
                verification.follower_cluster == *subscriptions.cluster()
                    && !verification.state.is_done()
                    && subscriptions.looks_after(&verification.follower_index)
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
                    tokio::spawn(work(Arc::clone(&subscriptions), verification, stop.clone()));
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
    subscriptions: Arc<Subscriptions>,
    mut verification: Verification,
    stop: CancellationToken,
) {
    let index = verification.follower_index.clone();
    let subscription = subscriptions
        .subscription(&index)
        .filter(|found| found.id == verification.subscription);
    let carried_out = async {
        let subscription = subscription.ok_or(VerifyError::NotSyncing)?;
        let context = Arc::clone(subscriptions.context());
        let subject = Subject {
            subscriptions: Arc::clone(&subscriptions),
            context,
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
    info!(
        %index, state = ?verification.state, reason = verification.reason, documents, missing,
        extra, different, "verified"
    );
    write(&subscriptions, &verification).await;
}

/// An entry that is gone was removed by the user.
async fn write(subscriptions: &Subscriptions, verification: &Verification) {
    let table = subscriptions.follower_table();
    let _one_at_a_time = subscriptions.lock(&verification.key()).await;
    let current = table.get::<Verification>(&verification.key());
    if current.is_some_and(|current| current.id == verification.id)
        && let Err(error) = table.publish(verification).await
    {
        warn!(
            index = %verification.follower_index, %error,
            "the state of a verification could not be written down"
        );
    }
}

async fn carry_out(subject: &Subject, verification: &mut Verification) -> Result<(), VerifyError> {
    compare(subject, verification).await?;
    if verification.found.is_equal() || !verification.request.repair {
        return Ok(());
    }
    verification.state = VerificationState::Repairing;
    write(&subject.subscriptions, verification).await;
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
                write(&subject.subscriptions, verification).await;
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
        let table = &subject.context.follower_table;
        let index = &subject.subscription.follower_index;
        let applied = table.get::<AppliedMetadata>(&AppliedMetadata::key_of(
            subject.subscriptions.cluster(),
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

fn follower_index(subject: &Subject) -> IndexAdmin {
    let latest = subject
        .subscriptions
        .subscription(&subject.subscription.follower_index);
    let settings = latest.map_or_else(
        || subject.subscription.settings.clone(),
        |latest| latest.settings,
    );
    IndexAdmin::new(
        subject.context.opensearch.clone(),
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
            .subscriptions
            .subscription(index)
            .filter(|found| found.id == verification.subscription)
    };
    let copy = current()
        .and_then(|current| current.copy)
        .ok_or(VerifyError::NotSyncing)?;
    let request = ShardRequest {
        follower_cluster: subject.subscriptions.cluster().clone(),
        follower_index: index.clone(),
        shard: ShardId(0),
        subscription: verification.subscription.clone(),
        copy: copy.id.clone(),
        ask: Ask::Copy {
            reason: "a verification found differences".to_owned(),
        },
    };
    subject.context.follower_table.publish(&request).await?;
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
