//! Answers that cost little to ask for again: compressed, and not sent where nothing has changed.

use std::io::Write as _;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::secured;
use crate::process::exposition::takes_gzip;

/// Smaller answers are not worth compressing.
const COMPRESSED_FROM: usize = 1024;

/// A JSON answer of a page's route.
pub fn json(headers: &HeaderMap, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => tagged(headers, "application/json", text),
        Err(error) => {
            secured((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())).into_response()
        }
    }
}

/// An answer with a tag of its content, by which the next one may be left out.
pub fn tagged(headers: &HeaderMap, kind: &'static str, content: Vec<u8>) -> Response {
    let tag = format!("\"{:016x}\"", xxh3_64(&content));
    let known = headers.get_all(header::IF_NONE_MATCH).into_iter();
    let is_known = known
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains(&tag));
    let mut response = match is_known {
        true => secured(StatusCode::NOT_MODIFIED),
        false => secured(compressed(headers, kind, content)),
    };
    let own = response.headers_mut();
    own.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    own.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        own.insert(header::ETAG, tag);
    }
    response
}

fn compressed(headers: &HeaderMap, kind: &'static str, content: Vec<u8>) -> Response {
    let plain = [(header::CONTENT_TYPE, kind)];
    if content.len() < COMPRESSED_FROM || !takes_gzip(headers) {
        return (plain, content).into_response();
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(content.len() / 4), Compression::fast());
    let written = encoder.write_all(&content);
    match written.and_then(|()| encoder.finish()) {
        Ok(body) => (plain, [(header::CONTENT_ENCODING, "gzip")], body).into_response(),
        Err(_) => (plain, content).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        let pair = |(name, value): &(header::HeaderName, &str)| {
            (name.clone(), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn what_has_not_changed_is_not_sent_again() {
        let first = json(&HeaderMap::new(), &[1, 2]);
        let tag = first.headers()[header::ETAG].to_str().unwrap().to_owned();
        let asked = headers(&[(header::IF_NONE_MATCH, &tag)]);
        assert_eq!(json(&asked, &[1, 2]).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(json(&asked, &[1, 3]).status(), StatusCode::OK);
    }

    #[test]
    fn every_answer_has_the_policy() {
        let gzip = headers(&[(header::ACCEPT_ENCODING, "gzip")]);
        let answer = tagged(&gzip, "text/plain", vec![b'a'; 9000]);
        assert_eq!(answer.headers()[header::CONTENT_ENCODING], "gzip");
        let policy = answer.headers()[header::CONTENT_SECURITY_POLICY].to_str();
        assert!(policy.unwrap().starts_with("default-src 'none'"));
    }
}
