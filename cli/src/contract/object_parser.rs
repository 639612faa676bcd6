//! Strict reading of one JSON object, field by field, with the positions and words of OpenSearch's
//! `ObjectParser`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::{ApiError, Cause};
use super::{suggest, syntax_error};

/// The members of an object as they stand in the text, duplicates included.
pub struct Members<'a>(pub Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

/// The text of a JSON string with its escapes resolved; `None` for any other value.
pub fn text_of(raw: &RawValue) -> Option<Cow<'_, str>> {
    let quoted = raw.get();
    match quoted
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    {
        Some(plain) if !plain.contains('\\') => Some(Cow::Borrowed(plain)),
        Some(_) => serde_json::from_str(quoted).ok().map(Cow::Owned),
        None => None,
    }
}

/// A parser with its name in error messages and the fields that it knows.
#[derive(Clone, Copy, Debug)]
pub struct ObjectParser {
    pub name: &'static str,
    pub fields: &'static [&'static str],
}

/// One known field of a parsed object.
pub struct Field<'a> {
    parser: ObjectParser,
    body: &'a [u8],
    pub name: Cow<'a, str>,
    pub value: &'a RawValue,
}

impl ObjectParser {
    /// Reads the object that `body` starts with; what follows it is ignored, as OpenSearch ignores
    /// it.
    pub fn parse<'a>(&self, body: &'a [u8]) -> Result<Vec<Field<'a>>, ApiError> {
        match body.iter().position(|byte| !byte.is_ascii_whitespace()) {
            None => Err(ApiError::x_content_parse(
                1,
                0,
                format!("[{}] Expected START_OBJECT but was: null", self.name),
            )),
            Some(start) if body[start] == b'{' => self.read(body, body),
            Some(start) => {
                let mut values = serde_json::Deserializer::from_slice(body);
                // An array's members come later than the verdict on its opening bracket.
                if body[start] != b'[' {
                    <&RawValue>::deserialize(&mut values)
                        .map_err(|error| syntax_error::describe(body, &error))?;
                }
                let (line, column) = line_and_column(body, start);
                let token = token_name(body[start]);
                Err(ApiError::x_content_parse(
                    line,
                    column,
                    format!("[{}] Expected START_OBJECT but was: {token}", self.name),
                ))
            }
        }
    }

    /// Reads `text`, an object within `body`; positions are those in `body`.
    fn read<'a>(&self, body: &'a [u8], text: &'a [u8]) -> Result<Vec<Field<'a>>, ApiError> {
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let Members(members) = Members::deserialize(&mut deserializer)
            .map_err(|error| syntax_error::describe(body, &error))?;
        let mut fields: Vec<Field<'a>> = Vec::with_capacity(members.len());
        for (key, value) in members {
            let name = text_of(key).unwrap_or_default();
            let key_end = offset_in(body, key) + key.get().len();
            if fields.iter().any(|field| field.name == name) {
                return Err(syntax_error::duplicate(&name, key_end));
            }
            if !self.fields.contains(&name.as_ref()) {
                return Err(self.unknown(body, &name, key, value));
            }
            fields.push(Field {
                parser: *self,
                body,
                name,
                value,
            });
        }
        Ok(fields)
    }

    fn unknown(&self, body: &[u8], name: &str, key: &RawValue, value: &RawValue) -> ApiError {
        let (line, column) = position_of(body, key);
        let hint = suggest::did_you_mean(name, self.fields)
            .map_or_else(String::new, |hint| format!(" {hint}"));
        let error = ApiError::x_content_parse(
            line,
            column,
            format!("[{}] unknown field [{name}]{hint}", self.name),
        );
        // A parser around this one reports the token at which it stopped: the value.
        error.stopped_at(position_of(body, value))
    }
}

impl<'a> Field<'a> {
    pub fn string(&self) -> Result<String, ApiError> {
        text_of(self.value)
            .map(Cow::into_owned)
            .ok_or_else(|| self.unsupported())
    }

    pub fn string_or_null(&self) -> Result<Option<String>, ApiError> {
        if self.value.get() == "null" {
            Ok(None)
        } else {
            self.string().map(Some)
        }
    }

    /// `true`, `false` or the same as a string; an empty string is `false`.
    pub fn boolean(&self) -> Result<bool, ApiError> {
        let text = match self.value.get() {
            literal @ ("true" | "false") => Cow::Borrowed(literal),
            _ => text_of(self.value).ok_or_else(|| self.unsupported())?,
        };
        match text.as_ref() {
            "true" => Ok(true),
            "false" | "" => Ok(false),
            other => {
                let reason = format!(
                    "Failed to parse value [{other}] as only [true] or [false] are allowed."
                );
                Err(self.failed(
                    position_of(self.body, self.value),
                    Cause::new("illegal_argument_exception", reason),
                ))
            }
        }
    }

    /// The fields of a nested object.
    pub fn object(&self, parser: ObjectParser) -> Result<Vec<Field<'a>>, ApiError> {
        self.require_object()?;
        parser
            .read(self.body, self.value.get().as_bytes())
            .map_err(|error| self.wrap(error))
    }

    pub fn require_object(&self) -> Result<(), ApiError> {
        if self.value.get().starts_with('{') {
            Ok(())
        } else {
            Err(self.unsupported())
        }
    }

    /// An error in a nested parser, reported by the parser of this field.
    pub fn wrap(&self, inner: ApiError) -> ApiError {
        let stopped = inner
            .stopping_point()
            .unwrap_or_else(|| position_of(self.body, self.value));
        let root = inner.root();
        let error = self.failed(stopped, inner.into_cause());
        match root {
            Some(root) => error.with_root(root),
            None => error,
        }
    }

    /// `failed to parse field [..]` with what caused it.
    pub fn failed(&self, (line, column): (usize, usize), cause: Cause) -> ApiError {
        let words = format!(
            "[{line}:{column}] [{}] failed to parse field [{}]",
            self.parser.name, self.name
        );
        let cause = Cause::new("x_content_parse_exception", words).with_cause(cause);
        ApiError::from_cause(http::StatusCode::BAD_REQUEST, cause)
    }

    pub fn position(&self) -> (usize, usize) {
        position_of(self.body, self.value)
    }

    fn unsupported(&self) -> ApiError {
        let (line, column) = self.position();
        let token = token_name(self.value.get().bytes().next().unwrap_or_default());
        let words = format!(
            "[{}] {} doesn't support values of type: {token}",
            self.parser.name, self.name
        );
        ApiError::x_content_parse(line, column, words).stopped_at((line, column))
    }
}

fn token_name(first: u8) -> &'static str {
    match first {
        b'{' => "START_OBJECT",
        b'[' => "START_ARRAY",
        b'"' => "VALUE_STRING",
        b't' | b'f' => "VALUE_BOOLEAN",
        b'n' => "VALUE_NULL",
        _ => "VALUE_NUMBER",
    }
}

/// Byte offset of `raw`, a slice of `body`, within it.
fn offset_in(body: &[u8], raw: &RawValue) -> usize {
    (raw.get().as_ptr() as usize)
        .saturating_sub(body.as_ptr() as usize)
        .min(body.len())
}

fn position_of(body: &[u8], raw: &RawValue) -> (usize, usize) {
    line_and_column(body, offset_in(body, raw))
}

/// One-based line and column; a column is a byte, as Jackson counts.
fn line_and_column(body: &[u8], offset: usize) -> (usize, usize) {
    let before = &body[..offset];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let line_start = before
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |position| position + 1);
    (line, offset - line_start + 1)
}
