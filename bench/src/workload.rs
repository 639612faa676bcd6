//! Loads, made before the clock starts: bulk bodies for each writer.

use std::fmt::Write as _;

use bytes::Bytes;
use shardline_tests::load::Random;

/// Documents of the log-like loads have this many bytes.
pub const DOCUMENT_BYTES: usize = 266;
pub const BULK: u64 = 1_000;
pub const WRITERS: u64 = 2;
const WORDS: &[&str] = &[
    "request", "served", "cache", "miss", "for", "customer", "retrying", "upstream", "timeout",
    "order", "session",
];

/// What several writers send at the same time, each its bulks one after the other.
#[derive(Clone)]
pub struct Workload {
    pub operations: u64,
    pub writers: Vec<Vec<Bytes>>,
}

/// How the documents of a load are named.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// Each one new, chosen by the client.
    New,
    /// As `New`, behind the ids of an earlier load: each writer's numbers begin here.
    NewFrom(u64),
    /// Each one new, chosen by the server, as log shippers do it.
    ByServer,
    /// One out of so many, at random.
    OneOf(u64),
}

impl Workload {
    /// Log documents of [`DOCUMENT_BYTES`].
    pub fn logs(operations: u64, ids: Ids) -> Self {
        Self::logs_in_bulks(operations, BULK, ids)
    }

    pub fn logs_in_bulks(operations: u64, bulk: u64, ids: Ids) -> Self {
        Self::made(operations, bulk, |random, body, writer, number| {
            match ids {
                Ids::New | Ids::NewFrom(_) => {
                    let number = number
                        + if let Ids::NewFrom(first) = ids {
                            first
                        } else {
                            0
                        };
                    let _ = writeln!(body, "{{\"index\":{{\"_id\":\"w{writer}-{number}\"}}}}");
                }
                Ids::ByServer => body.push_str("{\"index\":{}}\n"),
                Ids::OneOf(count) => {
                    let id = random.below(count / WRITERS);
                    let _ = writeln!(body, "{{\"index\":{{\"_id\":\"w{writer}-{id}\"}}}}");
                }
            }
            log_document(random, body);
        })
    }

    /// The documents of [`Workload::logs`] with new ids, as a plain client writes them into a
    /// follower index. `from` is where its versions begin.
    pub fn external(operations: u64, bulk: u64, from: u64) -> Self {
        Self::made(operations, bulk, |random, body, writer, number| {
            let version = from + number;
            let _ = writeln!(
                body,
                "{{\"index\":{{\"_id\":\"w{writer}-{number}\",\"version\":{version},\"version_type\":\"external_gte\"}}}}"
            );
            log_document(random, body);
        })
    }

    /// Deletes the documents of [`Workload::logs`] with new ids.
    pub fn deletes(operations: u64) -> Self {
        Self::made(operations, BULK, |_, body, writer, number| {
            let _ = writeln!(body, "{{\"delete\":{{\"_id\":\"w{writer}-{number}\"}}}}");
        })
    }

    /// Documents of 100 KB, in bulks of 20.
    pub fn large(operations: u64) -> Self {
        Self::made(operations, 20, |random, body, writer, number| {
            let _ = write!(
                body,
                "{{\"index\":{{\"_id\":\"w{writer}-{number}\"}}}}\n{{\"text\":\""
            );
            let end = body.len() + 100_000;
            while body.len() < end {
                body.push_str(WORDS[random.below(WORDS.len() as u64) as usize]);
                let _ = write!(body, " {} ", random.below(100_000));
            }
            body.push_str("\"}\n");
        })
    }

    fn made(
        operations: u64,
        bulk: u64,
        mut add: impl FnMut(&mut Random, &mut String, u64, u64),
    ) -> Self {
        let each = operations / WRITERS;
        let writers = (0..WRITERS).map(|writer| {
            let mut random = Random::seeded(writer + 1);
            let bulks = (0..each).step_by(bulk as usize).map(|first| {
                let mut body = String::new();
                for number in first..each.min(first + bulk) {
                    add(&mut random, &mut body, writer, number);
                }
                Bytes::from(body)
            });
            bulks.collect()
        });
        Self {
            writers: writers.collect(),
            operations: each * WRITERS,
        }
    }
}

fn log_document(random: &mut Random, body: &mut String) {
    let start = body.len();
    let _ = write!(
        body,
        "{{\"@timestamp\":{},\"service\":\"checkout-{}\",\"level\":\"INFO\",\"status\":{},\"duration_ms\":{}.{},\"trace\":\"{:016x}\",\"message\":\"",
        1_790_000_000_000u64 + random.below(100_000_000),
        random.below(20),
        200 + random.below(300),
        random.below(1000),
        random.below(1000),
        random.below(u64::MAX),
    );
    while body.len() - start < DOCUMENT_BYTES - 2 {
        body.push_str(WORDS[random.below(WORDS.len() as u64) as usize]);
        body.push(' ');
    }
    body.truncate(start + DOCUMENT_BYTES - 2);
    body.push_str("\"}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_the_stated_size_and_are_json() {
        let load = Workload::logs(10, Ids::New);
        let text = String::from_utf8(load.writers[1][0].to_vec()).unwrap();
        let document = text.lines().nth(1).unwrap();
        assert_eq!(document.len(), DOCUMENT_BYTES);
        assert!(serde_json::from_str::<serde_json::Value>(document).is_ok());
        assert_eq!(text.lines().count(), 10);
    }
}
