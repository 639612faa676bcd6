//! `_verify`: its body, and what it answers.

use serde::{Deserialize, Serialize};
use shardline_common::types::{IndexName, ShardId};
use shardline_common::verify::How;

use super::error::ApiError;
use super::object_parser::{Field, ObjectParser};

const VERIFY: ObjectParser = ObjectParser {
    name: "VerifyReplicationRequestParser",
    fields: &["repair", "content", "documents_per_second"],
};
const DOCUMENTS_PER_SECOND: u64 = 100_000;
/// Ids of a kind that are shown; all are counted.
const SHOWN: usize = 100;

/// What a user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// Whether an index that differs is copied anew.
    pub repair: bool,
    #[serde(flatten)]
    pub how: How,
}

impl VerifyRequest {
    /// An empty body is as good as an empty object.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let how = How {
            content: false,
            documents_per_second: DOCUMENTS_PER_SECOND,
        };
        let mut request = Self { repair: false, how };
        let fields = if body.is_empty() {
            Vec::new()
        } else {
            VERIFY.parse(body)?
        };
        for field in fields {
            match field.name.as_ref() {
                "repair" => request.repair = field.boolean()?,
                "content" => request.how.content = field.boolean()?,
                _ => request.how.documents_per_second = rate(&field)?,
            }
        }
        Ok(request)
    }
}

fn rate(field: &Field<'_>) -> Result<u64, ApiError> {
    let value = field.value.get();
    value.parse().map_err(|_| {
        let reason =
            format!("documents_per_second must be a whole number, 0 for no limit, and not {value}");
        ApiError::illegal_argument(reason)
    })
}

/// Answer of `GET _verify`. Times are in milliseconds; `start_time` since the epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerificationStatus {
    pub verification_id: String,
    pub follower_index: IndexName,
    pub state: VerificationState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub start_time: i64,
    pub running_time: i64,
    pub content: bool,
    pub shards_total: u32,
    pub shards_done: u32,
    pub documents_read: u64,
    #[serde(flatten)]
    pub found: Findings,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_repair: Option<Findings>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerificationState {
    Comparing,
    Repairing,
    Equal,
    Different,
    Failed,
}

impl VerificationState {
    pub fn is_done(self) -> bool {
        matches!(self, Self::Equal | Self::Different | Self::Failed)
    }
}

/// How the two sides differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// That the leader has, up to the checkpoints of its shards.
    pub documents: u64,
    pub missing: Named,
    pub extra: Named,
    pub different: Named,
    /// Documents that changed whenever they were looked at.
    pub unclear: u64,
    /// Shards with so many differences that not all were looked for.
    pub cut_short: Vec<ShardId>,
    pub metadata: Vec<String>,
}

impl Findings {
    pub fn is_equal(&self) -> bool {
        self.missing.count + self.extra.count + self.different.count == 0
            && self.metadata.is_empty()
    }

    /// Takes over what was found elsewhere.
    pub fn add(&mut self, other: Self) {
        self.documents += other.documents;
        for (own, other) in [
            (&mut self.missing, other.missing),
            (&mut self.extra, other.extra),
            (&mut self.different, other.different),
        ] {
            own.count += other.count;
            own.ids.extend(other.ids);
            own.ids.truncate(SHOWN);
        }
        self.unclear += other.unclear;
        self.cut_short.extend(other.cut_short);
        self.metadata.extend(other.metadata);
    }

    /// Whether a document differs, and not only metadata.
    pub fn has_documents(&self) -> bool {
        self.missing.count + self.extra.count + self.different.count > 0
    }
}

/// Documents of a kind: how many, and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Named {
    pub count: u64,
    pub ids: Vec<String>,
}

impl Named {
    /// Counts a document.
    pub fn add(&mut self, id: String) {
        self.count += 1;
        if self.ids.len() < SHOWN {
            self.ids.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_says_how_to_verify() {
        let plain = VerifyRequest::parse(b"").unwrap();
        assert_eq!(plain, VerifyRequest::parse(b"{}").unwrap());
        assert!(!plain.repair && !plain.how.content);
        let full =
            VerifyRequest::parse(br#"{"repair":true,"content":true,"documents_per_second":0}"#)
                .unwrap();
        assert!(full.repair && full.how.content && full.how.documents_per_second == 0);
        for body in [
            r#"{"documents_per_second":-1}"#,
            r#"{"documents_per_second":"x"}"#,
            r#"{"bogus":1}"#,
        ] {
            assert!(VerifyRequest::parse(body.as_bytes()).is_err(), "{body}");
        }
    }
}
