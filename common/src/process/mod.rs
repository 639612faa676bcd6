//! What a process needs, whatever it does: configuration, launch and end, logs and metrics, clocks,
//! pauses between attempts, leases and tasks.

pub mod backoff;
pub mod blocking;
pub mod clock;
pub mod config;
#[cfg(feature = "agent")]
pub mod exposition;
pub mod late;
#[cfg(feature = "agent")]
pub mod launch;
pub mod lease;
pub mod tasks;
#[cfg(feature = "agent")]
pub mod telemetry;
