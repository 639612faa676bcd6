//! Which of the plugin's actions each call is, and with which request the cluster is asked whether
//! the caller may do the like of it to the index.

use http::Method;
use shardline_common::bulk::BulkOperation;

use crate::http::api::calls::Call;
use shardline_common::control::ReplicationRoles;

const START: &str = "indices:admin/plugins/replication/index/start";
const STOP: &str = "indices:admin/plugins/replication/index/stop";
const PAUSE: &str = "indices:admin/plugins/replication/index/pause";
const RESUME: &str = "indices:admin/plugins/replication/index/resume";
const UPDATE: &str = "indices:admin/plugins/replication/index/update";
pub(super) const STATUS: &str = "indices:admin/plugins/replication/index/status_check";
pub(super) const VALIDATE: &str = "indices:admin/plugins/replication/index/setup/validate";
const AUTO_FOLLOW: &str = "cluster:admin/plugins/replication/autofollow/update";
const LEADER_STATS: &str = "cluster:admin/plugins/replication/leader/stats";
const FOLLOWER_STATS: &str = "cluster:admin/plugins/replication/follower/stats";
const AUTO_FOLLOW_STATS: &str = "cluster:admin/plugins/replication/autofollow/stats";
const BULK_START: &str = "cluster:admin/plugins/replication/bulk/start";
const BULK_STOP: &str = "cluster:admin/plugins/replication/bulk/stop";
const BULK_PAUSE: &str = "cluster:admin/plugins/replication/bulk/pause";
const BULK_RESUME: &str = "cluster:admin/plugins/replication/bulk/resume";
const BULK_STATUS: &str = "cluster:admin/plugins/replication/bulk/status";

/// A request that is only judged: its method, what follows the index in its path, and its body.
pub(super) type DryRun = (Method, &'static str, Option<&'static str>);

/// What a call asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Needed {
    /// `None`: to be somebody.
    pub action: Option<&'static str>,
    /// Whether it is about the index that the path names.
    pub of_index: bool,
    pub dry_runs: Vec<DryRun>,
    /// Whether the answer shows contents of documents, which no role of the table stands for.
    pub shows_contents: bool,
    /// Whether it begins what goes on under roles, or gives it others.
    pub begins: bool,
}

/// What a call needs.
pub(super) fn needed(call: &Call) -> Needed {
    let of_index = |action, dry_runs| Needed {
        action: Some(action),
        of_index: true,
        dry_runs,
        shows_contents: false,
        begins: false,
    };
    let of_cluster = |action| Needed {
        action: Some(action),
        of_index: false,
        dry_runs: Vec::new(),
        shows_contents: false,
        begins: false,
    };
    match call {
        Call::Start { .. } => Needed {
            begins: true,
            ..of_index(START, writes())
        },
        Call::Resume(_) => of_index(RESUME, writes()),
        Call::ReplayDeadLetters => of_index(RESUME, writes()),
        Call::Stop => of_index(STOP, settings()),
        Call::Pause(_) => of_index(PAUSE, settings()),
        Call::Update(request) => Needed {
            begins: request.roles.is_some(),
            ..of_index(UPDATE, settings())
        },
        Call::Status { .. } => of_index(STATUS, reads()),
        Call::Verify(request) if request.repair => of_index(RESUME, writes()),
        Call::Verify(_) | Call::Verification | Call::ForgetVerification | Call::DeadLetters => {
            Needed {
                shows_contents: true,
                ..of_index(STATUS, reads())
            }
        }
        Call::CreateRule(_) => Needed {
            begins: true,
            ..of_cluster(AUTO_FOLLOW)
        },
        Call::DeleteRule(_) => of_cluster(AUTO_FOLLOW),
        Call::Bulk(BulkOperation::Start, _) => Needed {
            begins: true,
            ..of_cluster(BULK_START)
        },
        Call::Bulk(BulkOperation::Stop, _) => of_cluster(BULK_STOP),
        Call::Bulk(BulkOperation::Pause, _) => of_cluster(BULK_PAUSE),
        Call::Bulk(BulkOperation::Resume, _) => of_cluster(BULK_RESUME),
        Call::BulkStatus { .. } | Call::TaskStatus | Call::CancelTask => of_cluster(BULK_STATUS),
        Call::LeaderStats => of_cluster(LEADER_STATS),
        Call::FollowerStats => of_cluster(FOLLOWER_STATS),
        Call::AutoFollowStats => of_cluster(AUTO_FOLLOW_STATS),
        // Cut to what the caller may see of each index.
        Call::Statuses { .. } | Call::OpenApi => Needed {
            action: None,
            of_index: false,
            dry_runs: Vec::new(),
            shows_contents: false,
            begins: false,
        },
    }
}

/// The roles that a call names.
pub(super) fn roles_of(call: &Call) -> Option<&ReplicationRoles> {
    match call {
        Call::Start { request, .. } => request.roles.as_ref(),
        Call::Update(request) => request.roles.as_ref(),
        Call::CreateRule(rule) => rule.roles.as_ref(),
        Call::Bulk(_, request) => request.roles.as_ref(),
        _ => None,
    }
}

fn writes() -> Vec<DryRun> {
    vec![
        (Method::PUT, "", Some("{}")),
        (Method::PUT, "/_doc/x", Some("{}")),
    ]
}

fn settings() -> Vec<DryRun> {
    let body = r#"{"index.refresh_interval":"1s"}"#;
    vec![(Method::PUT, "/_settings", Some(body))]
}

fn reads() -> Vec<DryRun> {
    vec![(Method::GET, "/_search", None)]
}
