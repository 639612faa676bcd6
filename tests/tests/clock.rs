//! The agents' wall clock is set forward, which makes Kafka refuse their records, and back again,
//! for which threads of librdkafka would wait: indices are followed as before.

use std::time::Duration;

use anyhow::Result;
use shardline_tests::faults::clock::Clock;
use shardline_tests::load::{Load, index_body};
use shardline_tests::world::World;

const AHEAD: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_stops_nothing() -> Result<()> {
    let clock = Clock::new()?;
    let world = World::with(|options| options.agent_environment = clock.environment()).await?;
    world
        .leader
        .ok("PUT", "/before", Some(&index_body(2)))
        .await?;
    world.follow("before", "before").await?;
    let mut load = Load::new(21, "c");
    for index in ["first", "second"] {
        clock.set(3)?;
        let until = tokio::time::Instant::now() + AHEAD;
        while tokio::time::Instant::now() < until {
            world.leader.bulk("/before/_bulk", load.bulk(100)).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        clock.set(0)?;
        world.equal("before", "before").await?;
        // Needs the leader agent's writes to the control topic.
        world
            .leader
            .ok("PUT", &format!("/{index}"), Some(&index_body(1)))
            .await?;
        world.follow(index, index).await?;
        world.equal(index, index).await?;
    }
    world.stop().await
}
