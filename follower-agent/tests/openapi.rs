//! The OpenAPI document against the routes that there are, and against answers: those recorded from
//! the plugin, and those of this agent with everything in them.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use follower_agent::{COMMON, ROUTES, openapi};
use serde::Serialize;
use serde_json::{Map, Value, json};
use shardline::contract::BASE;
use shardline::contract::bulk::TaskStatus;
use shardline::contract::service::{
    BootstrapDetails, FollowedStatus, HeldUpDetails, LagDetails, RefusedAlias, ReplicationState,
    ResyncDetails, ShardReplicationDetails, SyncingDetails,
};
use shardline::contract::stats::{AutoFollowStats, FollowerCounters, FollowerStats, RuleStats};
use shardline::contract::verify::VerificationStatus;
use shardline::contract::verify::{Findings, Named, VerificationState};
use shardline::contract::{ApiError, ReplicationStatus};
use shardline_common::auto_follow::{RuleProgress, StartFailure};
use shardline_common::bulk::{BulkOperation, BulkTask, FailedIndex};
use shardline_common::control::{ReplicationRoles, VersionExample};
use shardline_common::leader_stats::{LeaderStats, ReadCounters};
use shardline_common::standstill::{Cause, StandstillReason};
use shardline_common::types::ShardId;

use support::{FakeService, World};

/// The document, with what a look into it needs.
struct Document(Value);

impl Document {
    fn read() -> Self {
        Self(openapi::document().unwrap())
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => self
                .0
                .pointer(reference.strip_prefix('#').unwrap())
                .unwrap(),
            None => value,
        }
    }

    /// `METHOD path` and the names of the parameters, those in the path in braces.
    fn operations(&self) -> BTreeSet<(String, BTreeSet<String>)> {
        let mut operations = BTreeSet::new();
        for (path, item) in self.0["paths"].as_object().unwrap() {
            for (method, operation) in item
                .as_object()
                .unwrap()
                .iter()
                .filter(|(key, _)| *key != "parameters")
            {
                let listed = [&item["parameters"], &operation["parameters"]];
                let parameters = listed
                    .into_iter()
                    .filter_map(Value::as_array)
                    .flatten()
                    .map(|parameter| {
                        let parameter = self.resolve(parameter);
                        let name = parameter["name"].as_str().unwrap();
                        if parameter["in"] == "path" {
                            format!("{{{name}}}")
                        } else {
                            name.to_owned()
                        }
                    });
                operations.insert((
                    format!("{} {path}", method.to_uppercase()),
                    parameters.collect(),
                ));
            }
        }
        operations
    }

    fn operation(&self, method: &str, path: &str) -> Option<&Value> {
        let path = path.split('?').next().unwrap();
        let fits = |template: &str| {
            let (template, path): (Vec<_>, Vec<_>) =
                (template.split('/').collect(), path.split('/').collect());
            let same = |(one, other): (&&str, &&str)| one.starts_with('{') || one == other;
            template.len() == path.len() && template.iter().zip(&path).all(same)
        };
        let paths = self.0["paths"].as_object().unwrap();
        // The path with the fewest parameters counts.
        let found = paths
            .iter()
            .filter(|(path, _)| fits(path))
            .min_by_key(|(path, _)| path.matches('{').count());
        found.and_then(|(_, item)| item.get(method.to_lowercase()))
    }

    /// What is wrong with an instance, by a schema that may point into the document.
    fn errors(&self, schema: &Value, instance: &Value) -> Vec<String> {
        let mut schema = schema.clone();
        schema["components"] = self.0["components"].clone();
        schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
        let validator = jsonschema::validator_for(&schema).unwrap();
        validator
            .iter_errors(instance)
            .map(|error| format!("{error} at {}", error.instance_path()))
            .collect()
    }

    fn check_answer(&self, method: &str, path: &str, status: u16, body: &Value) {
        // What is said of a path or method that there is not is described as any refusal.
        let refused = &self.0["components"]["responses"]["Refused"];
        let response = self.operation(method, path).map_or(refused, |operation| {
            let responses = &operation["responses"];
            responses
                .get(status.to_string())
                .unwrap_or(&responses["default"])
        });
        let schema = &self.resolve(response)["content"]["application/json"]["schema"];
        let errors = self.errors(schema, body);
        assert!(
            errors.is_empty(),
            "{method} {path} {status} {body}: {errors:#?}"
        );
    }

    fn check(&self, schema: &str, answer: impl Serialize) {
        let answer = serde_json::to_value(answer).unwrap();
        let errors = self.errors(
            &json!({"$ref": format!("#/components/schemas/{schema}")}),
            &answer,
        );
        assert!(errors.is_empty(), "{schema} {answer}: {errors:#?}");
        // A member that the schema does not know is refused.
        let mut other = answer;
        other["unheard_of"] = json!(1);
        let errors = self.errors(
            &json!({"$ref": format!("#/components/schemas/{schema}")}),
            &other,
        );
        assert!(!errors.is_empty(), "{schema} takes anything");
    }
}

fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str));
            members
                .values()
                .for_each(|member| references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn the_document_has_the_routes_and_parameters_that_there_are() {
    let served = ROUTES.iter().map(|route| {
        let in_path = route
            .path
            .split('/')
            .filter(|segment| segment.starts_with('{'));
        let parameters = in_path
            .chain(COMMON)
            .chain(route.parameters.iter().copied());
        (
            format!("{} {BASE}{}", route.method, route.path),
            parameters.map(str::to_owned).collect(),
        )
    });
    let document = Document::read();
    assert_eq!(document.operations(), served.collect());

    let mut used = BTreeSet::new();
    references(&document.0, &mut used);
    for section in ["parameters", "responses", "schemas"] {
        for name in document.0["components"][section]
            .as_object()
            .unwrap()
            .keys()
        {
            assert!(
                used.contains(format!("#/components/{section}/{name}").as_str()),
                "{section}/{name} is not used"
            );
        }
    }
    used.iter().for_each(|reference| {
        assert!(document.0.pointer(&reference[1..]).is_some(), "{reference}")
    });
}

#[test]
fn recorded_requests_and_answers_are_as_described() {
    let document = Document::read();
    let text = include_str!("../../tests/data/control-api.jsonl");
    let recorded: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let recorded = recorded
        .iter()
        .filter(|entry| entry["path"].as_str().unwrap().starts_with(BASE));
    let mut count = 0;
    for entry in recorded {
        let (method, path) = (
            entry["method"].as_str().unwrap(),
            entry["path"].as_str().unwrap(),
        );
        document.check_answer(
            method,
            path,
            entry["status"].as_u64().unwrap() as u16,
            &entry["body"],
        );
        let body = document
            .operation(method, path)
            .map(|operation| &operation["requestBody"]);
        if let Some(body) = body.filter(|body| entry["status"] == 200 && !body.is_null()) {
            let errors = document.errors(
                &body["content"]["application/json"]["schema"],
                &entry["request"],
            );
            assert!(
                errors.is_empty(),
                "{method} {path} {}: {errors:#?}",
                entry["request"]
            );
        }
        count += 1;
    }
    assert!(count > 40, "{count}");
}

#[test]
fn answers_with_everything_in_them_are_as_described() {
    let document = Document::read();
    let syncing = SyncingDetails {
        leader_checkpoint: -1,
        follower_checkpoint: -1,
        seq_no: 0,
    };
    let bootstrap = BootstrapDetails {
        bytes_total: 9,
        bytes_recovered: 3,
        bytes_percent: 33.3,
        files_total: 1,
        files_recovered: 0,
        files_percent: 0.0,
        start_time: 1,
        running_time: 2,
        documents_total: Some(3),
        documents_recovered: Some(1),
    };
    let resync = ResyncDetails {
        shard_id: 0,
        from_seq_no: 1,
        to_seq_no: 2,
        cause: "a gap".to_owned(),
        documents_total: 3,
        documents_received: 1,
    };
    let standstill = StandstillReason::new(Cause::FollowerClusterBlocked, 7, "a full disk");
    let held_up = HeldUpDetails::of(0, standstill.clone());
    let shards = vec![
        ShardReplicationDetails::syncing(&"f".into(), ShardId(0), syncing),
        ShardReplicationDetails::bootstrapping(&"f".into(), ShardId(1), bootstrap),
    ];
    let status = ReplicationStatus {
        reason: Some("User initiated".to_owned()),
        leader_alias: Some("a".to_owned()),
        leader_index: Some("l".to_owned()),
        follower_index: Some("f".to_owned()),
        syncing_details: Some(syncing),
        bootstrap_details: Some(bootstrap),
        resync_details: vec![resync],
        foreign_writes: Some(1),
        dead_letters: Some(2),
        held_up: vec![held_up],
        standstill: Some(standstill.into()),
        refused_aliases: vec![RefusedAlias {
            alias: "x".to_owned(),
            reason: "an index of that name".to_owned(),
        }],
        external_versions: Some(VersionExample {
            id: "d".to_owned(),
            version: 2,
        }),
        use_roles: Some(ReplicationRoles {
            user: Some("u".to_owned()),
            leader_cluster_role: "l".to_owned(),
            follower_cluster_role: "r".to_owned(),
        }),
        without_roles: true,
        shard_replication_details: Some(shards),
        ..ReplicationStatus::not_in_progress()
    };
    let of_state = |state| ReplicationStatus {
        status: state,
        ..status.clone()
    };
    for state in [
        ReplicationState::Syncing,
        ReplicationState::Bootstrapping,
        ReplicationState::Running,
        ReplicationState::Paused,
        ReplicationState::Failed,
        ReplicationState::NotInProgress,
    ] {
        document.check("Status", of_state(state));
    }
    let lag_details = Some(LagDetails {
        operations: Some(1),
        millis: 2,
    });
    document.check(
        "Statuses",
        json!({"indices": {"f": FollowedStatus { status, lag_details }}}),
    );

    let failed = FailedIndex {
        index: "x".into(),
        failure_reason: "taken".to_owned(),
    };
    let task = BulkTask {
        follower_cluster: "c".into(),
        id: "n:1".to_owned(),
        operation: BulkOperation::Start,
        pattern: "*".to_owned(),
        leader_alias: None,
        start_time: 1,
        pending: vec!["y".into()],
        num_success: 1,
        num_cancelled: 0,
        roles: None,
        failed: vec![failed],
    };
    document.check("TaskStatus", TaskStatus::from(task));

    let named = Named {
        count: 1,
        ids: vec!["a".to_owned()],
    };
    let found = Findings {
        documents: 1,
        missing: named.clone(),
        extra: named.clone(),
        different: named,
        unclear: 0,
        cut_short: vec![ShardId(1)],
        metadata: vec!["alias a".to_owned()],
    };
    let verification = |state| VerificationStatus {
        verification_id: "v".to_owned(),
        follower_index: "f".into(),
        state,
        reason: Some("why".to_owned()),
        start_time: 1,
        running_time: 2,
        content: true,
        shards_total: 2,
        shards_done: 1,
        documents_read: 3,
        found: found.clone(),
        before_repair: Some(found.clone()),
    };
    for state in [
        VerificationState::Comparing,
        VerificationState::Repairing,
        VerificationState::Equal,
        VerificationState::Different,
        VerificationState::Failed,
    ] {
        document.check("Verification", verification(state));
    }

    let index_stats = [("l".into(), ReadCounters::default())].into();
    document.check(
        "LeaderStats",
        LeaderStats {
            index_stats,
            ..LeaderStats::default()
        },
    );
    let index_stats = [("f".into(), FollowerCounters::default())].into();
    document.check(
        "FollowerStats",
        FollowerStats {
            index_stats,
            ..FollowerStats::default()
        },
    );
    let failure = StartFailure {
        reason: "taken".to_owned(),
        attempts: 1,
        next_attempt: 2,
    };
    let progress = RuleProgress {
        failures: [("x".into(), failure)].into(),
        ..RuleProgress::default()
    };
    let rule = RuleStats {
        name: "r".to_owned(),
        pattern: "*".to_owned(),
        leader_alias: "a".to_owned(),
        progress,
    };
    document.check("AutoFollowStats", AutoFollowStats::of(vec![rule]));
}

#[tokio::test]
async fn the_gateway_serves_the_document_and_answers_as_it_says() {
    let world = World::new(FakeService::following(&["f", "g"])).await;
    let (status, answer) = world.send("GET", &format!("{BASE}_openapi"), None).await;
    assert_eq!(
        (status, &answer["openapi"], &answer["info"]["version"]),
        (200, &json!("3.1.1"), &json!("0.1.0"))
    );
    let document = Document(answer);
    let statuses = format!("{BASE}_status?pattern=f*");
    let (status, answer) = world.send("GET", &statuses, None).await;
    assert_eq!(
        answer["indices"].as_object().map(Map::len),
        Some(1),
        "{answer}"
    );
    document.check_answer("GET", &statuses, status, &answer);
    for (method, path, body) in [
        ("GET", "_status?bogus", None),
        ("POST", "_bulk_stop", Some(r#"{"pattern":"x"}"#)),
        (
            "POST",
            "_autofollow",
            Some(r#"{"leader_alias":"x","name":"r","pattern":"*"}"#),
        ),
        ("GET", "_task_status/no:1", None),
        ("GET", "follower_stats", None),
        ("POST", "f/_verify", Some(r#"{"repair":true}"#)),
        ("POST", "f/_verify", Some(r#"{"bogus":true}"#)),
        ("GET", "f/_verify", None),
        ("DELETE", "f/_verify", None),
        ("GET", "f/_dead_letters", None),
        ("POST", "f/_dead_letters/_replay", None),
        ("POST", "unknown/_dead_letters/_replay", None),
        ("PUT", "f/_start", Some("[1]")),
    ] {
        let path = format!("{BASE}{path}");
        let (status, answer) = world.send(method, &path, body).await;
        document.check_answer(method, &path, status, &answer);
    }
    // Errors of a depth and shape that no recording has.
    let inner = shardline::contract::error::Cause::new("inner", "why");
    let cause = shardline::contract::error::Cause::new("outer", "what").with_cause(inner);
    for error in [
        ApiError::from_cause(http::StatusCode::BAD_REQUEST, cause),
        ApiError::index_not_found("x"),
        ApiError::connect_transport("h:1", "refused"),
        ApiError::method_not_allowed("/x", "GET", "POST"),
        ApiError::no_handler("/x", "GET"),
    ] {
        let response = follower_agent::refusal(&error, &Default::default());
        let body = axum::body::to_bytes(response.into_body(), usize::MAX)
            .await
            .unwrap();
        let answer: Value = serde_json::from_slice(&body).unwrap();
        let errors = document.errors(&json!({"$ref": "#/components/schemas/Error"}), &answer);
        assert!(errors.is_empty(), "{answer}: {errors:#?}");
    }
}
