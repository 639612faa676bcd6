//! Writes documents again that the follower index refuses for its mapping: the leader may have
//! taken them under an earlier one.

use futures::future::BoxFuture;
use shardline_common::types::{SeqNo, ShardId};
use tracing::info;

use super::batch::Write;
use super::outcome::{ApplyError, Rejection, Written};
use super::request::Destination;

/// Malformed values of these can be ignored; afterwards the mapping says that they are not.
pub(crate) const SHAPES: &[&str] = &["geo_point", "geo_shape"];
/// Behind the reason of a document that a lenient index refuses.
const NOT_IGNORED: &str = " – also with everything ignored that OpenSearch can ignore; if the \
     leader took the document under an earlier mapping, write it anew there, or _stop and _start \
     with a snapshot repository, which copies it as it is";

/// Has a follower index take documents that its mapping refuses, and the leader's has taken.
pub trait Lenience: Send + Sync {
    /// Returns once the index takes what can be taken; whether it does.
    fn begin(&self, shard: ShardId, is_thorough: bool) -> BoxFuture<'_, Result<bool, ApplyError>>;

    /// They are written.
    fn end(&self, shard: ShardId) -> BoxFuture<'_, Result<(), ApplyError>>;
}

/// As OpenSearch words it: `Limit of total fields [50] has been exceeded`, `The number of nested
/// documents has exceeded the allowed limit of [3]`.
pub(crate) fn names_limit(reason: &str) -> bool {
    let reason = reason.to_lowercase();
    reason.contains("limit") && (reason.contains("exceed") || reason.contains("longer than"))
}

/// Whether a refusal is about what only a thorough leniency concerns: shapes, or limits, which a
/// bulk request's answer does not always name.
fn needs_thorough(reason: &str) -> bool {
    SHAPES.iter().any(|kind| reason.contains(kind))
        || names_limit(reason)
        || reason == "failed to parse"
}

impl Rejection {
    /// Whether the document may have been taken under another mapping, or other limits.
    pub(super) fn may_be_of_the_past(&self) -> bool {
        match self.error_type.as_str() {
            "mapper_parsing_exception" | "strict_dynamic_mapping_exception" => true,
            "illegal_argument_exception" => {
                self.reason.contains("immense term") || names_limit(&self.reason)
            }
            _ => false,
        }
    }
}

impl Destination {
    /// Writes what the index refused for its mapping, which may be newer than the documents. What
    /// is refused again is refused for good.
    pub(super) async fn write_leniently(
        &self,
        refused: Vec<(Write, Rejection)>,
        highest: SeqNo,
        written: &mut Written,
    ) -> Result<(), ApplyError> {
        let shard = self.target.shard;
        let _one_at_a_time = self.lenient.lock().await;
        info!(
            index = %self.index, %shard, documents = refused.len(), reason = refused[0].1.reason,
            "the leader took documents that its mapping refuses: what does not fit is ignored"
        );
        let (mut refused, mut is_lenient) = (refused, None);
        // One document may have several values that do not fit, of which the first is named.
        while !refused.is_empty() {
            let is_thorough = refused
                .iter()
                .any(|(_, rejection)| needs_thorough(&rejection.reason));
            if is_lenient.is_some_and(|was_thorough| was_thorough >= is_thorough)
                || !self.lenience.begin(shard, is_thorough).await?
            {
                break;
            }
            is_lenient = Some(is_thorough);
            let writes = refused.into_iter().map(|(write, _)| write).collect();
            let (again, still_refused) = self.send(writes, highest).await?;
            written.add(again);
            // A refusal by Lucene takes a number, too.
            written.repeated = true;
            refused = still_refused;
        }
        let mut rejected: Vec<Rejection> = refused.into_iter().map(|(_, why)| why).collect();
        if is_lenient.is_some() {
            self.lenience.end(shard).await?;
            for rejection in &mut rejected {
                rejection.reason.push_str(NOT_IGNORED);
            }
        }
        if !rejected.is_empty() {
            self.dead_letters.keep(shard, rejected).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_opensearch_are_known() {
        for reason in [
            "Limit of total fields [3] has been exceeded",
            "Limit of mapping depth [2] has been exceeded due to object field [a.b]",
            "Limit of nested fields [1] has been exceeded",
            "The number of nested documents has exceeded the allowed limit of [2]. This limit …",
            "Field name [deep] is longer than the limit of [2] characters",
        ] {
            assert!(names_limit(reason), "{reason}");
        }
        assert!(!names_limit(
            "failed to parse field [size] of type [integer]"
        ));
    }

    #[test]
    fn only_what_a_mapping_or_a_limit_refuses_may_be_of_the_past() {
        let is_of_the_past = |error_type: &str, reason: &str| {
            let rejection = Rejection {
                id: "1".to_owned(),
                seq_no: SeqNo(0),
                error_type: error_type.to_owned(),
                reason: reason.to_owned(),
            };
            rejection.may_be_of_the_past()
        };
        assert!(is_of_the_past("strict_dynamic_mapping_exception", "…"));
        assert!(is_of_the_past(
            "mapper_parsing_exception",
            "failed to parse field [n]"
        ));
        let immense = "Document contains at least one immense term in field=\"k\"";
        assert!(is_of_the_past("illegal_argument_exception", immense));
        assert!(!is_of_the_past(
            "illegal_argument_exception",
            "pipeline with id [p] does not exist"
        ));
        assert!(!is_of_the_past("security_exception", "no permissions"));
    }
}
