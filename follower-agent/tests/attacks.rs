//! Attacks on followed indices, from the table `data/attacks.tsv`, against a gateway before a stub
//! of the follower cluster: what reaches the stub is nothing, or the part that touches no followed
//! index. `tests/tests/attacks.rs` runs the same table against real clusters.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::io::Write;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use serde_json::json;
use support::{ALIASES, FakeService, STATE, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TABLE: &str = include_str!("data/attacks.tsv");

struct Attack<'a> {
    class: &'a str,
    request: &'a str,
    header: &'a str,
    body: String,
    /// The line that reaches the cluster; empty if none may.
    passed: &'a str,
}

fn table() -> Vec<Attack<'static>> {
    let rows = TABLE.lines().filter(|line| !line.starts_with('#'));
    rows.map(|line| {
        let [class, request, header, body, passed] =
            line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        let body = body
            .replace("\\\\", "\0")
            .replace("\\r", "\r")
            .replace("\\n", "\n")
            .replace('\0', "\\");
        Attack {
            class,
            request,
            header,
            body,
            passed,
        }
    })
    .collect()
}

async fn world() -> World {
    let world = World::new(FakeService::following(&["books", "events", "hidden"])).await;
    let is_hidden = json!({"index": {"hidden": "true"}});
    let indices = json!({
        "books": {"aliases": ["theirs", "mixed"]}, "own": {"aliases": ["mixed"]}, "own2": {},
        "events": {}, "hidden": {"settings": is_hidden},
    });
    let backing = json!({"indices": [{"index_name": "events"}, {"index_name": ".ds-stream-2"}]});
    let streams = json!({"data_stream": {"stream": backing}});
    let state = json!({"metadata": {"indices": indices, "data_stream": streams}});
    world.stub.answer(STATE, 200, state);
    let filtered = json!({"filter": {"match_all": {}}});
    let aliases = json!({
        "books": {"aliases": {"theirs": {}, "mixed": filtered}},
        "own": {"aliases": {"mixed": filtered}},
    });
    world.stub.answer(ALIASES, 200, aliases);
    world
}

fn packed(encoding: &str, body: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::default();
    match encoding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "zlib" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "snappy" => {
            let mut encoder = snap::write::FrameEncoder::new(Vec::new());
            encoder.write_all(body).unwrap();
            encoder.into_inner().unwrap()
        }
        "zstd" => {
            ruzstd::encoding::compress_to_vec(body, ruzstd::encoding::CompressionLevel::Fastest)
        }
        _ => body.to_vec(),
    }
}

/// Over a connection, byte for byte; HTTP libraries would tidy up.
async fn raw(world: &World, bytes: &[u8]) -> String {
    let address = world.gateway.trim_start_matches("http://");
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let reading = socket.read_to_end(&mut answer);
    // A gateway that waits for more has passed nothing on.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), reading).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn http1(world: &World, request: &str, attack: &Attack<'_>) {
    let (method, path) = request.split_once(' ').unwrap();
    let (name, value) = attack.header.split_once(": ").unwrap_or(("x-none", "1"));
    let is_packed = name == "Content-Encoding";
    let body = packed(if is_packed { value } else { "" }, attack.body.as_bytes());
    let value = if value == "zlib" { "deflate" } else { value };
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    head.push_str(&format!(
        "{name}: {value}\r\nContent-Length: {}\r\n",
        body.len()
    ));
    if name != "Content-Type" {
        head.push_str("Content-Type: application/json\r\n");
    }
    let answer = raw(world, &[head.as_bytes(), b"\r\n", &body].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 "), "{request}: {answer}");
}

async fn http2(world: &World, request: &str, body: &str) {
    let (method, path) = request.split_once(' ').unwrap();
    let address = world.gateway.trim_start_matches("http://");
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let socket = hyper_util::rt::TokioIo::new(socket);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, socket)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::builder()
        .method(method)
        .uri(format!("{}{path}", world.gateway))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 403, "{path}");
    answer.into_body().collect().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attack_reaches_a_followed_index() {
    let mut classes: BTreeMap<&str, usize> = BTreeMap::new();
    let mut failed = Vec::new();
    for attack in table() {
        *classes.entry(attack.class).or_default() += 1;
        let world = world().await;
        match attack.request.strip_prefix("H2 ") {
            Some(request) => http2(&world, request, &attack.body).await,
            None if attack.request == "RAW" => drop(raw(&world, attack.body.as_bytes()).await),
            None => http1(&world, attack.request, &attack).await,
        }
        let harmless = |line: &String| {
            line.starts_with("GET /")
                || line.starts_with("HEAD /")
                || line.ends_with("/_count")
                || line == "POST /own/_search"
        };
        let passed: Vec<String> = world
            .stub
            .lines()
            .into_iter()
            .filter(|line| !harmless(line))
            .collect();
        let expected: Vec<&str> = Some(attack.passed)
            .filter(|line| !line.is_empty())
            .into_iter()
            .collect();
        if passed != expected {
            failed.push(format!(
                "{}: {} {}\n  passed {passed:?}, expected {expected:?}",
                attack.class, attack.request, attack.body
            ));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(
        classes.len() >= 12 && classes.values().all(|lines| *lines >= 5),
        "{classes:?}"
    );
}
