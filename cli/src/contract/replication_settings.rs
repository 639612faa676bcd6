//! The plugin's cluster settings: keys, defaults and ranges, and the words for a value out of
//! range.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use http::StatusCode;

use super::error::{ApiError, Cause};
use super::units;

/// What a value must be; bounds are inclusive and in OpenSearch's own notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingKind {
    Number {
        least: i32,
        most: Option<i32>,
    },
    Time {
        least: &'static str,
        most: Option<&'static str>,
    },
    Size {
        least: &'static str,
        most: &'static str,
    },
    Switch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicationSetting {
    pub key: &'static str,
    pub default: &'static str,
    pub kind: SettingKind,
}

const fn number(
    key: &'static str,
    default: &'static str,
    least: i32,
    most: Option<i32>,
) -> ReplicationSetting {
    ReplicationSetting {
        key,
        default,
        kind: SettingKind::Number { least, most },
    }
}

const fn time(
    key: &'static str,
    default: &'static str,
    least: &'static str,
    most: Option<&'static str>,
) -> ReplicationSetting {
    ReplicationSetting {
        key,
        default,
        kind: SettingKind::Time { least, most },
    }
}

const fn switch(key: &'static str) -> ReplicationSetting {
    ReplicationSetting {
        key,
        default: "false",
        kind: SettingKind::Switch,
    }
}

/// The plugin's (reference, section 9.1), and one that it does not have.
pub const REPLICATION_SETTINGS: [ReplicationSetting; 18] = [
    number(
        "plugins.replication.follower.index.ops_batch_size",
        "50000",
        16,
        None,
    ),
    number(
        "plugins.replication.follower.concurrent_readers_per_shard",
        "2",
        1,
        None,
    ),
    number(
        "plugins.replication.follower.concurrent_writers_per_shard",
        "2",
        1,
        None,
    ),
    time(
        "plugins.replication.follower.poll_interval",
        "50ms",
        "1ms",
        Some("1s"),
    ),
    time(
        "plugins.replication.follower.metadata_sync_interval",
        "60s",
        "5s",
        None,
    ),
    time(
        "plugins.replication.follower.retention_lease_max_failure_duration",
        "1h",
        "1s",
        Some("12h"),
    ),
    ReplicationSetting {
        key: "plugins.replication.follower.index.recovery.chunk_size",
        default: "10mb",
        kind: SettingKind::Size {
            least: "1mb",
            most: "1gb",
        },
    },
    number(
        "plugins.replication.follower.index.recovery.max_concurrent_file_chunks",
        "5",
        1,
        None,
    ),
    switch("plugins.replication.follower.block.start"),
    number(
        "plugins.replication.follower.bulk_batch_size",
        "10",
        1,
        Some(100),
    ),
    number(
        "plugins.replication.follower.bulk_poll_timeout",
        "15",
        1,
        Some(30),
    ),
    time(
        "plugins.replication.autofollow.fetch_poll_interval",
        "30s",
        "30s",
        Some("1h"),
    ),
    time(
        "plugins.replication.autofollow.retry_poll_interval",
        "1h",
        "1m",
        Some("4h"),
    ),
    number(
        "plugins.replication.autofollow.concurrent_replication_jobs_trigger_size",
        "3",
        1,
        Some(100),
    ),
    switch("plugins.replication.replicate.delete_index"),
    number("plugins.replication.leader.thread_pool.size", "0", 0, None),
    number(
        "plugins.replication.leader.thread_pool.queue_size",
        "1000",
        0,
        None,
    ),
    switch("plugins.replication.follower.dead_letters"),
];

impl ReplicationSetting {
    pub fn find(key: &str) -> Option<&'static Self> {
        REPLICATION_SETTINGS
            .iter()
            .find(|setting| setting.key == key)
    }

    /// Refuses a value that OpenSearch with the plugin would refuse.
    pub fn check(&self, value: &str) -> Result<(), ApiError> {
        let key = self.key;
        match self.kind {
            SettingKind::Number { least, most } => check_number(key, value, least, most),
            SettingKind::Time { least, most } => {
                check_range(key, value, least, most, units::parse_time)
            }
            SettingKind::Size { least, most } => {
                check_range(key, value, least, Some(most), units::parse_size)
            }
            SettingKind::Switch if value == "true" || value == "false" => Ok(()),
            SettingKind::Switch => Err(ApiError::illegal_argument(format!(
                "Failed to parse value [{value}] as only [true] or [false] are allowed."
            ))),
        }
    }
}

fn check_number(key: &str, value: &str, least: i32, most: Option<i32>) -> Result<(), ApiError> {
    let words = format!("Failed to parse value [{value}] for setting [{key}]");
    let Ok(number) = value.parse::<i32>() else {
        let inner = Cause::new(
            "number_format_exception",
            format!("For input string: \"{value}\""),
        );
        let cause = Cause::new("illegal_argument_exception", words).with_cause(inner);
        return Err(ApiError::from_cause(StatusCode::BAD_REQUEST, cause));
    };
    if number < least {
        return Err(ApiError::illegal_argument(format!(
            "{words} must be >= {least}"
        )));
    }
    match most.filter(|most| number > *most) {
        Some(most) => Err(ApiError::illegal_argument(format!(
            "{words} must be <= {most}"
        ))),
        None => Ok(()),
    }
}

fn check_range(
    key: &str,
    value: &str,
    least: &str,
    most: Option<&str>,
    parse: fn(&str, &str) -> Result<i128, ApiError>,
) -> Result<(), ApiError> {
    let number = parse(key, value)?;
    let out_of_range = |relation: &str, bound: &str| {
        let words = format!(
            "failed to parse value [{value}] for setting [{key}], must be {relation} [{bound}]"
        );
        Err(ApiError::illegal_argument(words))
    };
    if number < parse(key, least)? {
        return out_of_range(">=", least);
    }
    match most {
        Some(most) if number > parse(key, most)? => out_of_range("<=", most),
        _ => Ok(()),
    }
}

/// Keeps the `plugins.replication.*` settings for all agents of the follower cluster.
pub trait SettingsStore: Send + Sync + 'static {
    /// The settings that were set, without defaults.
    fn get(&self) -> BTreeMap<String, String>;

    /// Sets (`Some`) and resets (`None`) checked settings, all or none.
    fn put(&self, changes: BTreeMap<String, Option<String>>)
    -> BoxFuture<'_, Result<(), ApiError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_in_its_own_range() {
        for setting in REPLICATION_SETTINGS {
            assert_eq!(setting.check(setting.default), Ok(()), "{}", setting.key);
        }
    }

    #[test]
    fn values_out_of_range_are_refused_in_the_server_s_words() {
        for (key, value, words) in [
            (
                "follower.metadata_sync_interval",
                "4s",
                "failed to parse value [4s] for setting [KEY], must be >= [5s]",
            ),
            (
                "follower.poll_interval",
                "2s",
                "failed to parse value [2s] for setting [KEY], must be <= [1s]",
            ),
            (
                "follower.index.ops_batch_size",
                "15",
                "Failed to parse value [15] for setting [KEY] must be >= 16",
            ),
            (
                "follower.bulk_batch_size",
                "101",
                "Failed to parse value [101] for setting [KEY] must be <= 100",
            ),
            (
                "follower.bulk_batch_size",
                "x",
                "Failed to parse value [x] for setting [KEY]",
            ),
            (
                "follower.index.recovery.chunk_size",
                "2gb",
                "failed to parse value [2gb] for setting [KEY], must be <= [1gb]",
            ),
            (
                "follower.block.start",
                "yes",
                "Failed to parse value [yes] as only [true] or [false] are allowed.",
            ),
        ] {
            let key = format!("plugins.replication.{key}");
            let error = ReplicationSetting::find(&key)
                .unwrap()
                .check(value)
                .unwrap_err();
            assert_eq!(
                error.message(),
                format!("illegal_argument_exception: {}", words.replace("KEY", &key))
            );
        }
    }
}
