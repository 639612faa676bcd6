//! Takes documents that the leader took under an earlier mapping: while they are written, the
//! follower index has a mapping that ignores what does not fit, and the leader's otherwise.
//!
//! The agent that looks after the index changes the mapping. It writes down that it is about to,
//! with the mapping to give back, so that nothing that is broken off leaves an index lenient. A
//! shard's agent asks it with a request that stands until its documents are written. A copy is
//! lenient from the first document that needs it to its end.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};
use shardline_common::control::{AppliedMetadata, Entry, Leniency, LeniencyRequest, Subscription};
use shardline_common::kafka::ControlError;
use shardline_common::opensearch::OpenSearchError;
use shardline_common::types::ShardId;
use tracing::{info, warn};
use uuid::Uuid;

use super::admin::IndexAdmin;
use super::context::AgentContext;
use super::followed_copy::FollowedCopy;
use super::limits;
use super::relaxed::{exact, has_dynamic, relaxed};
use crate::write::{ApplyError, Lenience};

/// How long a shard waits for the agent that looks after the index: one of an earlier build does
/// not answer.
const PATIENCE: Duration = Duration::from_secs(60);

impl Lenience for FollowedCopy {
    fn begin(&self, shard: ShardId, is_thorough: bool) -> BoxFuture<'_, Result<bool, ApplyError>> {
        async move {
            if self.is_copied.load(Relaxed) {
                self.relax(Vec::new(), is_thorough).await?;
                return Ok(true);
            }
            self.ask_for_leniency(shard, is_thorough)
                .await
                .map_err(ApplyError::Leniency)
        }
        .boxed()
    }

    fn end(&self, shard: ShardId) -> BoxFuture<'_, Result<(), ApplyError>> {
        async move {
            if self.is_copied.load(Relaxed) {
                return Ok(());
            }
            self.no_more_leniency(shard)
                .await
                .map_err(ApplyError::Leniency)
        }
        .boxed()
    }
}

impl FollowedCopy {
    /// Asks, and waits until it is granted.
    async fn ask_for_leniency(
        &self,
        shard: ShardId,
        is_thorough: bool,
    ) -> Result<bool, ControlError> {
        let request = LeniencyRequest {
            follower_cluster: self.cluster.clone(),
            follower_index: self.follower.name.clone(),
            shard,
            subscription: self.subscription.clone(),
            copy: self.copy.id.clone(),
            nonce: Uuid::new_v4().simple().to_string(),
            is_thorough,
        };
        let table = &self.context.follower_table;
        let mut changes = table.changes();
        table.publish(&request).await?;
        let is_granted = || {
            let leniency = self.applied().and_then(|applied| applied.leniency);
            leniency.is_some_and(|leniency| leniency.granted.contains(&request.nonce))
        };
        let granted = async {
            while !is_granted() {
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        if tokio::time::timeout(PATIENCE, granted).await.is_ok() {
            return Ok(true);
        }
        warn!(
            index = %self.follower.name, %shard,
            "the agent that looks after the index does not make it lenient"
        );
        table.remove(&request.key()).await?;
        Ok(false)
    }

    /// Withdraws the shard's request, and waits until the index has the leader's mapping again,
    /// unless another shard needs it as it is.
    async fn no_more_leniency(&self, shard: ShardId) -> Result<(), ControlError> {
        let table = &self.context.follower_table;
        let key = LeniencyRequest::key_of(&self.cluster, &self.follower.name, shard);
        let mut changes = table.changes();
        table.remove(&key).await?;
        let is_over = || {
            let leniency = self.applied().and_then(|applied| applied.leniency);
            leniency.is_none() || !self.leniency_requests().is_empty()
        };
        let over = async {
            while !is_over() {
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        if tokio::time::timeout(PATIENCE, over).await.is_err() {
            warn!(index = %self.follower.name, %shard, "the index still is lenient");
        }
        Ok(())
    }

    /// Withdraws what an agent has asked for the shard that did not come to its end.
    pub(crate) async fn forget_leniency(&self, shard: ShardId) -> Result<(), ControlError> {
        let table = &self.context.follower_table;
        let key = LeniencyRequest::key_of(&self.cluster, &self.follower.name, shard);
        match table.get::<LeniencyRequest>(&key) {
            Some(_) => table.remove(&key).await,
            None => Ok(()),
        }
    }

    fn leniency_requests(&self) -> Vec<LeniencyRequest> {
        let prefix = LeniencyRequest::prefix_of(&self.cluster, &self.follower.name);
        let mut requests: Vec<LeniencyRequest> = self.context.follower_table.below(&prefix);
        requests.retain(|request| {
            request.subscription == self.subscription && request.copy == self.copy.id
        });
        requests
    }

    /// Makes the index as lenient as its shards ask for; by the agent that holds its slot.
    pub(crate) async fn serve_leniency(&self) -> Result<(), ApplyError> {
        let requests = self.leniency_requests();
        let has_looked = self.has_looked_for_leniency.swap(true, Relaxed);
        if requests.is_empty() && has_looked && self.relaxed.lock().is_none() {
            return Ok(());
        }
        let leniency = self.applied().and_then(|applied| applied.leniency);
        if requests.is_empty() {
            return match leniency {
                Some(_) => self.tighten().await,
                None => Ok(()),
            };
        }
        let is_thorough = requests.iter().any(|request| request.is_thorough);
        let nonces: Vec<String> = requests.into_iter().map(|request| request.nonce).collect();
        let is_granted = leniency.is_some_and(|leniency| {
            leniency.is_thorough >= is_thorough
                && nonces.iter().all(|nonce| leniency.granted.contains(nonce))
        });
        if is_granted {
            return Ok(());
        }
        self.relax(nonces, is_thorough).await
    }

    /// Relaxes the index's mapping.
    pub(crate) async fn relax(
        &self,
        granted: Vec<String>,
        is_thorough: bool,
    ) -> Result<(), ApplyError> {
        let _one_at_a_time = self.applying.lock().await;
        let Some(mut applied) = self.applied() else {
            return Ok(());
        };
        let is_relaxed = self.relaxed.lock().is_some_and(|was| was >= is_thorough);
        let is_new = applied.leniency.is_none();
        if is_relaxed && !is_new && granted.is_empty() {
            return Ok(());
        }
        let mut leniency = match applied.leniency.take() {
            Some(leniency) => leniency,
            None => Leniency {
                mappings: self.follower.mapping().await?,
                granted: Vec::new(),
                is_thorough,
            },
        };
        leniency.is_thorough |= is_thorough;
        applied.leniency = Some(leniency.clone());
        self.note_leniency(&applied).await?;
        if let Err(error) = self.follower.relax(&leniency, &applied.settings).await {
            if error.retryable() {
                return Err(error.into());
            }
            warn!(index = %self.follower.name, %error, "the index cannot be made lenient");
        } else if is_new {
            info!(
                index = %self.follower.name, is_thorough,
                "the index is lenient with documents of an earlier mapping"
            );
        }
        *self.relaxed.lock() = Some(leniency.is_thorough);
        if !granted.is_empty() {
            leniency.granted = granted;
            applied.leniency = Some(leniency);
            self.note_leniency(&applied).await?;
        }
        Ok(())
    }

    async fn note_leniency(&self, applied: &AppliedMetadata) -> Result<(), ApplyError> {
        let published = self.context.follower_table.publish(applied).await;
        published.map_err(ApplyError::Leniency)
    }

    /// Gives the index the leader's mapping back.
    pub(crate) async fn tighten(&self) -> Result<(), ApplyError> {
        let _one_at_a_time = self.applying.lock().await;
        let Some(mut applied) = self.applied() else {
            return Ok(());
        };
        let Some(leniency) = applied.leniency.take() else {
            return Ok(());
        };
        *self.relaxed.lock() = None;
        // What is in the translog only would be parsed anew, and left out, by a node that starts.
        self.follower.flush().await?;
        let tightened = self.follower.tighten(&leniency, &applied.settings).await;
        tightened?;
        self.note_leniency(&applied).await
    }

    /// A copy of an index that has said what becomes of unknown fields is lenient from its
    /// beginning, so that it does not map fields which the leader has not mapped.
    pub(crate) async fn relax_copy(&self, mappings: &Value) -> Result<(), ApplyError> {
        if self.is_copied.load(Relaxed) && has_dynamic(mappings) {
            return self.relax(Vec::new(), false).await;
        }
        Ok(())
    }
}

/// Gives the index of a subscription that ends the leader's mapping, should it be lenient.
pub(crate) async fn give_back_mapping(
    context: &AgentContext,
    subscription: &Subscription,
) -> Result<(), OpenSearchError> {
    let applied: Option<AppliedMetadata> = context.applied(subscription);
    let Some((leniency, settings)) =
        applied.and_then(|applied| Some((applied.leniency?, applied.settings)))
    else {
        return Ok(());
    };
    let index = IndexAdmin::new(
        context.opensearch.clone(),
        subscription.follower_index.clone(),
        subscription.settings.clone(),
    );
    if !index.exists().await? {
        return Ok(());
    }
    index.flush().await?;
    index.tighten(&leniency, &settings).await
}

impl IndexAdmin {
    async fn mapping(&self) -> Result<Value, OpenSearchError> {
        let path = format!("/{}/_mapping", self.path());
        let answer: Map<String, Value> = self.opensearch.get(&path).await?;
        let index = answer.values().next();
        Ok(index
            .map(|index| index["mappings"].clone())
            .unwrap_or_default())
    }

    async fn put(&self, what: &str, body: &Value) -> Result<(), OpenSearchError> {
        let path = format!("/{}/{what}", self.path());
        self.opensearch.put::<Value>(&path, body).await.map(drop)
    }

    /// Gives the index a mapping, also one that is beyond the limits among the leader's `settings`:
    /// what is mapped was mapped before they were lowered.
    pub(crate) async fn put_mapping(
        &self,
        mapping: &Value,
        settings: &Map<String, Value>,
    ) -> Result<(), OpenSearchError> {
        if mapping.as_object().is_none_or(Map::is_empty) {
            return Ok(());
        }
        match self.put("_mapping", mapping).await {
            Err(error) if limits::is_limit(&error) => {
                self.put("_settings", &Value::Object(limits::raised(&self.overrides)))
                    .await?;
                let outcome = self.put("_mapping", mapping).await;
                self.lower_limits(settings).await?;
                outcome
            }
            outcome => outcome,
        }
    }

    async fn lower_limits(&self, leaders: &Map<String, Value>) -> Result<(), OpenSearchError> {
        let mut settings = leaders.clone();
        settings.extend(self.overrides.clone());
        self.put("_settings", &Value::Object(limits::lowered(&settings)))
            .await
    }

    /// Ignores what does not fit; the leader's `settings` hold otherwise.
    pub(crate) async fn relax(
        &self,
        leniency: &Leniency,
        settings: &Map<String, Value>,
    ) -> Result<(), OpenSearchError> {
        let mapping = relaxed(&leniency.mappings, leniency.is_thorough);
        self.put_mapping(&mapping, settings).await?;
        if leniency.is_thorough {
            self.put("_settings", &Value::Object(limits::raised(&self.overrides)))
                .await?;
        }
        Ok(())
    }

    async fn tighten(
        &self,
        leniency: &Leniency,
        settings: &Map<String, Value>,
    ) -> Result<(), OpenSearchError> {
        let mapping = exact(&leniency.mappings, leniency.is_thorough);
        self.put_mapping(&mapping, settings).await?;
        if leniency.is_thorough {
            self.lower_limits(settings).await?;
        }
        Ok(())
    }

    /// All copies have what they hold in files.
    async fn flush(&self) -> Result<(), OpenSearchError> {
        let path = format!("/{}/_flush?wait_if_ongoing=true", self.path());
        let _: Value = self.opensearch.post(&path, &json!({})).await?;
        Ok(())
    }
}
