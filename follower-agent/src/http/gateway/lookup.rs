//! Asks the follower cluster for its names, and keeps the answer for a moment.
//!
//! One question is asked at a time, and whoever waits for it shares its answer, be it an error. It
//! is asked of the node's own copy of the cluster state, so that it can be answered while there is
//! no cluster manager.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use serde::de::DeserializeOwned;
use shardline_common::types::IndexName;
use tokio::sync::Mutex;

use super::names::{AliasAnswer, Followed, KnownAliases, Names, StateAnswer};
use super::upstream::Upstream;
use shardline::contract::ApiError;

/// How long an answer counts as new.
const NEW_FOR: Duration = Duration::from_secs(1);
/// How long an answer may serve while the cluster cannot be asked.
const USABLE_FOR: Duration = Duration::from_secs(10);
/// How long it is remembered which indices exist, for names that need no look-up.
const INDICES_KNOWN_FOR: Duration = Duration::from_secs(60);

const STATE: &str = "/_cluster/state/metadata";
const STATE_PARAMETERS: &str = "local=true&expand_wildcards=all&filter_path=\
    metadata.indices.*.state,metadata.indices.*.aliases,\
    metadata.indices.*.settings.index.hidden,metadata.data_stream.data_stream.*.indices.index_name";
const ALIASES: &str = "/_alias/*";
const ALIASES_PARAMETERS: &str = "local=true&expand_wildcards=all";

/// The names of the follower cluster as they were last heard of.
#[derive(Default)]
pub(super) struct Lookup {
    last: Mutex<Last>,
    /// What [`Lookup::is_settled`] looks at, without waiting for a question under way.
    indices: parking_lot::RwLock<Option<(Instant, Arc<Names>)>>,
    /// The names with what replication knows beside the cluster, and what they were made of.
    joined: parking_lot::Mutex<Option<Joined>>,
}

struct Joined {
    cluster: Arc<Names>,
    known: Arc<KnownAliases>,
    names: Arc<Names>,
}

#[derive(Default)]
struct Last {
    heard: Option<(Instant, Arc<Names>)>,
    failed: Option<(Instant, ApiError)>,
}

impl Lookup {
    /// The names, asked for within the last second, or the last ten if the cluster cannot answer,
    /// with the aliases that replication knows.
    pub(super) async fn names(
        &self,
        upstream: &Upstream,
        known: &Arc<KnownAliases>,
    ) -> Result<Arc<Names>, ApiError> {
        let cluster = self.of_cluster(upstream).await?;
        let mut joined = self.joined.lock();
        if let Some(joined) = joined.as_ref()
            && Arc::ptr_eq(&joined.cluster, &cluster)
            && Arc::ptr_eq(&joined.known, known)
        {
            return Ok(Arc::clone(&joined.names));
        }
        let names = Arc::new(Names::clone(&cluster).with(known));
        *joined = Some(Joined {
            cluster,
            known: Arc::clone(known),
            names: Arc::clone(&names),
        });
        Ok(names)
    }

    async fn of_cluster(&self, upstream: &Upstream) -> Result<Arc<Names>, ApiError> {
        let arrived = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(names) = last.heard_within(NEW_FOR) {
            return Ok(names);
        }
        if let Some((when, error)) = &last.failed
            && *when >= arrived
        {
            return last.heard_within(USABLE_FOR).ok_or_else(|| error.clone());
        }
        let asked = Instant::now();
        match ask(upstream).await {
            Ok(names) => {
                let names = Arc::new(names);
                last.heard = Some((asked, Arc::clone(&names)));
                last.failed = None;
                *self.indices.write() = Some((asked, Arc::clone(&names)));
                Ok(names)
            }
            Err(error) => {
                last.failed = Some((Instant::now(), error.clone()));
                last.heard_within(USABLE_FOR).ok_or(error)
            }
        }
    }

    /// Whether it is known without a question what a name stands for: itself, an index that is
    /// followed, or one that exists and so is no alias.
    pub(super) fn is_settled(&self, name: &str, followed: &Followed, known: &KnownAliases) -> bool {
        let is_index = || {
            self.indices
                .read()
                .as_ref()
                .filter(|(asked, _)| asked.elapsed() < INDICES_KNOWN_FOR)
                .is_some_and(|(_, names)| names.has_index(name))
        };
        followed.contains(&IndexName::from(name)) || (!known.contains_key(name) && is_index())
    }

    /// After a change of names: the next question is asked anew.
    pub(super) async fn forget(&self) {
        *self.last.lock().await = Last::default();
        *self.indices.write() = None;
    }
}

impl Last {
    fn heard_within(&self, limit: Duration) -> Option<Arc<Names>> {
        self.heard
            .as_ref()
            .filter(|(asked, _)| asked.elapsed() < limit)
            .map(|(_, names)| Arc::clone(names))
    }
}

async fn ask(upstream: &Upstream) -> Result<Names, ApiError> {
    let (state, aliases) = tokio::join!(
        upstream.ask(STATE, Some(STATE_PARAMETERS)),
        upstream.ask(ALIASES, Some(ALIASES_PARAMETERS)),
    );
    let (state, aliases) = (state?, aliases?);
    if !state.status.is_success() {
        return Err(failed(&format!("GET {STATE} answered {}", state.status)));
    }
    let state: StateAnswer = parse(STATE, &state.body)?;
    let aliases: Option<AliasAnswer> = match aliases.status {
        StatusCode::NOT_FOUND => None,
        // An agent that may not see every index knows what the cluster state says.
        StatusCode::FORBIDDEN => None,
        status if status.is_success() => Some(parse(ALIASES, &aliases.body)?),
        status => return Err(failed(&format!("GET {ALIASES} answered {status}"))),
    };
    Ok(Names::new(state, aliases))
}

fn parse<T: DeserializeOwned>(path: &str, body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| failed(&format!("the answer to GET {path} cannot be read: {error}")))
}

/// Without knowing what a name stands for a write cannot be let through.
fn failed(detail: &str) -> ApiError {
    let reason = format!("the gateway could not ask the follower cluster for its names: {detail}");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "status_exception", reason)
}
