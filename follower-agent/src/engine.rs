//! What works behind an agent's front door: following, the group, auto-follow, bulk tasks,
//! verifications. It needs the two clusters and Kafka, and serves nobody by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::Mutex;
use shardline::contract::ReplicationService;
use shardline::contract::overview::Overview;
use shardline_common::backoff::until_available;
use shardline_common::kafka::{ControlError, ControlTopic, Derived, Kafka};
use shardline_common::lease::{Lease, lease};
use shardline_common::opensearch::OpenSearch;
use shardline_common::topic::{dead_letter_topic, follower_control_topic, leader_control_topic};
use shardline_common::types::{ClusterUuid, Offset};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::control::{
    Leaders, OwnGateway, Subscriptions, auto_follow, bulk_tasks, leader_watch, tidy_requests,
    verify,
};
use crate::index::{AgentContext, ControlSettings, SnapshotRequests};
use crate::membership::{Group, Membership, Positions, Rebalances, Slots};
use crate::metrics::Metrics;
use crate::progress::CheckpointStore;
use crate::read::Streams;

/// How often progress is written into the metrics.
const METRICS_INTERVAL: Duration = Duration::from_secs(1);

/// What an engine is made of.
pub struct Parts {
    pub opensearch: OpenSearch,
    pub kafka: Kafka,
    pub checkpoints: CheckpointStore,
    pub metrics: Arc<Metrics>,
    pub own_gateway: OwnGateway,
    /// Where the other agents reach this one's gateway.
    pub address: String,
    /// The snapshot repository of followers that do not name one.
    pub repository: Option<String>,
    /// How old a snapshot may be that is shared with another follower cluster.
    pub share_within: Duration,
    /// From an alias to the name of a leader cluster.
    pub aliases: BTreeMap<String, String>,
}

pub struct Engine {
    subscriptions: Arc<Subscriptions>,
    settings: ControlSettings,
    slots: Arc<Slots>,
    group: Arc<Group>,
    follower_table: ControlTopic,
    /// Cancelled when the group is to be left.
    left: CancellationToken,
    /// Cancelled when the last checkpoint is saved: the streams outlive the signal to stop.
    end: CancellationToken,
    stop: CancellationToken,
    /// Taken by [`Self::run`].
    tasks: Mutex<Option<Tasks>>,
}

struct Tasks {
    following: JoinHandle<()>,
    member: JoinHandle<()>,
    others: Vec<(&'static str, JoinHandle<()>)>,
}

struct Tables {
    leader: ControlTopic,
    follower: ControlTopic,
    dead_letters: ControlTopic,
}

impl Tables {
    async fn open(
        kafka: &Kafka,
        cluster: &ClusterUuid,
        stop: &CancellationToken,
    ) -> Result<Self, ControlError> {
        let prefix = kafka.topic_prefix();
        let open = |topic| ControlTopic::open(kafka, topic, stop);
        Ok(Self {
            leader: open(leader_control_topic(prefix)).await?,
            follower: open(follower_control_topic(prefix)).await?,
            dead_letters: open(dead_letter_topic(prefix, cluster)).await?,
        })
    }
}

impl Engine {
    /// Reads the control topics, joins the group and begins to follow. `None` if stopped before.
    pub async fn start(
        parts: Parts,
        cluster: ClusterUuid,
        stop: CancellationToken,
    ) -> anyhow::Result<Option<Self>> {
        let tables = match Tables::open(&parts.kafka, &cluster, &stop).await {
            Ok(tables) => tables,
            Err(_) if stop.is_cancelled() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let make_slots = || Group::make_slots(&parts.kafka, &cluster);
        let made = until_available("the slots topic", make_slots, &stop).await;
        if made.is_none() {
            return Ok(None);
        }
        let (keeper, lease) = lease();
        let (acted, own_acted) = watch::channel(Offset(-1));
        let (slots, positions) = (Arc::new(Slots::default()), Arc::new(Positions::default()));
        let membership = Membership {
            cluster: cluster.clone(),
            address: parts.address.clone(),
            slots: Arc::clone(&slots),
            positions: Arc::clone(&positions),
            lease: keeper,
            acted: own_acted,
        };
        let (group, rebalances) = Group::join(&parts.kafka, membership)?;
        let (left, end) = (CancellationToken::new(), CancellationToken::new());
        let place = Place {
            slots: Arc::clone(&slots),
            positions,
            group: Arc::clone(&group),
            lease,
        };
        let leaders = Leaders {
            opensearch: parts.opensearch.clone(),
            leader_table: tables.leader.clone(),
            follower_table: tables.follower.clone(),
            aliases: parts.aliases.clone(),
        };
        let own_gateway = parts.own_gateway.clone();
        let context = context(parts, place, &tables, &cluster, &end);
        let settings = ControlSettings::new(tables.follower.clone(), cluster.clone());
        let subscriptions = Subscriptions::new(
            context,
            leaders,
            settings.clone(),
            own_gateway,
            cluster,
            acted,
            stop.clone(),
        );
        let tasks = begin(
            &subscriptions,
            (&group, rebalances, &left),
            tables.leader,
            &stop,
        );
        Ok(Some(Self {
            subscriptions,
            settings,
            slots,
            group,
            follower_table: tables.follower,
            left,
            end,
            stop,
            tasks: Mutex::new(Some(tasks)),
        }))
    }

    /// What the control API carries its calls out with.
    pub fn service(&self) -> Arc<dyn ReplicationService> {
        Arc::clone(&self.subscriptions) as _
    }

    /// What the page shows of this agent.
    pub(crate) fn overview(&self) -> Arc<dyn Overview> {
        Arc::clone(&self.subscriptions) as _
    }

    pub(crate) fn settings(&self) -> &ControlSettings {
        &self.settings
    }

    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    pub(crate) fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// How far the agent has read what follower agents have written.
    pub fn position(&self) -> Offset {
        *self.follower_table.changes().borrow()
    }

    /// Keeps the metrics up to date until the agent is stopped; then ends everything, the group's
    /// membership last.
    pub async fn run(&self) -> anyhow::Result<()> {
        while !self.stop.is_cancelled() {
            self.subscriptions.hear_others().await;
            self.subscriptions.hear_captures();
            self.subscriptions.export_metrics();
            tokio::select! {
                () = tokio::time::sleep(METRICS_INTERVAL) => {}
                () = self.stop.cancelled() => {}
            }
        }
        info!("stopping");
        let Some(tasks) = self.tasks.lock().take() else {
            return Ok(());
        };
        let followed = tasks.following.await;
        followed.context("the control topic's follower panicked")?;
        self.subscriptions.shut_down().await;
        self.left.cancel();
        let left = tasks.member.await;
        left.context("the consumer group's member panicked")?;
        for (name, task) in tasks.others {
            task.await.with_context(|| format!("{name} panicked"))?;
        }
        self.end.cancel();
        Ok(())
    }
}

/// The agent's place among its cluster's agents.
struct Place {
    slots: Arc<Slots>,
    positions: Arc<Positions>,
    group: Arc<Group>,
    lease: Lease,
}

fn context(
    parts: Parts,
    place: Place,
    tables: &Tables,
    cluster: &ClusterUuid,
    end: &CancellationToken,
) -> Arc<AgentContext> {
    let requests = SnapshotRequests {
        table: tables.follower.clone(),
        cluster: cluster.clone(),
        share_within: parts.share_within,
    };
    let (kafka, waiting) = (parts.kafka, &parts.metrics.waiting_partitions);
    let reading = kafka.consumer(&format!("{}.{cluster}", kafka.topic_prefix()));
    let shards = Streams::of_shards(reading.clone(), waiting.clone(), end.clone());
    let copies = Streams::of_copies(reading, waiting.clone(), end.clone());
    Arc::new(AgentContext {
        requests,
        repository: parts.repository,
        opensearch: parts.opensearch.under(place.lease.clone()),
        streams: shards.over(kafka.memory()),
        copies: copies.over(kafka.memory()),
        kafka,
        checkpoints: parts.checkpoints,
        slots: place.slots,
        positions: place.positions,
        group: place.group,
        lease: place.lease,
        leader_table: tables.leader.clone(),
        follower_table: tables.follower.clone(),
        dead_letters: tables.dead_letters.clone(),
        subscription_ids: Derived::default(),
        memory: Arc::default(),
        metrics: parts.metrics,
        changing: tokio::sync::Mutex::new(()),
    })
}

/// Begins to follow, and what goes on beside it until the agent is stopped.
fn begin(
    subscriptions: &Arc<Subscriptions>,
    (group, rebalances, left): (&Arc<Group>, Rebalances, &CancellationToken),
    leader_table: ControlTopic,
    stop: &CancellationToken,
) -> Tasks {
    let of = || Arc::clone(subscriptions);
    let stop = || stop.clone();
    let member = tokio::spawn({
        let (group, left) = (Arc::clone(group), left.clone());
        async move { group.run(rebalances, left).await }
    });
    let following = {
        let subscriptions = of();
        tokio::spawn(async move { subscriptions.run().await })
    };
    let rules = tokio::spawn(auto_follow::run(of(), stop()));
    let bulk = tokio::spawn(bulk_tasks::run(of(), stop()));
    let verifying = tokio::spawn(verify::run(of(), stop()));
    let tidying = tokio::spawn(tidy_requests::run(of(), stop()));
    let watching = tokio::spawn(leader_watch::run(of(), leader_table, stop()));
    Tasks {
        following,
        member,
        others: vec![
            ("auto-follow", rules),
            ("a bulk task", bulk),
            ("a verification", verifying),
            ("the tidying of requests", tidying),
            ("the leader watch", watching),
        ],
    }
}
