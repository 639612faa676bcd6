//! `_bulk` through the gateway: items for followed indices are refused one by one, the rest goes
//! on.

use std::collections::HashMap;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use serde_json::Value;
use shardline::contract::ApiError;

use super::bulk::{self, Item};
use super::classify::Scope;
use super::{Call, Gateway, inspect};
use crate::http::api::query::Query;
use crate::http::api::render;

/// Parameters that shape an answer; the gateway applies them itself to an answer that it has to
/// read.
const SHAPING: [&str; 4] = ["filter_path", "format", "pretty", "human"];

impl Gateway {
    pub(super) async fn bulk(
        &self,
        call: &Call<'_>,
        default_index: Option<String>,
        body: Body,
    ) -> Result<Response, ApiError> {
        let inspected = inspect::read(call.parts, call.query, body).await?;
        let items = bulk::split(&inspected.content)?;
        let mut verdicts: HashMap<&str, Option<String>> = HashMap::new();
        for item in &items {
            let Some(target) = target_of(item, default_index.as_deref()) else {
                continue;
            };
            if !verdicts.contains_key(target) {
                let coverage = self.covered(call, target, Scope::WriteIndex).await?;
                verdicts.insert(target, coverage.followed.into_iter().next());
            }
        }
        let blocked_as = |item: &Item<'_>| {
            target_of(item, default_index.as_deref())
                .and_then(|target| verdicts.get(target))
                .and_then(Option::as_deref)
        };
        let outcomes: Vec<Option<Value>> = items
            .iter()
            .map(|item| {
                blocked_as(item)
                    .map(|index| bulk::blocked_item(item.operation, index, item.id.as_deref()))
            })
            .collect();
        if outcomes.iter().all(Option::is_none) {
            return self
                .upstream
                .forward(call.parts, Body::from(inspected.original))
                .await;
        }
        if outcomes.iter().all(Option::is_some) {
            let answer = bulk::all_blocked(outcomes.into_iter().flatten().collect());
            return Ok(render::answer(
                StatusCode::OK,
                &answer,
                &call.query.rendering(),
            ));
        }
        let rest = rest_of(&inspected.content, &items, &outcomes);
        drop(items);
        self.forward_rest(call, rest, outcomes).await
    }

    async fn forward_rest(
        &self,
        call: &Call<'_>,
        rest: Bytes,
        outcomes: Vec<Option<Value>>,
    ) -> Result<Response, ApiError> {
        let raw_query = without_shaping(call.query);
        let answer = self
            .upstream
            .exchange(call.parts, raw_query.as_deref(), Some(rest))
            .await?;
        if !answer.status.is_success() {
            return Ok(answer.into_response());
        }
        let merged = bulk::merge(&answer.body, outcomes).map_err(|error| {
            ApiError::status_exception(StatusCode::BAD_GATEWAY, error.to_string())
        })?;
        Ok(render::answer(
            StatusCode::OK,
            &merged,
            &call.query.rendering(),
        ))
    }
}

fn target_of<'a>(item: &'a Item<'_>, default_index: Option<&'a str>) -> Option<&'a str> {
    item.index
        .as_deref()
        .or(default_index)
        .filter(|target| !target.is_empty())
}

fn rest_of(content: &[u8], items: &[Item<'_>], outcomes: &[Option<Value>]) -> Bytes {
    let mut rest = BytesMut::with_capacity(content.len());
    for (item, outcome) in items.iter().zip(outcomes) {
        if outcome.is_none() {
            rest.extend_from_slice(&content[item.range.clone()]);
        }
    }
    rest.freeze()
}

/// The query string without what shapes the answer; `None` when nothing is left.
pub(super) fn without_shaping(query: &Query) -> Option<String> {
    let encode = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let pairs: Vec<String> = query
        .iter()
        .filter(|(name, _)| !SHAPING.contains(name))
        .map(|(name, value)| {
            if value.is_empty() {
                encode(name)
            } else {
                format!("{}={}", encode(name), encode(value))
            }
        })
        .collect();
    (!pairs.is_empty()).then(|| pairs.join("&"))
}
