//! `follower-agent ctl` as a user types it.

use anyhow::{Context, Result, ensure};
use shardline_dev::find_binary;
use tokio::process::Command;

use crate::client::Client;

/// What a command printed.
#[derive(Debug)]
pub struct Printed {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command, its words separated by spaces, against a gateway.
pub async fn ctl(gateway: &Client, command: &str) -> Result<Printed> {
    let mut process = Command::new(find_binary("follower-agent")?);
    process
        .args(["ctl", "--url", gateway.url()])
        .args(command.split_whitespace())
        .kill_on_drop(true);
    let output = process
        .output()
        .await
        .with_context(|| format!("ctl {command}"))?;
    let text = |bytes| String::from_utf8(bytes).context("no UTF-8");
    Ok(Printed {
        success: output.status.success(),
        stdout: text(output.stdout)?,
        stderr: text(output.stderr)?,
    })
}

/// A command that has to succeed; what it printed.
pub async fn ctl_ok(gateway: &Client, command: &str) -> Result<String> {
    let printed = ctl(gateway, command).await?;
    ensure!(printed.success, "ctl {command}: {printed:?}");
    Ok(printed.stdout)
}
