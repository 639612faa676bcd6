//! The bulk format: read item by item, without the documents, and without holding what was read.

use std::borrow::Cow;
use std::ops::Range;

use serde_json::value::RawValue;

use shardline::contract::ApiError;
use shardline::contract::object_parser::{Members, text_of};

/// What an item does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
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

    pub(super) fn name(self) -> &'static str {
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
pub(super) struct Item<'a> {
    pub operation: Operation,
    /// As the action line names it; without, the request's default index is meant.
    pub index: Option<Cow<'a, str>>,
    pub id: Option<Cow<'a, str>>,
    /// The item's bytes in the body, its last newline included.
    pub range: Range<usize>,
}

/// The items of a bulk body, in turn. The one behind an error is not read.
///
/// What OpenSearch would refuse is an error, and whatever else cannot be read for certain: no item
/// may pass unjudged. An action at the end that lacks its document is none, as for OpenSearch.
pub(super) fn items(body: &[u8]) -> Items<'_> {
    Items {
        body,
        position: 0,
        line_number: 0,
    }
}

/// See [`items`].
#[derive(Clone, Debug)]
pub(super) struct Items<'a> {
    body: &'a [u8],
    position: usize,
    line_number: usize,
}

impl<'a> Items<'a> {
    /// The items behind `position`, where one of them begins.
    pub(super) fn starting_at(mut self, position: usize) -> Self {
        self.position = position;
        self
    }

    fn read(&mut self) -> Result<Option<Item<'a>>, ApiError> {
        while self.position < self.body.len() {
            let start = self.position;
            self.line_number += 1;
            let action_end = line_end(self.body, start)?;
            self.position = action_end;
            let line = self.body[start..action_end].trim_ascii();
            if line.is_empty() {
                continue;
            }
            let (operation, index, id) = parse_action(line, self.line_number)?;
            if operation != Operation::Delete {
                if action_end == self.body.len() {
                    return Ok(None);
                }
                self.line_number += 1;
                self.position = line_end(self.body, action_end)?;
            }
            return Ok(Some(Item {
                operation,
                index,
                id,
                range: start..self.position,
            }));
        }
        Ok(None)
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>, ApiError>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read().transpose();
        if matches!(read, Some(Err(_))) {
            self.position = self.body.len();
        }
        read
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn items_are_cut_at_their_lines() {
        let body = b"{\"index\":{\"_index\":\"f\\u002dro\",\"_id\":5}}\r\n{\"x\":1}\n\n\
            {\"delete\":{\"_id\":\"a\"}}\n";
        let items: Vec<_> = items(body).map(Result::unwrap).collect();
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
            "[]\n",
            "{\"index\":{}} x\n{}\n",
            "{\"index\":{\"_index\":\"a\",\"_index\":\"b\"}}\n{}\n",
            "{\"index\":{},\"create\":{}}\n{}\n",
            "{\"upsert\":{}}\n{}\n",
            "{\"index\":{\"_index\":[\"f\"]}}\n{}\n",
        ] {
            let read: Result<Vec<_>, _> = items(body.as_bytes()).collect();
            assert!(read.is_err(), "{body}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = items(&body).count();
        }
    }

    #[test]
    fn an_action_without_its_document_is_none() {
        let body = b"{\"delete\":{\"_id\":1}}\n{\"index\":{\"_index\":\"f\"}}\n";
        assert_eq!(items(body).count(), 1);
        assert_eq!(items(b"{\"index\":{}}\n").count(), 0);
        assert_eq!(items(b"\n\n").count(), 0);
    }
}
