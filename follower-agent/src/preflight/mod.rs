//! What the follower agent needs of its cluster, Kafka and this machine.

mod permissions;
mod security;

use std::path::Path;

use shardline_common::config::AgentConfig as _;
use shardline_common::control::{NodeAnnouncement, Subscription};
use shardline_common::preflight::{
    ClusterIdentity, ControlEntries, Preflight, Problem, Report, SideTopics, check_folder,
    check_free, check_kafka, check_open_files, check_opensearch, check_permissions, check_prefix,
    locked_by, read_control, space_of,
};

use crate::config::FollowerConfig;
use crate::progress::CHECKPOINTS_FOLDER;

/// Connections of users and to brokers, and RocksDB's files.
const OPEN_FILES: u64 = 1024;
/// Checkpoints are small; RocksDB wants room for its logs and for merging its files.
const FREE_MIB: u64 = 256;
/// More indices are not asked for one by one.
const INDICES: usize = 20;
/// Stands for any index where none is followed yet.
const SAMPLE: &str = "shardline-check-config";

impl Preflight for FollowerConfig {
    fn check_machine(&self, report: &mut Report) {
        check_machine(self, report);
    }

    async fn check_servers(&self, indices: &[String], report: &mut Report) {
        check_servers(self, indices, report).await;
    }
}

/// Checks what can be seen without a network.
fn check_machine(config: &FollowerConfig, report: &mut Report) {
    let folder = &config.storage.data_dir;
    report.add("storage.data_dir", check_folder("storage.data_dir", folder));
}

/// Checks the servers, and this machine as the agent will use it.
async fn check_servers(config: &FollowerConfig, indices: &[String], report: &mut Report) {
    let cluster = check_opensearch(config.opensearch(), report).await;
    let kafka = check_kafka(config.kafka(), report).await;
    let mut entries = ControlEntries::default();
    if let Some(side) = &kafka {
        entries = read_control(side, SideTopics::Follower, report).await;
        if let Some(ClusterIdentity { root, .. }) = &cluster {
            let (name, uuid) = (&root.cluster_name, &root.cluster_uuid);
            check_prefix(side, SideTopics::Follower, name, uuid, &entries, report).await;
        }
        check_aliases(config, &entries, report);
    }
    if let Some(cluster) = &cluster {
        let found = security::check(config.gateway.security.mode, &cluster.probe).await;
        report.add("gateway.security.mode", found);
        let (indices, is_sample) = indices_to_ask(indices, &entries, cluster);
        let needed = permissions::needed(config.bootstrap.repository.as_deref());
        check_permissions(&cluster.probe, &needed, &indices, is_sample, report).await;
    }
    check_storage(&config.storage.data_dir, report);
    check_open_files(OPEN_FILES, report);
    check_free("admin.listen", config.admin.listen, report);
    check_free("gateway.listen", config.gateway.listen, report);
}

/// Whether each alias means a cluster that has announced itself.
fn check_aliases(config: &FollowerConfig, entries: &ControlEntries, report: &mut Report) {
    let nodes = entries.leader::<NodeAnnouncement>();
    if nodes.is_empty() {
        return;
    }
    for (alias, cluster) in &config.aliases {
        let found = if nodes.iter().any(|node| node.cluster_name == *cluster) {
            Ok(cluster.clone())
        } else {
            let mut names: Vec<&str> = nodes.iter().map(|node| &*node.cluster_name).collect();
            names.sort_unstable();
            names.dedup();
            let what = format!("no leader agent of a cluster {cluster} has announced itself");
            let mend = format!("aliases.{alias} = one of: {}", names.join(", "));
            Err(Problem::new(what, mend))
        };
        report.add(format!("aliases.{alias}"), found);
    }
}

/// The indices whose permissions are asked for: those that are followed, or else an example.
fn indices_to_ask(
    named: &[String],
    entries: &ControlEntries,
    cluster: &ClusterIdentity,
) -> (Vec<String>, bool) {
    let mut needed = named.to_vec();
    let subscriptions = entries.follower::<Subscription>().into_iter();
    let ours = subscriptions.filter(|one| one.follower_cluster == cluster.root.cluster_uuid);
    needed.extend(ours.map(|one| one.follower_index.0));
    needed.sort();
    needed.dedup();
    needed.truncate(INDICES);
    if needed.is_empty() {
        return (vec![SAMPLE.to_owned()], true);
    }
    (needed, false)
}

fn check_storage(data_dir: &Path, report: &mut Report) {
    let lock = data_dir.join(CHECKPOINTS_FOLDER).join("LOCK");
    let found = match locked_by(&lock) {
        None => Ok(String::new()),
        Some(pid) => {
            let what = format!("{} is in use by the process {pid}", data_dir.display());
            let mend = format!(
                "end the other agent (kill {pid}), or give this one another storage.data_dir"
            );
            Err(Problem::new(what, mend))
        }
    };
    report.add("lock of storage.data_dir", found);
    let found = match space_of(data_dir) {
        Ok(space) if space.available_mib() < FREE_MIB => {
            let what = format!(
                "{} MiB are free in {}, and {FREE_MIB} are needed: the disk is nearly full",
                space.available_mib(),
                data_dir.display()
            );
            let mend = "free disk there (df -h), or let storage.data_dir be on another disk";
            Err(Problem::new(what, mend))
        }
        Ok(space) => Ok(format!("{} MiB are free", space.available_mib())),
        Err(error) => Err(Problem::new(
            format!("the room in {} is not known: {error}", data_dir.display()),
            "df on that folder says why",
        )),
    };
    report.add("disk of storage.data_dir", found);
}
