//! What callers can take of the agent: memory, connections, time.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use follower_agent::GatewayLimits;
use futures::StreamExt;
use futures::future::join_all;
use serde_json::{Value, json};
use support::{ALIASES, FakeService, LIMITS, STATE, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MIB: usize = 1 << 20;
const LINE: &str = "{\"delete\":{\"_index\":\"f\"}}\n";

fn gzip(content: impl Iterator<Item = &'static str>) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    content.for_each(|piece| encoder.write_all(piece.as_bytes()).unwrap());
    encoder.finish().unwrap()
}

/// A line for a followed index, again and again.
fn bomb(size: usize) -> Vec<u8> {
    gzip(std::iter::repeat_n(LINE, size / LINE.len()))
}

async fn post(world: &World, path: &str, body: Vec<u8>) -> reqwest::Response {
    world
        .request("POST", path)
        .header("content-type", "application/x-ndjson")
        .header("content-encoding", "gzip")
        .body(body)
        .send()
        .await
        .unwrap()
}

/// The most memory that this process has had, in bytes.
fn peak_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

/// In one test, for memory is measured of the whole process.
#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_bounded_whatever_is_sent() {
    let limits = GatewayLimits {
        max_content: 24 * MIB,
        max_inspected: 64 * MIB,
        ..LIMITS
    };
    let world = World::limited(FakeService::following(&["f"]), limits).await;
    let packed = bomb(20 * MIB);
    let before = peak_memory();

    // Every item is refused, one by one, in an answer that is many times as large as the request.
    let answer = post(&world, "/_bulk", packed.clone()).await;
    assert_eq!(answer.status(), 200);
    let (mut size, mut tail, mut pieces) = (0, Vec::new(), answer.bytes_stream());
    while let Some(piece) = pieces.next().await {
        let piece = piece.unwrap();
        size += piece.len();
        tail = piece[piece.len().saturating_sub(20)..].to_vec();
    }
    assert!(size > 4 * 20 * MIB, "{size}");
    assert!(
        tail.ends_with(b"}}}]}"),
        "{}",
        String::from_utf8_lossy(&tail)
    );

    // Many at once: those for which there is room are answered, the others are to come again.
    let answers = join_all((0..24).map(|_| post(&world, "/_bulk", packed.clone()))).await;
    let refused = answers
        .iter()
        .filter(|answer| answer.status() == 429)
        .count();
    let served = answers
        .iter()
        .filter(|answer| answer.status() == 200)
        .count();
    assert_eq!(refused + served, 24);
    assert!(
        served >= 1 && refused >= 1,
        "{served} served, {refused} refused"
    );
    let rejected = answers
        .into_iter()
        .find(|answer| answer.status() == 429)
        .unwrap();
    let error: Value = serde_json::from_slice(&rejected.bytes().await.unwrap()).unwrap();
    let reason = error["error"]["reason"].as_str().unwrap();
    assert!(reason.contains("gateway.max_inspected_mib"), "{reason}");

    // One that is larger than any may be is refused while it is unpacked.
    let newlines = gzip(std::iter::repeat_n("\n\n\n\n\n\n\n\n", 200 * MIB / 8));
    assert_eq!(post(&world, "/_bulk", newlines).await.status(), 413);
    let trees = gzip(std::iter::once("{\"actions\":[").chain(std::iter::repeat_n("{},", 8 * MIB)));
    assert_eq!(post(&world, "/_aliases", trees.clone()).await.status(), 413);
    let settings = world
        .request("PUT", "/_cluster/settings")
        .header("content-type", "application/json")
        .header("content-encoding", "gzip")
        .body(trees);
    assert_eq!(settings.send().await.unwrap().status(), 413);

    let taken = peak_memory() - before;
    assert!(taken < 3 * 64 * MIB, "{} MiB", taken / MIB);
    // All was given back.
    let answer = post(&world, "/_bulk", bomb(MIB)).await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_request_are_closed_and_others_served() {
    let limits = GatewayLimits {
        head_timeout: Duration::from_secs(1),
        ..LIMITS
    };
    let world = World::limited(FakeService::following(&["f"]), limits).await;
    let address = world.gateway.trim_start_matches("http://").to_owned();
    let halves = [
        "PUT /f/_doc/1 HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        "PRI * HTTP/2",
        "",
    ];
    let open = |number: usize| {
        let (half, address) = (halves[number % halves.len()], &address);
        async move {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(half.as_bytes()).await.unwrap();
            socket
        }
    };
    let sockets = join_all((0..300).map(open)).await;
    assert_eq!(world.send("GET", "/own/_search", None).await.0, 200);
    let closed = sockets.into_iter().map(|mut socket| async move {
        let mut answer = Vec::new();
        // A connection that is reset is closed, too.
        let _ = socket.read_to_end(&mut answer).await;
    });
    let deadline = Duration::from_secs(30);
    tokio::time::timeout(deadline, join_all(closed))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let limits = GatewayLimits {
        max_connections: 1,
        ..LIMITS
    };
    let world = World::limited(FakeService::default(), limits).await;
    let address = world.gateway.trim_start_matches("http://").to_owned();
    let first = TcpStream::connect(&address).await.unwrap();
    let mut second = TcpStream::connect(&address).await.unwrap();
    let get = b"GET /own HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    second.write_all(get).await.unwrap();
    let mut answer = Vec::new();
    let waiting = tokio::time::timeout(Duration::from_millis(300), second.read(&mut [0])).await;
    assert!(waiting.is_err(), "served beyond the limit");
    drop(first);
    second.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn names_are_asked_for_once_by_all_who_wait_and_not_for_known_indices() {
    let world = World::new(FakeService::following(&["f"])).await;
    world
        .stub
        .answer(STATE, 200, json!({"metadata": {"indices": {"own": {}}}}));
    let put = |index: &'static str| world.send("PUT", index, Some("{}"));
    let answers = join_all((0..20).map(|_| put("/unknown/_doc/1"))).await;
    assert!(answers.iter().all(|(status, _)| *status == 200));
    assert_eq!(world.stub.lookups(), 1);
    // An index that exists is no alias; the cluster need not be asked, nor answer.
    world
        .stub
        .answer(STATE, 503, json!({"error": "no cluster manager"}));
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_millis(1100) {
        assert_eq!(put("/own/_doc/1").await.0, 200);
    }
    assert_eq!(world.stub.lookups(), 1);
    // Others are judged by the last answer for a while.
    assert_eq!(put("/unknown/_doc/1").await.0, 200);
    assert_eq!(world.stub.lookups(), 2);
}

#[tokio::test]
async fn an_alias_counts_as_soon_as_replication_knows_it() {
    let world = World::new(FakeService::following(&["f"])).await;
    world.stub.answer(
        STATE,
        200,
        json!({"metadata": {"indices": {"own": {}, "f": {}}}}),
    );
    let path = "/soon/_doc/1?require_alias=true";
    assert_eq!(world.send("PUT", path, Some("{}")).await.0, 200);
    world.service.learn_alias("soon", "f");
    assert_eq!(world.send("PUT", path, Some("{}")).await.0, 403);
    assert_eq!(world.send("PUT", "/so*/_settings", Some("{}")).await.0, 403);
}

#[tokio::test]
async fn an_agent_that_may_not_see_all_aliases_still_serves() {
    let world = World::new(FakeService::following(&["f"])).await;
    let indices = json!({"f": {"aliases": ["theirs"]}, "own": {"aliases": ["mine"]}});
    world
        .stub
        .answer(STATE, 200, json!({"metadata": {"indices": indices}}));
    world
        .stub
        .answer(ALIASES, 403, json!({"error": "no permissions"}));
    assert_eq!(world.send("PUT", "/mine/_doc/1", Some("{}")).await.0, 200);
    assert_eq!(world.send("PUT", "/theirs/_doc/1", Some("{}")).await.0, 403);
}
