//! Snapshot repositories in OpenSearch's API: paths, and what their errors mean.

use super::{OpenSearchError, path_segment};
use crate::control::repository::snapshot_name;

/// The snapshot's path in the REST API.
pub fn snapshot_path(repository: &str, id: &str) -> String {
    format!(
        "/_snapshot/{}/{}",
        path_segment(repository),
        snapshot_name(id)
    )
}

/// The path at which a cluster says whether all its nodes reach a repository.
pub fn verification_path(repository: &str) -> String {
    format!("/_snapshot/{}/_verify", path_segment(repository))
}

/// Whether a call about a snapshot fails for good: what is wrong with a repository or a snapshot is
/// told with status 500, too.
pub fn is_final(error: &OpenSearchError) -> bool {
    match error {
        OpenSearchError::Refused { error_type, .. }
            if error_type.starts_with("repository") || error_type.starts_with("snapshot") =>
        {
            true
        }
        error => !error.retryable(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_repository_does_not_pass() {
        let refused = |status, error_type: &str| OpenSearchError::Refused {
            method: "PUT".to_owned(),
            path: "/_snapshot/r/s".to_owned(),
            status,
            error_type: error_type.to_owned(),
            reason: String::new(),
            body: Box::default(),
        };
        assert!(is_final(&refused(404, "repository_missing_exception")));
        assert!(is_final(&refused(500, "repository_exception")));
        assert!(is_final(&refused(500, "snapshot_restore_exception")));
        assert!(!is_final(&refused(
            503,
            "concurrent_snapshot_execution_exception"
        )));
    }
}
