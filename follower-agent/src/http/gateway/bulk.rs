//! The bulk format: cut into items without reading the documents, and answers of two parts woven
//! into one.

use std::borrow::Cow;
use std::ops::Range;

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use shardline::contract::ApiError;
use shardline::contract::error::Cause;
use shardline::contract::object_parser::{Members, text_of};

/// What an item does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Index,
    Create,
    Update,
    Delete,
}

impl Operation {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "index" => Some(Self::Index),
            "create" => Some(Self::Create),
            "update" => Some(Self::Update),
            "delete" => Some(Self::Delete),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// One action with its document, if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item<'a> {
    pub operation: Operation,
    /// As the action line names it; without, the request's default index is meant.
    pub index: Option<Cow<'a, str>>,
    pub id: Option<Cow<'a, str>>,
    /// The item's bytes in the body, its last newline included.
    pub range: Range<usize>,
}

/// Cuts a bulk body into its items.
///
/// # Errors
/// What OpenSearch would refuse, and whatever else cannot be read for certain: no item may pass
/// unjudged.
pub(crate) fn split(body: &[u8]) -> Result<Vec<Item<'_>>, ApiError> {
    let mut items = Vec::new();
    let mut line_number = 0;
    let mut start = 0;
    while start < body.len() {
        line_number += 1;
        let action_end = line_end(body, start)?;
        let line = body[start..action_end].trim_ascii();
        if line.is_empty() {
            start = action_end;
            continue;
        }
        let (operation, index, id) = parse_action(line, line_number)?;
        let mut end = action_end;
        if operation != Operation::Delete {
            if action_end == body.len() {
                return Err(malformed(
                    line_number,
                    "expected a document on the next line",
                ));
            }
            line_number += 1;
            end = line_end(body, action_end)?;
        }
        items.push(Item {
            operation,
            index,
            id,
            range: start..end,
        });
        start = end;
    }
    Ok(items)
}

/// Position after the newline that ends the line at `start`.
fn line_end(body: &[u8], start: usize) -> Result<usize, ApiError> {
    match body[start..].iter().position(|byte| *byte == b'\n') {
        Some(length) => Ok(start + length + 1),
        None => Err(ApiError::illegal_argument(
            "The bulk request must be terminated by a newline [\\n]",
        )),
    }
}

fn malformed(line_number: usize, what: &str) -> ApiError {
    ApiError::illegal_argument(format!(
        "Malformed action/metadata line [{line_number}], {what}"
    ))
}

type Action<'a> = (Operation, Option<Cow<'a, str>>, Option<Cow<'a, str>>);

fn parse_action(line: &[u8], line_number: usize) -> Result<Action<'_>, ApiError> {
    let object = |text| -> Result<Members<'_>, ApiError> {
        serde_json::from_slice(text)
            .map_err(|error| malformed(line_number, &format!("expected an object: {error}")))
    };
    let Members(outer) = object(line)?;
    let [(action, metadata)] = outer.as_slice() else {
        return Err(malformed(line_number, "expected one action"));
    };
    let name = text_of(action).unwrap_or_default();
    let Some(operation) = Operation::parse(&name) else {
        let words =
            format!("expected field [create], [delete], [index] or [update] but found [{name}]");
        return Err(malformed(line_number, &words));
    };
    let Members(fields) = object(metadata.get().as_bytes())?;
    let mut names: Vec<Cow<'_, str>> = Vec::with_capacity(fields.len());
    let (mut index, mut id) = (None, None);
    for (key, value) in fields {
        let key = text_of(key).unwrap_or_default();
        if names.contains(&key) {
            return Err(malformed(line_number, &format!("duplicate field [{key}]")));
        }
        match key.as_ref() {
            "_index" => index = scalar(value, line_number)?,
            "_id" => id = scalar(value, line_number)?,
            _ => {}
        }
        names.push(key);
    }
    Ok((operation, index, id))
}

/// A string, or a number's own text; null counts as absent.
fn scalar(raw: &RawValue, line_number: usize) -> Result<Option<Cow<'_, str>>, ApiError> {
    match raw.get() {
        "null" => Ok(None),
        text if text.starts_with(['{', '[']) => {
            Err(malformed(line_number, "expected a simple value"))
        }
        text => Ok(Some(text_of(raw).unwrap_or(Cow::Borrowed(text)))),
    }
}

/// The item of the answer for a write to followed index `index`. OpenSearch shows the id it would
/// have made where the request gave none; here that is null.
pub(super) fn blocked_item(operation: Operation, index: &str, id: Option<&str>) -> Value {
    let Cause {
        error_type, reason, ..
    } = ApiError::block_cause(&[index]);
    let error = json!({"type": error_type, "reason": reason});
    let mut item = Map::new();
    item.insert(
        operation.name().to_owned(),
        json!({"_index": index, "_id": id, "status": 403, "error": error}),
    );
    Value::Object(item)
}

/// The answer when every item is blocked.
pub(super) fn all_blocked(items: Vec<Value>) -> Value {
    json!({"took": 0, "errors": true, "items": items})
}

/// Puts blocked items (`Some`) and the answers to the forwarded ones (`None`, taken in turn) back
/// into the order of the request.
///
/// # Errors
/// The answer is no bulk answer, or holds another number of items than was sent.
pub(crate) fn merge(answer: &[u8], outcomes: Vec<Option<Value>>) -> Result<Value, MergeError> {
    let mut merged: Map<String, Value> = serde_json::from_slice(answer)?;
    // Not `remove`, which would move the last key into its place.
    let Some(Value::Array(answered)) = merged.shift_remove("items") else {
        return Err(MergeError::NoItems);
    };
    let sent = outcomes.iter().filter(|outcome| outcome.is_none()).count();
    if answered.len() != sent {
        return Err(MergeError::Count {
            sent,
            received: answered.len(),
        });
    }
    let mut answered = answered.into_iter();
    let items = outcomes
        .into_iter()
        .map(|outcome| outcome.or_else(|| answered.next()).unwrap_or(Value::Null))
        .collect();
    merged.insert("errors".to_owned(), Value::Bool(true));
    merged.insert("items".to_owned(), Value::Array(items));
    Ok(Value::Object(merged))
}

/// Why the follower cluster's answer cannot be merged.
#[derive(Debug, thiserror::Error)]
pub(super) enum MergeError {
    #[error("the follower cluster's bulk answer is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the follower cluster's bulk answer has no list of items")]
    NoItems,
    #[error("the follower cluster answered {received} bulk items where {sent} were sent")]
    Count { sent: usize, received: usize },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn items_are_cut_at_their_lines() {
        let body = b"{\"index\":{\"_index\":\"f\\u002dro\",\"_id\":5}}\r\n{\"x\":1}\n\n{\"delete\":{\"_id\":\"a\"}}\n";
        let items = split(body).unwrap();
        assert_eq!(items[0].operation, Operation::Index);
        assert_eq!(items[0].index.as_deref(), Some("f-ro"));
        assert_eq!(items[0].id.as_deref(), Some("5"));
        assert_eq!(
            (items[1].index.as_deref(), items[1].id.as_deref()),
            (None, Some("a"))
        );
        assert_eq!(
            &body[items[1].range.clone()],
            b"{\"delete\":{\"_id\":\"a\"}}\n"
        );
    }

    #[test]
    fn what_cannot_be_read_for_certain_is_refused() {
        for body in [
            "{\"index\":{}}\n{}",
            "{\"index\":{}}\n",
            "[]\n",
            "{\"index\":{}} x\n{}\n",
            "{\"index\":{\"_index\":\"a\",\"_index\":\"b\"}}\n{}\n",
            "{\"index\":{},\"create\":{}}\n{}\n",
            "{\"upsert\":{}}\n{}\n",
            "{\"index\":{\"_index\":[\"f\"]}}\n{}\n",
        ] {
            assert!(split(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn an_answer_of_another_length_is_not_merged() {
        let answer = br#"{"took":1,"errors":false,"items":[]}"#;
        assert!(matches!(
            merge(answer, vec![None]),
            Err(MergeError::Count {
                sent: 1,
                received: 0
            })
        ));
        assert!(matches!(merge(b"{}", vec![]), Err(MergeError::NoItems)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = split(&body);
        }

        #[test]
        fn splitting_and_merging_keeps_order_and_count(plan in prop::collection::vec((0..4usize, any::<bool>()), 1..40)) {
            let mut body = String::new();
            for (number, (operation, blocked)) in plan.iter().enumerate() {
                let name = ["index", "create", "update", "delete"][*operation];
                let index = if *blocked { "followed" } else { "own" };
                body.push_str(&format!("{{\"{name}\":{{\"_index\":\"{index}\",\"_id\":\"{number}\"}}}}\n"));
                if name != "delete" {
                    body.push_str(&format!("{{\"n\":{number}}}\n"));
                }
            }
            let items = split(body.as_bytes()).unwrap();
            prop_assert_eq!(items.len(), plan.len());
            let whole: Vec<u8> = items.iter().flat_map(|item| body.as_bytes()[item.range.clone()].to_vec()).collect();
            prop_assert_eq!(whole, body.as_bytes());
            let is_blocked = |item: &Item<'_>| item.index.as_deref() == Some("followed");
            let answered: Vec<Value> = items.iter().filter(|item| !is_blocked(item))
                .map(|item| json!({item.operation.name(): {"_id": item.id, "status": 200}})).collect();
            let outcomes = items.iter().map(|item| {
                is_blocked(item).then(|| blocked_item(item.operation, "followed", item.id.as_deref()))
            }).collect();
            let answer = json!({"took": 3, "errors": false, "items": answered}).to_string();
            let merged = merge(answer.as_bytes(), outcomes).unwrap();
            let merged_items = merged["items"].as_array().unwrap();
            prop_assert_eq!(merged_items.len(), plan.len());
            for (number, item) in merged_items.iter().enumerate() {
                let (name, content) = item.as_object().unwrap().iter().next().unwrap();
                prop_assert_eq!(name.as_str(), ["index", "create", "update", "delete"][plan[number].0]);
                prop_assert_eq!(content["_id"].as_str().unwrap(), number.to_string());
                prop_assert_eq!(&content["status"], &json!(if plan[number].1 { 403 } else { 200 }));
            }
        }
    }
}
