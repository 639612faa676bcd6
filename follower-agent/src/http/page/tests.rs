//! The page's real handlers before a thousand indices.

use std::future::ready;
use std::io::Read as _;

use axum::body::Body;
use flate2::read::GzDecoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, ETAG};
use http::{HeaderName, Method};
use http_body_util::BodyExt as _;
use serde_json::Value;
use shardline::contract::ReplicationStatus;
use shardline::contract::overview::{LeaderOverview, PreviewedIndex, TaskOverview};
use shardline::contract::service::{HeldUpDetails, LagDetails, ReplicationState, SyncingDetails};
use shardline_common::standstill::{Cause, StandstillReason};
use tower::ServiceExt as _;

use super::*;
use crate::http::gateway::Guard;

const INDICES: usize = 1_000;
/// How often the page asks while it is watched.
const ASKS_A_MINUTE: usize = 30;

/// Everybody sees everything.
fn open() -> Guarded {
    Guarded(Arc::new(Guard::off()))
}

/// A thousand indices, some of them in trouble, all with another lag at each question.
struct Thousand(std::sync::atomic::AtomicI64);

impl Thousand {
    fn status(n: usize, now: i64) -> FollowedStatus {
        let reason = match n % 50 {
            7 => "AutoPaused: document [17] is refused by the follower index",
            _ => "User initiated",
        };
        let silent = StandstillReason::new(Cause::LeaderAgentSilent, 1_000, "nothing was heard");
        let details = SyncingDetails {
            leader_checkpoint: now,
            follower_checkpoint: now - n as i64,
            seq_no: now,
        };
        let is_paused = n % 50 == 7;
        FollowedStatus {
            status: ReplicationStatus {
                status: match is_paused {
                    true => ReplicationState::Paused,
                    false => ReplicationState::Syncing,
                },
                reason: Some(reason.to_owned()),
                leader_alias: Some("leader".to_owned()),
                leader_index: Some(name(n)),
                follower_index: Some(name(n)),
                syncing_details: (!is_paused).then_some(details),
                held_up: match n % 100 {
                    3 => vec![HeldUpDetails::of(2, silent)],
                    _ => Vec::new(),
                },
                ..ReplicationStatus::not_in_progress()
            },
            lag_details: (!is_paused).then_some(LagDetails {
                operations: Some(n as i64),
                millis: now % 977 + n as i64,
            }),
        }
    }
}

fn name(n: usize) -> String {
    format!("logs-{}-2026.11.{:04}", ["eu", "us"][n % 2], n)
}

impl Overview for Thousand {
    fn every_status(&self) -> Vec<(IndexName, FollowedStatus)> {
        let now = self.0.fetch_add(13, std::sync::atomic::Ordering::Relaxed);
        let status = |n: usize| (IndexName::from(name(n).as_str()), Self::status(n, now));
        let mut all: Vec<_> = (0..INDICES).map(status).collect();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all
    }

    fn index(&self, follower: &IndexName) -> Option<IndexOverview> {
        let n = (0..INDICES).find(|n| name(*n) == follower.as_str())?;
        let reason = StandstillReason::new(Cause::TopicMissing, 5, "no such topic");
        let shard = |shard_id: u32| ShardOverview {
            shard_id,
            follower_checkpoint: 5,
            leader_checkpoint: 9,
            lag_millis: 1_000,
            foreign_writes: 0,
            copied: None,
            standstill: (shard_id == 700).then(|| reason.clone().into()),
            resync: None,
            is_here: true,
        };
        Some(IndexOverview {
            status: Self::status(n, 5),
            settings: serde_json::Map::new(),
            topic: None,
            repository: None,
            shards: (0..1024).map(shard).collect(),
        })
    }

    fn tasks(&self) -> Vec<TaskOverview> {
        Vec::new()
    }

    fn preview(
        &self,
        _: String,
        _: String,
    ) -> BoxFuture<'_, Result<Vec<PreviewedIndex>, ApiError>> {
        let previewed = |n: usize| PreviewedIndex {
            index: name(n).as_str().into(),
            shards: 1,
            followed_as: None,
            refusal: None,
        };
        ready(Ok((0..INDICES).map(previewed).collect())).boxed()
    }

    fn agents(&self) -> BoxFuture<'_, Result<Vec<AgentOverview>, ApiError>> {
        ready(Ok(Vec::new())).boxed()
    }

    fn leaders(&self) -> Vec<LeaderOverview> {
        Vec::new()
    }
}

/// Sees the indices of the EU, and nothing else.
struct OnlyEu;

impl Sight for OnlyEu {
    fn of<'a>(&'a self, _: &'a Parts) -> BoxFuture<'a, Result<View, Response>> {
        let view = View {
            shows: Box::new(|index| index.as_str().starts_with("logs-eu-")),
            sees_cluster: false,
        };
        ready(Ok(view)).boxed()
    }
}

fn page(sight: impl Sight + 'static, is_on: bool) -> Router {
    let gateway = Router::new().fallback(|request: Request| async move {
        format!("{} {}", request.method(), request.uri())
    });
    let actions = Actions {
        is_on,
        hosts: Vec::new(),
    };
    let page = Page {
        overview: Arc::new(Thousand(5_000.into())),
        sight: Box::new(sight),
        gateway,
        address: "http://gateway:9200".to_owned(),
        actions,
        kept: Kept::default(),
    };
    let cell = Arc::new(OnceLock::new());
    page.kept.history.take(&page.statuses(), 1);
    assert!(cell.set(page).is_ok());
    router(cell)
}

struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    /// As it travelled.
    bytes: usize,
    text: String,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

async fn send(page: &Router, method: Method, path: &str, headers: &[(&str, &str)]) -> Answered {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    let response = page.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut text = String::new();
    match parts.headers.contains_key(CONTENT_ENCODING) {
        true => GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap(),
        false => (&body[..]).read_to_string(&mut text).unwrap(),
    };
    Answered {
        status: parts.status,
        headers: parts.headers,
        bytes: body.len(),
        text,
    }
}

async fn get_gzip(page: &Router, path: &str) -> Answered {
    send(
        page,
        Method::GET,
        path,
        &[(ACCEPT_ENCODING.as_str(), "gzip")],
    )
    .await
}

#[tokio::test]
async fn a_thousand_indices_are_watched_for_little() {
    let page = page(open(), false);
    let began = Instant::now();
    let first = get_gzip(&page, "/page/indices?limit=50&sort=millis&descending").await;
    let took = began.elapsed();
    let rows = first.json()["rows"].as_array().unwrap().len();
    assert_eq!((rows, first.json()["found"].as_u64()), (50, Some(1_000)));
    // With the head of the answer and of the question.
    let a_minute = (first.bytes + 1_000) * ASKS_A_MINUTE;
    let other = [
        get_gzip(&page, "/page/history").await.bytes * 2,
        get_gzip(&page, "/page/agent").await.bytes * 2,
    ];
    let a_minute = a_minute + other.iter().sum::<usize>();
    println!(
        "{} bytes in {took:?}, {a_minute} bytes a minute",
        first.bytes
    );
    assert!(a_minute < 200_000, "{a_minute}");
    let files: usize = {
        let mut bytes = get_gzip(&page, "/").await.bytes;
        for file in ["/page.css", "/preact.js", "/frame.js", "/chart.js"] {
            bytes += get_gzip(&page, file).await.bytes;
        }
        for file in FILES {
            bytes += get_gzip(&page, file.path).await.bytes;
        }
        bytes
    };
    println!("{files} bytes of files");
    assert!(files < 60_000, "{files}");
}

#[tokio::test]
async fn the_server_filters_sorts_groups_and_pages() {
    let page = page(open(), false);
    let found = |query: &'static str| {
        let page = page.clone();
        async move {
            get_gzip(&page, &format!("/page/indices?{query}"))
                .await
                .json()
        }
    };
    let all = found("offset=990").await;
    assert_eq!(all["rows"].as_array().unwrap().len(), 10);
    assert_eq!(all["summary"]["states"]["PAUSED"], 20);
    assert_eq!(all["summary"]["attention"], 30);
    assert_eq!(all["summary"]["standing"], 10);
    let paused = found("state=PAUSED&q=logs-us-*").await;
    assert_eq!(
        (&paused["found"], &paused["summary"]["indices"]),
        (&20.into(), &1_000.into())
    );
    assert_eq!(found("state=attention").await["found"], 30);
    assert_eq!(found("q=0007").await["rows"][0]["needs_attention"], true);
    let held = &found("q=0003").await["rows"][0];
    assert_eq!(
        (&held["standstill"]["cause"], &held["standstill"]["shards"]),
        (&"leader_agent_silent".into(), &1.into())
    );
    let furthest = found("sort=operations&descending&limit=1").await;
    assert_eq!(furthest["rows"][0]["index"], name(999));
    assert_eq!(
        found("sort=state&limit=1").await["rows"][0]["needs_attention"],
        true
    );
    let groups = found("group").await;
    let patterns: Vec<_> = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| &group["pattern"])
        .collect();
    assert_eq!(patterns, ["logs-eu-*", "logs-us-*"]);
    assert_eq!(groups["groups"][1]["attention"], 30);
}

#[tokio::test]
async fn only_shards_that_are_looked_at_travel() {
    let page = page(open(), false);
    let path = format!("/page/index?name={}", name(1));
    let answer = get_gzip(&page, &path).await.json();
    let shards = answer["shards"].as_array().unwrap();
    assert_eq!(
        (shards.len(), &answer["shards_found"]),
        (SHARDS, &1024.into())
    );
    // The one that stands still comes first.
    assert_eq!(shards[0]["shard_id"], 700);
    assert_eq!(shards[0]["standstill"]["cause"], "topic_missing");
    let last = get_gzip(&page, &format!("{path}&offset=1000")).await.json();
    assert_eq!(last["shards"].as_array().unwrap().len(), 24);
}

#[tokio::test]
async fn nothing_is_told_of_what_a_caller_may_not_see() {
    let page = page(OnlyEu, true);
    let hidden = name(1);
    for path in [
        "/page/indices?limit=200".to_owned(),
        "/page/indices?group".to_owned(),
        "/page/indices?q=us".to_owned(),
        format!("/page/index?name={hidden}"),
        format!("/page/history?name={hidden}"),
        "/page/history".to_owned(),
        "/page/agent".to_owned(),
        "/page/cluster".to_owned(),
        "/page/preview?leader_alias=a&pattern=*".to_owned(),
    ] {
        let answer = get_gzip(&page, &path).await;
        let told = answer.text.replace(&format!("for index:{hidden}"), "");
        assert!(!told.contains("logs-us-"), "{path}: {told}");
    }
    let seen = get_gzip(&page, "/page/indices").await.json();
    assert_eq!(seen["summary"]["indices"], 500);
    assert_eq!(seen["summary"]["attention"], 0);
    let own = get_gzip(&page, &format!("/page/index?name={}", name(2))).await;
    assert_eq!(own.status, StatusCode::OK);
    for path in ["/page/cluster", "/page/preview", "/page/history"] {
        assert_eq!(
            get_gzip(&page, path).await.status,
            StatusCode::FORBIDDEN,
            "{path}"
        );
    }
}

#[tokio::test]
async fn what_changes_something_needs_the_page_and_the_configuration() {
    let stop = "/page/api/_plugins/_replication/a/_stop";
    let own = [("host", "127.0.0.1:9602"), ("x-shardline-page", "1")];
    let on = page(open(), true);
    let done = send(&on, Method::POST, stop, &own).await;
    assert_eq!(done.text, "POST /_plugins/_replication/a/_stop");
    assert!(done.headers.contains_key(CONTENT_SECURITY_POLICY));
    let foreign = [
        ("host", "127.0.0.1:9602"),
        ("origin", "http://evil.example"),
    ];
    assert_eq!(
        send(&on, Method::POST, stop, &foreign).await.status,
        StatusCode::FORBIDDEN
    );
    let off = page(open(), false);
    assert_eq!(
        send(&off, Method::POST, stop, &own).await.status,
        StatusCode::FORBIDDEN
    );
    // A question is none the less answered.
    let status = "/page/api/_plugins/_replication/a/_dead_letters";
    let answer = send(&off, Method::GET, status, &[]).await;
    assert_eq!(answer.text, "GET /_plugins/_replication/a/_dead_letters");
    let elsewhere = send(&on, Method::GET, "/page/api/a/_search", &[]).await;
    assert_eq!(elsewhere.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn every_answer_has_the_policy_and_every_file_is_there() {
    let page = page(open(), false);
    let index = get_gzip(&page, "/").await;
    let mut files = vec![
        "/page.js".to_owned(),
        "/page.css".to_owned(),
        "/icon.svg".to_owned(),
    ];
    let mut at = 0;
    while let Some(file) = files.get(at).cloned() {
        let answer = get_gzip(&page, &file).await;
        assert_eq!(answer.status, StatusCode::OK, "{file}");
        assert!(
            answer.headers.contains_key(CONTENT_SECURITY_POLICY),
            "{file}"
        );
        for imported in answer.text.split("from './").skip(1) {
            let imported = format!("/{}", imported.split('\'').next().unwrap());
            if !files.contains(&imported) {
                files.push(imported);
            }
        }
        at += 1;
    }
    assert!(files.len() >= FILES.len() + 5, "{files:?}");
    assert!(
        index.headers[CONTENT_SECURITY_POLICY]
            .to_str()
            .unwrap()
            .contains("script-src 'self'")
    );
    for path in ["/page/indices", "/page/index?name=none", "/page/api/x"] {
        assert!(
            get_gzip(&page, path)
                .await
                .headers
                .contains_key(CONTENT_SECURITY_POLICY)
        );
    }
    let tag = index.headers[ETAG].to_str().unwrap();
    let again = send(&page, Method::GET, "/", &[("if-none-match", tag)]).await;
    assert_eq!((again.status, again.bytes), (StatusCode::NOT_MODIFIED, 0));
}

#[tokio::test]
async fn before_the_agent_follows_the_page_says_what_it_waits_for() {
    let page = router(Arc::new(OnceLock::new()));
    assert_eq!(get_gzip(&page, "/").await.status, StatusCode::OK);
    for path in ["/page/indices", "/page/api/_plugins/_replication/_status"] {
        let answer = get_gzip(&page, path).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(
            answer
                .text
                .contains("has not reached its cluster and Kafka yet")
        );
        assert!(
            answer
                .headers
                .contains_key(HeaderName::from_static("content-security-policy"))
        );
    }
}
