//! `endpoints.json` in the run folder: what runs, where, and where its data and logs are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::process_id::ProcessId;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    pub kafka_bootstrap: String,
    pub leader_url: String,
    /// The follower's OpenSearch itself; writes there bypass the gateway.
    pub follower_url: String,
    /// Missing when no agents were asked for.
    pub gateway_url: Option<String>,
    /// In the order they were started.
    pub processes: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub name: String,
    pub url: String,
    #[serde(flatten)]
    pub id: ProcessId,
    pub data_dir: PathBuf,
    pub log_file: PathBuf,
}

impl Endpoints {
    pub fn path(run_dir: &Path) -> PathBuf {
        run_dir.join("endpoints.json")
    }

    /// `None` when there is no such file: nothing was started here, or it was stopped.
    pub fn read(run_dir: &Path) -> Result<Option<Self>> {
        let path = Self::path(run_dir);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let endpoints = serde_json::from_str(&text)
            .with_context(|| format!("cannot understand {}", path.display()))?;
        Ok(Some(endpoints))
    }

    /// Replaces the file as a whole, so that readers never see half of it.
    pub fn write(&self, run_dir: &Path) -> Result<()> {
        let path = Self::path(run_dir);
        let part = path.with_extension("json.part");
        let mut text =
            serde_json::to_string_pretty(self).context("cannot write endpoints as JSON")?;
        text.push('\n');
        std::fs::write(&part, text).with_context(|| format!("cannot write {}", part.display()))?;
        std::fs::rename(&part, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    pub fn remove(run_dir: &Path) -> Result<()> {
        let path = Self::path(run_dir);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// The processes that still are the ones listed and still run.
    pub fn alive(&self) -> impl Iterator<Item = &Endpoint> {
        self.processes
            .iter()
            .filter(|process| process.id.is_alive())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_being_written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Endpoints::read(folder.path()).unwrap(), None);
        let own = Endpoint {
            name: "leader-1".into(),
            url: "http://127.0.0.1:9201".into(),
            id: ProcessId::of(std::process::id()).unwrap(),
            data_dir: "/run/leader-1/data".into(),
            log_file: "/run/leader-1/leader-1.log".into(),
        };
        let mut gone = own.clone();
        gone.id.start_time += 1;
        let endpoints = Endpoints {
            kafka_bootstrap: "127.0.0.1:9092".into(),
            leader_url: own.url.clone(),
            follower_url: "http://127.0.0.1:9210".into(),
            gateway_url: Some("http://127.0.0.1:9200".into()),
            processes: vec![own.clone(), gone],
        };
        endpoints.write(folder.path()).unwrap();
        let read = Endpoints::read(folder.path()).unwrap().unwrap();
        assert_eq!(read, endpoints);
        assert_eq!(read.alive().collect::<Vec<_>>(), [&own]);
        Endpoints::remove(folder.path()).unwrap();
        Endpoints::remove(folder.path()).unwrap();
    }
}
