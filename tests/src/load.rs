//! A load of realistic log documents: indexed, updated, partially updated, deleted, with and
//! without routing, by bulk and by query. The same seed makes the same load.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

use crate::client::Client;

const SERVICES: &[&str] = &[
    "checkout",
    "catalog",
    "payment",
    "search",
    "profile",
    "gateway",
    "inventory",
];
const LEVELS: &[&str] = &["INFO", "INFO", "INFO", "INFO", "DEBUG", "WARN", "ERROR"];
const WORDS: &[&str] = &[
    "request",
    "served",
    "in",
    "time",
    "cache",
    "miss",
    "for",
    "customer",
    "retrying",
    "upstream",
    "timeout",
    "order",
    "accepted",
    "session",
    "refreshed",
    "größe",
    "naïve",
    "日本",
    "🦀",
];

/// A small deterministic generator (xorshift).
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn seeded(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Settings and mapping of the load's index.
pub fn index_body(shards: u32) -> Value {
    json!({
        "settings": {"number_of_shards": shards, "number_of_replicas": 0},
        "mappings": {"properties": {
            "@timestamp": {"type": "date"}, "service": {"type": "keyword"}, "level": {"type": "keyword"},
            "message": {"type": "text"}, "status": {"type": "short"}, "duration_ms": {"type": "float"},
        }},
    })
}

/// The load, as bulk requests.
pub struct Load {
    random: Random,
    written: u64,
    prefix: String,
}

impl Load {
    /// Loads with different prefixes do not touch each other's documents.
    pub fn new(seed: u64, prefix: &str) -> Self {
        Self {
            random: Random::seeded(seed),
            written: 0,
            prefix: prefix.to_owned(),
        }
    }

    /// The next bulk body with about `operations` operations on about as many new documents.
    pub fn bulk(&mut self, operations: u64) -> String {
        let mut body = String::new();
        for _ in 0..operations {
            let kind = if self.written < 100 {
                0
            } else {
                self.random.below(100)
            };
            let older = self.random.below(self.written.max(1));
            match kind {
                0..80 => {
                    self.action(&mut body, "index", self.written);
                    let document = self.document();
                    let _ = writeln!(body, "{document}");
                    self.written += 1;
                }
                80..88 => {
                    self.action(&mut body, "index", older);
                    let document = self.document();
                    let _ = writeln!(body, "{document}");
                }
                88..94 => {
                    // A partial update that makes the document when it is not there any more.
                    self.action(&mut body, "update", older);
                    let status = self.random.below(600);
                    let change = json!({"doc": {"status": status, "seen": {"by": self.random.below(9)}}, "doc_as_upsert": true});
                    let _ = writeln!(body, "{change}");
                }
                // One that is not there any more is a 404 that nobody minds.
                _ => self.action(&mut body, "delete", older),
            }
        }
        body
    }

    fn action(&self, body: &mut String, action: &str, number: u64) {
        let id = format!("{}-{number}", self.prefix);
        // Every fifth document has a routing of its own, always the same for the same document.
        let routing = if number.is_multiple_of(5) {
            format!(",\"routing\":\"r{}\"", number % 17)
        } else {
            String::new()
        };
        let _ = writeln!(body, "{{\"{action}\":{{\"_id\":\"{id}\"{routing}}}}}");
    }

    fn document(&mut self) -> Value {
        let random = &mut self.random;
        let message: Vec<&str> = (0..8 + random.below(12))
            .map(|_| random.pick(WORDS))
            .collect();
        json!({
            "@timestamp": 1_790_000_000_000u64 + random.below(100_000_000),
            "service": random.pick(SERVICES),
            "level": random.pick(LEVELS),
            "message": message.join(" "),
            "status": 200 + random.below(300),
            "duration_ms": random.below(1_000_000) as f64 / 1000.0,
            "trace": format!("{:016x}", random.below(u64::MAX)),
        })
    }
}

/// Changes documents by query, as users do now and then.
pub async fn by_query(leader: &Client, index: &str) -> Result<()> {
    leader
        .ok("POST", &format!("/{index}/_refresh"), None)
        .await?;
    let update = json!({
        "query": {"bool": {"filter": [{"term": {"service": "payment"}}, {"term": {"level": "ERROR"}}]}},
        "script": {"source": "ctx._source.reviewed = true"},
    });
    leader
        .ok(
            "POST",
            &format!("/{index}/_update_by_query?conflicts=proceed&refresh=true"),
            Some(&update),
        )
        .await?;
    let delete = json!({"query": {"bool": {"filter": [{"term": {"service": "profile"}}, {"term": {"level": "DEBUG"}}]}}});
    leader
        .ok(
            "POST",
            &format!("/{index}/_delete_by_query?conflicts=proceed"),
            Some(&delete),
        )
        .await?;
    Ok(())
}
