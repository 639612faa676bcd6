//! A permission to write that ends by itself unless it is renewed in time.

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Makes a lease that has ended, and what renews it.
pub fn lease() -> (LeaseKeeper, Lease) {
    let (keeper, lease) = watch::channel(Instant::now());
    (LeaseKeeper(keeper), Lease(lease))
}

pub struct LeaseKeeper(watch::Sender<Instant>);

impl LeaseKeeper {
    /// The lease lasts at least until then.
    pub fn extend(&self, until: Instant) {
        self.0.send_if_modified(|end| {
            let later = until > *end;
            *end = until.max(*end);
            later
        });
    }

    /// The lease ends now.
    pub fn end(&self) {
        self.0.send_replace(Instant::now());
    }
}

#[derive(Clone, Debug)]
pub struct Lease(watch::Receiver<Instant>);

impl Lease {
    pub fn is_valid(&self) -> bool {
        Instant::now() < *self.0.borrow()
    }

    /// Resolves when the lease has ended without being renewed before.
    pub async fn ended(&self) {
        let mut end = self.0.clone();
        loop {
            let until = *end.borrow_and_update();
            if Instant::now() >= until {
                return;
            }
            tokio::select! {
                () = sleep_until(until) => {}
                changed = end.changed() => if changed.is_err() { return },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_lease_lasts_as_long_as_it_is_renewed() {
        let (keeper, lease) = lease();
        assert!(!lease.is_valid());
        let start = Instant::now();
        keeper.extend(start + Duration::from_millis(20));
        let ended = tokio::spawn({
            let lease = lease.clone();
            async move { lease.ended().await }
        });
        keeper.extend(start + Duration::from_millis(80));
        keeper.extend(start + Duration::from_millis(40));
        ended.await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(80));
        assert!(!lease.is_valid());
    }

    #[tokio::test]
    async fn a_lease_can_end_early() {
        let (keeper, lease) = lease();
        keeper.extend(Instant::now() + Duration::from_secs(3600));
        assert!(lease.is_valid());
        keeper.end();
        lease.ended().await;
        assert!(!lease.is_valid());
    }
}
