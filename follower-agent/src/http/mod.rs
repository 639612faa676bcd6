//! What the agent serves: the control API, the gateway in front of the follower cluster, the calls
//! that agents pass on to each other, and the page.

pub mod api;
pub mod gateway;
pub mod page;
pub mod peers;
