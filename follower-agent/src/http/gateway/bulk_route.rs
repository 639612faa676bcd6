//! `_bulk` through the gateway: items for followed indices are refused one by one, the rest goes
//! on.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::StatusCode;

use super::bulk::{self, Item};
use super::bulk_answer::{Answer, ClusterAnswer};
use super::inspect::{self, Inspected};
use super::judge::Judge;
use super::{Call, Gateway};
use crate::http::api::query::Query;
use shardline::contract::ApiError;

/// Parameters that shape an answer; the gateway applies them itself to an answer that it has to
/// read.
const SHAPING: [&str; 4] = ["filter_path", "format", "pretty", "human"];
/// What the follower cluster answers for an item, in bytes, as far as the gateway reserves it.
const ANSWERED_ITEM: usize = 512;

/// What became of a body's items.
struct Verdicts {
    refused: usize,
    passed: usize,
    /// The items that are passed, if there are others.
    rest: Bytes,
}

impl Gateway {
    pub(super) async fn bulk(
        &self,
        call: &Call<'_>,
        default_index: Option<String>,
        body: Body,
    ) -> Result<Response, ApiError> {
        let mut inspected = self.inspect_bulk(call, body).await?;
        let judge = self
            .judge_of(call, &inspected, default_index.as_deref())
            .await?;
        let verdicts = {
            let (content, default) = (inspected.content.clone(), default_index.clone());
            let judge = judge.clone();
            let work = move || judged(&content, default.as_deref(), &judge);
            inspect::heavy(inspected.content.len(), work).await?
        };
        if verdicts.refused == 0 {
            return self.pass_on(call, inspected).await;
        }
        let cluster = match verdicts.passed {
            0 => None,
            passed => {
                let expected = passed * ANSWERED_ITEM + verdicts.rest.len();
                inspected.charge.add(verdicts.rest.len() + expected)?;
                match self
                    .pass_rest(call, verdicts.rest, passed, 4 * expected)
                    .await?
                {
                    Ok(answered) => Some(answered),
                    Err(refusal) => return Ok(refusal),
                }
            }
        };
        let mut rendering = call.query.rendering();
        if call.query.get("format").is_none() {
            rendering.format = inspected.media_type.format();
        }
        let answer = Answer {
            content: inspected.content,
            default_index,
            judge,
            cluster,
            rendering,
            items: verdicts.refused + verdicts.passed,
            _charge: inspected.charge,
        };
        Ok(answer.respond())
    }

    /// Asks what names stand for only if the body has one that may be an alias.
    async fn judge_of(
        &self,
        call: &Call<'_>,
        inspected: &Inspected,
        default_index: Option<&str>,
    ) -> Result<Judge, ApiError> {
        let (content, default) = (inspected.content.clone(), default_index.map(str::to_owned));
        let (lookup, known) = (Arc::clone(&self.lookup), Arc::clone(&call.known_aliases));
        let followed = Arc::clone(&call.followed);
        let work = move || {
            for item in bulk::items(&content) {
                let item = item?;
                let is_open = target_of(&item, default.as_deref())
                    .is_some_and(|target| !lookup.is_settled(target, &followed, &known));
                if is_open {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        match inspect::heavy(inspected.content.len(), work).await? {
            true => self.judge(call).await,
            false => Ok(call.judge_by_name()),
        }
    }

    /// Sends the items that are not refused; `Err` is the follower cluster's own refusal of all.
    async fn pass_rest(
        &self,
        call: &Call<'_>,
        rest: Bytes,
        sent: usize,
        limit: usize,
    ) -> Result<Result<ClusterAnswer, Response>, ApiError> {
        let raw_query = without_shaping(call.query);
        let answer = self
            .upstream
            .exchange(call.parts, raw_query.as_deref(), Some(rest), limit)
            .await?;
        if !answer.status.is_success() {
            return Ok(Err(answer.into_response()));
        }
        let body = answer.body;
        let read = move || {
            ClusterAnswer::read(body, sent).map_err(|error| {
                ApiError::status_exception(StatusCode::BAD_GATEWAY, error.to_string())
            })
        };
        inspect::heavy(limit, read).await.map(Ok)
    }
}

fn target_of<'a>(item: &'a Item<'_>, default_index: Option<&'a str>) -> Option<&'a str> {
    item.index
        .as_deref()
        .or(default_index)
        .filter(|target| !target.is_empty())
}

fn judged(
    content: &[u8],
    default_index: Option<&str>,
    judge: &Judge,
) -> Result<Verdicts, ApiError> {
    let is_refused = |item: &Item<'_>| {
        target_of(item, default_index).is_some_and(|target| judge.blocks_document(target).is_some())
    };
    let (mut refused, mut passed, mut size) = (0, 0, 0);
    for item in bulk::items(content) {
        let item = item?;
        if is_refused(&item) {
            refused += 1;
        } else {
            passed += 1;
            size += item.range.len();
        }
    }
    let mut rest = BytesMut::new();
    if refused > 0 && passed > 0 {
        rest.reserve(size);
        for item in bulk::items(content) {
            let item = item?;
            if !is_refused(&item) {
                rest.extend_from_slice(&content[item.range]);
            }
        }
    }
    Ok(Verdicts {
        refused,
        passed,
        rest: rest.freeze(),
    })
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
