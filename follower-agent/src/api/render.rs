//! Answers as OpenSearch prints them: compact, or `pretty` in its own spacing, and cut to `filter_path`.

use std::io;

use axum::body::Body;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::Formatter;

use super::filter::PathFilter;

/// How the caller wants an answer to look.
#[derive(Clone, Debug, Default)]
pub struct Rendering {
    pub pretty: bool,
    pub filter: Option<PathFilter>,
}

impl Rendering {
    pub fn unfiltered(&self) -> Self {
        Self { pretty: self.pretty, filter: None }
    }
}

/// A JSON answer.
pub fn json(status: StatusCode, body: &Value, rendering: &Rendering) -> Response {
    let filtered = rendering.filter.as_ref().map(|filter| filter.apply(body));
    let mut response = Response::new(Body::from(print(filtered.as_ref().unwrap_or(body), rendering.pretty)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
    response
}

fn print(body: &Value, pretty: bool) -> String {
    if !pretty {
        return body.to_string();
    }
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Pretty::default());
    if let Err(error) = body.serialize(&mut serializer) {
        tracing::error!(%error, "cannot print an answer in the pretty form");
        return body.to_string();
    }
    bytes.push(b'\n');
    String::from_utf8(bytes).unwrap_or_else(|_| body.to_string())
}

/// OpenSearch's spacing: two spaces, `"key" : value`, and `{ }` or `[ ]` for nothing.
#[derive(Default)]
struct Pretty {
    depth: usize,
    empty: bool,
}

impl Pretty {
    fn open<W: io::Write + ?Sized>(&mut self, writer: &mut W, mark: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.empty = true;
        writer.write_all(mark)
    }

    fn close<W: io::Write + ?Sized>(&mut self, writer: &mut W, mark: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.empty {
            writer.write_all(b" ")?;
        } else {
            self.new_line(writer)?;
        }
        self.empty = false;
        writer.write_all(mark)
    }

    fn new_line<W: io::Write + ?Sized>(&self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| writer.write_all(b"  "))
    }

    fn next<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(b",")?;
        }
        self.empty = false;
        self.new_line(writer)
    }
}

impl Formatter for Pretty {
    fn begin_array<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b" : ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pretty_is_spaced_as_opensearch_spaces_it() {
        let body = json!({"acknowledged": true, "empty": {}, "list": [1, {"a": []}]});
        let expected = "{\n  \"acknowledged\" : true,\n  \"empty\" : { },\n  \"list\" : [\n    1,\n    {\n      \"a\" : [ ]\n    }\n  ]\n}\n";
        assert_eq!(print(&body, true), expected);
        assert_eq!(print(&body, false), r#"{"acknowledged":true,"empty":{},"list":[1,{"a":[]}]}"#);
    }
}
