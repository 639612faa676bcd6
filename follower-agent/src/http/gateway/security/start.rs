//! Whether callers are asked who they are, decided when the agent starts.

use http::StatusCode;
use serde::Deserialize;

use super::caller::Caller;
use super::{AUTHINFO, Grants, Guard};
use crate::http::gateway::upstream::Upstream;
use shardline::contract::ApiError;

/// `gateway.security.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
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
        "the follower cluster has the security plugin: set gateway.security.mode to \"plugin\", so that the gateway asks it who calls, or to \"off\", and whoever reaches the gateway controls replication"
    )]
    NotSaid,
    #[error(
        "gateway.security.mode is \"plugin\", but the follower cluster has no security plugin: take the setting away, or set up the plugin"
    )]
    NoPlugin,
}

impl Guard {
    /// The agents' own user at the cluster's security plugin; `None` if it has none.
    pub(crate) async fn own_user(upstream: &Upstream) -> Result<Option<String>, ApiError> {
        let answer = upstream.ask(AUTHINFO, None).await?;
        match answer.status {
            StatusCode::OK => {
                let own: Result<Caller, _> = serde_json::from_slice(&answer.body);
                own.map(|own| Some(own.name))
                    .map_err(|error| ApiError::unavailable(&error))
            }
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => Ok(None),
            status => {
                let reason = format!("{AUTHINFO} answers {status}");
                Err(ApiError::unavailable(&reason))
            }
        }
    }
}

/// What stands before the gateway, with `own_user` as [`Guard::own_user`] says.
pub(crate) fn guard(
    mode: Option<Mode>,
    own_user: Option<String>,
    upstream: Upstream,
    grants: Grants,
) -> Result<Guard, StartError> {
    match (mode, own_user) {
        (Some(Mode::Off), _) | (None, None) => Ok(Guard::off()),
        (None, Some(_)) => Err(StartError::NotSaid),
        (Some(Mode::Plugin), None) => Err(StartError::NoPlugin),
        (Some(Mode::Plugin), Some(name)) => Ok(Guard::of_plugin(upstream, grants, name)),
    }
}
