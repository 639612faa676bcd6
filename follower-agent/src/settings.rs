//! The replication settings that the gateway keeps for `_cluster/settings`, in the control topic.

use std::collections::BTreeMap;

use futures::FutureExt;
use futures::future::BoxFuture;
use shardline_common::control::ReplicationSettings;
use shardline_common::kafka::ControlTopic;
use shardline_common::types::ClusterUuid;
use tokio::sync::Mutex;

use crate::api::ApiError;
use crate::gateway::SettingsStore;
use crate::leaders::from_control;

pub struct ControlSettings {
    table: ControlTopic,
    cluster: ClusterUuid,
    changing: Mutex<()>,
}

impl ControlSettings {
    pub fn new(table: ControlTopic, cluster: ClusterUuid) -> Self {
        Self { table, cluster, changing: Mutex::new(()) }
    }
}

impl SettingsStore for ControlSettings {
    fn get(&self) -> BTreeMap<String, String> {
        let stored: Option<ReplicationSettings> = self.table.get(&ReplicationSettings::key_of(&self.cluster));
        stored.map(|stored| stored.settings).unwrap_or_default()
    }

    fn put(&self, changes: BTreeMap<String, Option<String>>) -> BoxFuture<'_, Result<(), ApiError>> {
        async move {
            let _held = self.changing.lock().await;
            let mut settings = self.get();
            for (key, value) in changes {
                match value {
                    Some(value) => settings.insert(key, value),
                    None => settings.remove(&key),
                };
            }
            let entry = ReplicationSettings { follower_cluster: self.cluster.clone(), settings };
            self.table.publish(&entry).await.map_err(|error| from_control(&error))
        }
        .boxed()
    }
}
