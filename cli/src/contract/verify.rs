//! `_verify`: its body, and what it answers.

use serde::{Deserialize, Serialize};
use shardline_common::types::IndexName;
use shardline_common::verify::How;

use super::error::ApiError;
use super::object_parser::{Field, ObjectParser};
use crate::progress::now_ms;
use crate::verify::{Findings, Verification, VerificationState, VerifyRequest};

const VERIFY: ObjectParser = ObjectParser {
    name: "VerifyReplicationRequestParser",
    fields: &["repair", "content", "documents_per_second"],
};
const DOCUMENTS_PER_SECOND: u64 = 100_000;

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

impl From<Verification> for VerificationStatus {
    fn from(verification: Verification) -> Self {
        Self {
            verification_id: verification.id,
            follower_index: verification.follower_index,
            state: verification.state,
            reason: verification.reason,
            start_time: verification.start_time,
            running_time: verification.end_time.unwrap_or_else(now_ms) - verification.start_time,
            content: verification.request.how.content,
            shards_total: verification.shards_total,
            shards_done: verification.shards_done,
            documents_read: verification.documents_read,
            found: verification.found,
            before_repair: verification.before_repair,
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
