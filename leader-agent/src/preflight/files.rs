//! The node's files: whether they are this node's, whether they can be held by hard links, and
//! whether the disk has room for that.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use shardline_common::preflight::{Probe, Problem, Report, Space, Temporary, space_of};

use crate::config::LeaderConfig;
use crate::node::{ClusterView, LocalNode};
use crate::supervise::SPOOL_FOLDER;

const MIB: u64 = 1024 * 1024;
/// How many shards without files are named.
const NAMED: usize = 3;
/// Where a node keeps its own state, below a data folder.
const NODE_STATE: &str = "nodes/0/_state";
const INDICES: &str = "nodes/0/indices";
const MEND_PATHS: &str = "capture.data_paths = [\"…\"] with the folders of path.data of the node \
                          at opensearch.url, as this machine has them; and run one agent beside \
                          each node";

/// Whether a folder is one that an OpenSearch node keeps its data in.
pub(super) fn check_is_data_folder(folder: &Path) -> Result<String, Problem> {
    let state = folder.join(NODE_STATE);
    fs::read_dir(&state).map_err(|error| {
        let what = format!("{} is no data folder of a node: {error}", folder.display());
        if error.kind() == io::ErrorKind::PermissionDenied {
            let owner = folder.display();
            return Problem::new(
                what,
                format!("run the agent as the owner of {owner}: ls -ld"),
            );
        }
        Problem::new(format!("{what} ({})", state.display()), MEND_PATHS)
    })?;
    Ok(folder.display().to_string())
}

pub(super) async fn check(
    config: &LeaderConfig,
    node: &LocalNode,
    view: &ClusterView,
    probe: &Probe,
    report: &mut Report,
) {
    let low = low_watermark(probe).await;
    for folder in &node.data_paths {
        let check = format!("data folder {}", folder.display());
        let found = check_is_data_folder(folder).and_then(|_| check_is_of_node(folder, node));
        let is_usable = found.is_ok();
        report.add(&check, found);
        if is_usable {
            report.add(
                format!("hard links in {}", folder.display()),
                check_links(folder),
            );
            let found = check_room(folder, config.capture.spool_limit_mib, low);
            report.add(format!("disk of {}", folder.display()), found);
        }
    }
    report.add("translogs", check_shards(node, view));
}

/// The node writes its id into its data folder.
fn check_is_of_node(folder: &Path, node: &LocalNode) -> Result<String, Problem> {
    let state = folder.join(NODE_STATE);
    let mut files = 0;
    for entry in fs::read_dir(&state).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("node-") {
            files += 1;
            let bytes = fs::read(entry.path()).unwrap_or_default();
            if bytes
                .windows(node.id.len())
                .any(|part| part == node.id.as_bytes())
            {
                return Ok(format!("of node {}", node.id));
            }
        }
    }
    let what = if files == 0 {
        format!(
            "{} does not say which node it is of, or cannot be read",
            state.display()
        )
    } else {
        format!(
            "{} is another node's: that at opensearch.url is {} ({})",
            folder.display(),
            node.announcement.node_name,
            node.id
        )
    };
    Err(Problem::new(what, MEND_PATHS))
}

/// Whether each of the node's shards has its files there.
fn check_shards(node: &LocalNode, view: &ClusterView) -> Result<String, Problem> {
    let (mut found, mut missing) = (0, Vec::new());
    for index in view.indices.values() {
        for shard in &index.local_primaries {
            let part = Path::new(INDICES)
                .join(index.uuid.as_str())
                .join(shard.to_string());
            let translog = part.join("translog");
            match node
                .data_paths
                .iter()
                .any(|path| path.join(&translog).is_dir())
            {
                true => found += 1,
                false => missing.push(format!("[{}][{shard}]", index.name)),
            }
        }
    }
    if missing.is_empty() {
        return Ok(format!("those of the node's {found} primaries are there"));
    }
    let count = missing.len();
    missing.truncate(NAMED);
    let what = format!(
        "{count} primaries of the node have none there: {}",
        missing.join(", ")
    );
    Err(Problem::new(what, MEND_PATHS))
}

/// Makes a hard link as the spool does, and removes it again.
fn check_links(folder: &Path) -> Result<String, Problem> {
    let spool = folder.join(SPOOL_FOLDER);
    let parent = if spool.is_dir() {
        spool.as_path()
    } else {
        folder
    };
    let trial = parent.join(format!("shardline-check-{}", std::process::id()));
    let problem = |error: &io::Error, doing: &str| {
        let what = format!("{doing} {}: {error}", trial.display());
        let mend = match error.kind() {
            io::ErrorKind::CrossesDevices => format!(
                "let {} be on the same file system as the node's data: mount the whole data folder",
                spool.display()
            ),
            io::ErrorKind::ReadOnlyFilesystem => {
                "mount the data folder into the agent read-write".to_owned()
            }
            _ => format!(
                "run the agent as the node's user: stat -c %U {}",
                folder.display()
            ),
        };
        Problem::new(what, mend)
    };
    fs::create_dir(&trial).map_err(|error| problem(&error, "cannot make the folder"))?;
    let _removed = Temporary(trial.clone());
    let file = a_translog(folder).unwrap_or_else(|| folder.join(NODE_STATE).join("node-0.st"));
    match fs::hard_link(&file, trial.join("link")) {
        // Nothing to link to is no proof of anything.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(problem(
            &error,
            &format!("cannot link {} into", file.display()),
        )),
        _ => Ok(String::new()),
    }
}

fn a_translog(folder: &Path) -> Option<PathBuf> {
    let below = |folder: PathBuf| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path())
    };
    let shards = below(folder.join(INDICES)).flat_map(below);
    let mut files = shards.flat_map(|shard| below(shard.join("translog")));
    files.find(|file| {
        file.extension()
            .is_some_and(|extension| extension == "tlog")
    })
}

/// How full OpenSearch lets a disk be before it puts no more shards there.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Watermark {
    UsedShare(f64),
    FreeBytes(u64),
}

impl Watermark {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_lowercase();
        if let Some(percent) = text.strip_suffix('%') {
            return percent
                .parse::<f64>()
                .ok()
                .map(|percent| Self::UsedShare(percent / 100.0));
        }
        for (unit, bytes) in [
            ("tb", MIB * MIB),
            ("gb", 1024 * MIB),
            ("mb", MIB),
            ("kb", 1024),
        ] {
            if let Some(number) = text.strip_suffix(unit) {
                let number = number.parse::<f64>().ok()?;
                return Some(Self::FreeBytes((number * bytes as f64) as u64));
            }
        }
        match text.strip_suffix('b') {
            Some(bytes) => bytes.parse().ok().map(Self::FreeBytes),
            None => text.parse().ok().map(Self::UsedShare),
        }
    }

    /// What has to stay free.
    fn free_bytes(self, space: Space) -> u64 {
        match self {
            Self::UsedShare(share) => (space.total as f64 * (1.0 - share)).max(0.0) as u64,
            Self::FreeBytes(bytes) => bytes,
        }
    }
}

async fn low_watermark(probe: &Probe) -> Option<Watermark> {
    const PREFIX: &str = "cluster.routing.allocation.disk";
    let path = "/_cluster/settings?include_defaults=true&flat_settings=true";
    let settings = probe.get(path).await.ok()?.json();
    let effective = |key: &str| {
        let key = format!("{PREFIX}.{key}");
        let mut parts = ["transient", "persistent", "defaults"].iter();
        let found = parts.find_map(|part| settings.get(part)?.get(&key))?;
        found.as_str().map(str::to_owned)
    };
    if effective("threshold_enabled").as_deref() == Some("false") {
        return None;
    }
    Watermark::parse(&effective("watermark.low")?)
}

/// Whether the spool, at its limit, leaves the node what it needs.
fn check_room(folder: &Path, limit_mib: u64, low: Option<Watermark>) -> Result<String, Problem> {
    let space = space_of(folder).map_err(|error| {
        Problem::new(
            format!("its room is not known: {error}"),
            "df on that folder says why",
        )
    })?;
    judge_room(space, limit_mib, low)
}

fn judge_room(space: Space, limit_mib: u64, low: Option<Watermark>) -> Result<String, Problem> {
    let free = space.available_mib();
    let keep = low.map_or(0, |low| low.free_bytes(space)) / MIB;
    if free < keep {
        let what = format!(
            "{free} MiB are free, and OpenSearch's low watermark is {keep} MiB: it is nearly full"
        );
        let mend = "free disk, add disk, or move shards away from the node";
        return Err(Problem::new(what, mend));
    }
    let most = free - keep;
    if limit_mib > most {
        let what = format!(
            "the spool may grow to {limit_mib} MiB, and {most} MiB are free above OpenSearch's low \
             watermark"
        );
        let mend = format!("capture.spool_limit_mib = {most} or less, or free disk");
        return Err(Problem::new(what, mend));
    }
    Ok(format!(
        "{free} MiB are free, the spool may grow to {limit_mib} MiB"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watermarks_are_shares_or_sizes() {
        assert_eq!(Watermark::parse("85%"), Some(Watermark::UsedShare(0.85)));
        assert_eq!(Watermark::parse("0.9"), Some(Watermark::UsedShare(0.9)));
        assert_eq!(
            Watermark::parse("10gb"),
            Some(Watermark::FreeBytes(10 * 1024 * MIB))
        );
        assert_eq!(Watermark::parse("512b"), Some(Watermark::FreeBytes(512)));
        assert_eq!(Watermark::parse("much"), None);
    }

    #[test]
    fn a_spool_that_would_fill_the_disk_is_found_before_it_does() {
        let space = Space {
            total: 100 * 1024 * MIB,
            available: 20 * 1024 * MIB,
        };
        let low = Some(Watermark::UsedShare(0.85));
        assert!(judge_room(space, 5 * 1024, low).is_ok());
        let problem = judge_room(space, 5 * 1024 + 1, low).unwrap_err();
        assert!(
            problem.mend.contains("capture.spool_limit_mib = 5120"),
            "{problem:?}"
        );
        let full = judge_room(space, 1, Some(Watermark::FreeBytes(21 * 1024 * MIB)));
        assert!(full.unwrap_err().what.contains("nearly full"));
        assert!(judge_room(space, 20 * 1024, None).is_ok());
    }

    #[test]
    fn a_folder_of_another_node_is_found() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check_is_data_folder(folder.path()).is_err());
        let state = folder.path().join(NODE_STATE);
        fs::create_dir_all(&state).unwrap();
        fs::write(
            state.join("node-0.st"),
            b"\x3fstate node_idUtQKUxRoPRautn9Nz55Y3bg",
        )
        .unwrap();
        assert!(check_is_data_folder(folder.path()).is_ok());
        let mut node = LocalNode {
            id: "tQKUxRoPRautn9Nz55Y3bg".to_owned(),
            announcement: shardline_common::control::NodeAnnouncement {
                cluster_uuid: "c".into(),
                cluster_name: "c".to_owned(),
                node_id: String::new(),
                node_name: "n".to_owned(),
                transport_address: String::new(),
                agent_version: String::new(),
                announced_ms: 0,
            },
            data_paths: vec![folder.path().to_owned()],
            own_folder: "nodes/0".into(),
            source: crate::config::Source::Translog,
        };
        assert!(check_is_of_node(folder.path(), &node).is_ok());
        node.id = "aQKUxRoPRautn9Nz55Y3bg".to_owned();
        let problem = check_is_of_node(folder.path(), &node).unwrap_err();
        assert!(problem.what.contains("another node's"), "{problem:?}");
        assert!(check_links(folder.path()).is_ok());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
