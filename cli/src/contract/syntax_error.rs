//! Jackson's words for JSON that is broken, from serde_json's finding and a look at the text around
//! it.

use http::StatusCode;
use serde_json::error::Category;

use super::error::{ApiError, Cause};

const END_OF_INPUT: &str = "unexpected_end_of_input_exception";
const PARSE: &str = "json_parse_exception";
/// Jackson's own exception beneath OpenSearch's `json_parse_exception`.
const STREAM_READ: &str = "stream_read_exception";
const SOURCE: &str =
    "[Source: REDACTED (`StreamReadFeature.INCLUDE_SOURCE_IN_LOCATION` disabled); byte offset: #";

/// The answer to a body that serde_json could not read.
pub fn describe(body: &[u8], error: &serde_json::Error) -> ApiError {
    if error.classify() == Category::Eof {
        let (token, start) = last_word(body);
        if !token.is_empty() && !matches!(token, "true" | "false" | "null") {
            return unrecognized(token, start);
        }
        let (error_type, words) = describe_end(body);
        return jackson(error_type, &words, body.len());
    }
    let message = error.to_string();
    let offset = offset_of(body, error.line(), error.column());
    if message.starts_with("invalid type") {
        return ApiError::parse(message);
    }
    let character = body.get(offset).copied().unwrap_or_default();
    let unexpected = |expectation: &str| {
        format!(
            "Unexpected character ('{}' (code {character})): was expecting {expectation}",
            char::from(character)
        )
    };
    let words =
        if message.starts_with("key must be a string") || message.starts_with("trailing comma") {
            unexpected("double-quote to start property name")
        } else if message.starts_with("expected `:`") {
            unexpected("a colon to separate property name and value")
        } else if message.starts_with("expected `,` or `}`") {
            unexpected("comma to separate Object entries")
        } else if message.starts_with("expected `,` or `]`") {
            unexpected("comma to separate Array entries")
        } else if message.starts_with("expected value") || message.starts_with("expected ident") {
            let (token, start) = token_around(body, offset);
            return unrecognized(&token, start);
        } else {
            message
        };
    jackson(PARSE, &words, offset)
}

fn unrecognized(token: &str, start: usize) -> ApiError {
    let words = format!(
        "Unrecognized token '{token}': was expecting (JSON String, Number, Array, Object or token \
         'null', 'true' or 'false')"
    );
    jackson(PARSE, &words, start)
}

/// The letters at the end of the text, outside of any string that was left open, and where they
/// start.
fn last_word(body: &[u8]) -> (&str, usize) {
    let start = body
        .iter()
        .rposition(|byte| !byte.is_ascii_lowercase())
        .map_or(0, |position| position + 1);
    let quotes = body[..start].iter().filter(|byte| **byte == b'"').count();
    match std::str::from_utf8(&body[start..]) {
        Ok(word) if quotes % 2 == 0 => (word, start),
        _ => ("", start),
    }
}

/// The same property twice in one object.
pub fn duplicate(property: &str, offset: usize) -> ApiError {
    jackson(
        PARSE,
        &format!("Duplicate Object property \"{property}\""),
        offset,
    )
}

fn jackson(error_type: &str, words: &str, offset: usize) -> ApiError {
    let reason = format!("{words}\n at {SOURCE}{offset}]");
    let inner = if error_type == PARSE {
        STREAM_READ
    } else {
        error_type
    };
    let cause = Cause::new(error_type, reason.as_str()).with_cause(Cause::new(inner, reason));
    ApiError::from_cause(StatusCode::BAD_REQUEST, cause)
}

/// What was open when the text ended.
fn describe_end(body: &[u8]) -> (&'static str, String) {
    let mut open: Vec<u8> = Vec::new();
    let mut before_string = 0;
    let mut last = 0;
    let mut in_string = false;
    let mut escaped = false;
    for byte in body.iter().copied() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => {
                in_string = true;
                before_string = last;
            }
            b'{' | b'[' => open.push(byte),
            b'}' | b']' => {
                open.pop();
            }
            _ => {}
        }
        if !byte.is_ascii_whitespace() {
            last = byte;
        }
    }
    let container = if open.last() == Some(&b'[') {
        "Array"
    } else {
        "Object"
    };
    let is_key = container == "Object" && matches!(before_string, b'{' | b',');
    let within = format!("Unexpected end-of-input within/between {container} entries");
    if in_string {
        let place = if is_key {
            "property name"
        } else {
            "VALUE_STRING"
        };
        return (END_OF_INPUT, format!("Unexpected end-of-input in {place}"));
    }
    match last {
        b',' => (PARSE, within),
        b':' => (END_OF_INPUT, within),
        b'"' if is_key => (END_OF_INPUT, within),
        _ => (
            END_OF_INPUT,
            format!(
                "Unexpected end-of-input: expected close marker for {container} (start marker at \
                 {SOURCE}UNKNOWN])"
            ),
        ),
    }
}

/// Byte offset of serde_json's one-based line and column.
fn offset_of(body: &[u8], line: usize, column: usize) -> usize {
    let line_start = match line.checked_sub(2) {
        None => 0,
        Some(earlier) => body
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n')
            .nth(earlier)
            .map_or(0, |(position, _)| position + 1),
    };
    line_start + column.saturating_sub(1)
}

/// The word around `offset`, and where it starts.
fn token_around(body: &[u8], offset: usize) -> (String, usize) {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte == b'$';
    let offset = offset.min(body.len());
    let start = body[..offset]
        .iter()
        .rposition(|byte| !is_word(byte))
        .map_or(0, |position| position + 1);
    let end = body[offset..]
        .iter()
        .position(|byte| !is_word(byte))
        .map_or(body.len(), |length| offset + length);
    let end = end.max((start + 1).min(body.len()));
    (
        String::from_utf8_lossy(&body[start..end]).into_owned(),
        start,
    )
}
