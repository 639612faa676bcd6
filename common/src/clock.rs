//! What to do when the machine's clock is set back.
//!
//! librdkafka waits for points of the wall clock (`cnd_timedwait` with `TIME_UTC`): set the clock back by hours, and its threads sleep
//! for hours. Only a new process gets out of that, and an agent may be ended at any moment.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use tracing::{error, warn};

const LOOK: Duration = Duration::from_secs(1);
/// Less than this is made up for by waiting.
const STEP: Duration = Duration::from_secs(10);

/// Puts a new process in this one's place, with the same arguments and the same id, once the clock has been set back.
pub async fn start_again_when_set_back() {
    let set_back = set_back(SystemTime::now).await;
    warn!(
        seconds = set_back.as_secs(),
        "the machine's clock was set back: starting again, because Kafka's client waits by it"
    );
    let failed = start_again();
    error!(error = %failed, "the agent could not start itself again: restart it");
}

/// Resolves when the clock has been set back, with how far.
async fn set_back(clock: impl Fn() -> SystemTime) -> Duration {
    let mut last = (clock(), Instant::now());
    loop {
        tokio::time::sleep(LOOK).await;
        let now = (clock(), Instant::now());
        let set_back = (last.0 + (now.1 - last.1)).duration_since(now.0).unwrap_or_default();
        if set_back >= STEP {
            return set_back;
        }
        last = now;
    }
}

fn start_again() -> io::Error {
    match std::env::current_exe() {
        Ok(program) => Command::new(program).args(std::env::args_os().skip(1)).exec(),
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    #[tokio::test]
    async fn only_a_step_back_counts() {
        let start = SystemTime::now();
        let looks = AtomicU64::new(0);
        // Two hours ahead, and 90 minutes back.
        let clock = || match looks.fetch_add(1, Relaxed) {
            0 => start,
            1..=2 => start + Duration::from_secs(7_200),
            _ => start + Duration::from_secs(1_800),
        };
        let found = tokio::time::timeout(Duration::from_secs(30), set_back(clock)).await.unwrap();
        assert!(found.as_secs().abs_diff(5_400) < 30 && looks.load(Relaxed) == 4);
    }
}
