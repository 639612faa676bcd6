//! When a process counts as up.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

use crate::process::Process;
use crate::security::Access;

const POLL: Duration = Duration::from_millis(50);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// The sign by which a process is known to be up.
#[derive(Clone, Debug)]
pub enum Ready {
    /// A GET of this URL answers 200.
    Http(String),
    /// The same of somebody who asks for a login.
    Https(String, Access),
    /// Its log says this after the latest start.
    LogLine(String),
}

/// Waits until all of them are up. Fails as soon as one has exited, and after `patience`; the error
/// names the process and shows the end of its log.
pub async fn wait_until_ready(processes: &[&Process], patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    let mut pending = Vec::new();
    for process in processes {
        let client = match &process.spec().ready {
            Ready::Https(_, access) => access.quick_client()?,
            Ready::Http(_) | Ready::LogLine(_) => http_client()?,
        };
        pending.push((*process, client));
    }
    loop {
        let mut still_pending = Vec::new();
        for (process, client) in pending {
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
                still_pending.push((process, client));
            }
        }
        let Some((first, _)) = still_pending.first() else {
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
    let get = match &process.spec().ready {
        Ready::Http(url) => client.get(url),
        Ready::Https(url, access) => client
            .get(url)
            .basic_auth(&access.user, Some(&access.password)),
        Ready::LogLine(line) => {
            return log_since_start(process).is_ok_and(|log| log.contains(line));
        }
    };
    // Not answering is what a process that is not up yet does.
    get.send().await.is_ok_and(|answer| answer.status() == 200)
}

fn log_since_start(process: &Process) -> Result<String> {
    let mut file = File::open(&process.spec().log_file)?;
    file.seek(SeekFrom::Start(process.log_start()))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
