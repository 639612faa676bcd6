//! Who is refused what, in the plugin's words.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use shardline_tests::world::{ALIAS, World};

use super::{BASE, FOLLOWER_ROLE, LEADER_ROLE, start};

const OF_INDEX: &str = "indices:admin/plugins/replication/index";
const OF_CLUSTER: &str = "cluster:admin/plugins/replication";
const MANDATORY: &str = "Follower roles are mandatory for replication";

/// A call that is refused.
pub(crate) struct Refusal {
    user: &'static str,
    pub(crate) method: &'static str,
    pub(crate) path: String,
    body: Option<Value>,
    reason: String,
}

impl Refusal {
    /// A call on `books-copy`, or on nothing where `call` has a slash in front.
    fn new(
        user: &'static str,
        method: &'static str,
        call: &str,
        body: impl Into<Option<Value>>,
        reason: impl Into<String>,
    ) -> Self {
        let path = match call.starts_with('/') {
            true => call.to_owned(),
            false => format!("{BASE}/{call}"),
        };
        Self {
            user,
            method,
            path,
            body: body.into(),
            reason: reason.into(),
        }
    }

    pub(crate) async fn check(self, world: &World) -> Result<()> {
        let Self {
            user, method, path, ..
        } = &self;
        let gateway = world.gateway_as(user)?;
        let (status, answer) = gateway.call(method, path, self.body.as_ref()).await?;
        let is_as_expected = status == 403
            && answer["error"]["type"] == "security_exception"
            && answer["error"]["reason"] == self.reason;
        ensure!(
            is_as_expected,
            "{user} {method} {path}: {status} {answer}\nexpected: {}",
            self.reason
        );
        Ok(())
    }
}

pub(crate) fn all() -> Vec<Refusal> {
    let without = ["reader", "writer", "leader-role"];
    let mut all: Vec<Refusal> = without.into_iter().flat_map(without_roles).collect();
    all.extend(less_than_everything());
    all.extend(roles_that_do_not_count());
    all
}

fn shown(user: &str) -> String {
    format!("User [name={user}, backend_roles=[], requestedTenant=null]")
}

fn lacks(user: &str, action: &str) -> String {
    format!("no permissions for [{action}] and {}", shown(user))
}

fn rule() -> Value {
    json!({"leader_alias": ALIAS, "name": "r", "pattern": "logs-*"})
}

fn pattern() -> Value {
    json!({"pattern": "*"})
}

/// Of somebody who has none of the follower's roles.
fn without_roles(user: &'static str) -> Vec<Refusal> {
    let roles = Some((LEADER_ROLE, FOLLOWER_ROLE));
    let of_index = [
        ("PUT", "_start", Some(start(roles)), "start"),
        ("PUT", "_start", Some(start(None)), "start"),
        ("POST", "_stop", Some(json!({})), "stop"),
        ("POST", "_pause", Some(json!({})), "pause"),
        ("POST", "_resume", Some(json!({})), "resume"),
        ("PUT", "_update", Some(json!({"settings": {}})), "update"),
        ("GET", "_status", None, "status_check"),
        ("GET", "_dead_letters", None, "status_check"),
        ("POST", "_dead_letters/_replay", Some(json!({})), "resume"),
        ("POST", "_verify", Some(json!({})), "status_check"),
        ("POST", "_verify", Some(json!({"repair": true})), "resume"),
        ("DELETE", "_verify", None, "status_check"),
    ];
    let of_cluster = [
        ("POST", "_autofollow", Some(rule()), "autofollow/update"),
        (
            "DELETE",
            "_autofollow",
            Some(json!({"leader_alias": ALIAS, "name": "r"})),
            "autofollow/update",
        ),
        ("POST", "_bulk_start", Some(bulk_start()), "bulk/start"),
        ("POST", "_bulk_stop", Some(pattern()), "bulk/stop"),
        ("POST", "_bulk_pause", Some(pattern()), "bulk/pause"),
        ("POST", "_bulk_resume", Some(pattern()), "bulk/resume"),
        ("GET", "_bulk_status?pattern=*", None, "bulk/status"),
        ("GET", "leader_stats", None, "leader/stats"),
        ("GET", "follower_stats", None, "follower/stats"),
        ("GET", "autofollow_stats", None, "autofollow/stats"),
    ];
    let of_index = of_index.into_iter().map(|(method, call, body, action)| {
        let reason = lacks(user, &format!("{OF_INDEX}/{action}"));
        Refusal::new(user, method, &format!("books-copy/{call}"), body, reason)
    });
    let of_cluster = of_cluster.into_iter().map(|(method, call, body, action)| {
        let reason = lacks(user, &format!("{OF_CLUSTER}/{action}"));
        Refusal::new(user, method, call, body, reason)
    });
    of_index.chain(of_cluster).collect()
}

fn bulk_start() -> Value {
    json!({"leader_alias": ALIAS, "pattern": "logs-*"})
}

/// Of those who may something, but not this.
fn less_than_everything() -> Vec<Refusal> {
    let search = "indices:data/read/search";
    let kept = json!({"persistent": {"plugins.replication.follower.dead_letters": true}});
    let settings = "cluster:admin/settings/update";
    let mut all = Vec::new();
    for user in ["both", "follower-role"] {
        let of_cluster = |action: &str| lacks(user, &format!("{OF_CLUSTER}/{action}"));
        all.extend([
            // The plugin's own role allows no more than there.
            Refusal::new(
                user,
                "GET",
                "follower_stats",
                None,
                of_cluster("follower/stats"),
            ),
            Refusal::new(
                user,
                "POST",
                "_bulk_stop",
                pattern(),
                of_cluster("bulk/stop"),
            ),
            // Contents are for those who may read them.
            Refusal::new(user, "GET", "books-copy/_verify", None, lacks(user, search)),
            Refusal::new(
                user,
                "GET",
                "books-copy/_dead_letters",
                None,
                lacks(user, search),
            ),
        ]);
    }
    for user in [
        "reader",
        "writer",
        "both",
        "follower-role",
        "operator",
        "masked",
    ] {
        let reason = lacks(user, settings);
        all.push(Refusal::new(
            user,
            "PUT",
            "/_cluster/settings",
            kept.clone(),
            reason,
        ));
    }
    // A configured role is for its indices, and for what the cluster allows as well.
    let pause = lacks("operator", &format!("{OF_INDEX}/pause"));
    let settings = lacks("masked", "indices:admin/settings/update");
    let create = lacks("masked", "indices:admin/create");
    all.extend([
        Refusal::new("operator", "POST", "logs-1/_pause", json!({}), pause),
        Refusal::new("masked", "POST", "books-copy/_pause", json!({}), settings),
        Refusal::new("masked", "POST", "books-copy/_resume", json!({}), create),
    ]);
    all
}

/// Roles are named, one's own, and such as allow it.
fn roles_that_do_not_count() -> Vec<Refusal> {
    let validate = format!("{OF_INDEX}/setup/validate");
    let refused = |user, roles, reason: String| {
        Refusal::new(user, "PUT", "books-2/_start", start(roles), reason)
    };
    let not_mine = format!("No mapping for {} on roles [all_access]", shown("both"));
    vec![
        refused("both", None, MANDATORY.to_owned()),
        Refusal::new("both", "POST", "_autofollow", rule(), MANDATORY),
        refused("both", Some((LEADER_ROLE, "all_access")), not_mine),
        refused(
            "both",
            Some((LEADER_ROLE, LEADER_ROLE)),
            lacks("both", &validate),
        ),
        // The leader's agents say who has which of its roles.
        refused(
            "both",
            Some(("all_access", FOLLOWER_ROLE)),
            "No mapping for [both] on roles [all_access]".to_owned(),
        ),
        refused(
            "follower-role",
            Some((LEADER_ROLE, FOLLOWER_ROLE)),
            format!("No mapping for [follower-role] on roles [{LEADER_ROLE}]"),
        ),
        refused(
            "both",
            Some(("unknown", FOLLOWER_ROLE)),
            format!("no permissions for [{validate}] and roles [unknown]"),
        ),
    ]
}
