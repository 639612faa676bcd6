//! All that is outside the agents: the leader's shard group, Kafka, the follower index, and what
//! the agents wait for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;
use follower_agent::{Committed, Refused};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use reqwest::StatusCode;
use serde_json::{Value, json};
use shardline_common::control::Redelivery;
use shardline_common::metadata::{IndexMetadata, MetadataVersions};
use shardline_common::opensearch::{OpenSearch, Request, Transport};
use shardline_common::record::FrameId;
use shardline_common::types::TopicName;

use crate::calls::{Call, Target, call};
use crate::check::Checks;
use crate::group::{Group, Op};
use crate::index::{FollowerIndex, Mood, Scans};
use crate::log::{Kafka, Posted};
use crate::plan::Plan;
use crate::sabotage::Sabotage;

pub const INDEX: &str = "books";
pub const UUID: &str = "ibhFku_AQZ2fBjSXIclm_A";
pub const FOLLOWER_INDEX: &str = "copy";

pub type Shared = Arc<Mutex<World>>;

pub struct World {
    pub rng: Rng,
    pub plan: Plan,
    pub sabotage: Option<Sabotage>,
    /// From here on nothing goes wrong any more.
    pub is_calm: bool,
    pub group: Group,
    /// What searches of the leader see: as of its last refresh.
    pub visible: Vec<(String, Op)>,
    pub kafka: Kafka,
    pub topic: TopicName,
    pub board: Posted,
    pub follower: FollowerIndex,
    pub scans: Scans,
    pub calls: Vec<Call>,
    /// Positions committed to Kafka.
    pub committed: Committed,
    /// What the leader agents said of the index beside the stream: soon, as against how long
    /// records are kept.
    pub announced: Option<IndexMetadata>,
    /// What metadata each copy has.
    pub applied: BTreeMap<String, MetadataVersions>,
    /// Items of bulk requests, for [`Sabotage::RedrivenOperation`].
    pub driven: Vec<(String, i64, Option<String>)>,
    /// Refused operations, and in which redelivery they were refused again.
    pub letters: BTreeMap<Refused, Option<FrameId>>,
    /// What the leader agents are asked to ship again.
    pub redelivery: Option<Redelivery>,
    pub checks: Checks,
    pub trace: Option<Vec<String>>,
}

impl World {
    pub fn new(seed: u64, folder: &Path, sabotage: Option<Sabotage>, traced: bool) -> Shared {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::draw(&mut rng, sabotage);
        let plan_refuses = plan.refusals;
        Arc::new(Mutex::new(Self {
            group: Group::new(folder, plan.copies, sabotage),
            rng,
            plan,
            sabotage,
            is_calm: false,
            visible: Vec::new(),
            kafka: Kafka::default(),
            topic: "shardline.leader.books.ibhFku_5fA".into(),
            board: Posted::default(),
            follower: FollowerIndex {
                refuses: plan_refuses,
                ..FollowerIndex::default()
            },
            scans: Scans::default(),
            calls: Vec::new(),
            committed: Committed::default(),
            announced: None,
            applied: BTreeMap::new(),
            driven: Vec::new(),
            letters: BTreeMap::new(),
            redelivery: None,
            checks: Checks::default(),
            trace: traced.then(Vec::new),
        }))
    }

    pub fn note(&mut self, event: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(event());
        }
    }

    /// True once in a while, as long as things go wrong.
    pub fn goes_wrong(&mut self, is_planned: bool, one_in: u32) -> bool {
        is_planned && !self.is_calm && self.rng.u32(0..one_in) == 0
    }
}

/// The way to a cluster: to the leader through one of its nodes, or to the follower.
pub struct Wire {
    pub world: Shared,
    pub node: Option<usize>,
}

impl Wire {
    pub fn leader(world: &Shared, node: usize) -> OpenSearch {
        OpenSearch::over(
            format!("leader-{node}"),
            Arc::new(Self {
                world: Arc::clone(world),
                node: Some(node),
            }),
        )
    }

    pub fn follower(world: &Shared) -> OpenSearch {
        OpenSearch::over(
            "follower".to_owned(),
            Arc::new(Self {
                world: Arc::clone(world),
                node: None,
            }),
        )
    }
}

impl Transport for Wire {
    fn send<'a>(
        &'a self,
        request: Request<'a>,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), String>> {
        let (method, path) = (request.method.to_string(), request.path.to_owned());
        let body = request
            .body
            .map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let (short, _) = path.split_once('?').unwrap_or((&path, ""));
        let is_bulk = short.ends_with("_bulk");
        let node = self.node;
        let place = node.map_or("follower".to_owned(), |node| format!("leader-{node}"));
        let label = match is_bulk {
            true => format!("{place} _bulk {}", body.replace('\n', " ")),
            false => format!("{place} {method} {short}"),
        };
        if is_bulk && self.world.lock().sabotage == Some(Sabotage::CommitBeforeWrite) {
            let items: Vec<Value> = actions(&body)
                .map(|_| json!({"index": {"status": 200}}))
                .collect();
            let answer = Bytes::from(json!({"errors": false, "items": items}).to_string());
            drop(call(&self.world, Target::Follower, label, move |world| {
                world.follower_answers(&method, &path, &body, Mood::Works);
            }));
            return Box::pin(std::future::ready(Ok((StatusCode::OK, answer))));
        }
        let target = if node.is_some() {
            Target::Leader
        } else {
            Target::Follower
        };
        let answer = call(&self.world, target, label, move |world| match node {
            Some(node) => world.leader_answers(node, &method, &path, &body),
            None => {
                if world.goes_wrong(world.plan.follower_is_busy, 8) {
                    let refusal = json!({"error": {"type": "rejected_execution_exception", "reason": "busy"}});
                    return Some((StatusCode::TOO_MANY_REQUESTS, refusal));
                }
                let busy = world.goes_wrong(world.plan.follower_is_busy, 6);
                let mood = if busy { Mood::IsBusy } else { Mood::Works };
                Some(world.follower_answers(&method, &path, &body, mood))
            }
        });
        Box::pin(async move {
            let (status, body) = answer.await.flatten().ok_or("no answer")?;
            Ok((status, Bytes::from(body.to_string())))
        })
    }
}

/// The action lines of a bulk request.
fn actions(body: &str) -> impl Iterator<Item = &str> {
    body.lines()
        .filter(|line| line.starts_with("{\"index\":{") || line.starts_with("{\"delete\":{"))
}
