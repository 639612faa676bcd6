//! What one partition cannot take stops that partition alone, with its reason, and goes on when the
//! reason is gone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use serde_json::json;
use shardline_common::kafka::ControlTopic;
use shardline_common::leader_stats::CaptureStandstill;
use shardline_common::standstill::Cause;
use shardline_common::topic::leader_control_topic;
use shardline_dev::Signal;
use shardline_tests::client::Client;
use shardline_tests::load::index_body;
use shardline_tests::retention::configure;
use shardline_tests::topic_check;
use shardline_tests::wait;
use shardline_tests::world::World;
use tokio_util::sync::CancellationToken;

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
    stands_still(&world, "large", &[Cause::RecordTooLarge]).await?;

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
    broker.signal(Signal::SIGSTOP)?;
    for number in 0..50 {
        let document = json!({"message": random_text(200_000)});
        put(&world, "stuck", &format!("{number}"), &document).await?;
    }
    let causes = [Cause::NoLeader, Cause::PartitionStuck];
    stands_still(&world, "stuck", &causes).await?;
    goes_on(&world, "well").await?;
    broker.signal(Signal::SIGCONT)?;
    world.equal("stuck", "stuck").await?;
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
        let began = Instant::now();
        put(
            world,
            index,
            &format!("n{number}"),
            &json!({"message": "x"}),
        )
        .await?;
        let path = format!("/{index}/_doc/n{number}");
        wait::until("the document", PATIENCE, async || {
            let found = world.follower.call("GET", &path, None).await?;
            Ok(if found.0 == 200 {
                Ok(())
            } else {
                Err("not there".to_owned())
            })
        })
        .await?;
        slowest = slowest.max(began.elapsed());
    }
    ensure!(slowest < SOON, "a document of {index} took {slowest:?}");
    Ok(())
}

/// The agents tell why an index stands still.
async fn stands_still(world: &World, index: &str, causes: &[Cause]) -> Result<()> {
    let settings = world
        .leader
        .get(&format!("/{index}/_settings?flat_settings=true"))
        .await?;
    let uuid = settings[index]["settings"]["index.uuid"].as_str();
    let uuid = uuid.context("no uuid")?.into();
    let cluster = world.leader.get("/").await?;
    let cluster = cluster["cluster_uuid"].as_str().context("no uuid")?.into();
    let (kafka, stop) = (
        topic_check::kafka(world.stack.kafka_bootstrap())?,
        CancellationToken::new(),
    );
    let _stop = stop.clone().drop_guard();
    let table = ControlTopic::open(&kafka, leader_control_topic("shardline"), &stop).await?;
    wait::until("the cause of the standstill", PATIENCE, async || {
        let told = CaptureStandstill::of_index(&table, &cluster, &uuid);
        let is_told = told.iter().any(|told| causes.contains(&told.reason.cause));
        Ok(if is_told {
            Ok(())
        } else {
            Err(format!("{told:?}"))
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
