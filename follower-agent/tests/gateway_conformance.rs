//! The recorded answers of the plugin, replayed against the gateway as far as they can be decided
//! without real clusters.
#![allow(clippy::unwrap_used)]

mod support;

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::ser::Formatter;
use serde_json::{Value, json};

use support::{FakeService, World};

#[derive(Deserialize)]
struct Recorded {
    scenario: String,
    step: String,
    method: String,
    path: String,
    request: Value,
    status: u16,
    body: Value,
}

/// The spacing of Python's `json.dumps`, which recorded the requests: error positions count on it.
struct PythonSpacing;

impl Formatter for PythonSpacing {
    fn begin_array_value<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_key<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

fn sent_text(request: &Value) -> Option<String> {
    match request {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => {
            let mut bytes = Vec::new();
            other
                .serialize(&mut serde_json::Serializer::with_formatter(
                    &mut bytes,
                    PythonSpacing,
                ))
                .unwrap();
            Some(String::from_utf8(bytes).unwrap())
        }
    }
}

fn recorded(scenario: &str) -> Vec<Recorded> {
    let text = include_str!("../../tests/data/control-api.jsonl");
    let all = text
        .lines()
        .map(|line| serde_json::from_str::<Recorded>(line).unwrap());
    all.filter(|recorded| recorded.scenario == scenario)
        .collect()
}

async fn replay(scenario: &str) {
    let world = World::new(FakeService::default()).await;
    world
        .stub
        .answer("POST /f%2Dro/_count", 200, json!({"count": 0}));
    let steps = recorded(scenario);
    assert!(!steps.is_empty());
    for step in &steps {
        let passes = ["refresh", "flush", "search", "count"].contains(&step.step.as_str());
        if passes {
            world.stub.answer(
                &format!("{} {}", step.method, step.path),
                step.status,
                step.body.clone(),
            );
        }
        let (status, mut body) = world
            .send(
                &step.method,
                &step.path,
                sent_text(&step.request).as_deref(),
            )
            .await;
        let mut expected = step.body.clone();
        for answer in [&mut body, &mut expected] {
            if let Some(took) = answer.get_mut("took") {
                *took = json!(0);
            }
        }
        assert_eq!(
            (status, &body),
            (step.status, &expected),
            "{scenario}: {}",
            step.step
        );
        // Key order counts too.
        assert_eq!(
            body.to_string(),
            expected.to_string(),
            "{scenario}: {}",
            step.step
        );
        if step.step == "roles without security" {
            // The recording cleaned up here without a record of it.
            world
                .send("POST", "/_plugins/_replication/f-err/_stop", Some("{}"))
                .await;
        }
    }
}

#[tokio::test]
async fn start_errors() {
    replay("start_errors").await;
}

#[tokio::test]
async fn lifecycle_errors() {
    replay("lifecycle_errors").await;
}

#[tokio::test]
async fn read_only() {
    replay("read_only").await;
}

#[tokio::test]
async fn routes_keep_the_conventions() {
    let world = World::new(FakeService::following(&["f"])).await;
    let plain = |reason: &str, error_type: &str| {
        let cause = json!({"type": error_type, "reason": reason});
        json!({"error": {"root_cause": [cause], "type": error_type, "reason": reason}, "status": 400})
    };
    let base = "/_plugins/_replication";
    for (method, path, body, expected) in [
        (
            "GET",
            "/f/_bogus?x=1",
            None,
            json!({"error": "no handler found for uri [/_plugins/_replication/f/_bogus?x=1] and \
                method [GET]"}),
        ),
        (
            "GET",
            "/f/_stop?pretty",
            None,
            json!({
                "error": "Incorrect HTTP method for uri [/_plugins/_replication/f/_stop?pretty] \
                 and method [GET], allowed: [POST]",
                "status": 405,
            }),
        ),
        (
            "PUT",
            "/f/_start?timeout=1s",
            Some(r#"{"leader_alias":"a","leader_index":"l"}"#),
            plain(
                "request [/_plugins/_replication/f/_start] contains unrecognized parameter: \
                 [timeout]",
                "illegal_argument_exception",
            ),
        ),
        (
            "GET",
            "/f/_status?verbose=x",
            None,
            plain(
                "Failed to parse value [x] as only [true] or [false] are allowed.",
                "illegal_argument_exception",
            ),
        ),
        (
            "POST",
            "/f/_pause?cluster_manager_timeout=5",
            None,
            plain(
                "failed to parse setting [cluster_manager_timeout] with value [5] as a time \
                 value: unit is missing or unrecognized",
                "illegal_argument_exception",
            ),
        ),
        (
            "PUT",
            "/f/_update",
            None,
            plain("request body is required", "parse_exception"),
        ),
        (
            "GET",
            "//_status",
            None,
            plain(
                "Validation Failed: 1: Index name must be specified to obtain replication status;",
                "action_request_validation_exception",
            ),
        ),
        (
            "POST",
            "/f/_stop",
            Some(r#"{"a":1}"#),
            plain(
                "[1:2] [StopReplicationRequestParser] unknown field [a]",
                "x_content_parse_exception",
            ),
        ),
    ] {
        let (_, answer) = world.send(method, &format!("{base}{path}"), body).await;
        assert_eq!(answer, expected, "{method} {path}");
    }
    let (status, answer) = world
        .send(
            "GET",
            &format!("{base}/f/_status?filter_path=status,*.seq_no"),
            None,
        )
        .await;
    assert_eq!(
        (status, answer),
        (
            200,
            json!({"status": "SYNCING", "syncing_details": {"seq_no": 0}})
        )
    );
    let answer = world
        .request("GET", &format!("{base}/x/_status?pretty"))
        .body("{}")
        .send()
        .await
        .unwrap();
    assert_eq!(
        answer.text().await.unwrap(),
        "{\n  \"status\" : \"REPLICATION NOT IN PROGRESS\"\n}\n"
    );
    let source = "/f/_resume?source=%7B%7D&source_content_type=application/json";
    let (status, answer) = world.send("POST", &format!("{base}{source}"), None).await;
    assert_eq!(
        (status, &answer["error"]["type"]),
        (400, &json!("resource_already_exists_exception"))
    );
}
