//! Bodies of `_autofollow`: a rule to make, or the name of one to delete.

use shardline_common::auto_follow::LEADER_INDEX;

use super::error::ApiError;
use super::names;
use super::object_parser::ObjectParser;
use super::request::UseRoles;
use super::settings::{FlatSettings, flatten_raw};
use shardline_common::control::ReplicationRoles;

const RULE: ObjectParser = ObjectParser {
    name: "AutoFollowRequestParser",
    fields: &[
        "leader_alias",
        "name",
        "pattern",
        "use_roles",
        "settings",
        "follower_index_pattern",
    ],
};
/// `*` stands in the words for them too, though it is allowed.
const FORBIDDEN: [char; 9] = [' ', '"', '\\', '<', '|', ',', '>', '/', '?'];

/// A rule as a caller wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleRequest {
    pub leader_alias: String,
    pub name: String,
    pub pattern: String,
    pub follower_index_pattern: Option<String>,
    pub settings: FlatSettings,
    pub roles: Option<ReplicationRoles>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleName {
    pub leader_alias: String,
    pub name: String,
}

/// A body as parsed: fields may be missing or out of place.
#[derive(Clone, Debug, Default)]
pub struct RuleBody {
    leader_alias: Option<String>,
    name: Option<String>,
    pattern: Option<String>,
    follower_index_pattern: Option<String>,
    use_roles: Option<UseRoles>,
    settings: FlatSettings,
}

impl RuleBody {
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        if body.is_empty() {
            return Err(ApiError::parse("request body is required"));
        }
        let mut rule = Self::default();
        for field in RULE.parse(body)? {
            match field.name.as_ref() {
                "leader_alias" => rule.leader_alias = Some(field.string()?),
                "name" => rule.name = Some(field.string()?),
                "pattern" => rule.pattern = Some(field.string()?),
                "follower_index_pattern" => rule.follower_index_pattern = field.string_or_null()?,
                "use_roles" => rule.use_roles = UseRoles::parse(&field)?,
                _ => {
                    field.require_object()?;
                    rule.settings = flatten_raw(field.value)
                        .map_err(|cause| field.failed(field.position(), cause))?;
                }
            }
        }
        Ok(rule)
    }

    pub fn into_rule(self) -> Result<RuleRequest, ApiError> {
        let mut problems = self.name_problems();
        match &self.pattern {
            Some(pattern) => check_pattern(pattern, &mut problems),
            None => problems.push("Missing pattern".to_owned()),
        }
        if self
            .use_roles
            .as_ref()
            .is_some_and(UseRoles::is_half_filled)
        {
            problems.push(UseRoles::NEED_BOTH.to_owned());
        }
        if let Some(pattern) = &self.follower_index_pattern {
            if !pattern.contains(LEADER_INDEX) {
                problems.push(format!(
                    "follower_index_pattern must contain the {LEADER_INDEX} placeholder"
                ));
            }
            names::check(&pattern.replace(LEADER_INDEX, "sample"), &mut problems);
        }
        match (self.leader_alias, self.name, self.pattern) {
            (Some(leader_alias), Some(name), Some(pattern)) if problems.is_empty() => {
                let (follower_index_pattern, settings) =
                    (self.follower_index_pattern, self.settings);
                Ok(RuleRequest {
                    leader_alias,
                    name,
                    pattern,
                    follower_index_pattern,
                    settings,
                    roles: self.use_roles.and_then(UseRoles::into_roles),
                })
            }
            _ => Err(ApiError::validation(&problems)),
        }
    }

    pub fn into_name(self) -> Result<RuleName, ApiError> {
        let mut problems = self.name_problems();
        if self.pattern.is_some() {
            problems.push("Unexpected pattern".to_owned());
        }
        if self.follower_index_pattern.is_some() {
            problems.push("Unexpected follower_index_pattern for remove action".to_owned());
        }
        match (self.leader_alias, self.name) {
            (Some(leader_alias), Some(name)) if problems.is_empty() => {
                Ok(RuleName { leader_alias, name })
            }
            _ => Err(ApiError::validation(&problems)),
        }
    }

    fn name_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.leader_alias.is_none() || self.name.is_none() {
            problems.push("Missing connection or name in the request".to_owned());
        }
        if let Some(name) = &self.name {
            names::check(name, &mut problems);
        }
        problems
    }
}

fn check_pattern(pattern: &str, problems: &mut Vec<String>) {
    let mut require = |kept: bool, rule: &str| {
        if !kept {
            problems.push(format!("Autofollow pattern: {pattern} {rule}"));
        }
    };
    require(
        !pattern.contains(FORBIDDEN),
        "must not contain the following characters [ , \", *, \\, <, |, ,, >, /, ?]",
    );
    require(!pattern.is_empty(), "must not be empty");
    require(!pattern.contains(['#', ':']), "must not contain '#' or ':'");
    require(
        !pattern.starts_with(['_', '-']),
        "must not start with '_' or '-'",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems<T>(outcome: Result<T, ApiError>) -> String {
        outcome
            .err()
            .map(|error| error.message())
            .unwrap_or_default()
    }

    #[test]
    fn a_rule_is_read_or_refused_in_the_plugin_s_words() {
        let body = r#"{"leader_alias":"a","name":"r","pattern":"Logs-*","follower_index_pattern":"copy-{{leader_index}}",
                       "use_roles":{"leader_cluster_role":"x","follower_cluster_role":"y"},"settings":{"index.n":1}}"#;
        let rule = RuleBody::parse(body.as_bytes())
            .unwrap()
            .into_rule()
            .unwrap();
        assert_eq!(
            (rule.pattern.as_str(), rule.settings["index.n"].as_str()),
            ("Logs-*", Some("1"))
        );
        for (body, expected) in [
            (
                "{}",
                "1: Missing connection or name in the request;2: Missing pattern;",
            ),
            (
                r#"{"leader_alias":"a","pattern":"x"}"#,
                "1: Missing connection or name in the request;",
            ),
            (
                r#"{"leader_alias":"a","name":"UP","pattern":"_a b#"}"#,
                "1: Value UP must be lowercase;2: Autofollow pattern: _a b# must not contain the following characters \
                 [ , \", *, \\, <, |, ,, >, /, ?];3: Autofollow pattern: _a b# must not contain '#' or ':';4: Autofollow \
                 pattern: _a b# must not start with '_' or '-';",
            ),
            (
                r#"{"leader_alias":"a","name":"r","pattern":"*","follower_index_pattern":"UP-{{leader_index}}"}"#,
                "1: Value UP-sample must be lowercase;",
            ),
            (
                r#"{"leader_alias":"a","name":"r","pattern":"*","follower_index_pattern":"x"}"#,
                "1: follower_index_pattern must contain the {{leader_index}} placeholder;",
            ),
        ] {
            let words =
                format!("action_request_validation_exception: Validation Failed: {expected}");
            assert_eq!(
                problems(RuleBody::parse(body.as_bytes()).unwrap().into_rule()),
                words,
                "{body}"
            );
        }
        let array = problems(RuleBody::parse(br#"{"pattern":["a"]}"#));
        assert!(array.ends_with(
            "[AutoFollowRequestParser] pattern doesn't support values of type: START_ARRAY"
        ));
    }

    #[test]
    fn only_the_names_of_a_rule_delete_it() {
        let parse = |body: &str| RuleBody::parse(body.as_bytes()).unwrap().into_name();
        assert!(parse(r#"{"leader_alias":"a","name":"r"}"#).is_ok());
        let words =
            "action_request_validation_exception: Validation Failed: 1: Unexpected pattern;";
        assert_eq!(
            problems(parse(r#"{"leader_alias":"a","name":"r","pattern":"x"}"#)),
            words
        );
    }
}
