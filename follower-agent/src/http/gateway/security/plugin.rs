//! The follower cluster's security plugin, asked in the caller's name.

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use parking_lot::Mutex;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use shardline_common::control::ReplicationRoles;

use super::actions::{Needed, VALIDATE};
use super::caller::{Caller, Identity};
use super::grants::{Found, Grants};
use super::logins::{Logins, Verdict};
use super::{AUTHINFO, Refused};
use crate::http::gateway::forwarded::to_cluster;
use crate::http::gateway::upstream::{Answer, Upstream};
use shardline::contract::ApiError;

const HARMLESS: &str = "/_cluster/health";
const DRY: &str = "perform_permission_check=true";

/// A request that is only judged: its method, path and body.
pub(super) type Question = (Method, String, Option<&'static str>);

#[derive(Debug)]
pub(super) struct Plugin {
    upstream: Upstream,
    grants: Grants,
    logins: Logins,
    /// Who the agents are at the cluster, with the login that this was asked with.
    own_user: Mutex<Option<(Option<HeaderValue>, String)>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Judgement {
    access_allowed: bool,
    #[serde(default)]
    missing_privileges: BTreeSet<String>,
}

impl Plugin {
    pub(super) fn new(upstream: Upstream, grants: Grants) -> Self {
        Self {
            upstream,
            grants,
            logins: Logins::default(),
            own_user: Mutex::default(),
        }
    }

    /// Who calls, as the plugin says or said a moment ago.
    pub(super) async fn login(&self, parts: &Parts) -> Result<Caller, Refused> {
        let identity = Identity::of(&to_cluster(&parts.headers, parts));
        let known = identity.and_then(|identity| self.logins.get(identity, Instant::now()));
        let verdict = match known {
            Some(verdict) => verdict,
            None => {
                let verdict = self.ask(parts).await?;
                if let Some(identity) = identity {
                    self.logins.keep(identity, verdict.clone(), Instant::now());
                }
                verdict
            }
        };
        match verdict {
            Verdict::Admitted(caller) => Ok(caller),
            Verdict::Refused(answer) => Err(Refused::Relayed(Box::new(answer))),
        }
    }

    async fn ask(&self, parts: &Parts) -> Result<Verdict, Refused> {
        let answer = self
            .upstream
            .ask_as(parts, Method::GET, AUTHINFO, None, None)
            .await?;
        match answer.status {
            StatusCode::OK => {
                let mut caller: Caller = understood(&answer)?;
                caller.is_agent = caller.name == self.own_user().await?;
                Ok(Verdict::Admitted(caller))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(Verdict::Refused(answer)),
            // It is not known who calls: such as while the plugin is not initialised.
            _ => Err(Refused::Relayed(Box::new(answer))),
        }
    }

    /// Who the agents are; asked again when they log in as somebody else.
    async fn own_user(&self) -> Result<String, Refused> {
        let login = self.upstream.login();
        if let Some((asked_with, name)) = &*self.own_user.lock()
            && *asked_with == login
        {
            return Ok(name.clone());
        }
        let answer = self.upstream.ask(AUTHINFO, None).await?;
        if answer.status != StatusCode::OK {
            let reason = format!("{AUTHINFO} answers the agent's own user {}", answer.status);
            return Err(ApiError::unavailable(&reason).into());
        }
        let own: Caller = understood(&answer)?;
        *self.own_user.lock() = Some((login, own.name.clone()));
        Ok(own.name)
    }

    /// By which of the caller's roles an action is allowed on an index; without one, on all.
    pub(super) fn finds(
        &self,
        caller: &Caller,
        action: &str,
        index: Option<&str>,
    ) -> Option<Found> {
        if caller.is_agent {
            return Some(Found::Predefined);
        }
        self.grants.find(&caller.roles, action, index)
    }

    pub(super) async fn may(
        &self,
        parts: &Parts,
        caller: &Caller,
        needed: Needed,
        roles: Option<&ReplicationRoles>,
        named: &str,
    ) -> Result<(), Refused> {
        let Some(action) = needed.action else {
            return Ok(());
        };
        let index = needed.of_index.then_some(named);
        let Some(found) = self.finds(caller, action, index) else {
            return Err(forbidden(action, caller).into());
        };
        if caller.is_agent {
            return Ok(());
        }
        if found == Found::Configured || needed.shows_contents {
            let index = utf8_percent_encode(named, NON_ALPHANUMERIC);
            let questions = needed.dry_runs.into_iter();
            let questions = questions
                .map(|(method, suffix, body)| (method, format!("/{index}{suffix}"), body))
                .collect();
            self.judged(parts, caller, questions).await?;
        }
        match needed.begins {
            true => Ok(self.check_roles(caller, roles, index)?),
            false => Ok(()),
        }
    }

    /// Whether the cluster would carry all these requests out for the caller.
    pub(super) async fn judged(
        &self,
        parts: &Parts,
        caller: &Caller,
        questions: Vec<Question>,
    ) -> Result<(), Refused> {
        if questions.is_empty() {
            return Ok(());
        }
        // The plugin's administrators are not judged: their requests are carried out. So something
        // harmless goes first, and it does not matter whether it is allowed.
        self.judgement(parts, Method::GET, HARMLESS, None).await?;
        for (method, path, body) in questions {
            let judgement = self.judgement(parts, method, &path, body).await?;
            if !judgement.access_allowed {
                let missing: Vec<String> = judgement.missing_privileges.into_iter().collect();
                return Err(forbidden(&missing.join(", "), caller).into());
            }
        }
        Ok(())
    }

    async fn judgement(
        &self,
        parts: &Parts,
        method: Method,
        path: &str,
        body: Option<&'static str>,
    ) -> Result<Judgement, Refused> {
        let body = body.map(|body| Bytes::from_static(body.as_bytes()));
        let answer = self
            .upstream
            .ask_as(parts, method, path, Some(DRY), body)
            .await?;
        if answer.status != StatusCode::OK {
            return Err(Refused::Relayed(Box::new(answer)));
        }
        serde_json::from_slice(&answer.body).map_err(|_| {
            let reason = "the follower cluster does not judge what this user may \
                          (perform_permission_check): the plugin's administrators cannot make this \
                          call, nor can anybody with a plugin that does not know the parameter";
            refusal(reason).into()
        })
    }

    /// Whether the roles under which something is to go on are the caller's own, and allow it.
    fn check_roles(
        &self,
        caller: &Caller,
        roles: Option<&ReplicationRoles>,
        index: Option<&str>,
    ) -> Result<(), ApiError> {
        let Some(roles) = roles else {
            return Err(refusal("Follower roles are mandatory for replication"));
        };
        let role = &roles.follower_cluster_role;
        if !caller.roles.contains(role) {
            let reason = format!("No mapping for {} on roles [{role}]", caller.shown);
            return Err(refusal(&reason));
        }
        let alone = BTreeSet::from([role.clone()]);
        match self.grants.find(&alone, VALIDATE, index) {
            Some(_) => Ok(()),
            None => Err(forbidden(VALIDATE, caller)),
        }
    }
}

fn understood(answer: &Answer) -> Result<Caller, ApiError> {
    serde_json::from_slice(&answer.body).map_err(|error| {
        let reason = format!("the security plugin's {AUTHINFO} is not understood: {error}");
        ApiError::status_exception(StatusCode::BAD_GATEWAY, reason)
    })
}

fn forbidden(action: &str, caller: &Caller) -> ApiError {
    let shown = &caller.shown;
    refusal(&format!("no permissions for [{action}] and {shown}"))
}

fn refusal(reason: &str) -> ApiError {
    ApiError::security(reason)
}
