//! Whether somebody may see contents of documents that the gateway shows itself: ids, and the texts
//! of errors. The cluster's document rules, field rules and masks do not reach these.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use http::StatusCode;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use shardline_common::wildcard::wildcard_match;

use super::caller::Caller;
use super::grants::Grants;
use crate::http::gateway::upstream::{Answer, Upstream};
use shardline::contract::ApiError;

const ROLES: &str = "/_plugins/_security/api/roles";
/// How long the cluster's roles are not asked for again.
const KNOWN_FOR: Duration = Duration::from_secs(5);
/// What the security plugin says of replication by such a user.
const RULES: &str =
    "Cross Cluster Replication is not supported when FLS or DLS or Fieldmasking is activated";

/// The follower cluster's roles, where the agents' user may read them.
#[derive(Debug, Default)]
pub(super) struct Contents {
    known: Mutex<Option<(Instant, Option<Rules>)>>,
}

/// Each role, with the patterns of the indices of which it hides something.
type Rules = BTreeMap<String, Vec<String>>;

#[derive(Deserialize)]
struct Role {
    #[serde(default)]
    index_permissions: Vec<IndexPermission>,
}

#[derive(Deserialize)]
struct IndexPermission {
    #[serde(default)]
    index_patterns: Vec<String>,
    #[serde(default)]
    dls: Option<String>,
    #[serde(default)]
    fls: Option<Vec<String>>,
    #[serde(default)]
    masked_fields: Option<Vec<String>>,
}

impl IndexPermission {
    fn hides(&self) -> bool {
        let is_filled = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
        self.dls.as_ref().is_some_and(|dls| !dls.is_empty())
            || is_filled(&self.fls)
            || is_filled(&self.masked_fields)
    }
}

impl Contents {
    /// Refuses a caller from whom one of their roles hides something of the index, or may do so.
    pub(super) async fn check(
        &self,
        upstream: &Upstream,
        grants: &Grants,
        caller: &Caller,
        index: &str,
    ) -> Result<(), ApiError> {
        let rules = self.rules(upstream).await?;
        let mut unknown: BTreeSet<&str> = BTreeSet::new();
        let mut hiding: Vec<&String> = Vec::new();
        for role in &caller.roles {
            match rules.as_ref().and_then(|rules| rules.get(role)) {
                Some(patterns) => hiding.extend(patterns),
                None if grants.shows_contents(role) => {}
                None => drop(unknown.insert(role)),
            }
        }
        if let Some(role) = unknown.first() {
            return Err(ApiError::security(format!(
                "{RULES}, and it is not known whether role [{role}] does that: \
                 gateway.security.roles.{role}.shows_contents says that it does not"
            )));
        }
        if hiding.is_empty() {
            return Ok(());
        }
        let names = names(upstream, index).await?;
        let is_hidden = hiding.into_iter().any(|pattern| covers(pattern, &names));
        match is_hidden {
            true => Err(ApiError::security(RULES)),
            false => Ok(()),
        }
    }

    /// `None` if the agents' user may not read roles.
    async fn rules(&self, upstream: &Upstream) -> Result<Option<Rules>, ApiError> {
        let now = Instant::now();
        if let Some((until, rules)) = &*self.known.lock()
            && now < *until
        {
            return Ok(rules.clone());
        }
        let answer = upstream.ask(ROLES, None).await?;
        let rules = match answer.status {
            StatusCode::OK => Some(rules_of(&answer)?),
            StatusCode::FORBIDDEN => None,
            status => {
                let reason = format!("the follower cluster answers {ROLES} with {status}");
                return Err(ApiError::unavailable(&reason));
            }
        };
        *self.known.lock() = Some((now + KNOWN_FOR, rules.clone()));
        Ok(rules)
    }
}

fn rules_of(answer: &Answer) -> Result<Rules, ApiError> {
    let roles: BTreeMap<String, Role> = serde_json::from_slice(&answer.body).map_err(|error| {
        let reason = format!("the security plugin's {ROLES} is not understood: {error}");
        ApiError::status_exception(StatusCode::BAD_GATEWAY, reason)
    })?;
    let hiding = |role: Role| {
        let permissions = role.index_permissions.into_iter();
        let hiding = permissions.filter(IndexPermission::hides);
        hiding.flat_map(|permission| permission.index_patterns).collect()
    };
    let roles = roles.into_iter();
    Ok(roles.map(|(name, role)| (name, hiding(role))).collect())
}

/// The index's name and its aliases: a role may have either.
async fn names(upstream: &Upstream, index: &str) -> Result<BTreeSet<String>, ApiError> {
    let mut names = BTreeSet::from([index.to_owned()]);
    let encoded = super::plugin::encoded(index);
    let answer = upstream.ask(&format!("/{encoded}/_alias"), None).await?;
    match answer.status {
        StatusCode::OK => {
            let indices: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let aliases = indices.as_object().into_iter().flatten();
            let aliases = aliases.filter_map(|(_, found)| found["aliases"].as_object());
            names.extend(aliases.flatten().map(|(name, _)| name.clone()));
            Ok(names)
        }
        StatusCode::NOT_FOUND => Ok(names),
        status => {
            let reason = format!("the aliases of [{index}] are not known: status {status}");
            Err(ApiError::unavailable(&reason))
        }
    }
}

/// A pattern with a variable or a regular expression may be any.
fn covers(pattern: &str, names: &BTreeSet<String>) -> bool {
    let is_more = pattern.contains("${") || pattern.starts_with('/') || pattern.contains('?');
    is_more || names.iter().any(|name| wildcard_match(pattern, name))
}
