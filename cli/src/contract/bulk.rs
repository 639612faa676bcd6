//! The bulk routes: their bodies, and the status of a task.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shardline_common::bulk::{BulkOperation, BulkTask, FailedIndex};

use super::error::ApiError;
use super::object_parser::ObjectParser;
use super::request::{UseRoles, require_body};
use shardline_common::control::ReplicationRoles;

const BULK: ObjectParser = ObjectParser {
    name: "BulkReplicationRequestParser",
    fields: &["pattern", "leader_alias", "use_roles", "filters"],
};
const FORBIDDEN: [char; 8] = [' ', '"', '<', '>', '|', '\\', '#', ','];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BulkRequest {
    pub pattern: String,
    pub leader_alias: Option<String>,
    /// Names for a start, index expressions for the others.
    pub exclude: Vec<String>,
    pub roles: Option<ReplicationRoles>,
}

/// A body as parsed.
#[derive(Clone, Debug, Default)]
pub struct BulkBody {
    request: BulkRequest,
    use_roles: Option<UseRoles>,
}

impl BulkBody {
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut request = BulkRequest::default();
        let mut use_roles = None;
        for field in BULK.parse(require_body(body)?)? {
            match field.name.as_ref() {
                "pattern" => request.pattern = field.string()?,
                "leader_alias" => request.leader_alias = Some(field.string()?),
                "use_roles" => use_roles = UseRoles::parse(&field)?,
                _ => {
                    field.require_object()?;
                    request.exclude = excluded(field.value.get());
                }
            }
        }
        Ok(Self { request, use_roles })
    }

    pub fn validate(self, operation: BulkOperation) -> Result<BulkRequest, ApiError> {
        let mut request = self.request;
        request.roles = self.use_roles.and_then(UseRoles::into_roles);
        let pattern = &request.pattern;
        if pattern.trim().is_empty() {
            return Err(ApiError::validation(&["pattern is required"]));
        }
        if pattern.contains(FORBIDDEN) || pattern.starts_with('_') {
            return Err(ApiError::validation(&[format!(
                "pattern contains invalid characters: {pattern}"
            )]));
        }
        request.leader_alias = request
            .leader_alias
            .filter(|alias| !alias.trim().is_empty());
        if operation == BulkOperation::Start && request.leader_alias.is_none() {
            return Err(ApiError::validation(&[
                "leader_alias is required for bulk start",
            ]));
        }
        Ok(request)
    }
}

/// `exclude_index` of the filters; anything but a list of texts is ignored.
fn excluded(filters: &str) -> Vec<String> {
    let filters: Value = serde_json::from_str(filters).unwrap_or_default();
    let names = filters["exclude_index"].as_array().into_iter().flatten();
    names.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Answer of `_task_status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskStatus {
    pub operation_type: BulkOperation,
    pub pattern: String,
    pub start_time: i64,
    pub num_success: u64,
    pub num_failed: usize,
    pub num_pending: usize,
    pub num_cancelled: u64,
    pub failed_indices: Vec<FailedIndex>,
}

impl From<BulkTask> for TaskStatus {
    fn from(task: BulkTask) -> Self {
        Self {
            operation_type: task.operation,
            pattern: task.pattern,
            start_time: task.start_time,
            num_success: task.num_success,
            num_failed: task.failed.len(),
            num_pending: task.pending.len(),
            num_cancelled: task.num_cancelled,
            failed_indices: task.failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(body: &str, operation: BulkOperation) -> String {
        let outcome = BulkBody::parse(body.as_bytes()).and_then(|body| body.validate(operation));
        outcome
            .err()
            .map(|error| error.message())
            .unwrap_or_default()
    }

    #[test]
    fn bodies_are_read_or_refused_in_the_plugin_s_words() {
        let body = br#"{"leader_alias":"a","pattern":"l-*","use_roles":{},"filters":{"exclude_index":["l-1"],"x":1}}"#;
        let request = BulkBody::parse(body)
            .unwrap()
            .validate(BulkOperation::Start)
            .unwrap();
        assert_eq!(
            (request.pattern.as_str(), request.exclude),
            ("l-*", vec!["l-1".to_owned()])
        );
        let ignored =
            BulkBody::parse(br#"{"pattern":"l","filters":{"exclude_index":"l"}}"#).unwrap();
        assert!(
            ignored
                .validate(BulkOperation::Stop)
                .unwrap()
                .exclude
                .is_empty()
        );
        let invalid = "action_request_validation_exception: Validation Failed: 1:";
        for (body, expected) in [
            ("{}", format!("{invalid} pattern is required;")),
            (
                r#"{"pattern":" "}"#,
                format!("{invalid} pattern is required;"),
            ),
            (
                r#"{"pattern":"a,b"}"#,
                format!("{invalid} pattern contains invalid characters: a,b;"),
            ),
            (
                r#"{"pattern":"_all"}"#,
                format!("{invalid} pattern contains invalid characters: _all;"),
            ),
            (
                r#"{"pattern":"a"}"#,
                format!("{invalid} leader_alias is required for bulk start;"),
            ),
            (
                "",
                "parse_exception: request body or source parameter is required".to_owned(),
            ),
            (
                r#"{"bogus":1}"#,
                "x_content_parse_exception: [1:2] [BulkReplicationRequestParser] unknown field \
                 [bogus]"
                    .to_owned(),
            ),
        ] {
            assert_eq!(refusal(body, BulkOperation::Start), expected, "{body}");
        }
    }
}
