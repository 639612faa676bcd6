//! Bodies that have to be read before a decision: whole, within the budget, unpacked, and as JSON.
//!
//! What is judged is what goes on: a packed body is forwarded unpacked, and one in another format
//! as the JSON that it was read as, so that nothing depends on two programs reading it alike.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::budget::{Budget, Charge};
use super::encoding::Encoding;
use super::media::MediaType;
use crate::http::api::query::Query;
use shardline::contract::ApiError;

/// How long a caller may send nothing in the middle of a body.
pub(super) const SILENCE: Duration = Duration::from_secs(60);
/// From what size on a body is worked on outside the runtime's threads, in bytes.
const HEAVY: usize = 1 << 20;

/// A body read whole.
#[derive(Debug)]
pub(super) struct Inspected {
    /// What it says: JSON, or lines of JSON.
    pub content: Bytes,
    /// The body came in the parameter `source`, and none is to be sent.
    pub is_source: bool,
    /// What it takes of the budget, for as long as any of it is held.
    pub charge: Charge,
    /// The format that the caller sent, and gets its answer in.
    pub media_type: MediaType,
    /// Whether the content is not the bytes that came.
    was_changed: bool,
}

impl Inspected {
    /// The request's headers as they fit the content.
    pub(super) fn headers(&self, parts: &Parts) -> HeaderMap {
        let mut headers = parts.headers.clone();
        if self.was_changed {
            headers.remove(CONTENT_LENGTH);
            headers.remove(CONTENT_ENCODING);
        }
        if self.media_type != MediaType::Json {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            let accepted = HeaderValue::from_static(self.media_type.name());
            headers.entry(ACCEPT).or_insert(accepted);
        }
        headers
    }

    /// What is to be sent on.
    pub(super) fn body(&self) -> Bytes {
        if self.is_source {
            Bytes::new()
        } else {
            self.content.clone()
        }
    }
}

/// Reads the body of a request that could write to a followed index. `is_bulk`: it holds documents
/// one behind the other.
///
/// # Errors
/// Too large, more than the budget has left, in a form that OpenSearch would not take, or broken.
pub(super) async fn read(
    budget: &Budget,
    parts: &Parts,
    query: &Query,
    body: Body,
    is_bulk: bool,
) -> Result<Inspected, ApiError> {
    let mut charge = budget.open();
    let original = collect(budget, body, &mut charge).await?;
    if original.is_empty() {
        return from_source(query, charge);
    }
    let media_type = MediaType::of(&parts.headers)?;
    let encoding = match parts.headers.get(CONTENT_ENCODING) {
        Some(name) => Encoding::named(name.to_str().unwrap_or("unreadable"))?,
        None => None,
    };
    let was_changed = encoding.is_some() || media_type != MediaType::Json;
    let limit = budget.max_content();
    let (content, charge) = heavy(
        original.len() * if was_changed { 16 } else { 0 },
        move || {
            let content = match encoding {
                Some(encoding) => unpack(encoding, original, limit, &mut charge)?,
                None => original,
            };
            let content = media_type.to_json(content, is_bulk, &mut charge)?;
            Ok((content, charge))
        },
    )
    .await?;
    Ok(Inspected {
        content,
        is_source: false,
        charge,
        media_type,
        was_changed,
    })
}

fn from_source(query: &Query, charge: Charge) -> Result<Inspected, ApiError> {
    let source = query.get("source").unwrap_or_default().to_owned();
    let named = query.get("source_content_type");
    match named.map(MediaType::named) {
        None | Some(Some(MediaType::Json)) => Ok(Inspected {
            content: Bytes::from(source),
            is_source: true,
            charge,
            media_type: MediaType::Json,
            was_changed: false,
        }),
        Some(_) => Err(ApiError::illegal_argument(format!(
            "Unknown value for source_content_type [{}]",
            named.unwrap_or_default()
        ))),
    }
}

/// The body as it comes.
///
/// # Errors
/// 413, 429, or 408 for a caller that falls silent.
pub(super) async fn collect(
    budget: &Budget,
    body: Body,
    charge: &mut Charge,
) -> Result<Bytes, ApiError> {
    let limit = budget.max_content();
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(ApiError::too_large(limit));
    }
    let mut content = BytesMut::with_capacity(announced);
    let mut frames = body.into_data_stream();
    loop {
        let frame = match tokio::time::timeout(SILENCE, frames.next()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return Ok(content.freeze()),
            Ok(Some(Err(error))) => {
                let reason = format!("the request body was cut off: {error}");
                return Err(ApiError::illegal_argument(reason));
            }
            Err(_) => return Err(too_slow()),
        };
        let length = content.len() + frame.len();
        if length > limit {
            return Err(ApiError::too_large(limit));
        }
        // Memory that is reserved for an announced body is not taken before it is written to.
        let held = if length > content.capacity() {
            2 * length
        } else {
            length
        };
        charge.raise_to(held)?;
        content.extend_from_slice(&frame);
    }
}

fn too_slow() -> ApiError {
    let reason = format!("no more of the request body came for [{SILENCE:?}]");
    ApiError::status_exception(StatusCode::REQUEST_TIMEOUT, reason)
}

fn unpack(
    encoding: Encoding,
    packed: Bytes,
    limit: usize,
    charge: &mut Charge,
) -> Result<Bytes, ApiError> {
    let size = encoding.unpacked_size(&packed, limit, charge)?;
    charge.raise_to(packed.len() + size)?;
    let content = encoding.unpack(&packed, size)?;
    drop(packed);
    charge.lower_to(size);
    Ok(content)
}

/// Works on `size` bytes, elsewhere than on the runtime's threads if it takes long.
pub(super) async fn heavy<T: Send + 'static>(
    size: usize,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if size < HEAVY {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        ApiError::illegal_state(format!("the request body cannot be worked on: {error}"))
    })?
}
