//! The page that shows what is followed, and what it reads.

use std::sync::{Arc, OnceLock};

use axum::extract::Request;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::request::Parts;
use shardline::contract::{ReplicationService, ReplicationStatus};

use super::api::render::Rendering;
use super::gateway::Guard;

/// What the page shows, and who may see it.
pub(crate) struct Shown {
    pub service: Arc<dyn ReplicationService>,
    pub guard: Arc<Guard>,
}

impl Shown {
    async fn indices(&self, parts: &Parts) -> Response {
        let caller = match self.guard.login(parts).await {
            Ok(caller) => caller,
            Err(refused) => return refused.into_response(&Rendering::default()),
        };
        let statuses: Vec<ReplicationStatus> = self
            .service
            .statuses("*", true)
            .into_iter()
            .filter(|(index, _)| self.guard.shows(caller.as_ref(), index.as_str()))
            .map(|(_, followed)| followed.status)
            .collect();
        Json(statuses).into_response()
    }
}

/// The page; `shown` is there once the agent follows.
pub(crate) fn router(shown: Arc<OnceLock<Shown>>) -> Router {
    let indices = move |request: Request| {
        let shown = Arc::clone(&shown);
        async move {
            let (parts, _) = request.into_parts();
            match shown.get() {
                Some(shown) => shown.indices(&parts).await,
                None => Json(Vec::<ReplicationStatus>::new()).into_response(),
            }
        }
    };
    Router::new()
        .route("/", get(|| async { Html(include_str!("page.html")) }))
        .route("/indices", get(indices))
}
