//! Answers as OpenSearch prints them: compact, or `pretty` in its own spacing, cut to
//! `filter_path`, in the `format` that was asked for.

use std::io;

use axum::body::Body;
use axum::response::Response;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::ser::Formatter;
use shardline::contract::ApiError;

use super::filter::PathFilter;

/// How the caller wants an answer to look.
#[derive(Clone, Debug, Default)]
pub struct Rendering {
    pub pretty: bool,
    pub filter: Option<PathFilter>,
    pub format: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Json,
    Yaml,
    Cbor,
    Smile,
}

impl Format {
    /// By the value of the parameter; JSON for one that OpenSearch does not know.
    pub fn named(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "yaml" | "application/yaml" => Self::Yaml,
            "cbor" | "application/cbor" => Self::Cbor,
            "smile" | "application/smile" => Self::Smile,
            _ => Self::Json,
        }
    }
}

impl Rendering {
    pub fn unfiltered(&self) -> Self {
        Self {
            filter: None,
            ..self.clone()
        }
    }
}

/// An answer as the caller wants it.
pub(crate) fn answer(status: StatusCode, body: &Value, rendering: &Rendering) -> Response {
    let filtered = rendering.filter.as_ref().map(|filter| filter.apply(body));
    let body = filtered.as_ref().unwrap_or(body);
    let (content_type, bytes) = encode(body, rendering.format).unwrap_or_else(|| {
        let text = print(body, rendering.pretty);
        ("application/json; charset=UTF-8", text.into_bytes())
    });
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Goes with an answer that is an error of the gateway's own: its type.
#[derive(Clone)]
pub(crate) struct Refused(pub(crate) String);

/// An error as the caller wants it. Errors are never cut by `filter_path`.
pub fn refusal(error: &ApiError, rendering: &Rendering) -> Response {
    let mut response = rendered(error, rendering);
    if let Some(error_type) = error.error_type() {
        let refused = Refused(error_type.to_owned());
        response.extensions_mut().insert(refused);
    }
    response
}

fn rendered(error: &ApiError, rendering: &Rendering) -> Response {
    if let Some((content_type, body)) = error.passed_on() {
        let mut response = Response::new(Body::from(body.clone()));
        *response.status_mut() = error.status();
        if let Some(content_type) = content_type {
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, content_type.clone());
        }
        return response;
    }
    let mut response = answer(error.status(), &error.to_json(), &rendering.unfiltered());
    let allowed = error
        .allowed_methods()
        .and_then(|methods| HeaderValue::from_str(methods).ok());
    if let Some(methods) = allowed {
        response.headers_mut().insert(ALLOW, methods);
    }
    response
}

/// In a format other than JSON, with its name; `None` where JSON is to be taken.
fn encode(body: &Value, format: Format) -> Option<(&'static str, Vec<u8>)> {
    let body = Plain(body);
    match format {
        Format::Json => None,
        Format::Yaml => {
            let text = serde_yaml_ng::to_string(&body).ok()?;
            Some(("application/yaml", format!("---\n{text}").into_bytes()))
        }
        Format::Cbor => {
            let mut bytes = Vec::new();
            ciborium::into_writer(&body, &mut bytes).ok()?;
            Some(("application/cbor", bytes))
        }
        Format::Smile => Some(("application/smile", serde_smile::to_vec(&body).ok()?)),
    }
}

/// A JSON value for serializers that do not know how this one keeps all digits of its numbers.
struct Plain<'a>(&'a Value);

impl Serialize for Plain<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(switch) => serializer.serialize_bool(*switch),
            Value::String(text) => serializer.serialize_str(text),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => serializer.serialize_i64(number),
                (_, Some(number)) => serializer.serialize_u64(number),
                _ => serializer.serialize_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::Array(items) => serializer.collect_seq(items.iter().map(Plain)),
            Value::Object(members) => {
                serializer.collect_map(members.iter().map(|(key, value)| (key, Plain(value))))
            }
        }
    }
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

    fn begin_array_value<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
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
    fn an_answer_comes_in_the_format_that_was_asked_for() {
        let body =
            json!({"status": "SYNCING", "percent": 33.5, "list": [1, -1, null, true], "none": {}});
        let (kind, yaml) = encode(&body, Format::named("yaml")).unwrap();
        let text =
            "---\nstatus: SYNCING\npercent: 33.5\nlist:\n- 1\n- -1\n- null\n- true\nnone: {}\n";
        assert_eq!(
            (kind, String::from_utf8(yaml).unwrap().as_str()),
            ("application/yaml", text)
        );
        let (_, cbor) = encode(&body, Format::named("application/cbor")).unwrap();
        assert_eq!(
            ciborium::from_reader::<Value, _>(cbor.as_slice()).unwrap(),
            body
        );
        let (_, smile) = encode(&body, Format::named("SMILE")).unwrap();
        assert_eq!(serde_smile::from_slice::<Value>(&smile).unwrap(), body);
        assert_eq!(Format::named("text"), Format::Json);
    }

    #[test]
    fn pretty_is_spaced_as_opensearch_spaces_it() {
        let body = json!({"acknowledged": true, "empty": {}, "list": [1, {"a": []}]});
        let expected = "{\n  \"acknowledged\" : true,\n  \"empty\" : { },\n  \"list\" : [\n    \
            1,\n    {\n      \"a\" : [ ]\n    }\n  ]\n}\n";
        assert_eq!(print(&body, true), expected);
        assert_eq!(
            print(&body, false),
            r#"{"acknowledged":true,"empty":{},"list":[1,{"a":[]}]}"#
        );
    }
}
