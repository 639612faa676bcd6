//! What the leader agent needs of its node, its cluster, Kafka and this machine.

mod files;
mod permissions;

use shardline_common::config::AgentConfig as _;
use shardline_common::control::Subscription;
use shardline_common::opensearch::{OpenSearch, StateOf};
use shardline_common::preflight::{
    ClusterIdentity, ControlEntries, Preflight, Report, SideTopics, check_free, check_inotify,
    check_kafka, check_open_files, check_opensearch, check_permissions, check_prefix, read_control,
};
use shardline_common::wildcard::wildcard_match;

use crate::config::{LeaderConfig, Source};
use crate::node::{ClusterView, LocalNode};

/// What the agent has open beside translogs: connections, logs, its program.
const OPEN_FILES: u64 = 256;
/// What a captured shard may have open: the generations that are read or held.
const OPEN_FILES_EACH: u64 = 4;
/// What is watched beside one folder for each shard.
const WATCHES: u64 = 16;
/// More indices are not asked for one by one.
const INDICES: usize = 20;
/// Stands for any index where there is none yet.
const SAMPLE: &str = "shardline-check-config";

impl Preflight for LeaderConfig {
    fn check_machine(&self, report: &mut Report) {
        check_machine(self, report);
    }

    async fn check_servers(&self, indices: &[String], report: &mut Report) {
        check_servers(self, indices, report).await;
    }
}

/// Checks what can be seen without a network.
fn check_machine(config: &LeaderConfig, report: &mut Report) {
    if config.capture.source == Source::Translog {
        for folder in &config.capture.data_paths {
            report.add("capture.data_paths", files::check_is_data_folder(folder));
        }
    }
}

/// Checks the servers, and what of this machine depends on what they say.
async fn check_servers(config: &LeaderConfig, indices: &[String], report: &mut Report) {
    let cluster = check_opensearch(config.opensearch(), report).await;
    let node = match &cluster {
        Some(_) => check_node(config, report).await,
        None => None,
    };
    let kafka = check_kafka(config.kafka(), report).await;
    let mut entries = ControlEntries::default();
    if let Some(side) = &kafka {
        entries = read_control(side, SideTopics::Leader, report).await;
        if let Some(ClusterIdentity { root, .. }) = &cluster {
            let (name, uuid) = (&root.cluster_name, &root.cluster_uuid);
            check_prefix(side, SideTopics::Leader, name, uuid, &entries, report).await;
        }
    }
    if let (Some(cluster), Some(Beside { node, view })) = (&cluster, &node) {
        let (indices, is_sample) = indices_to_ask(config, indices, &entries, node, view);
        let needed = permissions::needed();
        check_permissions(&cluster.probe, &needed, &indices, is_sample, report).await;
        if config.capture.source == Source::Translog {
            files::check(config, node, view, &cluster.probe, report).await;
            let shards = local_shards(view);
            check_open_files(OPEN_FILES + OPEN_FILES_EACH * shards, report);
            check_inotify(WATCHES + shards, report);
        }
    }
    check_free("admin.listen", config.admin.listen, report);
}

/// The node beside the agent, and the cluster as it is now.
struct Beside {
    node: LocalNode,
    view: ClusterView,
}

async fn check_node(config: &LeaderConfig, report: &mut Report) -> Option<Beside> {
    let mend = "give a role of the agent's user the cluster permissions cluster:monitor/main, \
                cluster:monitor/nodes/info and cluster:monitor/state";
    let opensearch = OpenSearch::new(config.opensearch()).ok()?;
    let asked = async {
        let mut node = LocalNode::ask(&opensearch, config.capture.source).await?;
        if !config.capture.data_paths.is_empty() {
            node.data_paths.clone_from(&config.capture.data_paths);
        }
        let view = ClusterView::ask(&opensearch, &node, StateOf::Node).await?;
        Ok::<_, shardline_common::opensearch::OpenSearchError>(Beside { node, view })
    };
    match asked.await {
        Ok(beside) => {
            let announced = &beside.node.announcement;
            let found = format!("{} ({})", announced.node_name, announced.node_id);
            report.ok("node", found);
            Some(beside)
        }
        Err(error) => {
            report.failed("node", error, mend);
            None
        }
    }
}

fn local_shards(view: &ClusterView) -> u64 {
    let of_index =
        |index: &crate::node::IndexView| index.local_primaries.len() + index.local_replicas.len();
    view.indices.values().map(of_index).sum::<usize>() as u64
}

/// The indices whose permissions are asked for: those that are captured or followed, each of which
/// has to be allowed; or else examples.
fn indices_to_ask(
    config: &LeaderConfig,
    named: &[String],
    entries: &ControlEntries,
    node: &LocalNode,
    view: &ClusterView,
) -> (Vec<String>, bool) {
    let mut needed = named.to_vec();
    let subscriptions = entries.follower::<Subscription>().into_iter();
    let ours = subscriptions.filter(|one| one.leader_cluster == *node.cluster());
    needed.extend(ours.map(|one| one.leader_index.0));
    let visible = view
        .indices
        .values()
        .filter(|index| index.open && !index.hidden);
    let names: Vec<String> = visible.map(|index| index.name.0.clone()).collect();
    let patterns = &config.capture.always;
    let is_captured = |name: &&String| patterns.iter().any(|one| wildcard_match(one, name));
    needed.extend(names.iter().filter(is_captured).cloned());
    needed.sort();
    needed.dedup();
    needed.truncate(INDICES);
    if !needed.is_empty() {
        return (needed, false);
    }
    let mut samples = names;
    samples.truncate(INDICES);
    if samples.is_empty() {
        samples.push(SAMPLE.to_owned());
    }
    (samples, true)
}
