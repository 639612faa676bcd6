//! The page that shows what is followed, and what it reads.

use std::sync::{Arc, OnceLock};

use axum::response::Html;
use axum::routing::get;
use axum::{Json, Router};
use shardline::contract::{ReplicationService, ReplicationStatus};

/// The page; `service` is there once the agent follows.
pub(crate) fn router(service: Arc<OnceLock<Arc<dyn ReplicationService>>>) -> Router {
    let indices = move || {
        let statuses: Vec<ReplicationStatus> = service.get().map_or_else(Vec::new, |service| {
            let all = service.statuses("*", true).into_iter();
            all.map(|(_, followed)| followed.status).collect()
        });
        async move { Json(statuses) }
    };
    Router::new()
        .route("/", get(|| async { Html(include_str!("page.html")) }))
        .route("/indices", get(indices))
}
