//! A mapping that takes documents which the leader took under an earlier one. Pure.
//!
//! The leader keeps and serves a document that its mapping of today would refuse: one whose fields
//! were unknown before `dynamic` became `strict`, whose values did not matter before a field got a
//! type, or were ignored as malformed. A follower has it parsed by today's mapping.

use serde_json::{Map, Value, json};

use crate::write::SHAPES;

/// Malformed values of these can be ignored, and without a trace in the mapping afterwards.
const NUMBERS: &[&str] = &[
    "long",
    "integer",
    "short",
    "byte",
    "double",
    "float",
    "half_float",
    "scaled_float",
    "unsigned_long",
];
const DATES_AND_ADDRESSES: &[&str] = &["date", "date_nanos", "ip"];
/// Longer values may not fit Lucene's terms of 32,766 bytes: of a UTF-16 unit come up to three.
const KEYWORDS: &[&str] = &["keyword", "wildcard"];
const LONGEST_KEYWORD: u64 = 32_766 / 3;

/// The mapping with everything ignored that can be; shapes only if it `is_thorough`.
pub(super) fn relaxed(mapping: &Value, is_thorough: bool) -> Value {
    let mut relaxed = mapping.clone();
    if let Some(root) = relaxed.as_object_mut() {
        relax_object(root, is_thorough);
    }
    relaxed
}

/// The mapping as it is to be put so that nothing is relaxed any more.
pub(super) fn exact(mapping: &Value, was_thorough: bool) -> Value {
    let mut exact = mapping.clone();
    if was_thorough && let Some(root) = exact.as_object_mut() {
        for_fields(root, &mut |field| {
            if is_one_of(field, SHAPES) {
                field
                    .entry("ignore_malformed")
                    .or_insert_with(|| json!(false));
            }
        });
    }
    exact
}

/// Whether an object of the mapping says what becomes of fields that it does not know. One that
/// never has said so maps them all; and one that says so may have said something else before, under
/// which documents were taken whose fields the follower must not map by itself.
pub(super) fn has_dynamic(mapping: &Value) -> bool {
    let Some(object) = mapping.as_object() else {
        return false;
    };
    let below = |properties: &Value| {
        properties
            .as_object()
            .is_some_and(|fields| fields.values().any(has_dynamic))
    };
    object.contains_key("dynamic") || object.get("properties").is_some_and(below)
}

fn relax_object(object: &mut Map<String, Value>, is_thorough: bool) {
    for_objects(object, &mut |object| {
        if let Some(dynamic) = object.get_mut("dynamic") {
            *dynamic = json!("false");
        }
    });
    for_fields(object, &mut |field| relax_field(field, is_thorough));
}

fn relax_field(field: &mut Map<String, Value>, is_thorough: bool) {
    if is_one_of(field, NUMBERS) {
        field.insert("ignore_malformed".to_owned(), json!(true));
        field.insert("coerce".to_owned(), json!(true));
    } else if is_one_of(field, DATES_AND_ADDRESSES) || (is_thorough && is_one_of(field, SHAPES)) {
        field.insert("ignore_malformed".to_owned(), json!(true));
    } else if is_one_of(field, KEYWORDS) {
        let longest = field.get("ignore_above").and_then(Value::as_u64);
        let longest = longest.unwrap_or(LONGEST_KEYWORD).min(LONGEST_KEYWORD);
        field.insert("ignore_above".to_owned(), json!(longest));
    }
}

fn is_one_of(field: &Map<String, Value>, kinds: &[&str]) -> bool {
    let kind = field.get("type").and_then(Value::as_str);
    kind.is_some_and(|kind| kinds.contains(&kind))
}

fn children<'a>(
    parent: &'a mut Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let children = parent.get_mut(key).and_then(Value::as_object_mut);
    children
        .into_iter()
        .flat_map(Map::values_mut)
        .filter_map(Value::as_object_mut)
}

/// The root, and every object below it.
fn for_objects(object: &mut Map<String, Value>, change: &mut impl FnMut(&mut Map<String, Value>)) {
    change(object);
    for child in children(object, "properties") {
        for_objects(child, change);
    }
}

/// Every field below an object, and every further way in which it is indexed.
fn for_fields(object: &mut Map<String, Value>, change: &mut impl FnMut(&mut Map<String, Value>)) {
    for key in ["properties", "fields"] {
        for child in children(object, key) {
            change(child);
            for_fields(child, change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_ignored_is_ignored_at_every_depth() {
        let mapping = json!({
            "dynamic": "strict",
            "properties": {
                "n": {"type": "long", "coerce": false},
                "when": {"type": "date", "format": "yyyy", "ignore_malformed": false},
                "text": {"type": "text", "fields": {
                    "n": {"type": "half_float"},
                    "raw": {"type": "keyword", "ignore_above": 256},
                }},
                "deep": {"type": "nested", "dynamic": "true", "properties": {
                    "ip": {"type": "ip"},
                    "k": {"type": "keyword"},
                }},
                "at": {"type": "geo_point"},
                "flag": {"type": "boolean"},
            },
        });
        let expected = json!({
            "dynamic": "false",
            "properties": {
                "n": {"type": "long", "coerce": true, "ignore_malformed": true},
                "when": {"type": "date", "format": "yyyy", "ignore_malformed": true},
                "text": {"type": "text", "fields": {
                    "n": {"type": "half_float", "ignore_malformed": true, "coerce": true},
                    "raw": {"type": "keyword", "ignore_above": 256},
                }},
                "deep": {"type": "nested", "dynamic": "false", "properties": {
                    "ip": {"type": "ip", "ignore_malformed": true},
                    "k": {"type": "keyword", "ignore_above": 10_922},
                }},
                "at": {"type": "geo_point"},
                "flag": {"type": "boolean"},
            },
        });
        assert_eq!(relaxed(&mapping, false), expected);
        assert_eq!(exact(&mapping, false), mapping);
        assert_eq!(
            relaxed(&mapping, true)["properties"]["at"]["ignore_malformed"],
            true
        );
        assert_eq!(
            exact(&mapping, true)["properties"]["at"]["ignore_malformed"],
            false
        );
    }

    /// A field may be called as what says something of a field.
    #[test]
    fn fields_named_like_parameters_are_fields() {
        let mapping = json!({"properties": {
            "dynamic": {"type": "keyword"},
            "properties": {"properties": {"type": {"type": "byte"}}},
        }});
        assert!(!has_dynamic(&mapping));
        let relaxed = relaxed(&mapping, false);
        assert_eq!(
            relaxed["properties"]["properties"]["properties"]["type"]["ignore_malformed"],
            true
        );
        assert_eq!(relaxed["properties"]["dynamic"]["type"], "keyword");
        let below = json!({"properties": {"o": {"properties": {"p": {"dynamic": "true"}}}}});
        assert!(has_dynamic(&below));
    }
}
