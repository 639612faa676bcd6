//! The control plane: what is followed on this cluster and what users, rules and tasks change of it.

pub mod auto_follow;
pub mod bulk_tasks;
mod dead_letters;
mod evidence;
pub mod leader_watch;
mod leaders;
mod locks;
mod own_gateway;
mod stats;
mod status;
mod subscriptions;
pub mod tidy_requests;
pub mod verify;

pub use self::leaders::Leaders;
pub use self::own_gateway::OwnGateway;
pub use self::subscriptions::Subscriptions;
