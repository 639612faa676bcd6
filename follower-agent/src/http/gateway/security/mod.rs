//! Who calls, and what they may: asked of the follower cluster's security plugin in the caller's
//! name, so that the gateway keeps no users of its own.

mod actions;
mod caller;
mod grants;
mod guard;
mod logins;
mod plugin;
mod start;
#[cfg(test)]
mod tests;

use axum::response::Response;

use super::upstream::Answer;
use crate::http::api::render::{self, Rendering};
use shardline::contract::ApiError;

pub(crate) use caller::Caller;
pub(crate) use grants::{Grant, Grants};
pub use guard::Guard;
pub(crate) use start::{Mode, guard, has_plugin};

const AUTHINFO: &str = "/_plugins/_security/authinfo";

/// Why a caller gets nothing.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The cluster's own answer, with what it wants to know.
    Relayed(Box<Answer>),
    Said(Box<ApiError>),
}

impl Refused {
    pub(super) fn status(&self) -> http::StatusCode {
        match self {
            Self::Relayed(answer) => answer.status,
            Self::Said(error) => error.status(),
        }
    }

    pub(crate) fn into_response(self, rendering: &Rendering) -> Response {
        match self {
            Self::Relayed(answer) => answer.into_response(),
            Self::Said(error) => render::refusal(&error, rendering),
        }
    }
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Said(Box::new(error))
    }
}
