//! Decides which shards this agent ships, holds or copies, and keeps a task for each.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shardline_common::control::{
    BootstrapRequest, Capture as CaptureEntry, Entry, FailedRedelivery, FollowedLeader, Redelivery,
};
use shardline_common::kafka::{ControlTopic, TopicError};
use shardline_common::metadata::MetadataVersions;
use shardline_common::repository::{Snapshot, SnapshotPosition, SnapshotRequest};
use shardline_common::tasks::{StoppableTask, end_all};
use shardline_common::topic::{bootstrap_topic, replication_topic};
use shardline_common::types::{IndexName, IndexUuid, Offset, ShardId, SnapshotId, TopicName};
use shardline_common::verify::{Question, Reply};
use shardline_common::wildcard::wildcard_match;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::copy_topics::{CopyTopics, MakeError};
use super::held::{Held, translog_folder};
use super::positions::Positions;
use super::spools::Spools;
use crate::capture::{Asking, Context, Shipped, hold_replica, redelivery_channel, ship_shard};
use crate::config::{CaptureConfig, Source};
use crate::node::{self, ClusterView, IndexView, LocalNode, LocalState, Shard};
use crate::serve::{answer_question, clear_snapshot, copy_shard, serve_snapshot};
use crate::source::{Files, Origin, watch_checkpoints};
use crate::translog::ShardKey;

pub(crate) struct Supervisor {
    node: LocalNode,
    context: Arc<Context>,
    leader_table: ControlTopic,
    follower_table: ControlTopic,
    always: Vec<String>,
    /// Instead of the translogs, where those cannot be read.
    poll: Option<Origin>,
    spools: Spools,
    /// Shards that nobody has taken over yet.
    held: Held,
    /// The view and the newest entries with which every index was found to be announced.
    announced: Option<(i64, Option<Offset>, Option<Offset>)>,
    captures: HashMap<ShardKey, RunningCapture>,
    /// Indices of which metrics tell, with how many shards.
    counted: HashMap<IndexUuid, (IndexName, u32)>,
    holds: HashMap<ShardKey, StoppableTask>,
    snapshots: HashMap<(String, ShardId), StoppableTask>,
    copy_topics: CopyTopics,
    repository_snapshots: HashMap<(String, ShardId), StoppableTask>,
    /// The positions of snapshots in repositories.
    positions: Positions,
    /// Deletions of snapshots that nobody asks for any more, by the snapshot's id.
    clearings: HashMap<SnapshotId, JoinHandle<()>>,
    /// Tasks that answer verifications, by the question's nonce.
    questions: HashMap<String, StoppableTask>,
}

struct RunningCapture {
    task: StoppableTask,
    shard: Shard,
    metadata: watch::Sender<MetadataVersions>,
    shipped: watch::Receiver<Option<Shipped>>,
    asking: Asking,
}

impl Supervisor {
    pub(crate) fn new(
        node: LocalNode,
        context: Arc<Context>,
        leader_table: ControlTopic,
        follower_table: ControlTopic,
        (spools, held): (Spools, Held),
        config: &CaptureConfig,
        stop: &CancellationToken,
    ) -> Self {
        let poll = (config.source == Source::Poll).then(|| {
            let interval = Duration::from_secs(config.poll_seconds);
            let checkpoints =
                watch_checkpoints(context.opensearch.clone(), interval, stop.child_token());
            Origin::Poll {
                checkpoints,
                sweep_interval: Duration::from_secs(config.poll_sweep_seconds),
            }
        });
        let copy_topics = CopyTopics::new(
            node.cluster().clone(),
            context.kafka.clone(),
            leader_table.clone(),
        );
        Self {
            poll,
            node,
            context,
            leader_table,
            follower_table,
            always: config.always.clone(),
            spools,
            held,
            announced: None,
            captures: HashMap::new(),
            counted: HashMap::new(),
            holds: HashMap::new(),
            snapshots: HashMap::new(),
            copy_topics,
            repository_snapshots: HashMap::new(),
            positions: Positions::default(),
            clearings: HashMap::new(),
            questions: HashMap::new(),
        }
    }

    /// Starts what the view and the followers' wishes ask for, ends what they no longer do.
    pub(crate) async fn reconcile(&mut self, view: &ClusterView) {
        let followed_at = self.follower_table.newest::<FollowedLeader>();
        let followed: HashSet<IndexUuid> = self
            .follower_table
            .all::<FollowedLeader>()
            .into_iter()
            .filter(|subscription| subscription.leader_cluster == *self.node.cluster())
            .map(|subscription| subscription.leader_uuid)
            .collect();
        let wanted: Vec<&IndexView> = view
            .indices
            .values()
            .filter(|index| index.open && index.refusal.is_none())
            .filter(|index| followed.contains(&index.uuid) || self.is_always_captured(index))
            .collect();
        let keys = |shards: &dyn Fn(&IndexView) -> BTreeSet<ShardId>| -> HashSet<ShardKey> {
            let of = |index: &&IndexView| {
                shards(index)
                    .into_iter()
                    .map(|shard| (index.uuid.clone(), shard))
                    .collect::<Vec<_>>()
            };
            wanted.iter().flat_map(of).collect()
        };
        let primaries = keys(&|index| index.local_primaries.clone());
        let replicas = keys(&|index| self.beside(index));
        end_all(
            &mut self.captures,
            |key| !primaries.contains(key),
            |capture| capture.task,
        )
        .await;
        end_all(&mut self.holds, |key| !replicas.contains(key), |task| task).await;
        self.forget_deleted(view);
        let compared = (
            view.version,
            self.leader_table.newest::<CaptureEntry>(),
            followed_at,
        );
        let is_announced = self.announced == Some(compared);
        let all_started = self.start_indices(wanted, is_announced).await;
        if !view.indices.is_empty() {
            self.held.let_go();
        }
        self.announced = all_started.then_some(compared);
        self.context
            .metrics
            .captures
            .set(i64::try_from(self.captures.len()).unwrap_or(i64::MAX));
        self.tend_spools(view, &followed).await;
        self.reconcile_snapshots(view).await;
        self.reconcile_repository_snapshots(view).await;
        self.reconcile_questions().await;
        self.pass_on_redeliveries();
        self.remove_failed_redeliveries().await;
    }

    /// Starts what is to be held or captured of some indices. Whether all of it could be.
    async fn start_indices(&mut self, wanted: Vec<&IndexView>, is_announced: bool) -> bool {
        let mut all_started = true;
        // First what needs no answer of Kafka's: whatever it does not have is held.
        for index in &wanted {
            if let Err(error) = self.hold_index(index) {
                warn!(index = %index.name, %error, "the index cannot be held yet");
                all_started = false;
            }
        }
        // What Kafka has to be asked for is left for later once it has not answered: it would hold
        // up the other indices.
        let (mut refused, mut kafka_answers) = self.create_topics(&wanted).await;
        for index in wanted {
            let refused = refused.remove(&self.topic_of(index));
            if let Err(error) = self
                .start_index(index, is_announced, refused, &mut kafka_answers)
                .await
            {
                warn!(index = %index.name, %error, "the index cannot be captured yet");
                all_started = false;
            }
        }
        all_started && kafka_answers
    }

    pub(crate) async fn stop(&mut self) {
        end_all(&mut self.questions, |_| true, |task| task).await;
        end_all(&mut self.snapshots, |_| true, |task| task).await;
        end_all(&mut self.repository_snapshots, |_| true, |task| task).await;
        end_all(&mut self.captures, |_| true, |capture| capture.task).await;
        end_all(&mut self.holds, |_| true, |task| task).await;
    }

    fn forget_deleted(&mut self, view: &ClusterView) {
        let there: HashSet<&IndexUuid> = view.indices.values().map(|index| &index.uuid).collect();
        for (_, (name, shards)) in self.counted.extract_if(|uuid, _| !there.contains(uuid)) {
            // Another one of that name counts on.
            if !view.indices.contains_key(&name) {
                (0..shards).for_each(|shard| {
                    self.context
                        .metrics
                        .forget(&[name.as_str(), &shard.to_string()])
                });
            }
        }
    }

    fn is_always_captured(&self, index: &IndexView) -> bool {
        !index.name.as_str().starts_with('.')
            && self
                .always
                .iter()
                .any(|pattern| wildcard_match(pattern, index.name.as_str()))
    }

    fn topic_of(&self, index: &IndexView) -> TopicName {
        replication_topic(
            self.context.kafka.topic_prefix(),
            &self.node.announcement.cluster_name,
            &index.name,
            &index.uuid,
        )
    }

    /// The shards that are to be captured here and are not yet.
    fn missing(&self, index: &IndexView) -> Vec<ShardId> {
        let is_missing =
            |shard: &ShardId| !self.captures.contains_key(&(index.uuid.clone(), *shard));
        let primaries = index.local_primaries.iter().copied();
        primaries.filter(is_missing).collect()
    }

    /// Holds what an index has here, and goes on to hold what is beside its primaries.
    fn hold_index(&mut self, index: &IndexView) -> Result<(), StartError> {
        if self.poll.is_none() {
            for id in self.missing(index) {
                if let Some(Files { translog, spool }) = self.locate(index, id)? {
                    let key = (index.uuid.clone(), id);
                    self.held
                        .hold(key, &translog, &spool, &self.context.watcher);
                }
            }
        }
        let topic = self.topic_of(index);
        for id in self.beside(index) {
            let key = (index.uuid.clone(), id);
            if self.holds.contains_key(&key) {
                continue;
            }
            let Some(files) = self.locate(index, id)? else {
                continue;
            };
            self.held.hold(
                key.clone(),
                &files.translog,
                &files.spool,
                &self.context.watcher,
            );
            let (shard, context) = (shard_of(index, id, &topic), Arc::clone(&self.context));
            let holding = StoppableTask::spawn(|stop| hold_replica(shard, files, context, stop));
            self.holds.insert(key, holding);
        }
        Ok(())
    }

    /// Makes the topics of all indices of which captures are to be started, in one go. Gives those
    /// that Kafka refused, and whether it answered.
    async fn create_topics(&self, wanted: &[&IndexView]) -> (HashMap<TopicName, TopicError>, bool) {
        let starting = wanted
            .iter()
            .filter(|index| !self.missing(index).is_empty());
        let topics = starting
            .map(|index| (self.topic_of(index), index.number_of_shards))
            .collect::<BTreeMap<_, _>>();
        match self.context.kafka.create_replication_topics(&topics).await {
            Ok(refused) => (refused, true),
            Err(error) => {
                warn!(topics = topics.len(), %error, "the topics of indices cannot be made yet");
                (HashMap::new(), false)
            }
        }
    }

    async fn start_index(
        &mut self,
        index: &IndexView,
        is_announced: bool,
        refused: Option<TopicError>,
        kafka_answers: &mut bool,
    ) -> Result<(), StartError> {
        // Before anything that Kafka may hold up.
        for id in &index.local_primaries {
            if let Some(capture) = self.captures.get(&(index.uuid.clone(), *id)) {
                let newest =
                    |known: &mut _| std::mem::replace(known, index.versions) != index.versions;
                capture.metadata.send_if_modified(newest);
            }
        }
        let topic = self.topic_of(index);
        let missing = self.missing(index);
        let mut announced = refused.map_or(Ok(()), |refused| Err(StartError::from(refused)));
        // One agent speaks for the index: the one beside the primary of its first shard.
        if announced.is_ok()
            && *kafka_answers
            && !is_announced
            && index.local_primaries.contains(&ShardId(0))
        {
            announced = self.announce(index, &topic).await;
            *kafka_answers = !matches!(announced, Err(StartError::Control(_)));
        }
        // Whether or not Kafka answers: they hold what it does not have.
        for id in missing {
            let origin = match &self.poll {
                Some(poll) => poll.clone(),
                None => match self.locate(index, id)? {
                    Some(files) => Origin::Translog(files),
                    None => continue,
                },
            };
            self.counted.insert(
                index.uuid.clone(),
                (index.name.clone(), index.number_of_shards),
            );
            let shard = shard_of(index, id, &topic);
            let (sender, shipped) = watch::channel(None);
            let (metadata, newest) = watch::channel(index.versions);
            let (asking, asked) = redelivery_channel();
            let context = Arc::clone(&self.context);
            let task = StoppableTask::spawn(|stop| {
                ship_shard(shard.clone(), origin, context, sender, newest, asked, stop)
            });
            self.captures.insert(
                (index.uuid.clone(), id),
                RunningCapture {
                    task,
                    shard,
                    metadata,
                    shipped,
                    asking,
                },
            );
        }
        announced
    }

    /// Writes the index's descriptor into the control topic when it is new or its metadata changed.
    async fn announce(&self, index: &IndexView, topic: &TopicName) -> Result<(), StartError> {
        let key = CaptureEntry::key_of(self.node.cluster(), &index.uuid);
        let listed: Option<CaptureEntry> = self.leader_table.get(&key);
        // After the cluster, or the prefix, got another name, captures write to another topic.
        let is_listed = |listed: CaptureEntry| {
            listed.topic == *topic && !index.versions.newer_than(listed.metadata.versions)
        };
        if listed.is_some_and(is_listed) {
            return Ok(());
        }
        let opensearch = &self.context.opensearch;
        let state = LocalState {
            versions: index.versions,
            routing_num_shards: index.routing_num_shards,
        };
        let metadata = node::fetch_metadata(opensearch, &index.name, &index.uuid, &state).await?;
        let cluster_uuid = self.node.cluster().clone();
        self.leader_table
            .publish(&CaptureEntry {
                cluster_uuid,
                topic: topic.clone(),
                metadata,
            })
            .await?;
        Ok(())
    }

    /// The shards whose copies on this node are not their primaries. A node that starts again has
    /// its copies on disk before it is told what to do with them.
    fn beside(&self, index: &IndexView) -> BTreeSet<ShardId> {
        if self.poll.is_some() {
            return BTreeSet::new();
        }
        (0..index.number_of_shards)
            .map(ShardId)
            .filter(|shard| !index.local_primaries.contains(shard))
            .filter(|shard| self.has_copy(index, *shard))
            .collect()
    }

    fn data_path_of(&self, index: &IndexView, shard: ShardId) -> Option<&PathBuf> {
        let relative = translog_folder(&self.node.own_folder, &index.uuid, shard);
        self.node
            .data_paths
            .iter()
            .find(|path| path.join(&relative).is_dir())
    }

    /// Finds a shard's translog on disk. `None` while the node has not made it yet.
    fn locate(&mut self, index: &IndexView, id: ShardId) -> Result<Option<Files>, StartError> {
        let relative = translog_folder(&self.node.own_folder, &index.uuid, id);
        let Some(data_path) = self.data_path_of(index, id).cloned() else {
            warn!(index = %index.name, shard = %id, data_paths = ?self.node.data_paths,
                  "no translog of this shard below the data paths: set capture.data_paths if the agent sees them elsewhere");
            return Ok(None);
        };
        let spool = self.spools.of(&data_path)?.shard(&index.uuid, id)?;
        Ok(Some(Files {
            translog: data_path.join(relative),
            spool,
        }))
    }

    /// A shard's spool is kept while the node has a copy of it and somebody follows its index.
    /// Before the node has recovered the cluster's state, it knows no index at all.
    async fn tend_spools(&mut self, view: &ClusterView, followed: &HashSet<IndexUuid>) {
        if self.poll.is_some() {
            return;
        }
        let now = Instant::now();
        if let Some(mut shards) = self.spools.look(&self.node.data_paths, now) {
            shards.retain(|key| !self.needs_spool(key, view, followed));
            self.spools.clean_up(shards, now).await;
        }
        self.spools.report(&self.context.metrics);
    }

    fn needs_spool(
        &self,
        key: &ShardKey,
        view: &ClusterView,
        followed: &HashSet<IndexUuid>,
    ) -> bool {
        let (uuid, shard) = key;
        let is_wanted =
            |index: &IndexView| followed.contains(uuid) || self.is_always_captured(index);
        view.indices.is_empty()
            || self.captures.contains_key(key)
            || self.holds.contains_key(key)
            || view
                .by_uuid(uuid)
                .is_some_and(|index| is_wanted(index) && self.has_copy(index, *shard))
    }

    fn has_copy(&self, index: &IndexView, shard: ShardId) -> bool {
        index.local_primaries.contains(&shard)
            || index.local_replicas.contains(&shard)
            || self.data_path_of(index, shard).is_some()
    }

    async fn reconcile_snapshots(&mut self, view: &ClusterView) {
        let requests: HashMap<String, BootstrapRequest> = self
            .follower_table
            .all::<BootstrapRequest>()
            .into_iter()
            .filter(|request| request.leader_cluster == *self.node.cluster())
            .map(|request| (request.id.clone(), request))
            .collect();
        // One that has not begun yet waits for the capture that it was started with. A capture ends
        // before these tasks are looked at, and another one of the same shard starts in a later
        // call at the earliest.
        let captures = &self.captures;
        let is_wanted = |(id, shard): &(String, ShardId)| {
            requests.get(id).is_some_and(|request| {
                captures.contains_key(&(request.leader_uuid.clone(), *shard))
            })
        };
        end_all(&mut self.snapshots, |key| !is_wanted(key), |task| task).await;
        self.copy_topics.tend(&requests, view.local_is_manager);
        for (id, request) in requests {
            if let Err(error) = self.start_snapshots(&id, &request).await {
                warn!(bootstrap = id, %error, "a bootstrap cannot be served yet");
                // It would hold up the other indices.
                if error.is_kafka_away() {
                    break;
                }
            }
        }
    }

    /// Has snapshots made in repositories for those who ask, and deleted when nobody asks for them
    /// any more.
    async fn reconcile_repository_snapshots(&mut self, view: &ClusterView) {
        // Before the requests: what is asked for meanwhile has positions that are not among these.
        let mut positions = self.leader_table.all::<SnapshotPosition>();
        let requests = self.follower_table.all::<SnapshotRequest>().into_iter();
        let of_here = requests.filter(|request| request.leader_cluster == *self.node.cluster());
        let requests: HashMap<String, SnapshotRequest> = of_here
            .map(|request| (request.id.clone(), request))
            .collect();
        let captures = &self.captures;
        let is_wanted = |(id, shard): &(String, ShardId)| {
            requests.get(id).is_some_and(|request| {
                captures.contains_key(&(request.leader_uuid.clone(), *shard))
            })
        };
        end_all(
            &mut self.repository_snapshots,
            |key| !is_wanted(key),
            |task| task,
        )
        .await;
        for ((uuid, shard), running) in &self.captures {
            for request in requests
                .values()
                .filter(|request| request.leader_uuid == *uuid)
            {
                self.positions.note_own(request.id.as_str().into(), *shard);
                self.repository_snapshots
                    .entry((request.id.clone(), *shard))
                    .or_insert_with(|| {
                        let (shard, shipped) = (running.shard.clone(), running.shipped.clone());
                        let (opensearch, table) =
                            (self.context.opensearch.clone(), self.leader_table.clone());
                        StoppableTask::spawn(|stop| {
                            serve_snapshot(shard, request.clone(), opensearch, table, shipped, stop)
                        })
                    });
            }
        }
        self.clearings.retain(|_, clearing| !clearing.is_finished());
        for snapshot in self.leader_table.all::<Snapshot>() {
            let is_own = match view.by_uuid(&snapshot.leader_uuid) {
                Some(index) if index.open => index.local_primaries.contains(&ShardId(0)),
                _ => view.local_is_manager,
            };
            if snapshot.leader_cluster == *self.node.cluster()
                && is_own
                && !requests.contains_key(snapshot.id.as_str())
            {
                let (opensearch, table) =
                    (self.context.opensearch.clone(), self.leader_table.clone());
                let clearing = self.clearings.entry(snapshot.id.clone());
                clearing
                    .or_insert_with(|| tokio::spawn(clear_snapshot(snapshot, opensearch, table)));
            }
        }
        let own_cluster = self.node.cluster();
        positions.retain(|position| position.leader_cluster == *own_cluster);
        let is_asked_for = |id: &SnapshotId| requests.contains_key(id.as_str());
        self.positions
            .tidy_up(
                &self.leader_table,
                positions,
                view.local_is_manager,
                is_asked_for,
            )
            .await;
    }

    /// Answers the questions of verifications about the shards that are captured here, each once.
    async fn reconcile_questions(&mut self) {
        let asked = self.follower_table.all::<Question>().into_iter();
        let of_here = |question: &Question| {
            question.leader_cluster == *self.node.cluster()
                && self
                    .captures
                    .contains_key(&(question.leader_uuid.clone(), question.shard))
        };
        let asked: HashMap<String, Question> = asked
            .filter(of_here)
            .map(|question| (question.nonce.clone(), question))
            .collect();
        end_all(
            &mut self.questions,
            |nonce| !asked.contains_key(nonce),
            |task| task,
        )
        .await;
        for (nonce, question) in asked {
            let Some(running) = self
                .captures
                .get(&(question.leader_uuid.clone(), question.shard))
            else {
                continue;
            };
            self.questions.entry(nonce).or_insert_with(|| {
                let (shard, shipped) = (running.shard.clone(), running.shipped.clone());
                let (opensearch, table) =
                    (self.context.opensearch.clone(), self.leader_table.clone());
                StoppableTask::spawn(|stop| {
                    answer_question(shard, question, opensearch, table, shipped, stop)
                })
            });
        }
        for reply in self.leader_table.all::<Reply>() {
            let is_own = self
                .captures
                .contains_key(&(reply.leader_uuid.clone(), reply.shard));
            if is_own
                && self
                    .follower_table
                    .get::<Question>(&reply.question_key())
                    .is_none()
                && let Err(error) = self.leader_table.remove(&reply.key()).await
            {
                warn!(%error, "a reply that nobody waits for could not be removed");
            }
        }
    }

    fn pass_on_redeliveries(&mut self) {
        let mut asked: HashMap<ShardKey, Vec<Redelivery>> = HashMap::new();
        for request in self.follower_table.all::<Redelivery>() {
            if request.leader_cluster == *self.node.cluster() {
                asked
                    .entry((request.leader_uuid.clone(), request.shard))
                    .or_default()
                    .push(request);
            }
        }
        for (key, capture) in &mut self.captures {
            capture
                .asking
                .pass_on(asked.get(key).map_or(&[], Vec::as_slice));
        }
    }

    /// Takes back what was told about requests that do not stand any more.
    async fn remove_failed_redeliveries(&self) {
        for failed in self.leader_table.all::<FailedRedelivery>() {
            let key = (failed.leader_uuid.clone(), failed.shard);
            let request: Option<Redelivery> = self.follower_table.get(&failed.request_key());
            let stands = request.is_some_and(|request| request.frame == failed.frame);
            if self.captures.contains_key(&key)
                && !stands
                && let Err(error) = self.leader_table.remove(&failed.key()).await
            {
                warn!(%error, "an answer that nobody waits for could not be removed");
            }
        }
    }

    async fn start_snapshots(
        &mut self,
        id: &str,
        request: &BootstrapRequest,
    ) -> Result<(), StartError> {
        let metadata = CaptureEntry::key_of(self.node.cluster(), &request.leader_uuid);
        let Some(capture) = self.leader_table.get::<CaptureEntry>(&metadata) else {
            return Ok(());
        };
        // Whatever a request says, no other topic is made, or deleted.
        let topic = bootstrap_topic(&capture.topic, id);
        if request.topic != topic || !is_bootstrap_id(id) {
            return Err(StartError::ForeignTopic {
                asked: request.topic.clone(),
                own: topic,
            });
        }
        for ((uuid, shard), running) in &self.captures {
            let key = (id.to_owned(), *shard);
            if *uuid != request.leader_uuid || self.snapshots.contains_key(&key) {
                continue;
            }
            self.copy_topics
                .make(request, capture.metadata.number_of_shards)
                .await?;
            info!(index = %running.shard.index, %shard, bootstrap = id, "snapshot started");
            let (shard, topic) = (running.shard.clone(), topic.clone());
            let (context, shipped) = (Arc::clone(&self.context), running.shipped.clone());
            let task =
                StoppableTask::spawn(|stop| copy_shard(shard, topic, context, shipped, stop));
            self.snapshots.insert(key, task);
        }
        Ok(())
    }
}

/// Whether an id is one that follower agents give, of which a topic's name can be made.
fn is_bootstrap_id(id: &str) -> bool {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || c == '-';
    !id.is_empty() && id.len() <= 64 && id.chars().all(is_legal)
}

fn shard_of(index: &IndexView, shard: ShardId, topic: &TopicName) -> Shard {
    Shard {
        index: index.name.clone(),
        uuid: index.uuid.clone(),
        shard,
        number_of_shards: index.number_of_shards,
        has_replicas: index.has_replicas,
        topic: topic.clone(),
    }
}

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error(transparent)]
    Control(#[from] shardline_common::kafka::ControlError),
    #[error(transparent)]
    OpenSearch(#[from] shardline_common::opensearch::OpenSearchError),
    #[error(transparent)]
    Spool(#[from] crate::translog::SpoolError),
    #[error("the bootstrap asks for topic {asked}, and its own is {own}: it is not served")]
    ForeignTopic { asked: TopicName, own: TopicName },
}

impl StartError {
    /// Kafka may not answer for a while.
    fn is_kafka_away(&self) -> bool {
        matches!(
            self,
            Self::Topic(TopicError::Failed { .. }) | Self::Control(_)
        )
    }
}

impl From<MakeError> for StartError {
    fn from(error: MakeError) -> Self {
        match error {
            MakeError::Control(error) => Self::Control(error),
            MakeError::Topic(error) => Self::Topic(error),
        }
    }
}
