//! Attempts that fail again and again: their pauses grow to a bound, and they are told once until
//! they fail for another reason.

use std::fmt::Display;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use shardline_common::backoff::doubling;
use tokio::time::Instant;

pub(crate) struct Retries {
    delays: ExponentialBuilder,
    longest: Duration,
    left: ExponentialBackoff,
    /// What was told last.
    said: Option<String>,
    /// When the attempt began that is under way.
    began: Instant,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retry {
    /// Before the next attempt.
    pub(crate) delay: Duration,
    /// Whether it is worth a line in the log.
    pub(crate) is_news: bool,
    /// Whether the attempt before had failed, too.
    pub(crate) again: bool,
}

impl Retries {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        let delays = doubling(first, longest);
        Self {
            delays,
            longest,
            left: delays.build(),
            said: None,
            began: Instant::now(),
        }
    }

    /// An attempt has failed. One that went well for longer than the longest pause makes pauses
    /// short again.
    pub(crate) fn failed(&mut self, error: &impl Display) -> Retry {
        self.failed_at(Instant::now(), error)
    }

    fn failed_at(&mut self, now: Instant, error: &impl Display) -> Retry {
        if now.saturating_duration_since(self.began) > self.longest {
            self.left = self.delays.build();
            self.said = None;
        }
        let delay = self.left.next().unwrap_or(self.longest);
        self.began = now + delay;
        let words = error.to_string();
        let again = self.said.is_some();
        let is_news = self.said.as_ref() != Some(&words);
        self.said = Some(words);
        Retry {
            delay,
            is_news,
            again,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_each_reason_is_told_once() {
        let ms = Duration::from_millis;
        let mut retries = Retries::new(ms(500), ms(1_500));
        let (mut now, mut told) = (Instant::now(), Vec::new());
        for reason in ["a", "a", "a", "b", "b"] {
            let retry = retries.failed_at(now, &reason);
            told.push((retry.delay.as_millis(), retry.is_news, retry.again));
            now += retry.delay;
        }
        let wanted = [
            (500, true, false),
            (1_000, false, true),
            (1_500, false, true),
            (1_500, true, true),
            (1_500, false, true),
        ];
        assert_eq!(told, wanted);
        now += ms(1_600);
        assert_eq!(retries.failed_at(now, &"b").delay, ms(500));
    }
}
