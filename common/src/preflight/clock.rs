//! The machine's clock beside that of the servers. Kafka refuses records from more than an hour
//! ahead, and lag is a difference of two clocks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use super::probe::{Answer, Probe};
use super::{Problem, Report};

/// What clocks may differ by: what the answer takes, and a server's whole seconds.
const TOLERATED: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Health {
    epoch: String,
}

/// Compares with the time that OpenSearch, or a proxy before it, says.
pub async fn check_clock(probe: &Probe, answer: &Answer, report: &mut Report) {
    let theirs = match answer.date() {
        Some(time) => Some(time),
        None => time_of_health(probe).await,
    };
    let Some(theirs) = theirs else {
        let why = "not compared: the cluster's answers have no date, and the agent's user has no \
                   right (cluster:monitor/health) to ask for its time";
        report.ok("clock", why);
        return;
    };
    report.add("clock", compare(theirs, SystemTime::now()));
}

async fn time_of_health(probe: &Probe) -> Option<SystemTime> {
    let answer = probe.get("/_cat/health?format=json&h=epoch").await.ok()?;
    let health: Vec<Health> = serde_json::from_slice(&answer.body).ok()?;
    let seconds = health.first()?.epoch.parse().ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

fn compare(theirs: SystemTime, ours: SystemTime) -> Result<String, Problem> {
    let (apart, direction) = match ours.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    if apart <= TOLERATED {
        return Ok("as OpenSearch's, to some seconds".to_owned());
    }
    let what = format!(
        "this machine is {} s {direction} OpenSearch",
        apart.as_secs()
    );
    Err(Problem::new(
        what,
        "set both clocks by NTP: timedatectl set-ntp true",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_are_apart_are_found_in_either_direction() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let second = Duration::from_secs(1);
        assert!(compare(now, now + second * 10).is_ok());
        let ahead = compare(now, now + second * 3600).unwrap_err();
        assert!(ahead.what.contains("3600 s ahead of"), "{ahead:?}");
        let behind = compare(now + second * 11, now).unwrap_err();
        assert!(behind.what.contains("11 s behind"), "{behind:?}");
    }
}
