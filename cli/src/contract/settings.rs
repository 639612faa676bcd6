//! Settings in any of the forms a request may give them, brought to dotted keys and strings.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use super::error::Cause;

/// Settings under dotted keys; values are strings, lists of strings, or null for "reset".
pub type FlatSettings = BTreeMap<String, Value>;

/// Settings as one JSON object in a text.
pub fn flatten_raw(raw: &RawValue) -> Result<FlatSettings, Cause> {
    let value = serde_json::from_str(raw.get())
        .map_err(|error| Cause::new("parse_exception", error.to_string()))?;
    let mut flat = FlatSettings::new();
    flatten_into(&mut flat, "", value)?;
    Ok(flat)
}

/// Adds `value` under `path`, nested objects under dotted keys, scalars as strings.
pub fn flatten_into(flat: &mut FlatSettings, path: &str, value: Value) -> Result<(), Cause> {
    let leaf = match value {
        Value::Object(members) => {
            for (key, child) in members {
                let path = if path.is_empty() {
                    key
                } else {
                    format!("{path}.{key}")
                };
                flatten_into(flat, &path, child)?;
            }
            return Ok(());
        }
        Value::Array(items) => {
            let texts = items.into_iter().map(|item| {
                scalar_text(&item).map(Value::from).ok_or_else(|| {
                    Cause::new(
                        "illegal_state_exception",
                        "only value lists are allowed in serialized settings",
                    )
                })
            });
            Value::Array(texts.collect::<Result<_, _>>()?)
        }
        other => scalar_text(&other).map_or(Value::Null, Value::from),
    };
    flat.insert(path.to_owned(), leaf);
    Ok(())
}

/// A scalar as OpenSearch's settings store it; `None` for null, lists and objects.
pub fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(switch) => Some(switch.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
