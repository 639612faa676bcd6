//! Paths as OpenSearch's router reads them: cut at slashes, undecoded; what cannot be forwarded
//! faithfully is refused.

use crate::http::api::query::decode_component;
use shardline::contract::ApiError;

/// The segments of a path, as they were sent. An empty one counts, as an index expression that
/// names every index, except at the end of the path.
///
/// # Errors
/// A segment `.` or `..`, however encoded: URL libraries fold such paths, so what is forwarded
/// would not be what was judged.
pub(super) fn segments(path: &str) -> Result<Vec<&str>, ApiError> {
    let relative = path.strip_prefix('/').unwrap_or(path);
    let mut segments: Vec<&str> = relative.split('/').collect();
    while segments.last().is_some_and(|last| last.is_empty()) {
        segments.pop();
    }
    let folds = |segment: &&str| matches!(decode_component(segment).as_str(), "." | "..");
    match segments.iter().any(folds) {
        true => Err(ApiError::illegal_argument(format!(
            "path [{path}] contains a relative segment"
        ))),
        false => Ok(segments),
    }
}

/// Whether both paths name the same, segment by segment.
pub(super) fn are_equal(one: &str, other: &str) -> Result<bool, ApiError> {
    let (one, other) = (segments(one)?, segments(other)?);
    let decoded = |segments: &[&str]| -> Vec<String> {
        segments
            .iter()
            .map(|segment| decode_component(segment))
            .collect()
    };
    Ok(decoded(&one) == decoded(&other))
}

/// `path` with what a URL library would take for a slash made harmless.
pub(super) fn forwardable(path: &str) -> String {
    path.replace('\\', "%5C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_cut_as_the_server_cuts_them() {
        for (path, expected) in [
            ("/f%2Dro/_doc/a%2Fb", ["f%2Dro", "_doc", "a%2Fb"].as_slice()),
            ("//_update_by_query", &["", "_update_by_query"]),
            ("/f//_doc", &["f", "", "_doc"]),
            ("/f/_doc//", &["f", "_doc"]),
            ("//", &[]),
            ("/", &[]),
        ] {
            assert_eq!(segments(path).ok(), Some(expected.to_vec()), "{path}");
        }
        for folded in ["/a/../f-ro/_doc/1", "/a/%2e%2E/f-ro", "/./f-ro"] {
            assert!(segments(folded).is_err(), "{folded}");
        }
        assert!(are_equal("/a b", "/a%20b").unwrap());
        assert!(!are_equal("//a", "/a").unwrap());
    }
}
