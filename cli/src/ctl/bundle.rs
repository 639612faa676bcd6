//! `debug bundle`: what a report of a fault needs, in one archive. What cannot be had is said in
//! it, and does not keep the rest out.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::Method;
use shardline_common::clock::now_ms;
use shardline_common::config::base_url;

use super::arguments::Bundle;
use super::client::{Client, http_client};
use super::contexts::Context;
use super::{CtlError, redact};
use crate::contract::BASE;

/// The end of a log says what happened last.
const LOG_BYTES_MAX: u64 = 4 << 20;

const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

/// What the gateway is asked: a name in the archive, and a path of the control API.
const CONTROL: [(&str, &str); 4] = [
    ("status.json", "_status?verbose=true"),
    ("follower_stats.json", "follower_stats"),
    ("leader_stats.json", "leader_stats"),
    ("autofollow_stats.json", "autofollow_stats"),
];

/// The same, of the cluster behind it.
const CLUSTER: [(&str, &str); 4] = [
    ("version.json", "/"),
    ("health.json", "/_cluster/health"),
    ("settings.json", "/_cluster/settings?flat_settings=true"),
    (
        "nodes.json",
        "/_cat/nodes?format=json&h=name,version,node.role,heap.percent,disk.used_percent,load_1m",
    ),
];

const ADMIN: [&str; 3] = ["metrics", "ready", "health"];

const NOTICE: &str = "Names of indices, ids of documents in reasons, addresses and what is in the \
                      logs are in this archive: look through it before you pass it on.\nSettings \
                      of Kafka's topics are not in it, since agents do not serve them: add the \
                      output of kafka-configs.sh --describe --entity-type topics --all.\n";

/// The files of an archive that is being made.
struct Parts {
    files: Vec<(String, Vec<u8>)>,
    /// What is in it, and what is not and why.
    contents: String,
}

/// Makes the archive; where it is.
pub(super) async fn make(
    client: &Client,
    context: &Context,
    arguments: Bundle,
) -> Result<PathBuf, CtlError> {
    let default = || PathBuf::from(format!("shardline-debug-{}.tar.gz", now_ms() / 1000));
    let target = arguments.file.unwrap_or_else(default);
    let version = env!("CARGO_PKG_VERSION");
    let mut parts = Parts {
        files: Vec::new(),
        contents: format!(
            "Made by shardline {version} of {}.\n{NOTICE}\n",
            client.url()
        ),
    };
    for (name, path) in CONTROL {
        let answer = client
            .send(Method::GET, &format!("{BASE}{path}"), None)
            .await;
        parts.answered(&format!("gateway/{name}"), answer)?;
    }
    for (name, path) in CLUSTER {
        let answer = client.send(Method::GET, path, None).await;
        parts.answered(&format!("cluster/{name}"), answer)?;
    }
    let http = http_client(context)?;
    for admin in &arguments.admin {
        let folder = base_url("--admin", admin)?;
        let folder = folder.authority().replace(':', "-");
        for path in ADMIN {
            let url = format!("{}/{path}", admin.trim_end_matches('/'));
            parts.add(
                &format!("agents/{folder}/{path}.txt"),
                fetch(&http, &url).await,
            );
        }
    }
    for (at, file) in arguments.config.iter().enumerate() {
        let shown = std::fs::read_to_string(file).map_err(|error| error.to_string());
        let shown = shown.and_then(|text| redact::configuration(&text));
        parts.add(&numbered("config", at, file), shown.map(String::into_bytes));
    }
    for (at, file) in arguments.log.iter().enumerate() {
        let end = end_of(file).map_err(|error| error.to_string());
        parts.add(&numbered("log", at, file), end);
    }
    parts.write(&target).map_err(|error| CtlError::Bundle {
        file: target.clone(),
        reason: error.to_string(),
    })?;
    Ok(target)
}

impl Parts {
    fn add(&mut self, name: &str, bytes: Result<Vec<u8>, String>) {
        match bytes {
            Ok(bytes) => {
                self.contents
                    .push_str(&format!("{name}: {} bytes\n", bytes.len()));
                self.files.push((name.to_owned(), bytes));
            }
            Err(reason) => self
                .contents
                .push_str(&format!("{name}: missing: {reason}\n")),
        }
    }

    fn answered(
        &mut self,
        name: &str,
        answer: Result<bytes::Bytes, CtlError>,
    ) -> Result<(), CtlError> {
        match answer {
            Err(error @ CtlError::Dry(_)) => return Err(error),
            Err(error) => self.add(name, Err(error.to_string())),
            Ok(bytes) => self.add(name, Ok(bytes.to_vec())),
        }
        Ok(())
    }

    /// Writes the archive for its owner only, and over nothing.
    fn write(self, target: &Path) -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(target)?;
        let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        let seconds = u64::try_from(now_ms() / 1000).unwrap_or_default();
        let contents = ("contents.txt".to_owned(), self.contents.into_bytes());
        for (name, bytes) in std::iter::once(contents).chain(self.files) {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(seconds);
            archive.append_data(
                &mut header,
                format!("shardline-debug/{name}"),
                bytes.as_slice(),
            )?;
        }
        archive.into_inner()?.finish()?.sync_all()
    }
}

/// Two files may have the same name in different folders.
fn numbered(folder: &str, at: usize, file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    format!("{folder}/{at}-{name}")
}

fn end_of(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES_MAX)))?;
    let mut end = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut end)?;
    Ok(end)
}

/// An agent that is not ready says why in its body, whatever its status.
async fn fetch(http: &reqwest::Client, url: &str) -> Result<Vec<u8>, String> {
    let request = http.get(url).timeout(ADMIN_TIMEOUT);
    let answer = request.send().await.map_err(|error| error.to_string())?;
    let status = answer.status();
    let body = answer.bytes().await.map_err(|error| error.to_string())?;
    match status.is_success() || status.as_u16() == 503 {
        true => Ok(body.to_vec()),
        false => Err(format!("{url} answered {status}")),
    }
}
