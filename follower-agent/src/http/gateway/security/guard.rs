//! Lets a call through, or says why not, in the plugin's words.

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tracing::info;

use super::actions::{DryRun, STATUS, VALIDATE, needed, roles_of};
use super::caller::{Caller, Identity};
use super::grants::{Found, Grants};
use super::logins::{Logins, Verdict};
use super::{AUTHINFO, Refused};
use crate::http::api::calls::Call;
use crate::http::gateway::forwarded::{Peer, to_cluster};
use crate::http::gateway::upstream::{Answer, Upstream};
use shardline::contract::ApiError;
use shardline::contract::request::UseRoles;

/// For whom the agents' own user calls: heard from that user alone.
const ON_BEHALF_OF: &str = "x-shardline-on-behalf-of";
const DRY: &str = "perform_permission_check=true";

/// Stands before the control API and whatever the gateway answers by itself.
#[derive(Debug)]
pub struct Guard(Option<Plugin>);

#[derive(Debug)]
struct Plugin {
    upstream: Upstream,
    grants: Grants,
    logins: Logins,
    /// The agents' own user, who calls for rules and tasks.
    own_user: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Judgement {
    access_allowed: bool,
    #[serde(default)]
    missing_privileges: BTreeSet<String>,
}

impl Guard {
    /// Asks nobody anything.
    pub fn off() -> Self {
        Self(None)
    }

    pub(super) fn of_plugin(upstream: Upstream, grants: Grants, own_user: String) -> Self {
        Self(Some(Plugin {
            upstream,
            grants,
            logins: Logins::default(),
            own_user,
        }))
    }

    /// Whether callers are asked who they are.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Who calls; `None` where nobody is asked.
    pub(crate) async fn login(&self, parts: &Parts) -> Result<Option<Caller>, Refused> {
        match &self.0 {
            Some(plugin) => plugin.login(parts).await.map(Some),
            None => Ok(None),
        }
    }

    /// Whether the caller may have this control call carried out.
    pub(crate) async fn may(
        &self,
        parts: &Parts,
        caller: Option<&Caller>,
        call: &Call,
        named: &str,
    ) -> Result<(), Refused> {
        match (&self.0, caller) {
            (Some(plugin), Some(caller)) => plugin.may(parts, caller, call, named).await,
            _ => Ok(()),
        }
    }

    /// In whose name a call is: that of another if the agents themselves call.
    pub(crate) fn user_of(&self, parts: &Parts, caller: Option<&Caller>) -> Option<String> {
        let (Some(plugin), Some(caller)) = (&self.0, caller) else {
            return None;
        };
        let behalf = parts.headers.get(ON_BEHALF_OF);
        match behalf.and_then(|user| user.to_str().ok()) {
            Some(user) if caller.name == plugin.own_user => Some(user.to_owned()),
            _ => Some(caller.name.clone()),
        }
    }

    /// Whether the caller may see that an index is followed.
    pub(crate) fn shows(&self, caller: Option<&Caller>, index: &str) -> bool {
        match (&self.0, caller) {
            (Some(plugin), Some(caller)) => plugin.finds(caller, STATUS, Some(index)).is_some(),
            _ => true,
        }
    }

    /// Whether the caller may change cluster settings: those that the gateway keeps are among them.
    pub(crate) async fn may_change_settings(&self, parts: &Parts) -> Result<(), Refused> {
        let Some(plugin) = &self.0 else { return Ok(()) };
        let caller = plugin.login(parts).await?;
        if caller.name == plugin.own_user {
            return Ok(());
        }
        let body = r#"{"persistent":{"cluster.routing.allocation.enable":null}}"#;
        plugin
            .judged(
                parts,
                &caller,
                Method::PUT,
                "/_cluster/settings",
                Some(body),
            )
            .await
    }

    /// One line for each control call that changes something, and for each that is refused.
    pub(crate) fn audit(&self, parts: &Parts, caller: Option<&Caller>, status: StatusCode) {
        let is_refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if parts.method == Method::GET && !is_refused {
            return;
        }
        let from = parts.extensions.get::<Peer>().map(|Peer(peer)| peer.ip());
        info!(
            target: "audit",
            user = caller.map(|caller| caller.name.as_str()),
            from = from.map(tracing::field::display),
            method = %parts.method,
            path = parts.uri.path(),
            status = status.as_u16(),
            "control call"
        );
    }
}

impl Plugin {
    async fn login(&self, parts: &Parts) -> Result<Caller, Refused> {
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
            StatusCode::OK => serde_json::from_slice(&answer.body)
                .map(Verdict::Admitted)
                .map_err(|error| {
                    let reason =
                        format!("the security plugin's {AUTHINFO} is not understood: {error}");
                    ApiError::status_exception(StatusCode::BAD_GATEWAY, reason).into()
                }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(Verdict::Refused(answer)),
            // It is not known who calls: such as while the plugin is not initialised.
            _ => Err(Refused::Relayed(Box::new(answer))),
        }
    }

    fn finds(&self, caller: &Caller, action: &str, index: Option<&str>) -> Option<Found> {
        if caller.name == self.own_user {
            return Some(Found::Predefined);
        }
        self.grants.find(&caller.roles, action, index)
    }

    async fn may(
        &self,
        parts: &Parts,
        caller: &Caller,
        call: &Call,
        named: &str,
    ) -> Result<(), Refused> {
        let needed = needed(call);
        let Some(action) = needed.action else {
            return Ok(());
        };
        let index = needed.of_index.then_some(named);
        let Some(found) = self.finds(caller, action, index) else {
            return Err(forbidden(action, caller).into());
        };
        if caller.name == self.own_user {
            return Ok(());
        }
        if found == Found::Configured || needed.shows_contents {
            self.dry(parts, caller, named, needed.dry_runs).await?;
        }
        match needed.begins {
            true => Ok(self.check_roles(caller, roles_of(call), index)?),
            false => Ok(()),
        }
    }

    /// Asks the cluster whether it would do the like to the index for the caller.
    async fn dry(
        &self,
        parts: &Parts,
        caller: &Caller,
        index: &str,
        dry_runs: Vec<DryRun>,
    ) -> Result<(), Refused> {
        if index.is_empty() {
            return Ok(());
        }
        let index = utf8_percent_encode(index, NON_ALPHANUMERIC);
        for (method, suffix, body) in dry_runs {
            let path = format!("/{index}{suffix}");
            self.judged(parts, caller, method, &path, body).await?;
        }
        Ok(())
    }

    async fn judged(
        &self,
        parts: &Parts,
        caller: &Caller,
        method: Method,
        path: &str,
        body: Option<&'static str>,
    ) -> Result<(), Refused> {
        let body = body.map(|body| Bytes::from_static(body.as_bytes()));
        let answer = self
            .upstream
            .ask_as(parts, method, path, Some(DRY), body)
            .await?;
        match judgement(&answer) {
            Some(judgement) if judgement.access_allowed => Ok(()),
            Some(judgement) => {
                let missing: Vec<String> = judgement.missing_privileges.into_iter().collect();
                Err(forbidden(&missing.join(", "), caller).into())
            }
            None => Err(Refused::Relayed(Box::new(answer))),
        }
    }

    /// What begins goes on under roles: the caller's own must be such that allow it.
    fn check_roles(
        &self,
        caller: &Caller,
        roles: Option<&UseRoles>,
        index: Option<&str>,
    ) -> Result<(), ApiError> {
        let Some(roles) = roles else {
            return Err(refusal("Follower roles are mandatory for replication"));
        };
        let Some(role) = &roles.follower_cluster_role else {
            return Err(refusal("Follower roles are mandatory for replication"));
        };
        if roles.leader_cluster_role.is_none() {
            return Err(refusal("Leader roles are mandatory for replication"));
        }
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

fn judgement(answer: &Answer) -> Option<Judgement> {
    let is_judged = answer.status == StatusCode::OK;
    is_judged
        .then(|| serde_json::from_slice(&answer.body).ok())
        .flatten()
}

fn forbidden(action: &str, caller: &Caller) -> ApiError {
    refusal(&format!(
        "no permissions for [{action}] and {}",
        caller.shown
    ))
}

fn refusal(reason: &str) -> ApiError {
    ApiError::security(reason)
}
