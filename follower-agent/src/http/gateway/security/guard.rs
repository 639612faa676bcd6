//! Stands before the control API and whatever the gateway answers by itself.

use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use tracing::info;

use super::actions::{STATUS, needed, roles_of};
use super::caller::Caller;
use super::plugin::Plugin;
use super::{Grants, Refused};
use crate::http::api::calls::Call;
use crate::http::gateway::forwarded::Peer;
use crate::http::gateway::upstream::Upstream;
use shardline::contract::ON_BEHALF_OF;

/// Asks who calls and what they may, or nobody anything.
#[derive(Debug)]
pub struct Guard(Option<Plugin>);

impl Guard {
    /// Asks nobody anything.
    pub fn off() -> Self {
        Self(None)
    }

    /// Asks the security plugin of the cluster behind the gateway.
    pub(crate) fn of_plugin(upstream: Upstream, grants: Grants) -> Self {
        Self(Some(Plugin::new(upstream, grants)))
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
            (Some(plugin), Some(caller)) => {
                let roles = roles_of(call);
                plugin.may(parts, caller, needed(call), roles, named).await
            }
            _ => Ok(()),
        }
    }

    /// In whose name a call is: that of another if the agents themselves call.
    pub(crate) fn user_of(&self, parts: &Parts, caller: Option<&Caller>) -> Option<String> {
        let caller = caller?;
        match on_behalf_of(parts) {
            Some(user) if caller.is_agent => Some(user.to_owned()),
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

    /// Whether the caller may see what is not about one index.
    pub(crate) fn shows_all(&self, caller: Option<&Caller>) -> bool {
        match (&self.0, caller) {
            (Some(plugin), Some(caller)) => plugin.finds(caller, STATUS, None).is_some(),
            _ => true,
        }
    }

    /// Whether the caller may change cluster settings: those that the gateway keeps are among them.
    pub(crate) async fn may_change_settings(
        &self,
        parts: &Parts,
        caller: Option<&Caller>,
    ) -> Result<(), Refused> {
        let (Some(plugin), Some(caller)) = (&self.0, caller) else {
            return Ok(());
        };
        if caller.is_agent {
            return Ok(());
        }
        let body = r#"{"persistent":{"cluster.routing.allocation.enable":null}}"#;
        let settings = (Method::PUT, "/_cluster/settings".to_owned(), Some(body));
        plugin.judged(parts, caller, vec![settings]).await
    }

    /// Logs a line for each control call that changes something, and for each that is refused.
    pub(crate) fn audit(&self, parts: &Parts, caller: Option<&Caller>, status: StatusCode) {
        let is_refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if parts.method == Method::GET && !is_refused {
            return;
        }
        let from = parts.extensions.get::<Peer>().map(|Peer(peer)| peer.ip());
        let user = caller.map(|caller| caller.name.as_str());
        let agent = caller.filter(|caller| caller.is_agent);
        info!(
            target: "audit",
            user,
            on_behalf_of = agent.and_then(|_| on_behalf_of(parts)),
            from = from.map(tracing::field::display),
            method = %parts.method,
            path = parts.uri.path(),
            status = status.as_u16(),
            "control call"
        );
    }
}

fn on_behalf_of(parts: &Parts) -> Option<&str> {
    let header = parts.headers.get(ON_BEHALF_OF);
    header.and_then(|user: &HeaderValue| user.to_str().ok())
}
