//! The page on the admin port: what is followed and who works on it, and calls of the control API.

mod calls;
mod guarded;
mod history;
mod table;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::{any, get};
use futures::future::{BoxFuture, FutureExt as _};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;
use shardline::contract::ApiError;
use shardline::contract::overview::{AgentOverview, IndexOverview, Overview, ShardOverview};
use shardline::contract::service::FollowedStatus;
use shardline_common::clock::now_ms;
use shardline_common::page::{self, Asset};
use shardline_common::types::IndexName;
use tokio_util::sync::CancellationToken;

use super::api::query::Query;
use super::api::render;
pub(crate) use calls::Actions;
pub(crate) use guarded::Guarded;
use history::History;
use table::Asked;

/// How old what is shown may be: those who look at the same time share it.
const FRESH: Duration = Duration::from_millis(500);
/// The same for what Kafka is asked for.
const AGENTS_FRESH: Duration = Duration::from_secs(5);
/// Most shards of one answer, and most indices of a preview.
const SHARDS: usize = 64;
const PREVIEWED: usize = 100;

const FILES: [Asset; 5] = [
    Asset::script("/page.js", include_str!("assets/page.js")),
    Asset::script("/index.js", include_str!("assets/index.js")),
    Asset::script("/cluster.js", include_str!("assets/cluster.js")),
    Asset::script("/parts.js", include_str!("assets/parts.js")),
    Asset::script("/actions.js", include_str!("assets/actions.js")),
];

/// What a caller may see.
pub(crate) struct View {
    /// Whether they may see that an index is followed.
    pub shows: Box<dyn Fn(&IndexName) -> bool + Send + Sync>,
    /// Whether they may see what is not about one index: tasks, agents, leader clusters.
    pub sees_cluster: bool,
}

/// Says what callers may see.
pub(crate) trait Sight: Send + Sync {
    /// What this caller may see; an error is the answer.
    fn of<'a>(&'a self, parts: &'a Parts) -> BoxFuture<'a, Result<View, Response>>;
}

type Statuses = Arc<Vec<(IndexName, FollowedStatus)>>;

/// What the page is made of, once the agent follows.
pub(crate) struct Page {
    pub overview: Arc<dyn Overview>,
    pub sight: Box<dyn Sight>,
    /// The gateway, which carries calls out or passes them on to the agent that does.
    pub gateway: Router,
    /// Base URL of the gateway, for those who repeat a call.
    pub address: String,
    pub actions: Actions,
    pub kept: Kept,
}

/// What the page remembers.
#[derive(Default)]
pub(crate) struct Kept {
    history: History,
    statuses: Mutex<Option<(Instant, Statuses)>>,
    agents: tokio::sync::Mutex<Option<(Instant, Arc<Vec<AgentOverview>>)>>,
}

/// Answers a question about what is followed.
type Answer = for<'a> fn(&'a Page, Asking<'a>) -> BoxFuture<'a, Response>;

/// One question.
struct Asking<'a> {
    headers: &'a HeaderMap,
    query: &'a Query,
    view: View,
}

impl Asking<'_> {
    fn json(&self, value: &impl Serialize) -> Response {
        page::json(self.headers, value)
    }

    fn name(&self) -> Option<IndexName> {
        self.query.get("name").map(IndexName::from)
    }
}

const ROUTES: [(&str, Answer); 6] = [
    ("/page/indices", |page, asking| page.indices(asking).boxed()),
    ("/page/index", |page, asking| page.index(asking).boxed()),
    ("/page/history", |page, asking| page.history(asking).boxed()),
    ("/page/agent", |page, asking| page.agent(asking).boxed()),
    ("/page/cluster", |page, asking| page.cluster(asking).boxed()),
    ("/page/preview", |page, asking| page.preview(asking).boxed()),
];

/// The page; `page` is there once the agent follows.
pub(crate) fn router(page: Arc<OnceLock<Page>>) -> Router {
    let routes = ROUTES.iter().fold(Router::new(), |router, (path, answer)| {
        let page = Arc::clone(&page);
        let handler = move |request: Request| async move {
            let (parts, _) = request.into_parts();
            match page.get() {
                Some(page) => page.answer(&parts, *answer).await,
                None => waiting(),
            }
        };
        router.route(path, get(handler))
    });
    let call = move |request: Request| async move {
        match page.get() {
            Some(page) => page::secured(calls::call(&page.actions, &page.gateway, request).await),
            None => waiting(),
        }
    };
    let path = format!("{}/{{*call}}", calls::PREFIX);
    page::router(&FILES).merge(routes).route(&path, any(call))
}

/// Takes samples of the lag until told to stop.
pub(crate) async fn sample(page: Arc<OnceLock<Page>>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(history::INTERVAL);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        if let Some(page) = page.get() {
            page.kept.history.take(&page.statuses(), now_ms());
        }
    }
}

fn waiting() -> Response {
    let reason = "the agent has not reached its cluster and Kafka yet";
    refused(&ApiError::status_exception(
        StatusCode::SERVICE_UNAVAILABLE,
        reason,
    ))
}

fn refused(error: &ApiError) -> Response {
    page::secured(render::refusal(error, &Query::parse(None).rendering()))
}

fn not_yours() -> Response {
    let reason = "no permissions to see what is not about one index";
    refused(&ApiError::status_exception(StatusCode::FORBIDDEN, reason))
}

impl Page {
    async fn answer(&self, parts: &Parts, answer: Answer) -> Response {
        let query = Query::parse(parts.uri.query());
        match self.sight.of(parts).await {
            Ok(view) => {
                let asking = Asking {
                    headers: &parts.headers,
                    query: &query,
                    view,
                };
                answer(self, asking).await
            }
            Err(response) => page::secured(response),
        }
    }

    fn statuses(&self) -> Statuses {
        let mut kept = self.kept.statuses.lock();
        match &*kept {
            Some((at, statuses)) if at.elapsed() < FRESH => Arc::clone(statuses),
            _ => {
                let statuses = Arc::new(self.overview.every_status());
                *kept = Some((Instant::now(), Arc::clone(&statuses)));
                statuses
            }
        }
    }

    async fn indices(&self, asking: Asking<'_>) -> Response {
        let statuses = self.statuses();
        let shown = statuses
            .iter()
            .filter(|(index, _)| (asking.view.shows)(index));
        asking.json(&table::of(shown, &Asked::of(asking.query)))
    }

    async fn index(&self, asking: Asking<'_>) -> Response {
        let name = asking.name().unwrap_or_else(|| IndexName::from(""));
        let is_shown = (asking.view.shows)(&name);
        let Some(mut index) = self.overview.index(&name).filter(|_| is_shown) else {
            let reason = format!("No replication in progress for index:{name}");
            return refused(&ApiError::status_exception(StatusCode::NOT_FOUND, reason));
        };
        let offset = asking
            .query
            .get("offset")
            .and_then(|text| text.parse().ok());
        let shards = std::mem::take(&mut index.shards);
        asking.json(&Shown::of(index, shards, offset.unwrap_or(0)))
    }

    async fn history(&self, asking: Asking<'_>) -> Response {
        match asking.name() {
            Some(name) if (asking.view.shows)(&name) => {
                asking.json(&self.kept.history.shown(Some(&name)))
            }
            None if asking.view.sees_cluster => asking.json(&self.kept.history.shown(None)),
            _ => not_yours(),
        }
    }

    async fn agent(&self, asking: Asking<'_>) -> Response {
        let sees_cluster = asking.view.sees_cluster;
        let leaders = sees_cluster.then(|| self.overview.leaders());
        let aliases = leaders
            .into_iter()
            .flatten()
            .flat_map(|leader| leader.aliases);
        asking.json(&json!({
            "aliases": aliases.collect::<Vec<_>>(),
            "version": env!("CARGO_PKG_VERSION"),
            "gateway": self.address,
            "actions": self.actions.is_on,
            "sees_cluster": sees_cluster,
        }))
    }

    async fn cluster(&self, asking: Asking<'_>) -> Response {
        if !asking.view.sees_cluster {
            return not_yours();
        }
        let (agents, error) = match self.agents().await {
            Ok(agents) => (agents, None),
            Err(error) => (Arc::default(), Some(error.message())),
        };
        asking.json(&json!({
            "agents": *agents,
            "agents_error": error,
            "leaders": self.overview.leaders(),
            "tasks": self.overview.tasks(),
        }))
    }

    async fn agents(&self) -> Result<Arc<Vec<AgentOverview>>, ApiError> {
        let mut kept = self.kept.agents.lock().await;
        if let Some((at, agents)) = &*kept
            && at.elapsed() < AGENTS_FRESH
        {
            return Ok(Arc::clone(agents));
        }
        let agents = Arc::new(self.overview.agents().await?);
        *kept = Some((Instant::now(), Arc::clone(&agents)));
        Ok(agents)
    }

    async fn preview(&self, asking: Asking<'_>) -> Response {
        if !asking.view.sees_cluster {
            return not_yours();
        }
        let text = |name: &str| asking.query.get(name).unwrap_or_default().to_owned();
        match self
            .overview
            .preview(text("leader_alias"), text("pattern"))
            .await
        {
            Ok(mut found) => {
                let count = found.len();
                found.truncate(PREVIEWED);
                asking.json(&json!({"found": count, "indices": found}))
            }
            Err(error) => refused(&error),
        }
    }
}

/// An index with the shards that are looked at: those that stand still come first, then those that
/// are furthest behind.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    index: IndexOverview,
    shards_found: usize,
    shards_standing: usize,
    shards_offset: usize,
}

impl Shown {
    fn of(index: IndexOverview, mut shards: Vec<ShardOverview>, offset: usize) -> Self {
        let order = |shard: &ShardOverview| {
            let is_standing = shard.standstill.is_some();
            (!is_standing, -shard.lag_millis / 1000, shard.shard_id)
        };
        let is_standing = |shard: &&ShardOverview| shard.standstill.is_some();
        let shards_standing = shards.iter().filter(is_standing).count();
        shards.sort_by_key(order);
        let shards_found = shards.len();
        let shards_offset = offset.min(shards_found);
        let shards = shards
            .into_iter()
            .skip(shards_offset)
            .take(SHARDS)
            .collect();
        Self {
            index: IndexOverview { shards, ..index },
            shards_found,
            shards_standing,
            shards_offset,
        }
    }
}
