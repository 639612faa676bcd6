//! The routes of the control API: from a request to a call, and from its outcome to an answer.

pub mod calls;
pub mod filter;
pub mod openapi;
pub mod query;
pub mod render;
pub mod routes;
