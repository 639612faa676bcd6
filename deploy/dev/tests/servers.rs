//! A stack of real servers, without agents: data survives a crash of a node, and nothing survives
//! the stack.

use std::time::Duration;

use serde_json::{Value, json};
use shardline_dev::{Endpoints, ProcessId, Stack, StackOptions, wait_for_status};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_document_survives_a_crash_of_its_node_and_no_process_survives_the_stack() {
    let folder = tempfile::tempdir().unwrap();
    let options = StackOptions {
        agents: false,
        ..StackOptions::new(folder.path())
    };
    let stack = Stack::start(options).await.unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();

    let document = format!("{}/books/_doc/1", stack.leader_url());
    let written = client
        .put(&document)
        .json(&json!({"title": "Momo"}))
        .send()
        .await
        .unwrap();
    assert_eq!(written.status(), 201);

    let leader = stack.process("leader-1").unwrap();
    let before = leader.id().unwrap();
    leader.kill().await.unwrap();
    assert!(!before.is_alive());
    assert!(client.get(&document).send().await.is_err());
    stack.restart("leader-1").await.unwrap();
    wait_for_status(&stack.leader_url(), "yellow", PATIENCE)
        .await
        .unwrap();
    let found: Value = client
        .get(&document)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(found["_source"]["title"], "Momo");

    let listed = Endpoints::read(folder.path()).unwrap().unwrap();
    assert_eq!(listed, stack.endpoints());
    let ids: Vec<ProcessId> = listed.processes.iter().map(|process| process.id).collect();
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| id.is_alive()));
    drop(stack);
    assert!(ids.iter().all(|id| !id.is_alive()), "{ids:?}");
    assert_eq!(Endpoints::read(folder.path()).unwrap(), None);
}

#[tokio::test]
async fn a_node_that_does_not_come_up_is_named_with_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let options = StackOptions {
        agents: false,
        follower_overrides: vec![("no.such.setting".into(), "1".into())],
        ..StackOptions::new(folder.path())
    };
    let error = Stack::start(options).await.unwrap_err().to_string();
    assert!(
        error.contains("follower-1 ended") && error.contains("no.such.setting"),
        "{error}"
    );
    assert_eq!(Endpoints::read(folder.path()).unwrap(), None);
}
