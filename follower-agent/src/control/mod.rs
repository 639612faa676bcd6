//! The control plane: what is followed on this cluster, and what users, rules and tasks change
//! of it.

pub(crate) mod auto_follow;
pub(crate) mod bulk_tasks;
mod dead_letters;
mod evidence;
pub(crate) mod leader_watch;
mod leaders;
mod locks;
mod overview;
mod own_gateway;
mod stats;
mod status;
mod subscriptions;
pub(crate) mod tidy_requests;
pub(crate) mod verify;

pub(crate) use self::leaders::Leaders;
pub use self::own_gateway::{GatewayCalls, OwnGateway};
pub(crate) use self::subscriptions::Subscriptions;
