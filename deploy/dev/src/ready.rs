//! When a process counts as up.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

use crate::process::Process;

const POLL: Duration = Duration::from_millis(50);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// The sign by which a process is known to be up.
#[derive(Clone, Debug)]
pub enum Ready {
    /// A GET of this URL answers 200.
    Http(String),
    /// Its log says this after the latest start.
    LogLine(String),
}

/// Waits until all of them are up. Fails as soon as one has exited, and after `patience`; the error
/// names the process and shows the end of its log.
pub async fn wait_until_ready(processes: &[&Process], patience: Duration) -> Result<()> {
    let client = http_client()?;
    let deadline = Instant::now() + patience;
    let mut pending = processes.to_vec();
    loop {
        let mut still_pending = Vec::new();
        for process in pending {
            // Looked at first, so that an exit right after the sign is not taken for readiness.
            let exited = process.exit_status();
            if let Some(status) = exited {
                bail!(
                    "{} ended with {status} before it was up\n{}",
                    process.name(),
                    process.log_tail()
                );
            }
            if !is_ready(process, &client).await {
                still_pending.push(process);
            }
        }
        let Some(first) = still_pending.first() else {
            return Ok(());
        };
        if Instant::now() >= deadline {
            bail!(
                "{} is not up after {} s\n{}",
                first.name(),
                patience.as_secs(),
                first.log_tail()
            );
        }
        pending = still_pending;
        sleep(POLL).await;
    }
}

pub(crate) fn http_client() -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(REQUEST_TIMEOUT)
        .build()
        .context("cannot make an HTTP client")
}

async fn is_ready(process: &Process, client: &reqwest::Client) -> bool {
    match &process.spec().ready {
        // Not answering is what a process that is not up yet does.
        Ready::Http(url) => client
            .get(url)
            .send()
            .await
            .is_ok_and(|answer| answer.status() == 200),
        Ready::LogLine(line) => log_since_start(process).is_ok_and(|log| log.contains(line)),
    }
}

fn log_since_start(process: &Process) -> Result<String> {
    let mut file = File::open(&process.spec().log_file)?;
    file.seek(SeekFrom::Start(process.log_start()))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
