//! The page on the admin port: what this agent captures, where each shard stands and why it waits.

mod shards;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Query;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::get;
use parking_lot::Mutex;
use serde_json::json;
use shardline_common::page::{self, Asset};

use crate::capture::Context;
use crate::config::Source;
use crate::node::LocalNode;
use crate::supervise::Tables;
use shards::{Asked, Row};

/// How old what is shown may be: those who look at the same time share it.
const FRESH: Duration = Duration::from_millis(500);

const FILES: [Asset; 1] = [Asset::script("/page.js", include_str!("assets/page.js"))];

/// What the page is made of, once the agent has reached its node and Kafka.
pub(crate) struct Page {
    pub node: LocalNode,
    pub context: Arc<Context>,
    pub tables: Tables,
    pub kept: Kept,
}

/// The rows that were shown last.
#[derive(Default)]
pub(crate) struct Kept(Mutex<Option<(Instant, Arc<Vec<Row>>)>>);

impl Page {
    fn rows(&self) -> Arc<Vec<Row>> {
        let mut kept = self.kept.0.lock();
        match &*kept {
            Some((at, rows)) if at.elapsed() < FRESH => Arc::clone(rows),
            _ => {
                let rows = Arc::new(shards::rows(&self.context, &self.tables));
                *kept = Some((Instant::now(), Arc::clone(&rows)));
                rows
            }
        }
    }

    fn agent(&self, headers: &HeaderMap) -> Response {
        let announced = &self.node.announcement;
        let source = match self.node.source {
            Source::Translog => "translog",
            Source::Poll => "poll",
        };
        page::json(
            headers,
            &json!({
                "version": env!("CARGO_PKG_VERSION"),
                "cluster": announced.cluster_name,
                "node": announced.node_name,
                "transport_address": announced.transport_address,
                "source": source,
                "spools": shards::spools(&self.context.metrics),
            }),
        )
    }
}

/// The page; `page` is there once the agent has reached its node and Kafka.
pub(crate) fn router(page: Arc<OnceLock<Page>>) -> Router {
    let of_shards = Arc::clone(&page);
    let shards = move |headers: HeaderMap, Query(asked): Query<Asked>| async move {
        match of_shards.get() {
            Some(page) => page::json(&headers, &shards::table(&page.rows(), &asked)),
            None => waiting(),
        }
    };
    let agent = move |headers: HeaderMap| async move {
        match page.get() {
            Some(page) => page.agent(&headers),
            None => waiting(),
        }
    };
    page::router(&FILES)
        .route("/page/shards", get(shards))
        .route("/page/agent", get(agent))
}

fn waiting() -> Response {
    let reason = "the agent has not reached its node and Kafka yet\n";
    page::secured((StatusCode::SERVICE_UNAVAILABLE, reason))
}
