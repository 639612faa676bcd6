//! What the agent serves: the control API, the gateway in front of the follower cluster, the calls
//! that agents pass on to each other, and the page.

pub(crate) mod api;
pub(crate) mod gateway;
pub(crate) mod measure;
pub(crate) mod page;
pub(crate) mod peers;
