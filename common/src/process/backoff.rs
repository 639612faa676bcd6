//! Pauses between attempts: they double from failure to failure, up to a longest one.

use std::fmt::Display;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder, Retryable};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

const RETRY_DELAY_FIRST: Duration = Duration::from_millis(250);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(10);

/// Delays from `first` to `last`, without end.
pub fn doubling(first: Duration, last: Duration) -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(first)
        .with_max_delay(last)
        .without_max_times()
}

/// What `attempt` gives in the end; each failure is a warning that `what` is not available yet.
/// `None` if stopped before.
pub async fn until_available<T, E: Display, F: Future<Output = Result<T, E>>>(
    what: &str,
    attempt: impl FnMut() -> F,
    stop: &CancellationToken,
) -> Option<T> {
    let attempts = attempt
        .retry(doubling(RETRY_DELAY_FIRST, RETRY_DELAY_MAX))
        .notify(|error, delay| {
            warn!(%error, retry_in_ms = delay.as_millis() as u64, "{what} is not available yet");
        });
    stop.run_until_cancelled(attempts).await?.ok()
}

/// The pauses of something that is to run on and on: short again after it has run for longer than
/// the longest of them.
pub struct Restarts {
    delays: ExponentialBuilder,
    longest: Duration,
    left: ExponentialBackoff,
    /// When the run began that is under way.
    began: Instant,
}

impl Restarts {
    pub fn new(first: Duration, longest: Duration) -> Self {
        let delays = doubling(first, longest);
        Self {
            delays,
            longest,
            left: delays.build(),
            began: Instant::now(),
        }
    }

    /// The pause before the next run.
    pub fn next_delay(&mut self) -> Duration {
        if self.began.elapsed() > self.longest {
            self.left = self.delays.build();
        }
        let delay = self.left.next().unwrap_or(self.longest);
        self.began = Instant::now() + delay;
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_a_long_run_makes_them_short_again() {
        let mut restarts = Restarts::new(ms(20), ms(50));
        let delays: Vec<f64> = (0..4)
            .map(|_| (restarts.next_delay().as_secs_f64() * 1e3).round())
            .collect();
        assert_eq!(delays, [20.0, 40.0, 50.0, 50.0]);
        std::thread::sleep(ms(50) + ms(60));
        assert_eq!(restarts.next_delay(), ms(20));
    }

    #[tokio::test]
    async fn attempts_end_with_the_first_success_or_when_stopped() {
        let stop = CancellationToken::new();
        let mut left = 2;
        let attempt = || {
            left -= 1;
            std::future::ready(if left == 0 { Ok("there") } else { Err("away") })
        };
        assert_eq!(until_available("it", attempt, &stop).await, Some("there"));
        stop.cancel();
        let never = || std::future::ready(Err::<(), _>("away"));
        assert_eq!(until_available("it", never, &stop).await, None);
    }
}
