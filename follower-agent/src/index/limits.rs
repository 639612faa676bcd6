//! Limits of a mapping: what is mapped already may be beyond what the leader allows by now.

use serde_json::{Map, Value, json};
use shardline_common::opensearch::OpenSearchError;

use crate::write::names_limit;

/// Index settings that limit what a mapping, or a document, may have; with a value beyond all that
/// an index has in earnest, or the highest that OpenSearch takes.
const LIMITS: &[(&str, &str)] = &[
    ("index.mapping.total_fields.limit", "1000000"),
    ("index.mapping.depth.limit", "1000"),
    ("index.mapping.nested_fields.limit", "1000000"),
    ("index.mapping.nested_objects.limit", "1000000"),
    ("index.mapping.field_name_length.limit", "50000"),
];

/// Whether the cluster refused something for a limit.
pub(super) fn is_limit(error: &OpenSearchError) -> bool {
    matches!(error, OpenSearchError::Refused { status: 400, reason, .. } if names_limit(reason))
}

pub(super) fn is_limit_setting(key: &str) -> bool {
    LIMITS.iter().any(|(limit, _)| *limit == key)
}

/// All of them, as high as is needed for any mapping, except for those that a user has set.
pub(super) fn raised(overrides: &Map<String, Value>) -> Map<String, Value> {
    let raised = |(key, value): &(&str, &str)| ((*key).to_owned(), json!(value));
    LIMITS
        .iter()
        .filter(|(key, _)| !overrides.contains_key(*key))
        .map(raised)
        .collect()
}

/// What takes the index back to the limits among these settings.
pub(super) fn lowered(settings: &Map<String, Value>) -> Map<String, Value> {
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
