//! Counts and times what the gateway answers.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::Method;
use shardline::contract::BASE;
use tokio::time::Instant;

use crate::http::api::render::Refused;
use crate::metrics::Metrics;

/// The errors of the gateway's own that are counted by name; all else is `other`, so that callers
/// cannot make series.
const REASONS: &[&str] = &[
    "action_request_validation_exception",
    "circuit_breaking_exception",
    "cluster_block_exception",
    "content_too_long_exception",
    "illegal_argument_exception",
    "parse_exception",
    "rejected_execution_exception",
    "resource_not_found_exception",
    "security_exception",
    "status_exception",
    "x_content_parse_exception",
];

/// A layer around the gateway.
pub(crate) async fn measure(
    State(metrics): State<Arc<Metrics>>,
    request: Request,
    next: Next,
) -> Response {
    let class = class(request.uri().path());
    let method = method(request.method());
    let began = Instant::now();
    let response = next.run(request).await;
    let took = began.elapsed().as_secs_f64();
    let seconds = metrics.gateway_seconds.with_label_values(&[class]);
    seconds.observe(took);
    metrics
        .gateway_requests
        .with_label_values(&[class, method, response.status().as_str()])
        .inc();
    if let Some(Refused(error_type)) = response.extensions().get() {
        let known = REASONS.iter().find(|known| *known == error_type);
        let refusals = &metrics.gateway_refusals;
        refusals
            .with_label_values(&[known.unwrap_or(&"other")])
            .inc();
    }
    response
}

/// What kind of request it is, for the metrics alone.
fn class(path: &str) -> &'static str {
    if path.starts_with(BASE) {
        return "control";
    }
    let mut segments = path.split('/').filter(|segment| segment.starts_with('_'));
    match segments.next() {
        Some("_bulk") => "bulk",
        Some("_doc" | "_create" | "_update" | "_mget" | "_source") => "document",
        Some("_search" | "_msearch" | "_count" | "_scroll" | "_field_caps") => "search",
        Some("_update_by_query" | "_delete_by_query" | "_reindex") => "by_query",
        Some("_cluster" | "_nodes" | "_cat" | "_tasks") => "cluster",
        _ => "other",
    }
}

fn method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_a_class() {
        for (path, expected) in [
            ("/_plugins/_replication/a/_start", "control"),
            ("/a/_bulk", "bulk"),
            ("/_bulk", "bulk"),
            ("/a/_doc/_search", "document"),
            ("/a,b/_search", "search"),
            ("/_search/scroll", "search"),
            ("/a/_delete_by_query", "by_query"),
            ("/_cluster/health", "cluster"),
            ("/a", "other"),
            ("/", "other"),
        ] {
            assert_eq!(class(path), expected, "{path}");
        }
    }
}
