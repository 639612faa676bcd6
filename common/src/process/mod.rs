//! What a process needs, whatever it does: configuration and its reload, logs and metrics, clocks,
//! pauses between attempts, leases and tasks.

pub mod backoff;
pub mod blocking;
pub mod clock;
pub mod config;
#[cfg(feature = "agent")]
pub mod exposition;
pub mod late;
pub mod lease;
#[cfg(feature = "agent")]
pub(crate) mod reload;
pub mod tasks;
#[cfg(feature = "agent")]
pub mod telemetry;
