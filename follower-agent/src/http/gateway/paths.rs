//! Paths as a decision needs them: cut at slashes and percent-decoded once; what cannot be
//! forwarded faithfully is refused.

use shardline::contract::ApiError;

use crate::http::api::query::decode_component;

/// The decoded segments of a path; empty ones are left out.
///
/// # Errors
/// A segment `.` or `..`, however encoded: URL libraries fold such paths, so what is forwarded
/// would not be what was judged.
pub(crate) fn segments(path: &str) -> Result<Vec<String>, ApiError> {
    let segments: Vec<String> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(decode_component)
        .collect();
    match segments
        .iter()
        .any(|segment| segment == "." || segment == "..")
    {
        true => Err(ApiError::illegal_argument(format!(
            "path [{path}] contains a relative segment"
        ))),
        false => Ok(segments),
    }
}

/// `path` with what a URL library would take for a slash made harmless.
pub(super) fn forwardable(path: &str) -> String {
    path.replace('\\', "%5C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_decoded_once() {
        assert_eq!(
            segments("/f%2Dro//_doc/a%2Fb%2525").ok(),
            Some(vec!["f-ro".into(), "_doc".into(), "a/b%25".into()])
        );
        for folded in ["/a/../f-ro/_doc/1", "/a/%2e%2E/f-ro", "/./f-ro"] {
            assert!(segments(folded).is_err(), "{folded}");
        }
    }
}
