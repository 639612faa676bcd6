//! The guard before a stub of the cluster and its plugin.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use parking_lot::Mutex;
use serde_json::json;
use shardline::contract::request::{ResumeRequest, StartBody};
use shardline::contract::{ON_BEHALF_OF, PauseRequest};
use shardline_common::config::Authorization;

use super::*;
use crate::http::api::calls::Call;
use crate::http::gateway::Upstream;

const FOLLOWER_ROLE: &str = "cross_cluster_replication_follower_full_access";
const OPERATOR_MISSES: &str = "indices:admin/settings/update";

/// What the stub was asked, without the questions who calls.
type Asked = Arc<Mutex<Vec<String>>>;

/// Users log in by their bare name; `agent2` is `agent` after a change of the password.
async fn cluster(State(asked): State<Asked>, request: Request) -> Response {
    let header = request.headers().get("authorization");
    let user = header.map_or("", |value| value.to_str().unwrap());
    let roles = match user {
        "agent" | "agent2" => json!(["shardline"]),
        "both" => json!([FOLLOWER_ROLE, "readall"]),
        "operator" | "superadmin" => json!(["operators"]),
        "reader" => json!(["readall"]),
        _ => {
            asked.lock().push("login refused".to_owned());
            let challenge = [("www-authenticate", "Basic realm=\"OpenSearch Security\"")];
            return (StatusCode::UNAUTHORIZED, challenge, "Unauthorized").into_response();
        }
    };
    if request.uri().path() == AUTHINFO {
        let name = user.trim_end_matches('2');
        let shown = format!("User [name={name}]");
        return Json(json!({"user": shown, "user_name": name, "roles": roles})).into_response();
    }
    let line = format!("{} {}", request.method(), request.uri());
    asked.lock().push(line.clone());
    if user == "superadmin" {
        return Json(json!({"acknowledged": true})).into_response();
    }
    let is_allowed = !line.contains("_settings");
    let missing = if is_allowed {
        vec![]
    } else {
        vec![OPERATOR_MISSES]
    };
    Json(json!({"accessAllowed": is_allowed, "missingPrivileges": missing})).into_response()
}

struct Tried {
    guard: Guard,
    asked: Asked,
    login: Authorization,
}

impl Tried {
    async fn new() -> Self {
        let asked = Asked::default();
        let router = Router::new()
            .fallback(cluster)
            .with_state(Arc::clone(&asked));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let login = Authorization::from(HeaderValue::from_static("agent"));
        let upstream = Upstream::new(url.parse().unwrap(), reqwest::Client::new())
            .with_authorization(login.clone());
        let operators = Grant {
            operations: vec!["indices:admin/plugins/replication/*".to_owned()],
            indices: vec!["books*".to_owned()],
        };
        let grants = Grants::new(BTreeMap::from([("operators".to_owned(), operators)]));
        let guard = Guard::of_plugin(upstream, grants);
        Self {
            guard,
            asked,
            login,
        }
    }

    /// Asks for a call as somebody; the refusal's status and words.
    async fn call(&self, user: &str, call: Call) -> Result<(), (StatusCode, String)> {
        let parts = request(user);
        let asked = async {
            let caller = self.guard.login(&parts).await?;
            self.guard
                .may(&parts, caller.as_ref(), &call, "books")
                .await
        };
        asked.await.map_err(|refused: Refused| match refused {
            Refused::Relayed(answer) => {
                let challenge = answer.headers.get("www-authenticate");
                let challenge = challenge.map(|value| value.to_str().unwrap().to_owned());
                (answer.status, challenge.unwrap_or_default())
            }
            Refused::Said(error) => (error.status(), error.to_string()),
        })
    }

    async fn user_of(&self, user: &str, behalf: Option<&'static str>) -> Option<String> {
        let mut parts = request(user);
        if let Some(other) = behalf {
            let other = HeaderValue::from_static(other);
            parts.headers.insert(ON_BEHALF_OF, other);
        }
        let caller = self.guard.login(&parts).await.unwrap();
        self.guard.user_of(&parts, caller.as_ref())
    }
}

fn request(user: &str) -> Parts {
    let mut request = http::Request::new(());
    if !user.is_empty() {
        let login = user.parse().unwrap();
        request.headers_mut().insert("authorization", login);
    }
    request.into_parts().0
}

fn pause() -> Call {
    let reason = "r".to_owned();
    Call::Pause(PauseRequest { reason })
}

fn start(follower_role: Option<&str>) -> Call {
    let mut body = json!({"leader_alias": "a", "leader_index": "l"});
    if let Some(role) = follower_role {
        body["use_roles"] = json!({"leader_cluster_role": "x", "follower_cluster_role": role});
    }
    let body = StartBody::parse(body.to_string().as_bytes()).unwrap();
    Call::Start {
        request: body.validate("books").unwrap(),
        wait_for_restore: false,
    }
}

#[tokio::test]
async fn whoever_cannot_log_in_gets_the_clusters_answer() {
    let tried = Tried::new().await;
    for user in ["", "somebody"] {
        let (status, challenge) = tried.call(user, pause()).await.unwrap_err();
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(challenge, "Basic realm=\"OpenSearch Security\"");
    }
    // The refusal is remembered for a moment: the cluster counts failed logins.
    tried.call("", pause()).await.unwrap_err();
    assert_eq!(tried.asked.lock().len(), 2);
}

#[tokio::test]
async fn a_role_of_the_plugin_is_enough_and_no_role_is_not() {
    let tried = Tried::new().await;
    tried.call("both", pause()).await.unwrap();
    assert_eq!(*tried.asked.lock(), Vec::<String>::new());
    let (status, reason) = tried.call("reader", pause()).await.unwrap_err();
    assert_eq!(status, StatusCode::FORBIDDEN);
    let words = "no permissions for [indices:admin/plugins/replication/index/pause] and \
                 User [name=reader]";
    assert!(reason.contains(words), "{reason}");
    let stats = tried.call("both", Call::FollowerStats).await;
    assert_eq!(stats.unwrap_err().0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_configured_role_counts_as_far_as_the_cluster_lets_the_caller_do_the_like() {
    let tried = Tried::new().await;
    let resume = Call::Resume(ResumeRequest::default());
    tried.call("operator", resume).await.unwrap();
    let dry = "perform_permission_check=true";
    let expected = [
        format!("GET /_cluster/health?{dry}"),
        format!("PUT /books?{dry}"),
        format!("PUT /books/_doc/x?{dry}"),
    ];
    assert_eq!(*tried.asked.lock(), expected);
    let (status, reason) = tried.call("operator", pause()).await.unwrap_err();
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(reason.contains(OPERATOR_MISSES), "{reason}");
}

#[tokio::test]
async fn nothing_is_carried_out_for_those_whom_the_plugin_does_not_judge() {
    let tried = Tried::new().await;
    let refused = tried.call("superadmin", Call::Resume(ResumeRequest::default()));
    let (status, reason) = refused.await.unwrap_err();
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(reason.contains("administrators"), "{reason}");
    let parts = request("superadmin");
    let caller = tried.guard.login(&parts).await.unwrap();
    let settings = tried.guard.may_change_settings(&parts, caller.as_ref());
    assert!(settings.await.is_err());
    let asked = tried.asked.lock().clone();
    assert!(
        asked
            .iter()
            .all(|line| line.starts_with("GET /_cluster/health?")),
        "{asked:?}"
    );
}

#[tokio::test]
async fn what_begins_does_so_under_roles_of_the_callers_own() {
    let tried = Tried::new().await;
    tried
        .call("both", start(Some(FOLLOWER_ROLE)))
        .await
        .unwrap();
    for (role, words) in [
        (None, "Follower roles are mandatory for replication"),
        (
            Some("all_access"),
            "No mapping for User [name=both] on roles [all_access]",
        ),
        (
            Some("readall"),
            "no permissions for [indices:admin/plugins/replication/index/setup/validate] and \
             User [name=both]",
        ),
    ] {
        let (status, reason) = tried.call("both", start(role)).await.unwrap_err();
        assert_eq!(status, StatusCode::FORBIDDEN);
        assert!(reason.contains(words), "{reason}");
    }
}

#[tokio::test]
async fn agents_call_for_others_and_nobody_else_does() {
    let tried = Tried::new().await;
    tried.call("agent", start(None)).await.unwrap();
    assert_eq!(tried.user_of("agent", Some("both")).await.unwrap(), "both");
    assert_eq!(tried.user_of("agent", None).await.unwrap(), "agent");
    assert_eq!(tried.user_of("both", Some("admin")).await.unwrap(), "both");
}

#[tokio::test]
async fn the_agents_login_may_change_while_they_run() {
    let tried = Tried::new().await;
    assert_eq!(tried.user_of("agent", Some("both")).await.unwrap(), "both");
    tried
        .login
        .replace(Some(HeaderValue::from_static("reader")));
    // Another user is the agents' now.
    assert_eq!(
        tried.user_of("agent2", Some("both")).await.unwrap(),
        "agent"
    );
    assert_eq!(tried.user_of("reader", Some("both")).await.unwrap(), "both");
    tried.call("reader", start(None)).await.unwrap();
}
