//! The dev stack: real OpenSearch clusters, Kafka brokers and Shardline agents on this machine,
//! without containers.
//!
//! End-to-end tests and the demo start a [`Stack`] that dies with them; `deploy/dev/up` starts one
//! that stays.

mod agents;
mod down;
mod endpoints;
mod jars;
mod kafka;
mod launcher;
mod opensearch;
mod ports;
mod process;
mod process_id;
mod ready;
mod security;
mod stack;

pub use agents::{AgentConfig, find_binary};
pub use down::{down, wipe};
pub use endpoints::{Endpoint, Endpoints};
pub use jars::Jars;
pub use launcher::Lifetime;
pub use nix::sys::signal::Signal;
pub use opensearch::{OpenSearchVersion, wait_for_status};
pub use ports::{AgentPorts, BasePorts, BrokerPorts, NodePorts, PortPlan, Ports};
pub use process::{Process, ProcessSpec};
pub use process_id::{ProcessId, stop_all};
pub use ready::{Ready, wait_until_ready};
pub use security::Access;
pub use stack::{Stack, StackOptions};
