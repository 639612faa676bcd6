//! Indices whose history the translog no longer holds: they are copied, under load, and again after
//! a gap.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use shardline_tests::ctl::ctl_ok;
use shardline_tests::load::{Load, index_body};
use shardline_tests::retention::Topic;
use shardline_tests::wait;
use shardline_tests::world::{ALIAS, World};

const PATIENCE: Duration = Duration::from_secs(120);
const BULK: u64 = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_no_longer_holds_is_copied() -> Result<()> {
    let world = World::start().await?;
    let World {
        stack,
        leader,
        follower,
        gateway,
        ..
    } = &world;

    // Written and flushed before anybody follows.
    leader.ok("PUT", "/old", Some(&index_body(2))).await?;
    let mut load = Load::new(3, "o");
    for _ in 0..20 {
        leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    }
    leader.ok("POST", "/old/_flush?force=true", None).await?;

    // Copied while it is written on.
    world.follow("old", "new").await?;
    for _ in 0..10 {
        leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    }
    wait::for_status(gateway, "new", "SYNCING", PATIENCE).await?;
    world.equal("old", "new").await?;
    let settings = follower.get("/new/_settings?flat_settings=true").await?;
    let settings = &settings["new"]["settings"];
    assert!(
        settings["index.refresh_interval"].is_null(),
        "bulk-load settings stay behind: {settings}"
    );

    // The leader's agent is away while the translog is trimmed: what is missing comes from a scan,
    // and what was deleted goes.
    stack.process("leader-agent-1")?.kill().await?;
    for _ in 0..5 {
        leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
        leader.ok("POST", "/old/_flush?force=true", None).await?;
    }
    stack.restart("leader-agent-1").await?;
    leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    world.equal("old", "new").await?;
    let copied_anew = || -> Result<bool> {
        let log = std::fs::read_to_string(stack.process("follower-agent-1")?.log_file())?;
        Ok(log.matches("copying the index anew").count() > 1)
    };
    let log = std::fs::read_to_string(stack.process("leader-agent-1")?.log_file())?;
    assert!(log.contains("resync complete"), "the gap was not noticed");
    assert!(!copied_anew()?, "a gap is no reason to copy the index");

    // The follower's checkpoints are lost: it goes on from what it has committed to Kafka.
    let topic = Topic::find(stack.kafka_bootstrap(), "shardline.leader.old.").await?;
    stack.process("follower-agent-1")?.kill().await?;
    std::fs::remove_dir_all(stack.process("follower-agent-1")?.data_dir())?;
    leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    stack.restart("follower-agent-1").await?;
    world.equal("old", "new").await?;
    assert!(!copied_anew()?, "the committed positions were not used");

    // It is away past Kafka's retention: the index is copied anew, and can be read all the time.
    stack.process("follower-agent-1")?.kill().await?;
    let ends = topic.ends().await?;
    leader.bulk("/old/_bulk", load.bulk(BULK)).await?;
    topic.trim_behind(&ends).await?;
    stack.restart("follower-agent-1").await?;
    let before = follower.get("/new/_count").await?["count"]
        .as_u64()
        .unwrap_or_default();
    let readable = async {
        loop {
            let answer = follower.get("/new/_count").await?;
            let count = answer["count"].as_u64().unwrap_or_default();
            ensure!(
                count >= before / 2 && answer["_shards"]["failed"] == 0,
                "unreadable during the copy: {answer}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        read = readable => read?,
        equal = world.equal("old", "new") => equal?,
    }
    assert!(copied_anew()?, "the records that are gone were not noticed");

    // Asked to, `_start` answers when the copy is complete.
    leader.ok("PUT", "/older", Some(&index_body(2))).await?;
    let documents: String = (0..5_000)
        .map(|n| format!("{{\"index\":{{\"_id\":\"{n}\"}}}}\n{{\"n\":{n}}}\n"))
        .collect();
    leader.bulk("/older/_bulk", documents).await?;
    leader.ok("POST", "/older/_flush?force=true", None).await?;
    let body = json!({"leader_alias": ALIAS, "leader_index": "older"});
    gateway
        .ok(
            "PUT",
            "/_plugins/_replication/older/_start?wait_for_restore=true",
            Some(&body),
        )
        .await?;
    assert_eq!(wait::status(gateway, "older").await?["status"], "SYNCING");
    follower.ok("POST", "/older/_refresh", None).await?;
    assert_eq!(follower.get("/older/_count").await?["count"], 5_000);
    let start = format!("start older-too --leader-alias {ALIAS} --leader-index older --wait");
    assert_eq!(
        ctl_ok(gateway, &start).await?,
        "older-too is synchronised\n"
    );
    follower.ok("POST", "/older-too/_refresh", None).await?;
    assert_eq!(follower.get("/older-too/_count").await?["count"], 5_000);
    world.stop().await
}
