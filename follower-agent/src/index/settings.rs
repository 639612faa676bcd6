//! The replication settings that the gateway keeps for `_cluster/settings`, in the control topic,
//! and what they say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use shardline::contract::replication_settings::{ReplicationSetting, SettingsStore};
use shardline::contract::{ApiError, units};
use shardline_common::control::ReplicationSettings;
use shardline_common::kafka::ControlTopic;
use shardline_common::types::ClusterUuid;
use tokio::sync::Mutex;

const MOST_WRITERS: usize = 16;
const MOST_OPERATIONS: u64 = 5_000;

#[derive(Clone)]
pub(crate) struct ControlSettings {
    table: ControlTopic,
    cluster: ClusterUuid,
    changing: Arc<Mutex<()>>,
}

impl ControlSettings {
    pub(crate) fn new(table: ControlTopic, cluster: ClusterUuid) -> Self {
        Self {
            table,
            cluster,
            changing: Arc::default(),
        }
    }

    /// New starts are refused.
    pub(crate) fn start_is_blocked(&self) -> bool {
        self.value("follower.block.start") == "true"
    }

    /// A follower index goes when its leader index is deleted.
    pub(crate) fn deletes_with_leader(&self) -> bool {
        self.value("replicate.delete_index") == "true"
    }

    /// How often an auto-follow rule looks at the leader's indices although nothing has changed
    /// there.
    pub(crate) fn auto_follow_interval(&self) -> Duration {
        self.duration("autofollow.fetch_poll_interval")
    }

    /// The longest time between attempts at an index that an auto-follow rule could not start.
    pub(crate) fn auto_follow_retry(&self) -> Duration {
        self.duration("autofollow.retry_poll_interval")
    }

    /// How many indices of an auto-follow rule are started or copied at a time.
    pub(crate) fn auto_follow_jobs(&self) -> usize {
        self.number("autofollow.concurrent_replication_jobs_trigger_size")
    }

    /// Bulk requests of a shard that may be under way at once; each may take several megabytes.
    pub(super) fn writers(&self) -> usize {
        self.number("follower.concurrent_writers_per_shard")
            .min(MOST_WRITERS)
    }

    /// Operations of a bulk request.
    pub(super) fn batch_operations(&self) -> u64 {
        (self.number("follower.index.ops_batch_size") as u64).min(MOST_OPERATIONS)
    }

    /// Documents that the follower index refuses become dead letters; otherwise they stop it.
    pub(super) fn keeps_dead_letters(&self) -> bool {
        self.value("follower.dead_letters") == "true"
    }

    /// How many indices of a bulk task are worked on at a time.
    pub(crate) fn bulk_batch(&self) -> usize {
        self.number("follower.bulk_batch_size")
    }

    /// How long a bulk task waits for an index to get going.
    pub(crate) fn bulk_patience(&self) -> Duration {
        Duration::from_secs(60)
            * u32::try_from(self.number("follower.bulk_poll_timeout")).unwrap_or(u32::MAX)
    }

    /// What was set, or the default; every value was checked before it was stored.
    fn value(&self, key: &str) -> String {
        let key = format!("plugins.replication.{key}");
        let default = || {
            ReplicationSetting::find(&key)
                .map(|setting| setting.default.to_owned())
                .unwrap_or_default()
        };
        self.get().remove(&key).unwrap_or_else(default)
    }

    fn number(&self, key: &str) -> usize {
        self.value(key).parse().unwrap_or_default()
    }

    fn duration(&self, key: &str) -> Duration {
        let nanoseconds = units::parse_time(key, &self.value(key)).unwrap_or_default();
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or_default())
    }
}

impl SettingsStore for ControlSettings {
    fn get(&self) -> BTreeMap<String, String> {
        let stored: Option<ReplicationSettings> =
            self.table.get(&ReplicationSettings::key_of(&self.cluster));
        stored.map(|stored| stored.settings).unwrap_or_default()
    }

    fn put(
        &self,
        changes: BTreeMap<String, Option<String>>,
    ) -> BoxFuture<'_, Result<(), ApiError>> {
        async move {
            let _held = self.changing.lock().await;
            let mut settings = self.get();
            for (key, value) in changes {
                match value {
                    Some(value) => settings.insert(key, value),
                    None => settings.remove(&key),
                };
            }
            let entry = ReplicationSettings {
                follower_cluster: self.cluster.clone(),
                settings,
            };
            self.table
                .publish(&entry)
                .await
                .map_err(|error| ApiError::unavailable(&error))
        }
        .boxed()
    }
}
