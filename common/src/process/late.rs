//! Work that may take long for reasons of others.

use std::pin::pin;
use std::time::Duration;

const LATE_AFTER: Duration = Duration::from_secs(5);

/// Does the work to its end. If it takes long, `when_late` is called meanwhile, such as to give up
/// what others wait for.
pub async fn noticing<T>(work: impl Future<Output = T>, when_late: impl FnOnce()) -> T {
    let mut work = pin!(work);
    if let Ok(done) = tokio::time::timeout(LATE_AFTER, &mut work).await {
        return done;
    }
    when_late();
    work.await
}
