//! How much the gateway holds of all request bodies that it has to read.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use shardline::contract::ApiError;

/// What the gateway's callers may take of it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most that one inspected body may hold, unpacked, in bytes.
    pub max_content: usize,
    /// Most that is held of all inspected bodies together, in bytes.
    pub max_inspected: usize,
    /// Most connections at a time.
    pub max_connections: usize,
    /// How long a connection may be without a whole request head, idle ones included.
    pub head_timeout: Duration,
}

const MIB: usize = 1 << 20;
/// Bytes for each permit of the semaphore.
const UNIT: usize = 1 << 10;

/// The budget of all inspected bodies.
#[derive(Clone, Debug)]
pub struct Budget {
    limits: Limits,
    free: Arc<Semaphore>,
}

/// What one request has taken of the budget; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Budget,
    permit: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Budget {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            free: Arc::new(Semaphore::new(limits.max_inspected.div_ceil(UNIT))),
        }
    }

    /// Most that one body may hold, in bytes.
    pub(super) fn max_content(&self) -> usize {
        self.limits.max_content
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A charge of nothing yet.
    pub(super) fn open(&self) -> Charge {
        Charge {
            budget: self.clone(),
            permit: None,
            bytes: 0,
        }
    }
}

impl Charge {
    /// Takes what is needed to hold `bytes` in all.
    ///
    /// # Errors
    /// 429 if other requests hold what is left.
    pub(super) fn raise_to(&mut self, bytes: usize) -> Result<(), ApiError> {
        let held = self.bytes.div_ceil(UNIT);
        let wanted = bytes.div_ceil(UNIT);
        if wanted > held {
            let missing = u32::try_from(wanted - held).unwrap_or(u32::MAX);
            let free = Arc::clone(&self.budget.free);
            let more = free
                .try_acquire_many_owned(missing)
                .map_err(|_| self.used_up(bytes))?;
            match &mut self.permit {
                Some(permit) => permit.merge(more),
                None => self.permit = Some(more),
            }
        }
        self.bytes = self.bytes.max(bytes);
        Ok(())
    }

    /// Takes `bytes` more.
    pub(super) fn add(&mut self, bytes: usize) -> Result<(), ApiError> {
        self.raise_to(self.bytes.saturating_add(bytes))
    }

    /// Gives back all above `bytes`.
    pub(super) fn lower_to(&mut self, bytes: usize) {
        let surplus = self
            .bytes
            .div_ceil(UNIT)
            .saturating_sub(bytes.div_ceil(UNIT));
        if let Some(permit) = &mut self.permit {
            drop(permit.split(surplus));
        }
        self.bytes = self.bytes.min(bytes);
    }

    fn used_up(&self, bytes: usize) -> ApiError {
        let all = self.budget.limits.max_inspected / MIB;
        let reason = format!(
            "a request body of [{bytes}] bytes does not fit beside the others that the gateway \
             holds, [{all}] MiB in all; send it again later or in smaller parts, or raise \
             gateway.max_inspected_mib of the follower agent"
        );
        ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rejected_execution_exception",
            reason,
        )
    }
}

#[cfg(test)]
impl Budget {
    /// One that is never used up by a test.
    pub(super) fn ample() -> Self {
        Self::new(Limits {
            max_content: 100 * MIB,
            max_inspected: 256 * MIB,
            max_connections: 16,
            head_timeout: Duration::from_secs(30),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_given_back() {
        let budget = Budget::new(Limits {
            max_inspected: 10 * UNIT,
            ..Budget::ample().limits
        });
        let mut one = budget.open();
        one.raise_to(6 * UNIT).unwrap();
        let mut other = budget.open();
        let refused = other.raise_to(5 * UNIT).unwrap_err();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        one.lower_to(4 * UNIT + 1);
        other.raise_to(5 * UNIT).unwrap();
        assert!(one.add(UNIT).is_err());
        drop(other);
        one.add(5 * UNIT - 1).unwrap();
        drop(one);
        assert_eq!(budget.free.available_permits(), 10);
    }
}
