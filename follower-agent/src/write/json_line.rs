//! A document's source as `_bulk` takes it: JSON on one line, otherwise byte for byte what the
//! leader stored.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::{Map, Number, Value};

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum SourceError {
    #[error("its source, stored as {format}, cannot be read: {reason}")]
    Unreadable {
        format: &'static str,
        reason: String,
    },
    #[error("its source begins with none of the marks of JSON, CBOR, SMILE or YAML")]
    UnknownFormat,
}

/// The formats that OpenSearch stores, told apart by their first bytes as the server does.
#[derive(Debug, PartialEq, Eq)]
enum StoredAs {
    Json,
    Cbor,
    Smile,
    Yaml,
}

/// Turns a stored source into one line of JSON. JSON without line breaks is passed on as it is.
pub(super) fn to_json_line(source: Bytes) -> Result<Bytes, SourceError> {
    let unreadable = |format, reason: String| SourceError::Unreadable { format, reason };
    match detect(&source)? {
        StoredAs::Json => Ok(match on_one_line(&source) {
            Cow::Borrowed(_) => source,
            Cow::Owned(line) => Bytes::from(line),
        }),
        StoredAs::Cbor => {
            let value: ciborium::Value = ciborium::from_reader(source.as_ref())
                .map_err(|error| unreadable("CBOR", error.to_string()))?;
            let value = from_cbor(value).map_err(|reason| unreadable("CBOR", reason))?;
            Ok(Bytes::from(value.to_string()))
        }
        StoredAs::Smile => {
            let value: serde_smile::value::Value = serde_smile::from_slice(&source)
                .map_err(|error| unreadable("SMILE", error.to_string()))?;
            let value = from_smile(value).map_err(|reason| unreadable("SMILE", reason))?;
            Ok(Bytes::from(value.to_string()))
        }
        StoredAs::Yaml => {
            let value: Value = serde_yaml_ng::from_slice(&source)
                .map_err(|error| unreadable("YAML", error.to_string()))?;
            Ok(Bytes::from(value.to_string()))
        }
    }
}

fn detect(source: &[u8]) -> Result<StoredAs, SourceError> {
    match source {
        [b':', b')', b'\n', ..] => Ok(StoredAs::Smile),
        [b'-', b'-', b'-', ..] => Ok(StoredAs::Yaml),
        // A map of any length, or the self-describing tag.
        [0xa0..=0xbf, ..] | [0xd9, 0xd9, 0xf7, ..] => Ok(StoredAs::Cbor),
        _ => {
            let text = source.strip_prefix(b"\xef\xbb\xbf").unwrap_or(source);
            match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
                Some(b'{' | b'/') => Ok(StoredAs::Json),
                _ => Err(SourceError::UnknownFormat),
            }
        }
    }
}

/// Takes line breaks out of JSON text. They stand between tokens, or end a comment, which the
/// server accepts: so comments go with them. Inside a string, where JSON does not allow them, they
/// are written as escapes.
fn on_one_line(json: &[u8]) -> Cow<'_, [u8]> {
    if !json.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return Cow::Borrowed(json);
    }
    let mut line = Vec::with_capacity(json.len());
    let mut at = 0;
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => {
                let end = string_end(json, at);
                for &byte in &json[at..end] {
                    match byte {
                        b'\n' => line.extend_from_slice(b"\\n"),
                        b'\r' => line.extend_from_slice(b"\\r"),
                        other => line.push(other),
                    }
                }
                at = end;
                continue;
            }
            b'/' if json.get(at + 1) == Some(&b'/') => {
                at += json[at..]
                    .iter()
                    .position(|byte| *byte == b'\n')
                    .unwrap_or(json.len() - at);
                continue;
            }
            b'/' if json.get(at + 1) == Some(&b'*') => {
                let body = &json[at + 2..];
                at += 2 + body
                    .windows(2)
                    .position(|pair| pair == b"*/")
                    .map_or(body.len(), |end| end + 2);
                continue;
            }
            b'\n' | b'\r' => line.push(b' '),
            other => line.push(other),
        }
        at += 1;
    }
    Cow::Owned(line)
}

/// Behind the closing quote of the string that begins at `start`.
fn string_end(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = json.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    json.len()
}

fn from_cbor(value: ciborium::Value) -> Result<Value, String> {
    use ciborium::Value as Cbor;
    Ok(match value {
        Cbor::Null => Value::Null,
        Cbor::Bool(value) => Value::Bool(value),
        Cbor::Integer(value) => Value::Number(integer(&i128::from(value).to_string())?),
        Cbor::Float(value) => float(value)?,
        Cbor::Text(text) => Value::String(text),
        Cbor::Bytes(bytes) => Value::String(base64(&bytes)),
        Cbor::Array(items) => {
            Value::Array(items.into_iter().map(from_cbor).collect::<Result<_, _>>()?)
        }
        Cbor::Map(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                let Cbor::Text(key) = key else {
                    return Err("a field's name is no text".to_owned());
                };
                map.insert(key, from_cbor(value)?);
            }
            Value::Object(map)
        }
        Cbor::Tag(55799, inner) => from_cbor(*inner)?,
        other => return Err(format!("{other:?} has no form in JSON")),
    })
}

fn from_smile(value: serde_smile::value::Value) -> Result<Value, String> {
    use serde_smile::value::Value as Smile;
    Ok(match value {
        Smile::Null => Value::Null,
        Smile::Boolean(value) => Value::Bool(value),
        Smile::Integer(value) => Value::from(value),
        Smile::Long(value) => Value::from(value),
        Smile::BigInteger(value) => {
            let bytes = value.as_be_bytes();
            let mut wide = [if bytes.first().is_some_and(|byte| *byte >= 0x80) {
                0xff
            } else {
                0
            }; 16];
            let start = wide
                .len()
                .checked_sub(bytes.len())
                .ok_or("an integer of more than 128 bits")?;
            wide[start..].copy_from_slice(bytes);
            Value::Number(integer(&i128::from_be_bytes(wide).to_string())?)
        }
        Smile::Float(value) => Value::Number(integer(&value.to_string())?),
        Smile::Double(value) => float(value)?,
        Smile::String(text) => Value::String(text),
        Smile::Binary(bytes) => Value::String(base64(&bytes)),
        Smile::Array(items) => Value::Array(
            items
                .into_iter()
                .map(from_smile)
                .collect::<Result<_, _>>()?,
        ),
        Smile::Object(entries) => {
            let entries = entries
                .into_iter()
                .map(|(key, value)| Ok((key, from_smile(value)?)));
            Value::Object(entries.collect::<Result<Map<_, _>, String>>()?)
        }
        other => return Err(format!("{other:?} has no form in JSON")),
    })
}

/// A number from its digits, whatever its size.
fn integer(digits: &str) -> Result<Number, String> {
    serde_json::from_str(digits).map_err(|_| format!("{digits} has no form in JSON"))
}

fn float(value: f64) -> Result<Value, String> {
    Number::from_f64(value)
        .map(Value::Number)
        .ok_or_else(|| format!("{value} has no form in JSON"))
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn line(source: &[u8]) -> String {
        String::from_utf8(
            to_json_line(Bytes::copy_from_slice(source))
                .unwrap()
                .to_vec(),
        )
        .unwrap()
    }

    #[test]
    fn json_on_one_line_is_untouched() {
        let source = br#"{ "b" : 1.10,  "a":123456789012345678901234567890, "s":"a\\\"\n" }"#;
        assert_eq!(line(source).as_bytes(), source);
    }

    #[test]
    fn pretty_json_keeps_everything_but_its_line_breaks() {
        assert_eq!(
            line(b"{\r\n  \"a\" : \"x // y /* z \\\" \" ,\n \"n\":1.50\n}"),
            "{    \"a\" : \"x // y /* z \\\" \" ,  \"n\":1.50 }"
        );
        assert_eq!(line(b"{\"a\":\"x\ny\r\"}"), r#"{"a":"x\ny\r"}"#);
        assert_eq!(
            line(b"{ // note\n \"a\": /* two\nlines */ 1 }"),
            "{   \"a\":  1 }"
        );
    }

    #[test]
    fn cbor_and_smile_become_json() {
        let document = json!({"i": -5, "f": 1.5, "s": "ü😀", "l": [1, null, true], "o": {"x": {}}, "big": 18446744073709551615u64});
        let mut cbor = Vec::new();
        ciborium::into_writer(
            &serde_json::from_value::<ciborium::Value>(document.clone()).unwrap(),
            &mut cbor,
        )
        .unwrap();
        assert!(matches!(detect(&cbor), Ok(StoredAs::Cbor)));
        // Map order is kept.
        assert_eq!(
            serde_json::from_str::<Value>(&line(&cbor)).unwrap(),
            document
        );
        assert_eq!(line(b"---\na: 1\nb: [x]\n"), r#"{"a":1,"b":["x"]}"#);
        assert_eq!(line(b":)\n\x03\xfa\x80a\xc2\xfb"), r#"{"a":1}"#);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_never_yield_a_line_break(source in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(line) = to_json_line(Bytes::from(source)) {
                prop_assert!(!on_one_line(&line).contains(&b'\n'));
            }
        }

        #[test]
        fn pretty_printing_does_not_change_a_document(text in ".{0,20}", number: f64, integer: i64) {
            let document = json!({"text": text, "number": number, "list": [integer, {"x": text}]});
            let pretty = serde_json::to_vec_pretty(&document).unwrap();
            prop_assert_eq!(serde_json::from_str::<Value>(&line(&pretty)).unwrap(), document);
        }
    }
}
