//! Waiting for conditions, with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::client::Client;

const POLL: Duration = Duration::from_millis(20);

/// Asks until the answer is `Some`; after the deadline says what was waited for and what came last.
pub async fn until<T, F>(what: &str, deadline: Duration, mut ask: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<Result<T, String>>,
{
    let started = Instant::now();
    loop {
        match ask().await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(last)) if started.elapsed() > deadline => {
                bail!("waited {deadline:?} for {what}: {last}")
            }
            Err(error) if started.elapsed() > deadline => {
                bail!("waited {deadline:?} for {what}: {error:#}")
            }
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

/// The status of a followed index.
pub async fn status(gateway: &Client, follower: &str) -> Result<Value> {
    gateway
        .get(&format!("/_plugins/_replication/{follower}/_status"))
        .await
}

/// Waits until an index has a status word.
pub async fn for_status(
    gateway: &Client,
    follower: &str,
    word: &str,
    deadline: Duration,
) -> Result<Value> {
    until(&format!("{follower} to be {word}"), deadline, async || {
        let status = status(gateway, follower).await?;
        Ok(if status["status"] == word {
            Ok(status)
        } else {
            Err(status.to_string())
        })
    })
    .await
}

/// Waits until the follower has applied everything that the leader has now.
pub async fn caught_up(
    leader: &Client,
    index: &str,
    gateway: &Client,
    follower: &str,
    deadline: Duration,
) -> Result<()> {
    let stats = leader.get(&format!("/{index}/_stats?level=shards")).await?;
    let shards = stats["indices"][index]["shards"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    let of_primary = |copies: &Value| {
        let primary = copies
            .as_array()?
            .iter()
            .find(|copy| copy["routing"]["primary"] == true)?;
        primary["seq_no"]["max_seq_no"].as_i64()
    };
    let wanted: i64 = shards.values().filter_map(of_primary).sum();
    until(
        &format!("{follower} to reach {wanted}"),
        deadline,
        async || {
            let status = status(gateway, follower).await?;
            let reached = status["syncing_details"]["follower_checkpoint"].as_i64();
            Ok(if reached.is_some_and(|reached| reached >= wanted) {
                Ok(())
            } else {
                Err(status.to_string())
            })
        },
    )
    .await
}
