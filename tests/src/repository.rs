//! Snapshot repositories of file systems, which the servers are allowed to have below the run's
//! folder.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::client::Client;

/// Gives a cluster a repository; of the same name, it is the same folder for every cluster of the
/// run.
pub async fn register(
    run_dir: &Path,
    cluster: &Client,
    name: &str,
    mut settings: Value,
) -> Result<()> {
    let folder = run_dir.join("snapshots").join(name);
    std::fs::create_dir_all(&folder)?;
    settings["location"] = folder.display().to_string().into();
    cluster
        .ok(
            "PUT",
            &format!("/_snapshot/{name}"),
            Some(&json!({"type": "fs", "settings": settings})),
        )
        .await?;
    Ok(())
}
