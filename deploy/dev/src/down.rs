//! Stops what `endpoints.json` lists, and nothing else.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::agents::is_agent;
use crate::endpoints::{Endpoint, Endpoints};
use crate::process_id::{ProcessId, stop_all};

const GRACE: Duration = Duration::from_secs(20);

/// Stops the stack of this run folder, agents first, and returns the names of what was still
/// running.
pub async fn down(run_dir: &Path) -> Result<Vec<String>> {
    let Some(endpoints) = Endpoints::read(run_dir)? else {
        return Ok(Vec::new());
    };
    let (agents, servers): (Vec<&Endpoint>, Vec<&Endpoint>) = endpoints
        .alive()
        .partition(|process| is_agent(&process.name));
    for group in [&agents, &servers] {
        let ids: Vec<ProcessId> = group.iter().map(|process| process.id).collect();
        stop_all(&ids, GRACE).await?;
    }
    Endpoints::remove(run_dir)?;
    Ok(agents
        .iter()
        .chain(&servers)
        .map(|process| process.name.clone())
        .collect())
}

/// Removes the data, logs and configuration that stacks left in this run folder; anything else in
/// it stays.
pub fn wipe(run_dir: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(run_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", run_dir.display()));
        }
    };
    for entry in entries {
        let entry = entry?;
        if is_of_a_stack(&entry.file_name().to_string_lossy()) {
            let path = entry.path();
            std::fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn is_of_a_stack(name: &str) -> bool {
    let kinds = [
        "leader-agent-",
        "follower-agent-",
        "leader-",
        "follower-",
        "kafka-",
    ];
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    matches!(name, "snapshots" | "security")
        || kinds
            .iter()
            .any(|kind| name.strip_prefix(kind).is_some_and(is_number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wipes_only_what_a_stack_made() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "leader-1",
            "follower-agent-12",
            "kafka-3",
            "snapshots",
            "security",
            "leader-notes",
            "src",
        ] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        wipe(folder.path()).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["leader-notes", "src"]);
        wipe(&folder.path().join("missing")).unwrap();
    }

    #[tokio::test]
    async fn nothing_to_stop_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(down(folder.path()).await.unwrap().is_empty());
    }
}
