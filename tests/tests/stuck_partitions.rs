//! What one partition cannot take stops that partition alone, with its reason, and goes on when the
//! reason is gone.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use serde_json::json;
use shardline_common::standstill::Cause;
use shardline_tests::client::Client;
use shardline_tests::load::index_body;
use shardline_tests::retention::configure;
use shardline_tests::wait;
use shardline_tests::world::World;

const PATIENCE: Duration = Duration::from_secs(120);
/// A healthy index's document took up to 12.9 s when its capture was started again and again.
const SOON: Duration = Duration::from_secs(5);
const DOCUMENTS: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_takes_no_large_record_stands_still_alone() -> Result<()> {
    let world = World::start().await?;
    for index in ["large", "well"] {
        follow(&world, index).await?;
    }
    let topic = world.topic("large").await?;
    let servers = world.stack.kafka_bootstrap();
    configure(servers, topic.as_str(), &[("max.message.bytes", "2000")]).await?;
    let document = json!({"message": random_text(20_000)});
    put(&world, "large", "too-large", &document).await?;
    stands_still(&world, "large", Cause::RecordTooLarge).await?;

    // The refusal costs every shard one start, at its next record (see docs/decisions/0020).
    arrives(&world, "well", "at-once").await?;
    let restarts = restarts(&world, "well").await?;
    goes_on(&world, "well").await?;
    let now = self::restarts(&world, "well").await?;
    ensure!(
        now == restarts,
        "the capture of well began again: {restarts} to {now}"
    );

    let limit = ("max.message.bytes", "104792064");
    configure(servers, topic.as_str(), &[limit]).await?;
    world.equal("large", "large").await?;
    stands_no_more(&world, "large").await?;
    world.equal("well", "well").await?;
    world.check_topic("large").await?;
    world.check_topic("well").await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_leader_stands_still_alone() -> Result<()> {
    let world = World::with(|options| options.brokers = 3).await?;
    for index in ["stuck", "well"] {
        world
            .leader
            .ok("PUT", &format!("/{index}"), Some(&index_body(1)))
            .await?;
    }
    // Its only replica is on the last broker; agents take the topic as it is.
    let topic = world.topic("stuck").await?;
    create_on(world.stack.kafka_bootstrap(), topic.as_str(), 3).await?;
    for index in ["stuck", "well"] {
        begin(&world, index).await?;
    }
    let broker = world.stack.process("kafka-3")?;
    broker.kill().await?;
    for number in 0..50 {
        let document = json!({"message": random_text(200_000)});
        put(&world, "stuck", &format!("{number}"), &document).await?;
    }
    stands_still(&world, "stuck", Cause::NoLeader).await?;
    // Kafka moves what the broker led, and the follower's consumer group, elsewhere first.
    arrives(&world, "well", "at-last").await?;
    goes_on(&world, "well").await?;
    broker.start(PATIENCE).await?;
    world.equal("stuck", "stuck").await?;
    stands_no_more(&world, "stuck").await?;
    world.check_topic("stuck").await?;
    world.check_topic("well").await?;
    world.stop().await
}

async fn follow(world: &World, index: &str) -> Result<()> {
    let body = index_body(1);
    world
        .leader
        .ok("PUT", &format!("/{index}"), Some(&body))
        .await?;
    begin(world, index).await
}

async fn begin(world: &World, index: &str) -> Result<()> {
    put(world, index, "first", &json!({"message": "first"})).await?;
    world.follow(index, index).await?;
    world.equal(index, index).await
}

async fn put(world: &World, index: &str, id: &str, document: &serde_json::Value) -> Result<()> {
    let path = format!("/{index}/_doc/{id}");
    world.leader.ok("PUT", &path, Some(document)).await?;
    Ok(())
}

/// Each document is there soon.
async fn goes_on(world: &World, index: &str) -> Result<()> {
    let mut slowest = Duration::ZERO;
    for number in 0..DOCUMENTS {
        slowest = slowest.max(arrives(world, index, &format!("n{number}")).await?);
    }
    ensure!(slowest < SOON, "a document of {index} took {slowest:?}");
    Ok(())
}

/// How long a document takes.
async fn arrives(world: &World, index: &str, id: &str) -> Result<Duration> {
    let began = Instant::now();
    put(world, index, id, &json!({"message": "x"})).await?;
    let path = format!("/{index}/_doc/{id}");
    wait::until("the document", PATIENCE, async || {
        let (status, _) = world.follower.call("GET", &path, None).await?;
        Ok(if status == 200 {
            Ok(())
        } else {
            Err(format!("answers {status}"))
        })
    })
    .await?;
    Ok(began.elapsed())
}

/// The status tells why an index stands still.
async fn stands_still(world: &World, index: &str, cause: Cause) -> Result<()> {
    let cause = serde_json::to_value(cause)?;
    wait::until("the cause of the standstill", PATIENCE, async || {
        let status = wait::status(&world.gateway, index).await?;
        let held_up = status["held_up"].as_array().into_iter().flatten();
        Ok(if held_up.into_iter().any(|held| held["cause"] == cause) {
            Ok(())
        } else {
            Err(status.to_string())
        })
    })
    .await
}

/// The status says no more that an index stands still.
async fn stands_no_more(world: &World, index: &str) -> Result<()> {
    wait::until("the end of the standstill", PATIENCE, async || {
        let status = wait::status(&world.gateway, index).await?;
        Ok(if status.get("held_up").is_none() {
            Ok(())
        } else {
            Err(status.to_string())
        })
    })
    .await
}

/// How often the captures of an index began again.
async fn restarts(world: &World, index: &str) -> Result<u64> {
    let port = world.stack.ports().leader_agents[0];
    let agent = Client::new(format!("http://127.0.0.1:{port}"))?;
    let metrics = agent.get("/metrics").await?;
    let series = format!("shardline_leader_capture_errors_total{{index=\"{index}\"");
    let lines = metrics.as_str().unwrap_or_default().lines();
    let values = lines
        .filter(|line| line.starts_with(&series))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Ok(values.sum())
}

/// Which no codec makes much smaller.
fn random_text(bytes: usize) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'a' + (state % 26) as u8)
    };
    (0..bytes).map(|_| next()).collect()
}

async fn create_on(servers: &str, topic: &str, broker: i32) -> Result<()> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers);
    let admin: AdminClient<DefaultClientContext> = config.create()?;
    let replicas = [broker];
    let on = [&replicas[..]];
    let new = NewTopic::new(topic, 1, TopicReplication::Variable(&on))
        .set("max.message.bytes", "104792064");
    for made in admin.create_topics(&[new], &AdminOptions::new()).await? {
        made.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
    }
    Ok(())
}
