//! Work that waits for files.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinError;

/// Runs the work beside the runtime's own threads. A runtime of one thread, such as the
/// simulation's, has nothing to keep going meanwhile: there it runs in place, so that what happens
/// does not depend on another thread.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => Ok(work()),
        _ => tokio::task::spawn_blocking(work).await,
    }
}

/// Runs the work as [`blocking`] does, without anybody waiting for it.
pub fn in_background(work: impl FnOnce() + Send + 'static) {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => work(),
        _ => drop(tokio::task::spawn_blocking(work)),
    }
}
