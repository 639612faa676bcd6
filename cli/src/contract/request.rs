//! Bodies of the control API: strict parsing first, then the checks on what was parsed, as two
//! steps with their own errors.

use http::StatusCode;
use serde_json::Value;

use super::error::ApiError;
use super::names;
use super::object_parser::{Field, ObjectParser};
use super::settings::{FlatSettings, flatten_into, flatten_raw};
use shardline_common::control::ReplicationRoles;

const START: ObjectParser = ObjectParser {
    name: "FollowIndexRequestParser",
    fields: &[
        "leader_alias",
        "leader_index",
        "use_roles",
        "settings",
        "repository",
    ],
};
const STOP: ObjectParser = ObjectParser {
    name: "StopReplicationRequestParser",
    fields: &[],
};
const PAUSE: ObjectParser = ObjectParser {
    name: "PauseReplicationRequestParser",
    fields: &["reason"],
};
const RESUME: ObjectParser = ObjectParser {
    name: "ResumeReplicationRequestParser",
    fields: &["force_resume"],
};
const ROLES: ObjectParser = ObjectParser {
    name: "UseRolesParser",
    fields: &["leader_cluster_role", "follower_cluster_role"],
};

/// What start, pause and resume give for a reason when the user gives none.
pub const DEFAULT_REASON: &str = "User initiated";

/// The two roles under which a replication runs where the security plugin is on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UseRoles {
    pub leader_cluster_role: Option<String>,
    pub follower_cluster_role: Option<String>,
}

impl UseRoles {
    pub(super) const NEED_BOTH: &str =
        "Need roles for leader_cluster_role and follower_cluster_role";

    /// An empty object is as good as none.
    pub(super) fn parse(field: &Field<'_>) -> Result<Option<Self>, ApiError> {
        let mut roles = Self::default();
        for role in field.object(ROLES)? {
            let value = role.string_or_null().map_err(|error| field.wrap(error))?;
            match role.name.as_ref() {
                "leader_cluster_role" => roles.leader_cluster_role = value,
                _ => roles.follower_cluster_role = value,
            }
        }
        Ok((roles != Self::default()).then_some(roles))
    }

    /// Both of them; who asks is not known here.
    pub(super) fn into_roles(self) -> Option<ReplicationRoles> {
        Some(ReplicationRoles {
            user: None,
            leader_cluster_role: self.leader_cluster_role?,
            follower_cluster_role: self.follower_cluster_role?,
        })
    }

    pub(super) fn is_half_filled(&self) -> bool {
        self.leader_cluster_role.is_none() || self.follower_cluster_role.is_none()
    }
}

/// Body of `_start`, with names checked.
#[derive(Clone, Debug, PartialEq)]
pub struct StartRequest {
    pub leader_alias: String,
    pub leader_index: String,
    pub roles: Option<ReplicationRoles>,
    pub settings: FlatSettings,
    /// The snapshot repository through which the index is copied; empty: through Kafka.
    pub repository: Option<String>,
}

/// Body of `_stop`: an empty object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopRequest;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PauseRequest {
    pub reason: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResumeRequest {
    pub force_resume: bool,
}

/// Body of `_update`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpdateRequest {
    /// The whole new set of overrides, which replaces the old one; `None` if only roles are given.
    pub settings: Option<FlatSettings>,
    /// Not in the plugin: under which roles the index is followed from now on.
    pub roles: Option<ReplicationRoles>,
}

/// A `_start` body as parsed: fields may be missing and names may be bad.
#[derive(Clone, Debug, Default)]
pub struct StartBody {
    leader_alias: Option<String>,
    leader_index: Option<String>,
    use_roles: Option<UseRoles>,
    settings: FlatSettings,
    repository: Option<String>,
}

impl StartBody {
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut start = Self::default();
        for field in START.parse(require_body(body)?)? {
            match field.name.as_ref() {
                "leader_alias" => start.leader_alias = Some(field.string()?),
                "leader_index" => start.leader_index = Some(field.string()?),
                "repository" => start.repository = Some(field.string()?),
                "use_roles" => start.use_roles = UseRoles::parse(&field)?,
                _ => {
                    field.require_object()?;
                    start.settings = flatten_raw(field.value)
                        .map_err(|cause| field.failed(field.position(), cause))?;
                }
            }
        }
        Ok(start)
    }

    /// The checks that come before the leader is asked anything.
    pub fn validate(self, follower: &str) -> Result<StartRequest, ApiError> {
        let (leader_alias, leader_index) = match (self.leader_alias, self.leader_index) {
            (Some(alias), Some(index)) => (alias, index),
            (alias, index) => {
                let missing: Vec<&str> = [
                    ("leader_alias", alias.is_none()),
                    ("leader_index", index.is_none()),
                ]
                .into_iter()
                .filter_map(|(name, is_missing)| is_missing.then_some(name))
                .collect();
                let list = missing.join(", ");
                return Err(ApiError::validation(&[format!(
                    "Mandatory params [{list}] are missing for the request"
                )]));
            }
        };
        let mut problems = Vec::new();
        names::check(&leader_index, &mut problems);
        names::check(follower, &mut problems);
        if self
            .use_roles
            .as_ref()
            .is_some_and(UseRoles::is_half_filled)
        {
            problems.push(UseRoles::NEED_BOTH.to_owned());
        }
        if !problems.is_empty() {
            return Err(ApiError::validation(&problems));
        }
        let Self {
            use_roles,
            settings,
            repository,
            ..
        } = self;
        Ok(StartRequest {
            leader_alias,
            leader_index,
            roles: use_roles.and_then(UseRoles::into_roles),
            settings,
            repository,
        })
    }
}

impl StopRequest {
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        STOP.parse(require_body(body)?).map(|_| Self)
    }
}

impl PauseRequest {
    /// The only body that may be missing.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let fields = if body.is_empty() {
            Vec::new()
        } else {
            PAUSE.parse(body)?
        };
        let reason = match fields.first() {
            Some(field) => field.string()?,
            None => DEFAULT_REASON.to_owned(),
        };
        Ok(Self { reason })
    }
}

impl ResumeRequest {
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let fields = RESUME.parse(require_body(body)?)?;
        let force_resume = fields.first().map_or(Ok(false), |field| field.boolean())?;
        Ok(Self { force_resume })
    }
}

impl UpdateRequest {
    /// `{"settings":{..}}`, in which case other keys are ignored, or the bare settings. `use_roles`
    /// is read beside either, or alone.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        if body.is_empty() {
            return Err(ApiError::parse("request body is required"));
        }
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let document = <Value as serde::Deserialize>::deserialize(&mut deserializer)
            .map_err(|error| super::syntax_error::describe(body, &error))?;
        let Value::Object(mut document) = document else {
            return Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                "parsing_exception",
                "Failed to parse object: expecting token of type [START_OBJECT]",
            ));
        };
        let roles = document.remove("use_roles").map(roles_of).transpose()?;
        if roles.is_some() && document.is_empty() {
            let settings = None;
            return Ok(Self { settings, roles });
        }
        let settings = match document.get_mut("settings") {
            Some(Value::Object(inner)) => std::mem::take(inner),
            _ => document,
        };
        let mut flat = FlatSettings::new();
        flatten_into(&mut flat, "", Value::Object(settings))
            .map_err(|cause| ApiError::from_cause(StatusCode::BAD_REQUEST, cause))?;
        Ok(Self {
            settings: Some(flat),
            roles,
        })
    }
}

/// Both roles, as texts.
fn roles_of(value: Value) -> Result<ReplicationRoles, ApiError> {
    let role = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    UseRoles {
        leader_cluster_role: role("leader_cluster_role"),
        follower_cluster_role: role("follower_cluster_role"),
    }
    .into_roles()
    .ok_or_else(|| ApiError::validation(&[UseRoles::NEED_BOTH]))
}

pub(super) fn require_body(body: &[u8]) -> Result<&[u8], ApiError> {
    match body.is_empty() {
        true => Err(ApiError::parse(
            "request body or source parameter is required",
        )),
        false => Ok(body),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Expected words come from OpenSearch 3.8's own `ObjectParser`, run on the same bodies.
    #[test]
    fn bodies_are_refused_in_the_server_s_words() {
        let end = "unexpected_end_of_input_exception: Unexpected end-of-input";
        let close = "expected close marker for Object (start marker at [SRC#UNKNOWN])";
        let parse = "json_parse_exception: ";
        let token =
            "was expecting (JSON String, Number, Array, Object or token 'null', 'true' or 'false')";
        let object = "x_content_parse_exception: ";
        let parser = "[FollowIndexRequestParser]";
        for (body, expected) in [
            (
                "{\"leader_alias\": ",
                format!("{end} within/between Object entries\n at [SRC#17]"),
            ),
            (
                "{\"leader_alias\"",
                format!("{end} within/between Object entries\n at [SRC#15]"),
            ),
            (
                "{\"leader_al",
                format!("{end} in property name\n at [SRC#11]"),
            ),
            ("{", format!("{end}: {close}\n at [SRC#1]")),
            (
                "{\"leader_alias\":\"x\"",
                format!("{end}: {close}\n at [SRC#19]"),
            ),
            (
                "{\"leader_alias\":\"x\",",
                format!(
                    "{parse}Unexpected end-of-input within/between Object entries\n at [SRC#20]"
                ),
            ),
            (
                "{\"leader_alias\":x}",
                format!("{parse}Unrecognized token 'x': {token}\n at [SRC#16]"),
            ),
            (
                "nul",
                format!("{parse}Unrecognized token 'nul': {token}\n at [SRC#0]"),
            ),
            (
                "{leader_alias:1}",
                format!(
                    "{parse}Unexpected character ('l' (code 108)): was expecting double-quote to \
                     start property name\n at [SRC#1]"
                ),
            ),
            (
                "{\"leader_alias\" 1}",
                format!(
                    "{parse}Unexpected character ('1' (code 49)): was expecting a colon to \
                     separate property name and value\n at [SRC#16]"
                ),
            ),
            (
                "{\"leader_alias\":\"x\" \"b\":1}",
                format!(
                    "{parse}Unexpected character ('\"' (code 34)): was expecting comma to \
                     separate Object entries\n at [SRC#20]"
                ),
            ),
            (
                "{\"leader_alias\":\"x\",}",
                format!(
                    "{parse}Unexpected character ('}}' (code 125)): was expecting double-quote to \
                     start property name\n at [SRC#20]"
                ),
            ),
            (
                "{\"leader_alias\":\"x\",\"leader_alias\":\"y\"}",
                format!("{parse}Duplicate Object property \"leader_alias\"\n at [SRC#34]"),
            ),
            (
                "  ",
                format!("{object}[1:0] {parser} Expected START_OBJECT but was: null"),
            ),
            (
                "[]",
                format!("{object}[1:1] {parser} Expected START_OBJECT but was: START_ARRAY"),
            ),
            (
                "\"abc\"",
                format!("{object}[1:1] {parser} Expected START_OBJECT but was: VALUE_STRING"),
            ),
            (
                "{\"leader_alias\":1}",
                format!(
                    "{object}[1:17] {parser} leader_alias doesn't support values of type: \
                     VALUE_NUMBER"
                ),
            ),
            (
                "{\"leader_alias\":null}",
                format!(
                    "{object}[1:17] {parser} leader_alias doesn't support values of type: \
                     VALUE_NULL"
                ),
            ),
            (
                "{\"use_roles\":null}",
                format!(
                    "{object}[1:14] {parser} use_roles doesn't support values of type: VALUE_NULL"
                ),
            ),
            (
                "{\"use_roles\":{\"x\":1}}",
                format!("{object}[1:19] {parser} failed to parse field [use_roles]"),
            ),
            (
                "{\"use_roles\":{\"leader_cluster_role\":1}}",
                format!("{object}[1:37] {parser} failed to parse field [use_roles]"),
            ),
            (
                "{\"settings\":[]}",
                format!(
                    "{object}[1:13] {parser} settings doesn't support values of type: START_ARRAY"
                ),
            ),
            (
                "{\n  \"leader_alias\": \"é\",  \"bogus\": 1}",
                format!("{object}[2:26] {parser} unknown field [bogus]"),
            ),
            (
                "{\"leader_alis\":\"x\"}",
                format!(
                    "{object}[1:2] {parser} unknown field [leader_alis] did you mean any of \
                     [leader_alias, leader_index]?"
                ),
            ),
        ] {
            let source = "Source: REDACTED (`StreamReadFeature.INCLUDE_SOURCE_IN_LOCATION` \
                disabled); byte offset: ";
            let error = StartBody::parse(body.as_bytes()).unwrap_err();
            assert_eq!(error.message().replace(source, "SRC"), expected, "{body}");
        }
    }

    #[test]
    fn nested_parsers_name_their_own_root_cause() {
        let error = StartBody::parse(b"{\"use_roles\":{\"x\":1}}").unwrap_err();
        let root = error.root().map(|root| root.reason);
        assert_eq!(
            root.as_deref(),
            Some("[1:15] [UseRolesParser] unknown field [x]")
        );
        let error = ResumeRequest::parse(b"{\"force_resume\":\"x\"}").unwrap_err();
        let reason = "[1:17] [ResumeReplicationRequestParser] failed to parse field [force_resume]";
        assert_eq!(
            error.root().map(|root| root.reason).as_deref(),
            Some(reason)
        );
        let inner = error.into_cause().caused_by.map(|cause| cause.reason);
        assert_eq!(
            inner.as_deref(),
            Some("Failed to parse value [x] as only [true] or [false] are allowed.")
        );
    }

    #[test]
    fn bodies_are_read() {
        let body = r#"{"leader_alias":"a","leader_index":"l","use_roles":{},"repository":"r","settings":{"index":{"n":1,"l":[1,true]},"index.x":null}} tail"#;
        let request = StartBody::parse(body.as_bytes())
            .and_then(|body| body.validate("f"))
            .unwrap();
        assert_eq!(
            (
                request.leader_alias.as_str(),
                request.leader_index.as_str(),
                request.roles
            ),
            ("a", "l", None)
        );
        assert_eq!(request.repository.as_deref(), Some("r"));
        let settings = json!({"index.l": ["1", "true"], "index.n": "1", "index.x": null});
        assert_eq!(serde_json::to_value(&request.settings).unwrap(), settings);
        assert_eq!(PauseRequest::parse(b"").unwrap().reason, DEFAULT_REASON);
        assert_eq!(
            PauseRequest::parse(b"{\"reason\":\"\"}").unwrap().reason,
            ""
        );
        assert!(
            ResumeRequest::parse(b"{\"force_resume\":\"true\"}")
                .unwrap()
                .force_resume
        );
        for body in [
            r#"{"settings":{"index.n":1},"other":1}"#,
            r#"{"index":{"n":1}}"#,
        ] {
            let update = UpdateRequest::parse(body.as_bytes()).unwrap();
            assert_eq!(
                serde_json::to_value(&update.settings).unwrap(),
                json!({"index.n": "1"})
            );
            assert_eq!(update.roles, None);
        }
    }

    #[test]
    fn an_update_gives_roles_with_settings_or_without() {
        let roles = r#""use_roles":{"leader_cluster_role":"l","follower_cluster_role":"f"}"#;
        let parse = |body: String| UpdateRequest::parse(body.as_bytes());
        let alone = parse(format!("{{{roles}}}")).unwrap();
        assert_eq!(alone.settings, None);
        let given = alone.roles.unwrap();
        assert_eq!(given.leader_cluster_role, "l");
        assert_eq!(given.follower_cluster_role, "f");
        for beside in [r#""settings":{"index.n":1}"#, r#""index.n":1"#] {
            let both = parse(format!("{{{beside},{roles}}}")).unwrap();
            assert_eq!(both.settings.unwrap().len(), 1);
            assert!(both.roles.is_some());
        }
        for half in ["{}", r#"{"leader_cluster_role":"l"}"#, "\"x\"", "null"] {
            let error = parse(format!("{{\"use_roles\":{half}}}")).unwrap_err();
            assert!(error.to_string().contains(UseRoles::NEED_BOTH), "{error}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}\":,a-z0-9\\\\ \n]{0,80}") {
            for body in [bytes.as_slice(), text.as_bytes(), format!("{{\"leader_alias\":{text}").as_bytes()] {
                let _ = StartBody::parse(body);
                let _ = StopRequest::parse(body);
                let _ = PauseRequest::parse(body);
                let _ = ResumeRequest::parse(body);
                let _ = UpdateRequest::parse(body);
            }
        }
    }
}
