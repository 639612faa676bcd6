//! Brings aliases over: what the follower cluster refuses is named in the status and tried again,
//! while documents go on; and an alias that moves from one followed index to another moves at once.
//!
//! Each index hears of its leader's aliases by itself. So a change waits a moment for the other
//! half of a swap, and whoever of the two acts first carries both out, in one request. Where the
//! other half is still to come, adding goes before removing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use shardline_common::control::{AppliedMetadata, Capture, Subscription, SubscriptionState};
use shardline_common::metadata::MetadataVersions;
use shardline_common::opensearch::OpenSearchError;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use super::admin::{IndexAdmin, alias_actions};
use super::context::AgentContext;
use super::followed_copy::FollowedCopy;

/// How long a change waits for what belongs to it.
const SETTLE: Duration = Duration::from_millis(500);
/// How long an alias stays where it was for the index that is about to get it.
const LONGEST: Duration = Duration::from_secs(10);
/// How often what was refused is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Aliases with the follower cluster's reason to refuse them.
pub(crate) type RefusedAliases = BTreeMap<String, String>;

/// How an index's aliases are brought over.
#[derive(Default)]
pub(crate) struct Keeping {
    /// Whether somebody does it apart from the documents.
    is_kept: AtomicBool,
    changed: Notify,
}

impl Keeping {
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept.load(Relaxed)
    }

    pub(super) fn changed(&self) {
        self.changed.notify_one();
    }
}

struct Kept<'a>(&'a Keeping);

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.0.is_kept.store(false, Relaxed);
    }
}

impl FollowedCopy {
    /// Brings the index's aliases over as they change, by the agent that holds its slot; ends with
    /// whoever runs it.
    pub(crate) async fn keep_aliases(&self) {
        let keeping = &self.aliases;
        keeping.is_kept.store(true, Relaxed);
        let _kept = Kept(keeping);
        let mut since = None;
        loop {
            let applied = self.applied();
            let is_wanted = applied.is_some_and(|applied| applied.wanted_aliases.is_some());
            if !is_wanted {
                since = None;
                keeping.changed.notified().await;
                continue;
            }
            tokio::time::sleep(SETTLE).await;
            let since = *since.get_or_insert_with(Instant::now);
            let pause = match self.settle_aliases(since.elapsed() < LONGEST).await {
                Ok(refused) if refused.is_empty() => continue,
                Ok(_) => RETRY,
                Err(error) => {
                    warn!(
                        index = %self.follower.name, %error,
                        "aliases could not be brought over; trying again"
                    );
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = keeping.changed.notified() => {}
            }
        }
    }

    /// Carries out what is wanted, together with what other followed indices want of the same
    /// aliases.
    async fn settle_aliases(&self, may_wait: bool) -> Result<RefusedAliases, SettleError> {
        let _one_at_a_time = self.applying.lock().await;
        let Some((mut applied, wanted)) = self
            .applied()
            .and_then(|applied| Some((applied.clone(), applied.wanted_aliases?)))
        else {
            return Ok(RefusedAliases::new());
        };
        let current = self.follower.aliases().await?;
        let mut actions = alias_actions(&self.follower.name, &current, &wanted);
        if may_wait {
            let expected = self.expected_elsewhere(&actions);
            if !expected.is_empty() {
                actions.retain(|action| !(is_removal(action) && names_one_of(action, &expected)));
                if actions.is_empty() {
                    return Ok(RefusedAliases::new());
                }
            }
        }
        let others = self.others_half(&actions).await?;
        let all: Vec<Value> = actions.iter().cloned().chain(others).collect();
        let refused = match self.follower.change_aliases(&all).await {
            Err(error) if !error.retryable() => self.follower.change_one_by_one(&actions).await?,
            outcome => outcome.map(|()| RefusedAliases::new())?,
        };
        for (alias, reason) in &refused {
            if applied.refused_aliases.get(alias) != Some(reason) {
                warn!(
                    index = %self.follower.name, alias, reason,
                    "the follower cluster refuses an alias; it is tried again"
                );
            }
        }
        let is_there = alias_actions(
            &self.follower.name,
            &self.follower.aliases().await?,
            &wanted,
        );
        applied.wanted_aliases = (!is_there.is_empty()).then_some(wanted);
        applied.refused_aliases = refused.clone();
        self.context.follower_table.publish(&applied).await?;
        Ok(refused)
    }

    /// Aliases to be removed that another followed index is about to get.
    fn expected_elsewhere(&self, actions: &[Value]) -> BTreeSet<String> {
        let removed: BTreeSet<String> = actions
            .iter()
            .filter(|action| is_removal(action))
            .map(|action| alias_of(action).to_owned())
            .collect();
        if removed.is_empty() {
            return removed;
        }
        let mut expected = BTreeSet::new();
        for other in self.others() {
            let key = Capture::key_of(&other.leader_cluster, &other.leader_uuid);
            let leaders = self.context.leader_table.part::<CaptureAliases>(&key);
            let applied = self.context.applied(&other);
            if let (Some(leaders), Some(applied)) = (leaders, applied) {
                let leaders = leaders.metadata;
                if leaders.versions.aliases > applied.versions.aliases {
                    expected.extend(leaders.aliases.into_iter().map(|(alias, _)| alias));
                }
            }
        }
        expected.intersection(&removed).cloned().collect()
    }

    /// What other followed indices want of the aliases that these actions are about.
    async fn others_half(&self, actions: &[Value]) -> Result<Vec<Value>, OpenSearchError> {
        let named: BTreeSet<String> = actions
            .iter()
            .map(|action| alias_of(action).to_owned())
            .collect();
        let mut half = Vec::new();
        for other in self.others() {
            let Some((wanted, refused)) = self
                .context
                .applied(&other)
                .and_then(|applied| Some((applied.wanted_aliases?, applied.refused_aliases)))
            else {
                continue;
            };
            let index = IndexAdmin::new(
                self.follower.opensearch.clone(),
                other.follower_index.clone(),
                Map::new(),
            );
            let mut of_other = alias_actions(&index.name, &index.aliases().await?, &wanted);
            of_other.retain(|action| {
                names_one_of(action, &named) && !refused.contains_key(alias_of(action))
            });
            half.extend(of_other);
        }
        Ok(half)
    }

    /// The other indices that are followed now.
    fn others(&self) -> Vec<Subscription> {
        let mut others = self.context.follower_table.all::<Subscription>();
        others.retain(|other| {
            other.follower_cluster == self.cluster
                && other.follower_index != self.follower.name
                && other.state == SubscriptionState::Running
        });
        others
    }
}

/// What of a [`Capture`] is about aliases.
#[derive(Deserialize)]
struct CaptureAliases {
    metadata: MetadataAliases,
}

#[derive(Deserialize)]
struct MetadataAliases {
    versions: MetadataVersions,
    aliases: Map<String, Value>,
}

#[derive(Debug, thiserror::Error)]
enum SettleError {
    #[error(transparent)]
    OpenSearch(#[from] OpenSearchError),
    #[error(transparent)]
    Control(#[from] shardline_common::kafka::ControlError),
}

/// Gives the index of a subscription that ends the aliases that it was about to get.
pub(crate) async fn settle_at_end(
    context: &AgentContext,
    subscription: &Subscription,
) -> Result<(), OpenSearchError> {
    let applied: Option<AppliedMetadata> = context.applied(subscription);
    let Some(wanted) = applied.and_then(|applied| applied.wanted_aliases) else {
        return Ok(());
    };
    let name = subscription.follower_index.clone();
    let index = IndexAdmin::new(context.opensearch.clone(), name, Map::new());
    for (alias, reason) in index.set_aliases(&wanted).await? {
        warn!(
            index = %index.name, alias, reason,
            "the index does not get an alias that the leader's has"
        );
    }
    Ok(())
}

impl IndexAdmin {
    pub(crate) async fn aliases(&self) -> Result<Map<String, Value>, OpenSearchError> {
        let path = format!("/{}/_alias", self.path());
        let mut answer: BTreeMap<String, Aliased> = self.opensearch.get(&path).await?;
        Ok(answer
            .pop_first()
            .map(|(_, index)| index.aliases)
            .unwrap_or_default())
    }

    /// Gives the index these aliases and no others, as far as the cluster takes them.
    pub(crate) async fn set_aliases(
        &self,
        wanted: &Map<String, Value>,
    ) -> Result<RefusedAliases, OpenSearchError> {
        let actions = alias_actions(&self.name, &self.aliases().await?, wanted);
        match self.change_aliases(&actions).await {
            Err(error) if !error.retryable() => self.change_one_by_one(&actions).await,
            outcome => outcome.map(|()| RefusedAliases::new()),
        }
    }

    /// All of it or nothing.
    async fn change_aliases(&self, actions: &[Value]) -> Result<(), OpenSearchError> {
        if actions.is_empty() {
            return Ok(());
        }
        let body = json!({"actions": actions});
        let _: Value = self.opensearch.post("/_aliases", &body).await?;
        info!(index = %self.name, changes = actions.len(), "aliases follow the leader's");
        Ok(())
    }

    async fn change_one_by_one(
        &self,
        actions: &[Value],
    ) -> Result<RefusedAliases, OpenSearchError> {
        let mut refused = RefusedAliases::new();
        for action in actions {
            match self.change_aliases(std::slice::from_ref(action)).await {
                Err(OpenSearchError::Refused {
                    status,
                    error_type,
                    reason,
                    ..
                }) if status < 429 => {
                    let reason = format!("[{error_type}] {reason}");
                    refused.insert(alias_of(action).to_owned(), reason);
                }
                outcome => outcome?,
            }
        }
        Ok(refused)
    }
}

#[derive(Deserialize)]
struct Aliased {
    #[serde(default)]
    aliases: Map<String, Value>,
}

fn is_removal(action: &Value) -> bool {
    action.get("remove").is_some()
}

fn alias_of(action: &Value) -> &str {
    let of = |kind: &str| action.get(kind).and_then(|action| action["alias"].as_str());
    of("add").or_else(|| of("remove")).unwrap_or_default()
}

fn names_one_of(action: &Value, aliases: &BTreeSet<String>) -> bool {
    aliases.contains(alias_of(action))
}
