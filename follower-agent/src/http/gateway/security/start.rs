//! Whether callers are asked who they are, decided when the agent starts.

use http::StatusCode;
use shardline::contract::ApiError;

use super::{AUTHINFO, Grants, Guard};
use crate::http::gateway::upstream::Upstream;

/// `gateway.security.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The follower cluster's security plugin is asked.
    Plugin,
    /// Nobody is: whoever reaches the gateway may do everything.
    Off,
}

/// Why the agent does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StartError {
    #[error(
        "the follower cluster has the security plugin: set gateway.security.mode to \"plugin\", \
         so that the gateway asks it who calls, or to \"off\", and whoever reaches the gateway \
         controls replication"
    )]
    NotSaid,
    #[error(
        "gateway.security.mode is \"plugin\", but the follower cluster has no security plugin: \
         take the setting away, or set up the plugin"
    )]
    NoPlugin,
    #[error(
        "gateway.security.mode is \"plugin\", but the agent logs in as nobody: set \
         opensearch.username, or whoever does not log in either would be taken for the agent"
    )]
    NoLogin,
}

/// Whether the follower cluster has the security plugin.
pub(crate) async fn has_plugin(upstream: &Upstream) -> Result<bool, ApiError> {
    let answer = upstream.ask(AUTHINFO, None).await?;
    match answer.status {
        StatusCode::OK => Ok(true),
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => Ok(false),
        status => {
            let reason = format!("{AUTHINFO} answers {status}");
            Err(ApiError::unavailable(&reason))
        }
    }
}

/// What stands before the gateway of a cluster that has the security plugin, or has it not.
pub(crate) fn guard(
    mode: Option<Mode>,
    has_plugin: bool,
    upstream: Upstream,
    grants: Grants,
) -> Result<Guard, StartError> {
    match (mode, has_plugin) {
        (Some(Mode::Off), _) | (None, false) => Ok(Guard::off()),
        (None, true) => Err(StartError::NotSaid),
        (Some(Mode::Plugin), false) => Err(StartError::NoPlugin),
        (Some(Mode::Plugin), true) if upstream.login().is_none() => Err(StartError::NoLogin),
        (Some(Mode::Plugin), true) => Ok(Guard::of_plugin(upstream, grants)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::HeaderValue;

    use super::*;

    fn started(mode: Option<Mode>, has_plugin: bool, has_login: bool) -> Result<bool, StartError> {
        let url = "http://127.0.0.1:9".parse().unwrap();
        let mut upstream = Upstream::new(url, reqwest::Client::new());
        if has_login {
            upstream = upstream.with_authorization(HeaderValue::from_static("Basic YTpi"));
        }
        let grants = Grants::new(BTreeMap::new());
        guard(mode, has_plugin, upstream, grants).map(|guard| guard.is_on())
    }

    #[test]
    fn nobody_leaves_the_gateway_open_without_saying_so() {
        assert_eq!(started(None, true, true), Err(StartError::NotSaid));
        assert_eq!(started(Some(Mode::Off), true, true), Ok(false));
        assert_eq!(started(Some(Mode::Plugin), true, true), Ok(true));
    }

    #[test]
    fn a_cluster_without_the_plugin_needs_no_setting() {
        assert_eq!(started(None, false, false), Ok(false));
        assert_eq!(started(Some(Mode::Off), false, false), Ok(false));
        let asked = started(Some(Mode::Plugin), false, true);
        assert_eq!(asked, Err(StartError::NoPlugin));
    }

    #[test]
    fn an_agent_that_nobody_knows_is_not_started_where_callers_are_asked() {
        let anonymous = started(Some(Mode::Plugin), true, false);
        assert_eq!(anonymous, Err(StartError::NoLogin));
    }
}
