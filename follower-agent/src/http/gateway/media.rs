//! The formats that OpenSearch takes a body in, read as JSON.

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::Value;

use super::budget::Charge;
use crate::http::api::calls::is_json;
use crate::http::api::render::Format;
use shardline::contract::ApiError;

/// Most that one document may hold in a format other than JSON, in bytes: it is read into a tree.
const MAX_TREE: usize = 1 << 20;
/// How much larger a tree is than what it was read from, at most.
const TREE_FACTOR: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MediaType {
    Json,
    Yaml,
    Cbor,
    Smile,
}

impl MediaType {
    /// By the request's `Content-Type`.
    ///
    /// # Errors
    /// 406 if it is missing, or none of OpenSearch's.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let Some(value) = headers.get(CONTENT_TYPE) else {
            return Err(ApiError::missing_content_type());
        };
        let value = value.to_str().unwrap_or("unreadable");
        Self::named(value).ok_or_else(|| ApiError::unsupported_content_type(value))
    }

    pub(super) fn named(content_type: &str) -> Option<Self> {
        if is_json(content_type) {
            return Some(Self::Json);
        }
        match Format::named(content_type.split(';').next().unwrap_or_default().trim()) {
            Format::Json => None,
            Format::Yaml => Some(Self::Yaml),
            Format::Cbor => Some(Self::Cbor),
            Format::Smile => Some(Self::Smile),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Cbor => "application/cbor",
            Self::Smile => "application/smile",
        }
    }

    pub(super) fn format(self) -> Format {
        match self {
            Self::Json => Format::Json,
            Self::Yaml => Format::Yaml,
            Self::Cbor => Format::Cbor,
            Self::Smile => Format::Smile,
        }
    }

    /// The content as JSON; that of a bulk request as lines of JSON.
    ///
    /// # Errors
    /// 400 if it is not in this format; 413; 406 for a bulk in a format that has no stream form.
    pub(super) fn to_json(
        self,
        content: Bytes,
        is_bulk: bool,
        charge: &mut Charge,
    ) -> Result<Bytes, ApiError> {
        match (self, is_bulk) {
            (Self::Json, _) => Ok(content),
            (Self::Smile, true) => self.lines(&content, charge),
            (_, true) => Err(ApiError::not_streamable(self.name())),
            (_, false) => {
                charge.raise_to(TREE_FACTOR * content.len().min(MAX_TREE))?;
                let json = self.document(&content)?;
                charge.lower_to(json.len());
                Ok(Bytes::from(json))
            }
        }
    }

    /// SMILE's documents end with a byte that is in none of them.
    fn lines(self, content: &[u8], charge: &mut Charge) -> Result<Bytes, ApiError> {
        const END: u8 = 0xFF;
        let mut lines = Vec::new();
        let mut rest = content;
        while let Some(end) = rest.iter().position(|byte| *byte == END) {
            if end > 0 {
                let tree = TREE_FACTOR * end.min(MAX_TREE);
                charge.raise_to(content.len() + 2 * lines.len() + tree)?;
                lines.extend(self.document(&rest[..end])?);
            }
            lines.push(b'\n');
            rest = &rest[end + 1..];
        }
        if !rest.is_empty() {
            return Err(ApiError::illegal_argument(
                "The bulk request must be terminated by a newline [\\n]",
            ));
        }
        Ok(Bytes::from(lines))
    }

    fn document(self, content: &[u8]) -> Result<Vec<u8>, ApiError> {
        if content.len() > MAX_TREE {
            return Err(ApiError::too_large(MAX_TREE));
        }
        let broken = |error: String| {
            ApiError::parse(format!(
                "request body is not valid {}: {error}",
                self.name()
            ))
        };
        let value: Value = match self {
            Self::Json => return Ok(content.to_vec()),
            Self::Yaml => serde_yaml_ng::from_slice(content).map_err(|e| broken(e.to_string()))?,
            Self::Cbor => ciborium::from_reader(content).map_err(|e| broken(e.to_string()))?,
            Self::Smile => serde_smile::from_slice(content).map_err(|e| broken(e.to_string()))?,
        };
        serde_json::to_vec(&value).map_err(|error| broken(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::Budget;
    use super::*;

    fn json(content_type: &str, content: &[u8], is_bulk: bool) -> Result<String, ApiError> {
        let mut charge = Budget::ample().open();
        let media_type = MediaType::named(content_type).unwrap();
        let content = media_type.to_json(Bytes::copy_from_slice(content), is_bulk, &mut charge)?;
        Ok(String::from_utf8(content.to_vec()).unwrap())
    }

    #[test]
    fn every_format_is_read_as_json() {
        let smile = b":)\n\x03\xfa\x80n\xc2\xfb";
        assert_eq!(
            json("application/smile", smile, false).unwrap(),
            r#"{"n":1}"#
        );
        let cbor = b"\xbf\x61n\x01\xff";
        assert_eq!(json("application/cbor", cbor, false).unwrap(), r#"{"n":1}"#);
        let yaml = "n: 1\n".as_bytes();
        assert_eq!(json("application/yaml", yaml, false).unwrap(), r#"{"n":1}"#);
        let lines = [smile.as_slice(), b"\xff", smile, b"\xff"].concat();
        assert_eq!(
            json("application/smile", &lines, true).unwrap(),
            "{\"n\":1}\n{\"n\":1}\n"
        );
        assert!(json("application/yaml", yaml, true).is_err());
        assert!(json("application/smile", smile, true).is_err());
        assert_eq!(MediaType::named("text/plain"), None);
    }
}
