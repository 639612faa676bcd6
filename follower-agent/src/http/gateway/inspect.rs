//! Bodies that have to be read before a decision: whole, within a limit, and unpacked.

use std::io::Read;

use axum::body::Body;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::StatusCode;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use shardline::contract::ApiError;

use crate::http::api::calls::is_json;
use crate::http::api::query::Query;

/// Most that is held of one body, packed or unpacked, in bytes.
const LIMIT: usize = 200 << 20;

/// A body read whole.
pub(super) struct Inspected {
    /// As it came, to be forwarded if nothing has to change.
    pub original: Bytes,
    /// What it says.
    pub content: Bytes,
}

/// Reads the body of a request that could write to a followed index.
///
/// # Errors
/// Too large, in a form that this gateway does not read, or broken compression.
pub(crate) async fn read(parts: &Parts, query: &Query, body: Body) -> Result<Inspected, ApiError> {
    let original = axum::body::to_bytes(body, LIMIT)
        .await
        .map_err(|_| ApiError::too_large(LIMIT))?;
    if original.is_empty() {
        let content = query
            .get("source")
            .map(|source| Bytes::from(source.to_owned()))
            .unwrap_or_default();
        return Ok(Inspected { original, content });
    }
    let content_type = parts
        .headers
        .get(CONTENT_TYPE)
        .map(|value| value.to_str().unwrap_or("unreadable"));
    if let Some(other) = content_type.filter(|content_type| !is_json(content_type)) {
        return Err(ApiError::unsupported_content_type(other));
    }
    let mut encodings = parts.headers.get_all(CONTENT_ENCODING).iter();
    let encoding = encodings
        .next()
        .map(|value| value.to_str().unwrap_or("unreadable").to_ascii_lowercase());
    if encodings.next().is_some() {
        return Err(unsupported_encoding("several"));
    }
    let content = match encoding.as_deref() {
        None | Some("identity") => original.clone(),
        Some("gzip" | "x-gzip") => {
            let packed = original.clone();
            tokio::task::spawn_blocking(move || unpack(&packed, LIMIT))
                .await
                .map_err(|error| {
                    ApiError::illegal_state(format!("unpacking the request body failed: {error}"))
                })??
        }
        Some(other) => return Err(unsupported_encoding(other)),
    };
    Ok(Inspected { original, content })
}

fn unsupported_encoding(encoding: &str) -> ApiError {
    let reason = format!(
        "content encoding [{encoding}] is not supported where the gateway has to read the body"
    );
    ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "illegal_argument_exception",
        reason,
    )
}

fn unpack(packed: &[u8], limit: usize) -> Result<Bytes, ApiError> {
    let mut content = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(packed)
        .take(most)
        .read_to_end(&mut content)
        .map_err(|error| {
            ApiError::illegal_argument(format!("request body is not valid gzip: {error}"))
        })?;
    if content.len() > limit {
        Err(ApiError::too_large(limit))
    } else {
        Ok(Bytes::from(content))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn gzip_is_unpacked_within_the_limit() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&[b'x'; 1000]).unwrap();
        let packed = encoder.finish().unwrap();
        assert_eq!(unpack(&packed, 1000).unwrap().len(), 1000);
        assert!(unpack(&packed, 999).is_err());
        assert!(unpack(&packed[..packed.len() - 9], 1000).is_err());
        assert!(unpack(b"plain", 1000).is_err());
    }
}
