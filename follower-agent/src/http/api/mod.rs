//! The routes of the control API: from a request to a call, and from its outcome to an answer.

pub(crate) mod calls;
pub(crate) mod filter;
pub mod openapi;
pub(crate) mod query;
pub(crate) mod render;
pub(crate) mod routes;
