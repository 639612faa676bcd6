//! Writes without pause and remembers what the leader acknowledged.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::Method;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::load::Random;

const BULK: usize = 50;
const PAUSE: Duration = Duration::from_millis(40);
/// Few enough for every document to be written again and again.
const DOCUMENTS: u64 = 2_000;
const PAGE: usize = 1_000;

/// What a document is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// The acknowledged write with this number, the last.
    Put(u64),
    Deleted,
    /// A write to it was not answered: it may be there or not.
    Unsure,
}

/// Acknowledged writes that the follower does not show.
#[derive(Default)]
pub struct Kept {
    pub lost: usize,
    pub resurrected: usize,
    /// There, but as another write.
    pub other: usize,
}

pub struct Ledger {
    leader: Client,
    index: String,
    random: Random,
    next: u64,
    acknowledged: u64,
    known: HashMap<String, Known>,
}

impl Ledger {
    pub fn new(leader: &Client, index: &str, seed: u64) -> Self {
        Self {
            leader: leader.clone(),
            index: index.to_owned(),
            random: Random::seeded(seed + 1),
            next: 0,
            acknowledged: 0,
            known: HashMap::new(),
        }
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub async fn write_until(&mut self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            self.write().await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn write(&mut self) {
        let mut body = String::new();
        let mut written: Vec<(String, Known)> = Vec::new();
        for _ in 0..BULK {
            let id = format!("d{}", self.random.below(DOCUMENTS));
            if written.iter().any(|(other, _)| *other == id) {
                continue;
            }
            let known = if self.random.below(5) == 0 {
                Known::Deleted
            } else {
                Known::Put(self.next)
            };
            let _ = match known {
                Known::Put(number) => writeln!(
                    body,
                    "{{\"index\":{{\"_id\":\"{id}\"}}}}\n{}",
                    json!({"number": number, "message": format!("written as number {number}")})
                ),
                _ => writeln!(body, "{{\"delete\":{{\"_id\":\"{id}\"}}}}"),
            };
            self.next += 1;
            written.push((id, known));
        }
        let path = format!("/{}/_bulk", self.index);
        let answer = self
            .leader
            .send(
                Method::POST,
                &path,
                Some(("application/x-ndjson", body.into_bytes())),
            )
            .await;
        let items = match answer {
            Ok((200, answer)) => answer["items"].as_array().cloned().unwrap_or_default(),
            _ => Vec::new(),
        };
        for (at, (id, known)) in written.into_iter().enumerate() {
            let status = items
                .get(at)
                .and_then(|item| item.as_object()?.values().next()?["status"].as_u64());
            let is_acknowledged = matches!(
                (status, known),
                (Some(200 | 201), _) | (Some(404), Known::Deleted)
            );
            self.acknowledged += u64::from(is_acknowledged);
            self.known.insert(
                id,
                if is_acknowledged {
                    known
                } else {
                    Known::Unsure
                },
            );
        }
    }

    /// Looks every document up that is known for certain.
    pub async fn check(&self, follower: &Client) -> Result<Kept> {
        let certain: Vec<(&String, Known)> = self
            .known
            .iter()
            .map(|(id, known)| (id, *known))
            .filter(|(_, known)| *known != Known::Unsure)
            .collect();
        let mut kept = Kept::default();
        for page in certain.chunks(PAGE) {
            let ids: Vec<&String> = page.iter().map(|(id, _)| *id).collect();
            let answer = follower
                .ok(
                    "POST",
                    &format!("/{}/_mget", self.index),
                    Some(&json!({"ids": ids})),
                )
                .await?;
            let found = answer["docs"].as_array().context("no docs in the answer")?;
            for ((_, known), found) in page.iter().zip(found) {
                let number = (found["found"] == true)
                    .then(|| found["_source"]["number"].as_u64())
                    .flatten();
                match (*known, number) {
                    (Known::Put(expected), Some(number)) => {
                        kept.other += usize::from(number != expected)
                    }
                    (Known::Put(_), None) => kept.lost += 1,
                    (_, found) => kept.resurrected += usize::from(found.is_some()),
                }
            }
        }
        Ok(kept)
    }
}
