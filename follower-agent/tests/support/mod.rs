//! A gateway under test: an in-memory replication service, a stub of the follower cluster, and a
//! client.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use follower_agent::{Budget, GatewayLimits, Guard, Upstream, gateway};
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use serde_json::{Value, json};
use shardline::contract::auto_follow::{RuleName, RuleRequest};
use shardline::contract::bulk::{BulkRequest, TaskStatus};
use shardline::contract::dead_letters::{DeadLetterList, FailedReplay, Letter};
use shardline::contract::replication_settings::SettingsStore;
use shardline::contract::service::{FollowedStatus, LagDetails, ReplicationState, SyncingDetails};
use shardline::contract::stats::{AutoFollowStats, FollowerStats};
use shardline::contract::verify::{VerificationStatus, VerifyRequest};
use shardline::contract::{
    ApiError, PauseRequest, ReplicationService, ReplicationStatus, ResumeRequest, StartRequest,
    UpdateRequest,
};
use shardline_common::bulk::BulkOperation;
use shardline_common::leader_stats::LeaderStats;
use shardline_common::types::IndexName;
use shardline_common::wildcard::wildcard_match;
use tokio_util::sync::CancellationToken;

pub const BLOCK: &str = "blocked by: [FORBIDDEN/1000/index read-only(cross-cluster-replication)];";

/// What the agent's own configuration has by default.
pub const LIMITS: GatewayLimits = GatewayLimits {
    max_content: 100 << 20,
    max_inspected: 256 << 20,
    max_connections: 4096,
    head_timeout: Duration::from_secs(30),
};

struct Following {
    alias: String,
    leader: String,
    paused: Option<String>,
}

/// Replication without clusters: leader indices exist unless their name says otherwise.
#[derive(Default)]
pub struct FakeService {
    following: Mutex<HashMap<IndexName, Following>>,
    aliases: Mutex<HashMap<String, Vec<IndexName>>>,
}

impl FakeService {
    pub fn following(names: &[&str]) -> Self {
        let service = Self::default();
        for name in names {
            let state = Following {
                alias: "a".into(),
                leader: "l".into(),
                paused: None,
            };
            service
                .following
                .lock()
                .unwrap()
                .insert(IndexName::from(*name), state);
        }
        service
    }

    /// The leader gives a followed index an alias.
    pub fn learn_alias(&self, alias: &str, index: &str) {
        let mut aliases = self.aliases.lock().unwrap();
        aliases
            .entry(alias.to_owned())
            .or_default()
            .push(index.into());
    }

    fn with<T>(
        &self,
        follower: &IndexName,
        act: impl FnOnce(&mut Following) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        match self.following.lock().unwrap().get_mut(follower) {
            Some(state) => act(state),
            None => Err(ApiError::illegal_argument(format!(
                "No replication in progress for index:{follower}"
            ))),
        }
    }
}

impl ReplicationService for FakeService {
    fn start(
        &self,
        follower: IndexName,
        request: StartRequest,
        _: bool,
    ) -> BoxFuture<'_, Result<(), ApiError>> {
        let mut following = self.following.lock().unwrap();
        let result = if request.leader_alias != "my-connection-alias" {
            Err(ApiError::no_such_remote_cluster(&request.leader_alias))
        } else if request.leader_index == "no-such-index" {
            Err(ApiError::index_not_found(&request.leader_index))
        } else if following.contains_key(&follower) || follower.as_str() == "f-exists" {
            let reason =
                format!("Cant use same index again for replication. Delete the index:{follower}");
            Err(ApiError::illegal_argument(reason))
        } else {
            let state = Following {
                alias: request.leader_alias,
                leader: request.leader_index,
                paused: None,
            };
            following.insert(follower, state);
            Ok(())
        };
        ready(result).boxed()
    }

    fn stop(&self, follower: IndexName) -> BoxFuture<'_, Result<(), ApiError>> {
        let result = self.with(&follower, |_| Ok(()));
        self.following.lock().unwrap().remove(&follower);
        ready(result).boxed()
    }

    fn pause(
        &self,
        follower: IndexName,
        request: PauseRequest,
    ) -> BoxFuture<'_, Result<(), ApiError>> {
        let result = self.with(&follower, |state| match state.paused {
            Some(_) => Err(ApiError::resource_already_exists(format!(
                "Index {follower} is already paused"
            ))),
            None => {
                state.paused = Some(request.reason);
                Ok(())
            }
        });
        ready(result).boxed()
    }

    fn resume(&self, follower: IndexName, _: ResumeRequest) -> BoxFuture<'_, Result<(), ApiError>> {
        let running = format!("Replication on Index {follower} is already running");
        let result = self.with(&follower, |state| match state.paused.take() {
            Some(_) => Ok(()),
            None => Err(ApiError::resource_already_exists(running)),
        });
        ready(result).boxed()
    }

    fn update(&self, follower: IndexName, _: UpdateRequest) -> BoxFuture<'_, Result<(), ApiError>> {
        ready(self.with(&follower, |_| Ok(()))).boxed()
    }

    fn status(
        &self,
        follower: IndexName,
        _: bool,
    ) -> BoxFuture<'_, Result<ReplicationStatus, ApiError>> {
        let status = self.with(&follower, |state| {
            let details = SyncingDetails {
                leader_checkpoint: -1,
                follower_checkpoint: -1,
                seq_no: 0,
            };
            Ok(ReplicationStatus {
                status: if state.paused.is_some() {
                    ReplicationState::Paused
                } else {
                    ReplicationState::Syncing
                },
                reason: Some(
                    state
                        .paused
                        .clone()
                        .unwrap_or_else(|| "User initiated".to_owned()),
                ),
                leader_alias: Some(state.alias.clone()),
                leader_index: Some(state.leader.clone()),
                follower_index: Some(follower.to_string()),
                syncing_details: state.paused.is_none().then_some(details),
                resync_details: Vec::new(),
                foreign_writes: None,
                dead_letters: None,
                held_up: Vec::new(),
                standstill: None,
                refused_aliases: Vec::new(),
                external_versions: None,
                use_roles: None,
                without_roles: false,
                bootstrap_details: None,
                shard_replication_details: None,
            })
        });
        ready(Ok(
            status.unwrap_or_else(|_| ReplicationStatus::not_in_progress())
        ))
        .boxed()
    }

    fn verify(
        &self,
        follower: IndexName,
        _: VerifyRequest,
    ) -> BoxFuture<'_, Result<String, ApiError>> {
        ready(self.with(&follower, |_| Ok("verification".to_owned()))).boxed()
    }

    fn verification(&self, follower: &IndexName) -> Result<VerificationStatus, ApiError> {
        Err(ApiError::resource_not_found(format!(
            "Index {follower} has not been verified"
        )))
    }

    fn forget_verification(&self, follower: IndexName) -> BoxFuture<'_, Result<(), ApiError>> {
        ready(self.verification(&follower).map(drop)).boxed()
    }

    fn dead_letters(&self, follower: &IndexName) -> Result<DeadLetterList, ApiError> {
        let letter = Letter {
            id: "a".to_owned(),
            shard_id: 0,
            seq_no: 7,
            topic: "t".into(),
            error_type: "mapper_parsing_exception".to_owned(),
            reason: "why".to_owned(),
            refused_at: 1,
        };
        let list = DeadLetterList {
            follower_index: follower.clone(),
            dead_letters: vec![letter],
            failed_replays: vec![FailedReplay {
                shard_id: 0,
                reason: "why".to_owned(),
            }],
        };
        self.with(follower, |_| Ok(list))
    }

    fn replay_dead_letters(&self, follower: IndexName) -> BoxFuture<'_, Result<usize, ApiError>> {
        ready(self.with(&follower, |_| Ok(1))).boxed()
    }

    fn statuses(&self, pattern: &str, verbose: bool) -> Vec<(IndexName, FollowedStatus)> {
        let mut names: Vec<_> = self.following.lock().unwrap().keys().cloned().collect();
        names.retain(|name| wildcard_match(pattern, name.as_str()));
        names.sort();
        let lag_details = Some(LagDetails {
            operations: Some(0),
            millis: 0,
        });
        let status = |name: &IndexName| {
            self.status(name.clone(), verbose)
                .now_or_never()
                .unwrap()
                .unwrap()
        };
        names
            .iter()
            .map(|name| {
                (
                    name.clone(),
                    FollowedStatus {
                        status: status(name),
                        lag_details,
                    },
                )
            })
            .collect()
    }

    fn create_rule(&self, rule: RuleRequest) -> BoxFuture<'_, Result<(), ApiError>> {
        ready(match rule.leader_alias.as_str() {
            "my-connection-alias" => Ok(()),
            alias => Err(ApiError::no_such_remote_cluster(alias)),
        })
        .boxed()
    }

    fn delete_rule(&self, _: RuleName) -> BoxFuture<'_, Result<(), ApiError>> {
        ready(Ok(())).boxed()
    }

    fn begin_bulk(
        &self,
        _: BulkOperation,
        request: BulkRequest,
    ) -> BoxFuture<'_, Result<String, ApiError>> {
        ready(Err(ApiError::resource_not_found(format!(
            "No indices found matching pattern: [{}]",
            request.pattern
        ))))
        .boxed()
    }

    fn bulk_status(
        &self,
        _: String,
    ) -> BoxFuture<'_, Result<Vec<(IndexName, ReplicationStatus)>, ApiError>> {
        ready(Ok(Vec::new())).boxed()
    }

    fn task_status(&self, id: &str) -> Result<TaskStatus, ApiError> {
        Err(ApiError::resource_not_found(format!(
            "Task {id} not found or already completed"
        )))
    }

    fn cancel_task(&self, id: String) -> BoxFuture<'_, Result<(), ApiError>> {
        ready(self.task_status(&id).map(drop)).boxed()
    }

    fn leader_stats(&self) -> LeaderStats {
        LeaderStats::default()
    }

    fn follower_stats(&self) -> FollowerStats {
        FollowerStats {
            num_syncing_indices: self.following.lock().unwrap().len(),
            ..FollowerStats::default()
        }
    }

    fn auto_follow_stats(&self) -> AutoFollowStats {
        AutoFollowStats::default()
    }

    fn followed(&self) -> Arc<HashSet<IndexName>> {
        Arc::new(self.following.lock().unwrap().keys().cloned().collect())
    }

    fn followed_aliases(&self) -> Arc<HashMap<String, Vec<IndexName>>> {
        Arc::new(self.aliases.lock().unwrap().clone())
    }
}

#[derive(Default)]
pub struct FakeSettings(Mutex<BTreeMap<String, String>>);

impl SettingsStore for FakeSettings {
    fn get(&self) -> BTreeMap<String, String> {
        self.0.lock().unwrap().clone()
    }

    fn put(
        &self,
        changes: BTreeMap<String, Option<String>>,
    ) -> BoxFuture<'_, Result<(), ApiError>> {
        let mut settings = self.0.lock().unwrap();
        for (key, value) in changes {
            match value {
                Some(value) => settings.insert(key, value),
                None => settings.remove(&key),
            };
        }
        ready(Ok(())).boxed()
    }
}

/// A request as the stub received it.
#[derive(Clone, Debug)]
pub struct Received {
    pub line: String,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

/// The follower cluster: answers what it was told to answer, or echoes the request line.
#[derive(Clone, Default)]
pub struct Stub {
    answers: Arc<Mutex<HashMap<String, (u16, Value)>>>,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Stub {
    pub fn answer(&self, line: &str, status: u16, body: Value) {
        self.answers
            .lock()
            .unwrap()
            .insert(line.to_owned(), (status, body));
    }

    /// Requests other than look-ups of names.
    pub fn received(&self) -> Vec<Received> {
        let received = self.received.lock().unwrap();
        received
            .iter()
            .filter(|request| !LOOKUPS.contains(&request.line.as_str()))
            .cloned()
            .collect()
    }

    /// How often the gateway has asked for aliases.
    pub fn lookups(&self) -> usize {
        let received = self.received.lock().unwrap();
        received
            .iter()
            .filter(|request| request.line == ALIASES)
            .count()
    }

    pub fn lines(&self) -> Vec<String> {
        self.received()
            .into_iter()
            .map(|request| request.line)
            .collect()
    }
}

/// The gateway's own questions, without their parameters.
pub const ALIASES: &str = "GET /_alias/*";
pub const STATE: &str = "GET /_cluster/state/metadata";
const LOOKUPS: [&str; 2] = [ALIASES, STATE];

async fn stub_answer(State(stub): State<Stub>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let line = format!("{} {}", parts.method, parts.uri);
    let lookup = LOOKUPS
        .into_iter()
        .find(|lookup| line.starts_with(&format!("{lookup}?local=true")));
    let line = lookup.map_or(line, str::to_owned);
    stub.received.lock().unwrap().push(Received {
        line: line.clone(),
        headers: parts.headers,
        body,
    });
    let answer = stub.answers.lock().unwrap().get(&line).cloned();
    let (status, body) = answer.unwrap_or_else(|| match line.as_str() {
        ALIASES | STATE => (200, json!({})),
        _ => (200, json!({"stub": line})),
    });
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .header("x-stub", "yes")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .body(Body::from(body.to_string()))
        .unwrap()
}

/// A gateway's own server in front of a router.
pub async fn serve_gateway(router: Router, budget: Budget) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(follower_agent::serve(
        listener,
        router,
        budget,
        CancellationToken::new(),
    ));
    format!("http://{address}")
}

pub async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

pub struct World {
    pub stub: Stub,
    pub gateway: String,
    pub client: reqwest::Client,
    pub service: Arc<FakeService>,
}

impl World {
    pub async fn new(service: FakeService) -> Self {
        Self::limited(service, LIMITS).await
    }

    pub async fn limited(service: FakeService, limits: GatewayLimits) -> Self {
        let stub = Stub::default();
        let upstream = serve(Router::new().fallback(stub_answer).with_state(stub.clone())).await;
        Self::build(&upstream, stub, service, limits).await
    }

    pub async fn before(upstream: &str, stub: Stub, service: FakeService) -> Self {
        Self::build(upstream, stub, service, LIMITS).await
    }

    async fn build(
        upstream: &str,
        stub: Stub,
        service: FakeService,
        limits: GatewayLimits,
    ) -> Self {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        let upstream = Upstream::new(upstream.parse().unwrap(), client.clone());
        let budget = Budget::new(limits);
        let service = Arc::new(service);
        let router = gateway(
            Arc::clone(&service) as Arc<dyn ReplicationService>,
            Arc::new(FakeSettings::default()),
            upstream,
            budget.clone(),
            Arc::new(Guard::off()),
        );
        Self {
            stub,
            gateway: serve_gateway(router, budget).await,
            client,
            service,
        }
    }

    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client
            .request(method.parse().unwrap(), format!("{}{path}", self.gateway))
    }

    /// Sends `body`, if any, as JSON, and reads a JSON answer.
    pub async fn send(&self, method: &str, path: &str, body: Option<&str>) -> (u16, Value) {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_owned());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }
}

pub fn block_error(reason: &str) -> Value {
    let cause = json!({"type": "cluster_block_exception", "reason": reason});
    json!({
        "error": {"root_cause": [cause], "type": "cluster_block_exception", "reason": reason},
        "status": 403,
    })
}
