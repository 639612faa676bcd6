//! Limits of a mapping: what is mapped already may be beyond what the leader allows by now.

use serde_json::{Map, Value, json};
use shardline_common::opensearch::OpenSearchError;

/// Index settings that limit what a mapping, or a document, may have; with a value beyond everything
/// that an index has in earnest, or the highest that OpenSearch takes.
const LIMITS: &[(&str, &str)] = &[
    ("index.mapping.total_fields.limit", "1000000"),
    ("index.mapping.depth.limit", "1000"),
    ("index.mapping.nested_fields.limit", "1000000"),
    ("index.mapping.nested_objects.limit", "1000000"),
    ("index.mapping.field_name_length.limit", "50000"),
];

/// Whether the cluster refused something for a limit.
pub fn is_limit(error: &OpenSearchError) -> bool {
    matches!(error, OpenSearchError::Refused { status: 400, reason, .. } if names_limit(reason))
}

/// As OpenSearch words it: `Limit of total fields [50] has been exceeded`, `The number of nested
/// documents has exceeded the allowed limit of [3]`.
pub fn names_limit(reason: &str) -> bool {
    let reason = reason.to_lowercase();
    reason.contains("limit") && (reason.contains("exceed") || reason.contains("longer than"))
}

/// All of them, as high as is needed for any mapping, except for those that a user has set.
pub fn raised(overrides: &Map<String, Value>) -> Map<String, Value> {
    let raised = |(key, value): &(&str, &str)| ((*key).to_owned(), json!(value));
    LIMITS
        .iter()
        .filter(|(key, _)| !overrides.contains_key(*key))
        .map(raised)
        .collect()
}

/// What takes the index back to the limits among these settings.
pub fn lowered(settings: &Map<String, Value>) -> Map<String, Value> {
    let wanted = |(key, _): &(&str, &str)| {
        let value = settings.get(*key).cloned().unwrap_or(Value::Null);
        ((*key).to_owned(), value)
    };
    LIMITS.iter().map(wanted).collect()
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
            "The number of nested documents has exceeded the allowed limit of [2]. This limit can be set by …",
            "Field name [deep] is longer than the limit of [2] characters",
        ] {
            assert!(names_limit(reason), "{reason}");
        }
        assert!(!names_limit(
            "failed to parse field [size] of type [integer]"
        ));
    }

    #[test]
    fn what_the_leader_does_not_limit_is_as_by_default() {
        let settings = json!({"index.mapping.depth.limit": "3", "index.codec": "zlib"});
        let lowered = lowered(settings.as_object().unwrap());
        assert_eq!(lowered["index.mapping.depth.limit"], "3");
        assert_eq!(lowered["index.mapping.total_fields.limit"], Value::Null);
        assert_eq!(lowered.len(), raised(&Map::new()).len());
        let raised = raised(settings.as_object().unwrap());
        assert!(!raised.contains_key("index.mapping.depth.limit"));
    }
}
