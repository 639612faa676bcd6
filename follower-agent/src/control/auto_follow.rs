//! Auto-follow: keeps a task for each rule, which starts to follow the leader's indices that match
//! as they appear, and tries again, ever more rarely, what could not be started.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use shardline::contract::auto_follow::{RuleName, RuleRequest};
use shardline::contract::error::Cause;
use shardline::contract::service::ReplicationState;
use shardline::contract::stats::{AutoFollowStats, RuleStats};
use shardline::contract::{ApiError, names};
use shardline_common::auto_follow::{AutoFollowRule, RuleProgress, StartFailure, StoredProgress};
use shardline_common::clock::now_ms;
use shardline_common::control::{CatalogEntry, Entry, NodeAnnouncement};
use shardline_common::types::IndexName;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::own_gateway;
use super::subscriptions::{Subscriptions, refuse_leaders_settings};
use crate::index::check_settings;
use crate::membership::Slot;

/// Changes of the leader's catalogue come in bursts.
const SETTLE: Duration = Duration::from_millis(100);
/// Between two looks, at least.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// How often it is asked whether an index is copied, while others wait for its place.
const COPY_POLL: Duration = Duration::from_millis(500);
/// How often a rule's progress is written down at most.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Makes a rule; it is carried out from then on.
pub(crate) async fn create(
    subscriptions: &Subscriptions,
    request: RuleRequest,
) -> Result<(), ApiError> {
    subscriptions
        .leaders()
        .resolve(&request.leader_alias)
        .await?;
    let rule = AutoFollowRule {
        follower_cluster: subscriptions.cluster().clone(),
        leader_alias: request.leader_alias,
        name: request.name,
        pattern: request.pattern,
        follower_index_pattern: request.follower_index_pattern,
        settings: request.settings.into_iter().collect(),
        roles: request.roles,
    };
    let key = rule.key();
    let _one_at_a_time = subscriptions.lock(&key).await;
    if subscriptions
        .follower_table()
        .get::<AutoFollowRule>(&key)
        .is_some()
    {
        return Err(already_there(&rule));
    }
    refuse_leaders_settings(&rule.settings)?;
    check_settings(subscriptions.opensearch(), &rule.settings)
        .await
        .map_err(|error| ApiError::from_cluster(&error))?;
    subscriptions
        .follower_table()
        .publish(&rule)
        .await
        .map_err(|error| ApiError::unavailable(&error))?;
    info!(
        rule = rule.name,
        leader = rule.leader_alias,
        pattern = rule.pattern,
        "auto-follow rule made"
    );
    Ok(())
}

pub(crate) async fn delete(subscriptions: &Subscriptions, rule: RuleName) -> Result<(), ApiError> {
    let RuleName { leader_alias, name } = rule;
    let key = AutoFollowRule::key_of(subscriptions.cluster(), &leader_alias, &name);
    let _one_at_a_time = subscriptions.lock(&key).await;
    if subscriptions
        .follower_table()
        .get::<AutoFollowRule>(&key)
        .is_none()
    {
        let reason = format!("Autofollow replication rule {leader_alias}:{name} does not exist");
        return Err(ApiError::generic(reason));
    }
    subscriptions
        .follower_table()
        .remove(&key)
        .await
        .map_err(|error| ApiError::unavailable(&error))?;
    info!(
        rule = name,
        leader = leader_alias,
        "auto-follow rule deleted"
    );
    Ok(())
}

pub(super) fn stats(subscriptions: &Subscriptions) -> AutoFollowStats {
    let of_rule = |rule: AutoFollowRule| RuleStats {
        progress: stored_progress(subscriptions, &rule.key()),
        name: rule.name,
        pattern: rule.pattern,
        leader_alias: rule.leader_alias,
    };
    AutoFollowStats::of(rules(subscriptions).map(of_rule).collect())
}

/// The words are the plugin's.
fn already_there(rule: &AutoFollowRule) -> ApiError {
    let task = format!(
        "task with id {{autofollow:{}:{}}} already exist",
        rule.leader_alias, rule.name
    );
    let cause = Cause::new(
        "exception",
        "Exisiting autofollow replication rule cannot be recreated/updated",
    )
    .with_cause(Cause::new("resource_already_exists_exception", task));
    ApiError::from_cause(http::StatusCode::INTERNAL_SERVER_ERROR, cause)
}

fn rules(subscriptions: &Subscriptions) -> impl Iterator<Item = AutoFollowRule> {
    let all = subscriptions
        .follower_table()
        .all::<AutoFollowRule>()
        .into_iter();
    all.filter(|rule| rule.follower_cluster == *subscriptions.cluster())
}

fn stored_progress(subscriptions: &Subscriptions, rule: &str) -> RuleProgress {
    let stored: Option<StoredProgress> = subscriptions
        .follower_table()
        .get(&StoredProgress::key_of(rule));
    stored.map(|stored| stored.progress).unwrap_or_default()
}

struct Running {
    rule: AutoFollowRule,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            warn!(rule = self.rule.name, %error, "an auto-follow rule's task did not end cleanly");
        }
    }
}

/// Keeps a task for each rule, until told to stop.
pub(crate) async fn run(subscriptions: Arc<Subscriptions>, stop: CancellationToken) {
    let mut running: HashMap<String, Running> = HashMap::new();
    let mut changes = subscriptions.follower_table().changes();
    let mut slots = subscriptions.slots().changes();
    loop {
        changes.mark_unchanged();
        // One of a cluster's agents carries them out.
        let is_holder = subscriptions.slots().holds(Slot::CLUSTER);
        let there: BTreeMap<String, AutoFollowRule> = rules(&subscriptions)
            .map(|rule| (rule.key(), rule))
            .collect();
        let mut wanted = if is_holder {
            there.clone()
        } else {
            BTreeMap::new()
        };
        let ended: Vec<String> = running
            .iter()
            .filter(|(key, one)| wanted.get(*key) != Some(&one.rule))
            .map(|(key, _)| key.clone())
            .collect();
        for key in ended {
            let Some(one) = running.remove(&key) else {
                continue;
            };
            let rule = one.rule.clone();
            one.end().await;
            // Another rule of that name begins anew.
            if there.get(&key) != Some(&rule)
                && let Err(error) = subscriptions
                    .follower_table()
                    .remove(&StoredProgress::key_of(&key))
                    .await
            {
                warn!(
                    rule = key, %error, "the statistics of a deleted auto-follow rule stay behind"
                );
            }
        }
        wanted.retain(|key, _| !running.contains_key(key));
        for (key, rule) in wanted {
            let stop = stop.child_token();
            let runner = Runner::new(Arc::clone(&subscriptions), rule.clone());
            let task = tokio::spawn(runner.run(stop.clone()));
            running.insert(key, Running { rule, stop, task });
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { break },
            () = slots.next() => {}
            () = stop.cancelled() => break,
        }
    }
    for (_, one) in running {
        one.end().await;
    }
}

/// Carries out one rule.
struct Runner {
    subscriptions: Arc<Subscriptions>,
    rule: AutoFollowRule,
    progress: RuleProgress,
    written: RuleProgress,
    written_at: Instant,
    /// Indices to start, in the order in which they are.
    queue: VecDeque<CatalogEntry>,
    starts: JoinSet<(CatalogEntry, Result<(), ApiError>)>,
    starting: HashSet<IndexName>,
    /// Followers that were started and may still be copied.
    copying: HashSet<IndexName>,
}

impl Runner {
    fn new(subscriptions: Arc<Subscriptions>, rule: AutoFollowRule) -> Self {
        let progress = stored_progress(&subscriptions, &rule.key());
        Self {
            subscriptions,
            rule,
            written: progress.clone(),
            progress,
            written_at: Instant::now(),
            queue: VecDeque::new(),
            starts: JoinSet::new(),
            starting: HashSet::new(),
            copying: HashSet::new(),
        }
    }

    async fn run(mut self, stop: CancellationToken) {
        let leader_table = self.subscriptions.leaders().leader_table.clone();
        let mut changes = leader_table.changes();
        // The alias leads to a cluster by its nodes.
        let newest = || {
            (
                leader_table.newest::<CatalogEntry>(),
                leader_table.newest::<NodeAnnouncement>(),
            )
        };
        let mut seen = newest();
        let (mut last_look, mut next_look) = (None::<Instant>, Instant::now());
        loop {
            if Instant::now() >= next_look {
                seen = newest();
                self.look().await;
                last_look = Some(Instant::now());
                next_look = Instant::now() + self.until_next_look();
            }
            self.fill_places();
            self.write_progress().await;
            let wait = next_look
                .saturating_duration_since(Instant::now())
                .min(self.attention());
            tokio::select! {
                Some(started) = self.starts.join_next() => match started {
                    Ok((index, outcome)) => self.started(&index, outcome),
                    Err(error) => warn!(rule = self.rule.name, %error, "the start of an index did \
                        not end cleanly"),
                },
                changed = changes.wait_for(|_| newest() != seen) => {
                    if changed.is_err() {
                        break;
                    }
                    drop(changed);
                    seen = newest();
                    let settled = Instant::now() + SETTLE;
                    next_look = next_look.min(last_look.map_or(settled, |last| settled.max(last + LEAST_INTERVAL)));
                }
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => break,
            }
        }
        // What has been begun is finished: a start must not be broken off half-way.
        self.starts.detach_all();
    }

    /// Looks at the leader's indices and finds those to start.
    async fn look(&mut self) {
        self.progress.last_execution_time = now_ms();
        let alias = &self.rule.leader_alias;
        let cluster = match self.subscriptions.leaders().resolve(alias).await {
            Ok(cluster) => cluster,
            Err(error) => {
                self.progress.num_failed_leader_calls += 1;
                warn!(rule = self.rule.name, alias, %error, "the leader's indices are unknown");
                return;
            }
        };
        let matching = self
            .subscriptions
            .leaders()
            .matching(&cluster, &self.rule.pattern);
        let names: HashSet<&IndexName> = matching.iter().map(|entry| &entry.index).collect();
        let followed = self.subscriptions.followed_indices();
        // One that is followed now, or whose name is taken, is not to be started any more.
        let is_open = |index: &IndexName| {
            names.contains(index) && !followed.contains(&self.rule.follower_index(index))
        };
        self.progress.failures.retain(|index, _| is_open(index));
        let now = now_ms();
        let mut candidates: Vec<CatalogEntry> = matching
            .iter()
            .filter(|entry| !followed.contains(&self.rule.follower_index(&entry.index)))
            .filter(|entry| !self.starting.contains(&entry.index))
            .filter(|entry| {
                self.progress
                    .failures
                    .get(&entry.index)
                    .is_none_or(|failure| failure.next_attempt <= now)
            })
            .cloned()
            .collect();
        if !candidates.is_empty() {
            match self.subscriptions.local_indices().await {
                // An index of that name, ordinary or once followed, stays what it is.
                Ok(local) => {
                    let is_taken =
                        |index: &IndexName| local.contains(&self.rule.follower_index(index));
                    let (taken, free) = candidates
                        .into_iter()
                        .partition(|entry| is_taken(&entry.index));
                    candidates = free;
                    self.note_taken(taken);
                }
                Err(error) => {
                    warn!(
                        rule = self.rule.name, %error, "the follower cluster's indices are unknown"
                    );
                    return;
                }
            }
        }
        self.queue = candidates.into();
        self.count_failures();
    }

    /// Says of indices why they are not followed: their followers' names are taken.
    fn note_taken(&mut self, taken: Vec<CatalogEntry>) {
        let delay = self.subscriptions.settings().auto_follow_interval();
        let next_attempt = now_ms() + i64::try_from(delay.as_millis()).unwrap_or(i64::MAX / 2);
        for entry in taken {
            let follower = self.rule.follower_index(&entry.index);
            let failure = StartFailure {
                reason: ApiError::index_taken(&follower).reason(),
                attempts: 0,
                next_attempt,
            };
            self.progress.failures.insert(entry.index, failure);
        }
    }

    /// Starts as many as the setting allows; one that is being copied keeps its place.
    fn fill_places(&mut self) {
        let is_going = |follower: &IndexName| {
            let status = self.subscriptions.status_of(follower, false).status;
            matches!(
                status,
                ReplicationState::Running | ReplicationState::Bootstrapping
            )
        };
        self.copying.retain(is_going);
        let places = self.subscriptions.settings().auto_follow_jobs();
        while self.starting.len() + self.copying.len() < places {
            let Some(entry) = self.queue.pop_front() else {
                return;
            };
            self.starting.insert(entry.index.clone());
            let (subscriptions, rule) = (Arc::clone(&self.subscriptions), self.rule.clone());
            self.starts.spawn(async move {
                let outcome = start(&subscriptions, &rule, entry.clone()).await;
                (entry, outcome)
            });
        }
    }

    fn started(&mut self, entry: &CatalogEntry, outcome: Result<(), ApiError>) {
        let index = &entry.index;
        self.starting.remove(index);
        let follower = self.rule.follower_index(index);
        match outcome {
            // It was made meanwhile, by somebody else.
            Err(error) if error == ApiError::index_taken(&follower) => {
                self.progress.failures.remove(index);
            }
            // A start that took too long goes on by itself.
            Err(error) if !self.subscriptions.followed_indices().contains(&follower) => {
                let attempts = self
                    .progress
                    .failures
                    .get(index)
                    .map_or(0, |failure| failure.attempts)
                    + 1;
                let delay = FIRST_RETRY * 2_u32.saturating_pow(attempts - 1);
                let delay = delay.min(self.subscriptions.settings().auto_follow_retry());
                warn!(
                    rule = self.rule.name, %index, %error, attempts, retry_in_s = delay.as_secs(),
                    "auto-follow failed"
                );
                let next_attempt =
                    now_ms() + i64::try_from(delay.as_millis()).unwrap_or(i64::MAX / 2);
                let failure = StartFailure {
                    reason: error.reason(),
                    attempts,
                    next_attempt,
                };
                self.progress.failures.insert(index.clone(), failure);
            }
            _ => {
                self.progress.num_success_start_replication += 1;
                self.progress.failures.remove(index);
                self.copying.insert(follower);
            }
        }
        self.count_failures();
    }

    fn count_failures(&mut self) {
        let failures = self.progress.failures.iter();
        self.progress.failed_indices = failures
            .filter(|(_, failure)| failure.attempts > 0)
            .map(|(index, _)| index.clone())
            .collect();
        self.progress.num_failed_start_replication = self.progress.failed_indices.len() as u64;
    }

    fn until_next_look(&self) -> Duration {
        // Those whose time has come are on their way.
        let is_under_way = |index: &IndexName| {
            self.starting.contains(index) || self.queue.iter().any(|entry| entry.index == *index)
        };
        let waiting = self
            .progress
            .failures
            .iter()
            .filter(|(index, _)| !is_under_way(index));
        let retry = waiting
            .map(|(_, failure)| failure.next_attempt - now_ms())
            .min();
        let retry = retry.map_or(Duration::MAX, |ms| {
            Duration::from_millis(u64::try_from(ms).unwrap_or_default())
        });
        self.subscriptions
            .settings()
            .auto_follow_interval()
            .min(retry)
            .max(LEAST_INTERVAL)
    }

    /// How long the runner may rest at most.
    fn attention(&self) -> Duration {
        if !self.copying.is_empty() && !self.queue.is_empty() {
            COPY_POLL
        } else if self.progress != self.written {
            PROGRESS_INTERVAL.saturating_sub(self.written_at.elapsed())
        } else {
            Duration::MAX
        }
    }

    async fn write_progress(&mut self) {
        if self.progress == self.written || self.written_at.elapsed() < PROGRESS_INTERVAL {
            return;
        }
        let stored = StoredProgress {
            key: self.rule.key(),
            progress: self.progress.clone(),
        };
        self.written_at = Instant::now();
        match self.subscriptions.follower_table().publish(&stored).await {
            Ok(()) => self.written = stored.progress,
            Err(error) => {
                warn!(
                    rule = self.rule.name, %error,
                    "an auto-follow rule's statistics are not written down"
                )
            }
        }
    }
}

async fn start(
    subscriptions: &Subscriptions,
    rule: &AutoFollowRule,
    entry: CatalogEntry,
) -> Result<(), ApiError> {
    let follower = rule.follower_index(&entry.index);
    let mut problems = Vec::new();
    names::check(follower.as_str(), &mut problems);
    if !problems.is_empty() {
        return Err(ApiError::validation(&problems));
    }
    let mut body = json!({"leader_alias": rule.leader_alias, "leader_index": entry.index, "settings": rule.settings});
    let user = own_gateway::name_roles(&mut body, rule.roles.as_ref());
    subscriptions
        .own_gateway()
        .call(http::Method::PUT, &follower, "_start", &body, user)
        .await
}
