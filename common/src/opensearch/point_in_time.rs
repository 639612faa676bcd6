//! Points in time that are closed whenever their reader ends, however it does: a cluster has room
//! for 300 on a node, its users' own among them, and one that is left open keeps files for minutes.

use std::sync::LazyLock;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::warn;

use super::{OpenSearch, OpenSearchError};

/// Points in time that are open, and requests that close them.
static REQUESTS: LazyLock<TaskTracker> = LazyLock::new(TaskTracker::new);

/// A point in time that is open.
pub(super) struct PointInTime {
    opensearch: OpenSearch,
    /// `None` once it is closed.
    id: Option<String>,
    /// Whoever waits for all to be closed waits for this one.
    _counted: TaskTrackerToken,
}

#[derive(Deserialize)]
struct Opened {
    pit_id: String,
}

impl PointInTime {
    /// Opens one with the request that `path` is. If nobody waits for it any more, it is closed
    /// again when it is there.
    pub(super) async fn open(
        opensearch: OpenSearch,
        path: String,
    ) -> Result<Self, OpenSearchError> {
        let counted = REQUESTS.token();
        let opening = tokio::spawn(async move {
            let opened: Opened = opensearch.post(&path, &json!({})).await?;
            Ok(Self {
                opensearch,
                id: Some(opened.pit_id),
                _counted: counted,
            })
        });
        opening.await.unwrap_or_else(|error| {
            Err(OpenSearchError::Unexpected {
                method: "POST".to_owned(),
                path: "/_search/point_in_time".to_owned(),
                reason: error.to_string(),
            })
        })
    }

    pub(super) fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_default()
    }

    /// Returns when it is closed, or cannot be.
    pub(super) async fn close(mut self) {
        if let Some(closing) = self.begin_to_close() {
            let _ = closing.await;
        }
    }

    fn begin_to_close(&mut self) -> Option<tokio::task::JoinHandle<()>> {
        let id = self.id.take()?;
        // Where no runtime is left, the process ends.
        let runtime = Handle::try_current().ok()?;
        let closing = close(self.opensearch.clone(), id);
        Some(REQUESTS.spawn_on(closing, &runtime))
    }
}

impl Drop for PointInTime {
    fn drop(&mut self) {
        let _ = self.begin_to_close();
    }
}

async fn close(opensearch: OpenSearch, id: String) {
    let body = json!({"pit_id": [id]});
    let closed: Result<Value, _> = opensearch
        .delete("/_search/point_in_time", Some(&body))
        .await;
    if let Err(error) = closed {
        warn!(%error, "a point in time could not be closed; it expires by itself");
    }
}

/// Waits until what is open is closed, before the process ends; at most `patience`.
pub async fn until_all_closed(patience: Duration) {
    REQUESTS.close();
    let _ = tokio::time::timeout(patience, REQUESTS.wait()).await;
    REQUESTS.reopen();
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::Router;
    use axum::routing::post;
    use parking_lot::Mutex;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;
    use crate::process::config::OpenSearchConfig;

    const SOON: Duration = Duration::from_secs(20);

    /// A cluster that counts its open points in time.
    async fn cluster(open: Arc<Mutex<i32>>) -> OpenSearch {
        let (opened, closed) = (Arc::clone(&open), open);
        let open = move || {
            *opened.lock() += 1;
            std::future::ready(r#"{"pit_id": "p"}"#)
        };
        let close = move || {
            *closed.lock() -= 1;
            std::future::ready("{}")
        };
        let routes = Router::new().route("/_search/point_in_time", post(open).delete(close));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let config: OpenSearchConfig = serde_json::from_value(json!({"url": url})).unwrap();
        OpenSearch::new(&config).unwrap()
    }

    async fn until(is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + SOON;
        while !is_so() {
            assert!(Instant::now() < deadline, "it does not come about");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_reader_that_is_cancelled_leaves_none_open() {
        let open = Arc::new(Mutex::new(0));
        let opensearch = cluster(Arc::clone(&open)).await;
        let path = "/_search/point_in_time".to_owned();
        let reader = tokio::spawn(async move {
            let _pit = PointInTime::open(opensearch, path).await.unwrap();
            std::future::pending::<()>().await;
        });
        until(|| *open.lock() == 1).await;
        reader.abort();
        until(|| *open.lock() == 0).await;
    }

    #[tokio::test]
    async fn one_that_nobody_waits_for_any_more_is_closed_when_it_is_there() {
        let open = Arc::new(Mutex::new(0));
        let opensearch = cluster(Arc::clone(&open)).await;
        let path = "/_search/point_in_time".to_owned();
        let mut opening = Box::pin(PointInTime::open(opensearch, path));
        assert!(futures::poll!(opening.as_mut()).is_pending());
        drop(opening);
        until_all_closed(SOON).await;
        assert_eq!(*open.lock(), 0);
    }
}
