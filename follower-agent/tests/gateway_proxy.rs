//! The gateway between a client and a stub of the follower cluster: what passes, what is refused,
//! what is rewritten.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;

use futures::StreamExt;
use serde_json::{Value, json};

use support::{BLOCK, FakeService, Stub, World, block_error};

fn blocked(index: &str) -> Value {
    block_error(&format!("index [{index}] {BLOCK}"))
}

#[tokio::test]
async fn all_else_passes_as_it_came() {
    let world = World::new(FakeService::following(&["f"])).await;
    let request = world
        .request("POST", "/own/_doc/a%2Fb%20c?routing=x%26y&refresh")
        .header("authorization", "Basic abc")
        .header("connection", "x-secret")
        .header("x-secret", "1")
        .header("content-type", "application/json")
        .body("{\"x\": 1.0}");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["x-stub"], "yes");
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert!(!answer.headers().contains_key("x-hop"));
    let received = world.stub.received();
    assert_eq!(
        received[0].line,
        "POST /own/_doc/a%2Fb%20c?routing=x%26y&refresh"
    );
    assert_eq!(received[0].headers["authorization"], "Basic abc");
    assert_eq!(received[0].headers["content-length"], "10");
    assert!(!received[0].headers.contains_key("x-secret"));
    assert_eq!(received[0].body, "{\"x\": 1.0}");
    let answer = world.request("HEAD", "/f").send().await.unwrap();
    assert_eq!(
        (
            answer.status().as_u16(),
            answer.headers()["x-stub"].as_bytes()
        ),
        (200, b"yes".as_slice())
    );
    world.stub.answer("GET /gone", 404, json!({"error": "x"}));
    assert_eq!(
        world.send("GET", "/gone", None).await,
        (404, json!({"error": "x"}))
    );
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    // An echo that answers each piece as it comes: a gateway that buffers would never finish this
    // exchange.
    let echo = axum::Router::new().fallback(|request: axum::extract::Request| async {
        axum::response::Response::new(axum::body::Body::from_stream(
            request.into_body().into_data_stream(),
        ))
    });
    let upstream = support::serve(echo).await;
    let world = World::before(&upstream, Stub::default(), FakeService::following(&["f"])).await;
    let (sender, receiver) =
        futures::channel::mpsc::unbounded::<Result<&'static str, std::io::Error>>();
    sender.unbounded_send(Ok("one")).unwrap();
    let body = reqwest::Body::wrap_stream(receiver);
    let answer = world
        .request("POST", "/own/_search")
        .body(body)
        .send()
        .await
        .unwrap();
    let mut pieces = answer.bytes_stream();
    assert_eq!(pieces.next().await.unwrap().unwrap(), "one");
    sender.unbounded_send(Ok("two")).unwrap();
    assert_eq!(pieces.next().await.unwrap().unwrap(), "two");
    drop(sender);
    assert!(pieces.next().await.is_none());
}

#[tokio::test]
async fn an_unreachable_cluster_is_named() {
    let world = World::before(
        "http://127.0.0.1:9",
        Stub::default(),
        FakeService::default(),
    )
    .await;
    let (status, answer) = world.send("GET", "/x/_search", None).await;
    let reason = "follower cluster [http://127.0.0.1:9] cannot be reached";
    assert_eq!((status, &answer["error"]["reason"]), (503, &json!(reason)));
}

#[tokio::test]
async fn writes_to_followed_indices_are_refused_however_they_are_spelt() {
    let world = World::new(FakeService::following(&["f1", "f2"])).await;
    let aliases = json!({
        "f1": {"aliases": {"al": {}, "led": {}}},
        "own": {"aliases": {"led": {"is_write_index": true}}},
    });
    world.stub.answer("GET /_alias/*", 200, aliases);
    let one = blocked("f1");
    let both = block_error(&format!("index [f1] {BLOCK}index [f2] {BLOCK}"));
    let actions = |action: Value| {
        Some(json!({"actions": [{"add": {"index": "own", "alias": "x"}}, action]}).to_string())
    };
    for (method, path, body, expected) in [
        ("PUT", "/%66%31/_doc/1", Some("{}".to_owned()), &one),
        ("PUT", "//_mapping", Some("{}".to_owned()), &both),
        ("POST", "/al/_doc", Some("{}".to_owned()), &one),
        ("POST", "/al/_rollover", None, &one),
        ("PUT", "/led/_mapping", Some("{}".to_owned()), &one),
        ("POST", "/%3Cf1%3E/_close", None, &one),
        ("DELETE", "/f*", None, &both),
        ("DELETE", "/own,f2,f1", None, &both),
        ("DELETE", "/_all", None, &both),
        ("DELETE", "/*", None, &both),
        ("DELETE", "/?index=f1", None, &one),
        ("POST", "/_forcemerge", None, &both),
        ("PUT", "/f1/_block/write", None, &one),
        ("PUT", "/f1/_alias/x", None, &one),
        (
            "PUT",
            "/own/_alias/x",
            Some(r#"{"index":"f1"}"#.to_owned()),
            &one,
        ),
        ("DELETE", "/f1/_alias/al", None, &one),
        (
            "POST",
            "/_aliases",
            actions(json!({"remove": {"indices": ["f1"], "alias": "al"}})),
            &one,
        ),
        (
            "POST",
            "/_aliases",
            actions(json!({"remove_index": {"index": "f1"}})),
            &one,
        ),
        (
            "POST",
            "/_aliases",
            Some(r#"{"actions": {"remove_index": {"index": "f1"}}}"#.to_owned()),
            &one,
        ),
    ] {
        let answer = world.send(method, path, body.as_deref()).await;
        assert_eq!(&answer, &(403, expected.clone()), "{method} {path}");
    }
    assert!(world.stub.lines().is_empty());
    for (method, path) in [
        ("POST", "/led/_doc"),
        ("DELETE", "/al"),
        ("PUT", "/f1/_clone/g"),
        ("DELETE", "/o*"),
        ("PUT", "/f3"),
    ] {
        assert_eq!(
            world.send(method, path, Some("{}")).await.0,
            200,
            "{method} {path}"
        );
    }
    assert_eq!(world.stub.lines().len(), 5);
}

#[tokio::test]
async fn paths_that_would_change_on_the_way_are_refused() {
    let world = World::new(FakeService::following(&["f"])).await;
    let address = world.gateway.trim_start_matches("http://").to_owned();
    for path in [
        "/own/../f/_doc/1",
        "/own/%2e%2E/f/_doc/1",
        "/own/..\\f/_doc/1",
    ] {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket = tokio::net::TcpStream::connect(&address).await.unwrap();
        let head = format!(
            "PUT {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let passed = world.stub.lines();
        assert!(
            passed.iter().all(|line| !line.contains("/f/")),
            "{path}: {passed:?}"
        );
        assert!(
            answer.starts_with("HTTP/1.1 400") || path.contains('\\'),
            "{path}: {answer}"
        );
    }
}

#[tokio::test]
async fn nothing_is_asked_when_nothing_is_followed() {
    let world = World::new(FakeService::default()).await;
    world.send("POST", "/own/_doc", Some("{}")).await;
    world.send("POST", "/_bulk", Some("not a bulk body")).await;
    assert_eq!(world.stub.lines(), ["POST /own/_doc", "POST /_bulk"]);
    assert_eq!(world.stub.received()[1].body, "not a bulk body");
}

#[tokio::test]
async fn bulk_refuses_items_one_by_one() {
    let world = World::new(FakeService::following(&["f"])).await;
    let own = "{\"index\":{\"_index\":\"own\",\"_id\":\"1\"}}\n{\"x\":1}\n";
    let followed = "{\"create\":{\"_id\":\"2\"}}\n{\"x\":2}\n";
    let deleted = "{\"delete\":{\"_index\":\"own\",\"_id\":\"3\",\"require_alias\":false}}\n";
    let results =
        json!([{"index": {"_id": "1", "status": 201}}, {"delete": {"_id": "3", "status": 200}}]);
    let answer = json!({"took": 7, "errors": false, "items": results});
    world
        .stub
        .answer("POST /f/_bulk?refresh=wait%5Ffor", 200, answer);
    let body = format!("{own}{followed}{deleted}");
    let (status, merged) = world
        .send("POST", "/f/_bulk?refresh=wait_for", Some(&body))
        .await;
    assert_eq!(
        (status, &merged["took"], &merged["errors"]),
        (200, &json!(7), &json!(true))
    );
    let refusal =
        json!({"type": "cluster_block_exception", "reason": format!("index [f] {BLOCK}")});
    let expected = json!([
        results[0],
        {"create": {"_index": "f", "_id": "2", "status": 403, "error": refusal}},
        results[1],
    ]);
    assert_eq!(merged["items"], expected);
    assert_eq!(world.stub.received()[0].body, format!("{own}{deleted}"));

    let path = "/f/_bulk?refresh=wait_for&filter_path=errors,items.*.status";
    let (_, filtered) = world.send("POST", path, Some(&body)).await;
    let statuses = json!([{"index": {"status": 201}}, {"create": {"status": 403}}, {"delete": {"status": 200}}]);
    assert_eq!(filtered, json!({"errors": true, "items": statuses}));

    world.stub.answer(
        "POST /f/_bulk?refresh=wait%5Ffor",
        429,
        json!({"error": "busy"}),
    );
    assert_eq!(
        world
            .send("POST", "/f/_bulk?refresh=wait_for", Some(&body))
            .await,
        (429, json!({"error": "busy"}))
    );
}

#[tokio::test]
async fn bulk_without_followed_targets_goes_through_untouched() {
    let world = World::new(FakeService::following(&["f"])).await;
    let body = "{\"index\":{\"_index\":\"own\"}}\r\n{\"f\": \"f\"}\n\n";
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body.as_bytes()).unwrap();
    let packed = encoder.finish().unwrap();
    let send = |index: &str, packed: Vec<u8>| {
        let request = world
            .request("POST", &format!("/{index}/_bulk"))
            .header("content-encoding", "gzip");
        request
            .header("content-type", "application/x-ndjson")
            .body(packed)
            .send()
    };
    assert_eq!(send("f", packed.clone()).await.unwrap().status(), 200);
    let received = &world.stub.received()[0];
    assert_eq!(received.body, body);
    assert!(!received.headers.contains_key("content-encoding"));
    assert_eq!(
        send("f", packed[..10].to_vec()).await.unwrap().status(),
        400
    );
    let (status, _) = world
        .send(
            "POST",
            "/_bulk",
            Some("{\"index\":{\"_index\":\"f\"}} x\n{}\n"),
        )
        .await;
    assert_eq!((status, world.stub.lines().len()), (400, 1));
}

#[tokio::test]
async fn by_query_calls_are_refused_when_something_matches() {
    let world = World::new(FakeService::following(&["f"])).await;
    world
        .stub
        .answer("POST /f/_count?q=x%3A1", 200, json!({"count": 2}));
    let (status, answer) = world
        .send("POST", "/f/_delete_by_query?q=x%3A1&refresh", None)
        .await;
    let cause = json!({"type": "cluster_block_exception", "reason": format!("index [f] {BLOCK}")});
    let failures = json!([{"index": "f", "cause": cause, "status": 403}]);
    assert_eq!(
        (status, &answer["total"], &answer["failures"]),
        (403, &json!(2), &failures)
    );

    world
        .stub
        .answer("POST /f/_count", 200, json!({"count": 0}));
    let (status, _) = world
        .send(
            "POST",
            "/f,own/_update_by_query",
            Some(r#"{"query":{"match_all":{}}}"#),
        )
        .await;
    assert_eq!(
        (status, world.stub.lines().last().unwrap().as_str()),
        (200, "POST /own/_update_by_query")
    );
    assert_eq!(
        world.stub.received()[1].body,
        r#"{"query":{"match_all":{}}}"#
    );

    world
        .stub
        .answer("POST /own/_count", 200, json!({"count": 1}));
    let reindex =
        |target: &str| json!({"source": {"index": "own"}, "dest": {"index": target}}).to_string();
    let (status, answer) = world.send("POST", "/_reindex", Some(&reindex("f"))).await;
    assert_eq!(
        (status, &answer["created"], &answer["failures"]),
        (403, &json!(0), &failures)
    );
    assert_eq!(
        world
            .send("POST", "/_reindex", Some(&reindex("else")))
            .await
            .0,
        200
    );
    let elsewhere = "ctx._index = 'f'";
    let forms = [
        json!(elsewhere),
        json!({"source": elsewhere, "lang": "painless"}),
        json!({"inline": elsewhere}),
    ];
    for script in forms {
        let request =
            json!({"source": {"index": "own"}, "dest": {"index": "else"}, "script": script})
                .to_string();
        assert_eq!(world.send("POST", "/_reindex", Some(&request)).await.0, 403);
    }
}

#[tokio::test]
async fn replication_settings_are_kept_by_the_gateway() {
    let world = World::new(FakeService::default()).await;
    let path = "/_cluster/settings";
    let own = r#"{"persistent":{"plugins.replication.follower.bulk_batch_size":20}}"#;
    let nested = json!({"plugins": {"replication": {"follower": {"bulk_batch_size": "20"}}}});
    let expected = json!({"acknowledged": true, "persistent": nested, "transient": {}});
    assert_eq!(world.send("PUT", path, Some(own)).await, (200, expected));
    assert!(world.stub.lines().is_empty());

    world.stub.answer(
        "PUT /_cluster/settings",
        200,
        json!({"acknowledged": true, "persistent": {"a": {"b": "1"}}, "transient": {}}),
    );
    let mixed = r#"{"persistent":{"a":{"b":1},"plugins":{"replication":{"replicate":{"delete_index":true}}}}}"#;
    let (status, answer) = world.send("PUT", path, Some(mixed)).await;
    let merged = json!({"a": {"b": "1"}, "plugins": {"replication": {"replicate": {"delete_index": "true"}}}});
    assert_eq!((status, &answer["persistent"]), (200, &merged));
    assert_eq!(
        world.stub.received()[0].body,
        r#"{"persistent":{"a":{"b":1}}}"#
    );

    world.stub.answer(
        "GET /_cluster/settings?flat%5Fsettings=true",
        200,
        json!({"persistent": {"a.b": "1"}, "transient": {}}),
    );
    let (_, answer) = world
        .send("GET", "/_cluster/settings?flat_settings=true", None)
        .await;
    let flat = json!({
        "a.b": "1",
        "plugins.replication.follower.bulk_batch_size": "20",
        "plugins.replication.replicate.delete_index": "true",
    });
    assert_eq!(answer["persistent"], flat);

    let low = r#"{"transient":{"plugins.replication.follower.metadata_sync_interval":"4s"}}"#;
    let (status, answer) = world.send("PUT", path, Some(low)).await;
    let reason = "failed to parse value [4s] for setting \
        [plugins.replication.follower.metadata_sync_interval], must be >= [5s]";
    assert_eq!((status, &answer["error"]["reason"]), (400, &json!(reason)));

    world
        .send(
            "PUT",
            path,
            Some(r#"{"persistent":{"plugins.replication.*":null}}"#),
        )
        .await;
    world.stub.answer(
        "GET /_cluster/settings",
        200,
        json!({"persistent": {}, "transient": {}}),
    );
    assert_eq!(
        world.send("GET", path, None).await.1,
        json!({"persistent": {}, "transient": {}})
    );
}
