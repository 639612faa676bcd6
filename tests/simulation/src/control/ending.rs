//! How a schedule ends: nothing goes wrong any more, and what everybody waits for comes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shardline::contract::service::ReplicationState;
use shardline_common::control::{
    AppliedMetadata, BootstrapRequest, Entry, ShardRequest, Subscription, SubscriptionState,
};
use shardline_common::topic::follower_control_topic;
use shardline_common::types::ShardId;
use tokio::time::{Instant, sleep};

use super::oracle::Verb;
use super::schedule::Schedule;
use super::users::{Call, Heard};
use super::world::{LEADER, PREFIX};

/// How long everything may take to come to rest: longer than a page of a scan is waited for.
const REST: Duration = Duration::from_secs(420);
/// For how long a call is made that is told to be made again: an agent waits for a minute for an
/// answer of its cluster that got lost.
const INSISTENCE: Duration = Duration::from_secs(120);
/// How long what nobody needs may stay.
const TIDY: Duration = Duration::from_secs(120);

impl Schedule {
    pub async fn come_to_rest(&mut self) {
        self.world.note(|| "calm".to_owned());
        self.world.links().calm_down();
        while self.calls.join_next().await.is_some() {}
        let until = Instant::now() + REST;
        loop {
            let unrest = self.unrest().await;
            if self.world.oracle.lock().violation.is_some() {
                return;
            }
            match unrest {
                None => break,
                Some(unrest) if Instant::now() >= until => {
                    return self.world.fail(|| format!("no rest: {unrest}"));
                }
                Some(_) => sleep(Duration::from_secs(2)).await,
            }
            self.look();
        }
        self.stop_all().await;
    }

    /// What is not as it should be, yet.
    async fn unrest(&self) -> Option<String> {
        let subscriptions: Vec<(String, Subscription)> = {
            let oracle = self.world.oracle.lock();
            let all = oracle.subscriptions.iter();
            all.map(|(key, of)| (key.clone(), of.clone())).collect()
        };
        for (key, subscription) in subscriptions {
            let unrest = self.unrest_of(&subscription).await;
            if let Some(unrest) = unrest {
                return Some(format!("{key}: {unrest}"));
            }
        }
        None
    }

    async fn unrest_of(&self, subscription: &Subscription) -> Option<String> {
        let leader = self.world.cluster(LEADER, |leader| {
            let found = leader.indices.get(subscription.leader_index.as_str())?;
            (found.uuid == subscription.leader_uuid.as_str()).then(|| found.clone())
        });
        let is_running = subscription.state == SubscriptionState::Running;
        let reason = &subscription.reason;
        let leader = match leader {
            None if is_running => return Some("it runs, and its leader index is gone".to_owned()),
            None => return None,
            Some(leader) if !leader.is_open => {
                return is_running.then(|| "it runs, and its leader index is closed".to_owned());
            }
            Some(leader) => leader,
        };
        if !is_running {
            let ends = reason.contains("IndexClosedException");
            return ends.then(|| format!("it is paused for a reason that has passed: {reason}"));
        }
        let cluster = self.cluster_of(subscription);
        let copy = self.world.cluster(&cluster, |cluster| {
            cluster
                .indices
                .get(subscription.follower_index.as_str())
                .cloned()
        });
        let Some(copy) = copy else {
            return Some("there is no follower index".to_owned());
        };
        if copy.documents() != leader.documents() {
            let (has, due) = (copy.documents(), leader.documents());
            return Some(format!("it has {has:?}, and its leader index {due:?}"));
        }
        let services: Vec<_> = {
            let followers = self.followers.lock();
            let of_cluster = followers.iter().filter(|one| one.cluster == cluster);
            of_cluster
                .map(|one| (one.name.clone(), one.engine.service()))
                .collect()
        };
        for (name, service) in services {
            let status = service.status(subscription.follower_index.clone(), false);
            let said = status.await.map(|status| status.status);
            if !matches!(said, Ok(ReplicationState::Syncing)) {
                return Some(format!("{name} says {said:?}"));
            }
        }
        None
    }

    fn cluster_of(&self, subscription: &Subscription) -> String {
        let clusters = self.world.plan.follower_clusters();
        let is_it = |name: &String| {
            let uuid = self.world.cluster(name, |cluster| cluster.uuid.clone());
            uuid == subscription.follower_cluster.as_str()
        };
        clusters.into_iter().find(is_it).unwrap_or_default()
    }

    /// Everything is stopped, and nothing of it stays.
    async fn stop_all(&mut self) {
        for cluster in self.world.plan.follower_clusters().collect::<Vec<_>>() {
            for index in 0..self.world.plan.indices {
                let key = self.world.key(&cluster, &format!("copy-{index}"));
                if !self.world.oracle.lock().subscriptions.contains_key(&key) {
                    continue;
                }
                if !self.insist(&cluster, index, Verb::Stop).await {
                    return;
                }
            }
        }
        if !self.start_once_more().await {
            return;
        }
        let until = Instant::now() + TIDY;
        while let Some(left) = self.left_over() {
            if Instant::now() >= until {
                return self.world.fail(|| format!("nobody needs {left}"));
            }
            sleep(Duration::from_secs(2)).await;
        }
        self.look();
    }

    /// Nothing goes wrong any more: a start that is possible succeeds.
    async fn start_once_more(&mut self) -> bool {
        let is_open = self.world.cluster(LEADER, |leader| {
            let index = leader.indices.get("books-0");
            index.is_some_and(|index| index.is_open)
        });
        if !is_open {
            return true;
        }
        let name = "follower-0";
        self.world.cluster(name, |cluster| cluster.delete("copy-0"));
        self.insist(name, 0, Verb::Start).await && self.insist(name, 0, Verb::Stop).await
    }

    /// Makes a call again while it is told to; false, and a fault, if it does not succeed.
    async fn insist(&self, cluster: &str, index: usize, verb: Verb) -> bool {
        let mut heard = Heard::Nothing;
        let until = Instant::now() + INSISTENCE;
        while Instant::now() < until {
            let call = Call {
                cluster: cluster.to_owned(),
                follower: format!("copy-{index}"),
                leader: format!("books-{index}"),
                verb,
            };
            let (world, followers) = (Arc::clone(&self.world), Arc::clone(&self.followers));
            heard = call.make(world, followers).await;
            let key = self.world.key(cluster, &format!("copy-{index}"));
            let is_there = self.world.oracle.lock().subscriptions.contains_key(&key);
            // A stop may have been finished by what follows the leader index into its grave.
            if matches!(heard, Heard::Done) || (verb == Verb::Stop && !is_there) {
                return true;
            }
            sleep(Duration::from_secs(2)).await;
        }
        self.world
            .fail(|| format!("{verb:?} of copy-{index} on {cluster} is refused: {heard:?}"));
        false
    }

    /// Something that nobody needs.
    fn left_over(&self) -> Option<String> {
        let kinds = [
            Subscription::KIND,
            AppliedMetadata::KIND,
            BootstrapRequest::KIND,
            ShardRequest::KIND,
        ];
        // Removals stay in the topic: who has not read one yet is to hear of it.
        let topic = follower_control_topic(PREFIX);
        let records = self.world.brokers.records(&topic, ShardId(0)).into_iter();
        let newest: BTreeMap<_, _> = records.map(|(_, one)| (one.key, one.value)).collect();
        for key in newest
            .into_iter()
            .filter_map(|(key, value)| key.filter(|_| value.is_some()))
        {
            let key = String::from_utf8_lossy(&key).into_owned();
            let kind = key.split('/').next().unwrap_or_default();
            if kinds.contains(&kind) {
                return Some(key);
            }
        }
        let mut topics = self.world.brokers.topics().into_iter();
        let copies = topics.find(|topic| topic.as_str().contains(".bootstrap."));
        // Nobody knows of one whose note the control topic lost just before its agent was killed.
        let is_forgotten = self.world.plan.topics_get_lost && self.lost_leader;
        if let Some(topic) = copies.filter(|_| !is_forgotten) {
            return Some(topic.to_string());
        }
        let followers = self.followers.lock();
        followers.iter().find_map(|one| {
            let statuses = one.engine.service().statuses("*", false);
            let (index, _) = statuses.first()?;
            Some(format!("the status of {index} on {}", one.name))
        })
    }
}
