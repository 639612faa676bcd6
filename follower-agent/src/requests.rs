//! Asks the leader's agents for snapshots, and withdraws what was asked.
//!
//! Follower clusters that begin with an index at about the same time share a snapshot: a later one
//! asks for the snapshot of an earlier one, under the same id. So a request stays for a while after
//! its snapshot is loaded.

use std::sync::Arc;
use std::time::Duration;

use shardline_common::control::{BootstrapRequest, Entry, Subscription};
use shardline_common::kafka::{ControlError, ControlTopic};
use shardline_common::repository::SnapshotRequest;
use shardline_common::topic::bootstrap_topic;
use shardline_common::types::{ClusterUuid, TopicName};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::progress::now_ms;
use crate::replication::Replication;
use crate::slots::Slot;
use crate::templates;

/// A request is in the table before the subscription that it is for says so.
const LEAST_AGE: Duration = Duration::from_secs(30);
const TIDY_INTERVAL: Duration = Duration::from_secs(1);

/// The requests of a follower cluster.
#[derive(Clone)]
pub struct Requests {
    pub table: ControlTopic,
    pub cluster: ClusterUuid,
    /// How old a snapshot may be that is shared.
    pub share_within: Duration,
}

impl Requests {
    /// Asks for a snapshot of the subscription's index, which is shipped by `topic`; gives its id.
    pub async fn ask(
        &self,
        subscription: &Subscription,
        topic: &TopicName,
        may_share: bool,
    ) -> Result<String, ControlError> {
        if may_share && let Some(found) = self.to_share(subscription, topic) {
            let own = self.request(subscription, topic, found.id.clone(), true);
            self.table.publish(&own).await?;
            // The control topic has one order: what was there before and is there now was there all
            // the time.
            if self.table.get::<BootstrapRequest>(&found.key()).is_some() {
                info!(index = %subscription.follower_index, bootstrap = own.id, "sharing another follower's snapshot");
                return Ok(own.id);
            }
            self.table.remove(&own.key()).await?;
        }
        let own = self.request(
            subscription,
            topic,
            Uuid::new_v4().simple().to_string(),
            false,
        );
        self.table.publish(&own).await?;
        Ok(own.id)
    }

    /// Asks for a snapshot in a repository; gives its id.
    pub async fn ask_for_files(
        &self,
        subscription: &Subscription,
        repository: &str,
    ) -> Result<String, ControlError> {
        let request = SnapshotRequest {
            id: Uuid::new_v4().simple().to_string(),
            leader_cluster: subscription.leader_cluster.clone(),
            leader_uuid: subscription.leader_uuid.clone(),
            follower_cluster: self.cluster.clone(),
            repository: repository.to_owned(),
            asked_ms: now_ms(),
            is_restoring: false,
        };
        self.table.publish(&request).await?;
        Ok(request.id)
    }

    /// The request for the copy of this id, if it is to come from a repository.
    pub fn for_files(&self, leader: &ClusterUuid, id: &str) -> Option<SnapshotRequest> {
        self.table.get(&SnapshotRequest::key_of(leader, id))
    }

    /// Whether the cluster has asked for the copy of this id through Kafka.
    pub fn is_asked(&self, leader: &ClusterUuid, id: &str) -> bool {
        !self.of_snapshot(leader, id).is_empty()
    }

    fn of_snapshot(&self, leader: &ClusterUuid, id: &str) -> Vec<BootstrapRequest> {
        let requests: Vec<BootstrapRequest> =
            self.table.below(&BootstrapRequest::prefix_of(leader, id));
        let is_own = |request: &BootstrapRequest| {
            request
                .follower_cluster
                .as_ref()
                .is_none_or(|cluster| *cluster == self.cluster)
        };
        requests.into_iter().filter(is_own).collect()
    }

    fn request(
        &self,
        subscription: &Subscription,
        topic: &TopicName,
        id: String,
        is_shared: bool,
    ) -> BootstrapRequest {
        BootstrapRequest {
            leader_cluster: subscription.leader_cluster.clone(),
            leader_uuid: subscription.leader_uuid.clone(),
            topic: bootstrap_topic(topic, &id),
            id,
            follower_cluster: Some(self.cluster.clone()),
            asked_ms: now_ms(),
            is_shared,
        }
    }

    /// The newest snapshot of the subscription's index that another follower cluster has asked for.
    fn to_share(&self, subscription: &Subscription, topic: &TopicName) -> Option<BootstrapRequest> {
        let requests = self.table.below(&BootstrapRequest::prefix_of(
            &subscription.leader_cluster,
            "",
        ));
        let is_fit = |request: &BootstrapRequest| {
            request.leader_uuid == subscription.leader_uuid
                && request
                    .follower_cluster
                    .as_ref()
                    .is_some_and(|cluster| *cluster != self.cluster)
                && !request.is_shared
                && age(request.asked_ms) < self.share_within
                && request.topic == bootstrap_topic(topic, &request.id)
        };
        requests
            .into_iter()
            .filter(is_fit)
            .max_by_key(|request| request.asked_ms)
    }

    /// Withdraws the cluster's request for a snapshot.
    pub async fn withdraw(&self, leader: &ClusterUuid, id: &str) -> Result<(), ControlError> {
        for request in self.of_snapshot(leader, id) {
            self.table.remove(&request.key()).await?;
        }
        match self.for_files(leader, id) {
            Some(request) => self.table.remove(&request.key()).await,
            None => Ok(()),
        }
    }

    /// Withdraws what none of the cluster's subscriptions needs and nobody will share any more.
    async fn tidy(&self, subscriptions: &[Subscription]) -> Result<(), ControlError> {
        let is_needed = |id: &String| {
            subscriptions
                .iter()
                .any(|of| of.bootstrap.as_ref() == Some(id))
        };
        for request in self.table.all::<BootstrapRequest>() {
            let is_over = age(request.asked_ms) > self.share_within.max(LEAST_AGE);
            if request.follower_cluster.as_ref() == Some(&self.cluster)
                && is_over
                && !is_needed(&request.id)
            {
                self.table.remove(&request.key()).await?;
            }
        }
        for request in self.table.all::<SnapshotRequest>() {
            let is_over = age(request.asked_ms) > LEAST_AGE;
            if request.follower_cluster == self.cluster && is_over && !is_needed(&request.id) {
                self.table.remove(&request.key()).await?;
            }
        }
        Ok(())
    }
}

/// Tidies until stopped; one agent does it for its cluster.
pub async fn run(replication: Arc<Replication>, stop: CancellationToken) {
    let tidying = async {
        loop {
            if replication.slots().holds(Slot::CLUSTER) {
                templates::tidy(replication.opensearch()).await;
            }
            tokio::time::sleep(TIDY_INTERVAL).await;
            if replication.slots().holds(Slot::CLUSTER)
                && let Err(error) = replication
                    .shared()
                    .requests
                    .tidy(&replication.subscriptions())
                    .await
            {
                warn!(%error, "a request for a snapshot that nobody needs any more could not be withdrawn");
            }
        }
    };
    tokio::select! {
        () = tidying => {}
        () = stop.cancelled() => {}
    }
}

/// As clocks tell it: those of two follower clusters may differ.
fn age(asked_ms: i64) -> Duration {
    Duration::from_millis(now_ms().abs_diff(asked_ms))
}
