//! The answer to a bulk request of which items were refused: written as it is sent, item by item,
//! from the request and the follower cluster's answer to the rest.

use std::ops::Range;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::budget::Charge;
use super::bulk::{self, Operation};
use super::judge::Judge;
use crate::http::api::render::{self, Format, Rendering};
use shardline::contract::ApiError;
use shardline::contract::error::Cause;
use shardline::contract::object_parser::{Members, text_of};

/// How much of the answer is written at a time, in bytes.
const PIECE: usize = 64 << 10;
/// Answers of more items are always compact JSON: other forms are made of a tree of all items.
const MAX_SHAPED: usize = 10_000;

/// Writes the answer.
pub(super) struct Answer {
    /// The request's body.
    pub content: Bytes,
    pub default_index: Option<String>,
    pub judge: Judge,
    /// What the follower cluster answered for the items that were passed on, if any were.
    pub cluster: Option<ClusterAnswer>,
    pub rendering: Rendering,
    /// How many items there are.
    pub items: usize,
    /// Given back once the answer is written.
    pub _charge: Charge,
}

/// The follower cluster's answer to a bulk request, cut into its items.
pub(super) struct ClusterAnswer {
    body: Bytes,
    /// All but the items.
    head: Map<String, Value>,
    items: Vec<Range<usize>>,
}

/// Why the follower cluster's answer cannot be merged.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    #[error("the follower cluster's bulk answer is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the follower cluster's bulk answer has no list of items")]
    NoItems,
    #[error("the follower cluster answered {received} bulk items where {sent} were sent")]
    Count { sent: usize, received: usize },
}

impl ClusterAnswer {
    /// # Errors
    /// It is no bulk answer, or holds another number of items than was sent.
    pub(super) fn read(body: Bytes, sent: usize) -> Result<Self, AnswerError> {
        let Members(members) = serde_json::from_slice(&body)?;
        let mut head = Map::new();
        let mut items = None;
        for (key, value) in members {
            let key = text_of(key).unwrap_or_default();
            if key == "items" {
                let listed: Vec<&RawValue> = serde_json::from_str(value.get())?;
                let place = |item: &&RawValue| {
                    let start = item.get().as_ptr().addr() - body.as_ptr().addr();
                    start..start + item.get().len()
                };
                items = Some(listed.iter().map(place).collect::<Vec<_>>());
            } else {
                head.insert(key.into_owned(), serde_json::from_str(value.get())?);
            }
        }
        let items = items.ok_or(AnswerError::NoItems)?;
        if items.len() != sent {
            let received = items.len();
            return Err(AnswerError::Count { sent, received });
        }
        Ok(Self { body, head, items })
    }
}

impl Answer {
    pub(super) fn respond(self) -> Response {
        let is_compact = !self.rendering.pretty && self.rendering.format == Format::Json;
        if !is_compact && self.items <= MAX_SHAPED {
            return self.shaped();
        }
        let pieces = Pieces::new(self).map(Ok::<_, std::convert::Infallible>);
        let mut response = Response::new(Body::from_stream(futures::stream::iter(pieces)));
        let json = HeaderValue::from_static("application/json; charset=UTF-8");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }

    fn shaped(mut self) -> Response {
        let rendering = std::mem::take(&mut self.rendering);
        let text: Vec<u8> = Pieces::new(self).flatten().collect();
        match serde_json::from_slice(&text) {
            Ok(answer) => render::answer(StatusCode::OK, &answer, &rendering),
            Err(error) => {
                let reason = format!("the bulk answer cannot be printed: {error}");
                render::refusal(&ApiError::illegal_state(reason), &rendering)
            }
        }
    }

    fn head(&self) -> Map<String, Value> {
        let mut head = match &self.cluster {
            Some(answered) => answered.head.clone(),
            None => Map::from_iter([("took".to_owned(), json!(0))]),
        };
        head.insert("errors".to_owned(), Value::Bool(true));
        head
    }
}

/// The text of an answer, in pieces.
struct Pieces {
    answer: Answer,
    /// Where in the request the next item begins.
    position: usize,
    /// How many of the cluster's items have been written.
    answered: usize,
    /// Whether the filter leaves nothing but items.
    is_bare: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    FirstItem,
    Items,
    End,
}

impl Pieces {
    fn new(answer: Answer) -> Self {
        Self {
            answer,
            position: 0,
            answered: 0,
            is_bare: false,
            state: State::Head,
        }
    }

    /// The beginning, before the items. With a filter what it leaves of it.
    fn write_head(&mut self, text: &mut Vec<u8>) {
        let head = Value::Object(self.answer.head());
        let head = match &self.answer.rendering.filter {
            Some(filter) => filter.apply(&head),
            None => head,
        };
        self.is_bare = head.as_object().is_some_and(Map::is_empty);
        text.extend(head.to_string().into_bytes());
        text.pop();
    }

    fn open_items(&mut self, text: &mut Vec<u8>) {
        if self.state == State::Items {
            text.push(b',');
        } else {
            let comma = if self.is_bare { "" } else { "," };
            text.extend_from_slice(format!("{comma}\"items\":[").as_bytes());
            self.state = State::Items;
        }
    }

    /// Writes items until there is enough for a piece or none is left.
    fn write_items(&mut self, text: &mut Vec<u8>) {
        let content = self.answer.content.clone();
        let mut items = bulk::items(&content).starting_at(self.position);
        while text.len() < PIECE {
            // Every item was read before.
            let Some(Ok(item)) = items.next() else {
                if self.state == State::Items {
                    text.push(b']');
                }
                text.push(b'}');
                self.state = State::End;
                return;
            };
            self.position = item.range.end;
            let target = item
                .index
                .as_deref()
                .or(self.answer.default_index.as_deref());
            let mut written = Vec::new();
            match target.and_then(|target| self.answer.judge.blocks_document(target)) {
                Some(index) => {
                    write_refused(&mut written, item.operation, &index, item.id.as_deref());
                }
                None => written.extend_from_slice(self.next_answered()),
            }
            let Some(written) = self.filtered(written) else {
                continue;
            };
            self.open_items(text);
            text.extend(written);
        }
    }

    fn next_answered(&mut self) -> &[u8] {
        let Some(cluster) = &self.answer.cluster else {
            return b"null";
        };
        let place = cluster.items.get(self.answered).cloned();
        self.answered += 1;
        place.map_or(b"null", |place| &cluster.body[place])
    }

    /// What `filter_path` leaves of an item.
    fn filtered(&self, item: Vec<u8>) -> Option<Vec<u8>> {
        let Some(filter) = &self.answer.rendering.filter else {
            return Some(item);
        };
        let item: Value = serde_json::from_slice(&item).ok()?;
        let left = filter.apply(&json!({"items": [item]}));
        let item = left.pointer("/items/0")?;
        Some(item.to_string().into_bytes())
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut text = Vec::with_capacity(PIECE + 4096);
        match self.state {
            State::Head => {
                self.write_head(&mut text);
                self.state = State::FirstItem;
            }
            State::FirstItem | State::Items => {}
            State::End => return None,
        }
        self.write_items(&mut text);
        Some(Bytes::from(text))
    }
}

/// The item for a write to a followed index. OpenSearch shows the id it would have made where the
/// request gave none; here that is null.
fn write_refused(text: &mut Vec<u8>, operation: Operation, index: &str, id: Option<&str>) {
    let Cause {
        error_type, reason, ..
    } = ApiError::block_cause(&[index]);
    let quoted = |text: &str| Value::from(text).to_string();
    let (name, id) = (operation.name(), id.map_or("null".to_owned(), quoted));
    let (index, kind, reason) = (quoted(index), quoted(&error_type), quoted(&reason));
    let error = format!(r#"{{"type":{kind},"reason":{reason}}}"#);
    let item =
        format!(r#"{{"{name}":{{"_index":{index},"_id":{id},"status":403,"error":{error}}}}}"#);
    text.extend(item.into_bytes());
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::super::budget::Budget;
    use super::*;

    fn answer(content: &str, cluster: Option<ClusterAnswer>, parameters: &str) -> Value {
        let query = crate::http::api::query::Query::parse(Some(parameters));
        let answer = Answer {
            content: Bytes::copy_from_slice(content.as_bytes()),
            default_index: Some("followed".to_owned()),
            judge: Judge::of(&["followed"]),
            cluster,
            rendering: query.rendering(),
            items: bulk::items(content.as_bytes()).count(),
            _charge: Budget::ample().open(),
        };
        let text: Vec<u8> = Pieces::new(answer).flatten().collect();
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn an_answer_of_another_length_is_not_merged() {
        let body = br#"{"took":1,"errors":false,"items":[]}"#;
        let read = |body: &'static [u8], sent| ClusterAnswer::read(Bytes::from_static(body), sent);
        let Err(AnswerError::Count { sent, received }) = read(body, 1) else {
            panic!("merged");
        };
        assert_eq!((sent, received), (1, 0));
        assert!(matches!(read(b"{}", 0), Err(AnswerError::NoItems)));
    }

    #[test]
    fn a_filter_is_applied_to_each_item() {
        let content = "{\"delete\":{\"_id\":\"1\"}}\n";
        assert_eq!(
            answer(content, None, "filter_path=errors,items.*.status"),
            json!({"errors": true, "items": [{"delete": {"status": 403}}]})
        );
        assert_eq!(
            answer(content, None, "filter_path=took"),
            json!({"took": 0})
        );
        assert_eq!(
            answer(content, None, "filter_path=items.*._id"),
            json!({"items": [{"delete": {"_id": "1"}}]})
        );
        assert_eq!(answer(content, None, "filter_path=none"), json!({}));
    }

    proptest! {
        #[test]
        fn order_and_count_are_kept(
            plan in prop::collection::vec((0..4usize, any::<bool>()), 1..40),
        ) {
            let mut body = String::new();
            let mut answered = Vec::new();
            for (number, (operation, blocked)) in plan.iter().enumerate() {
                let name = ["index", "create", "update", "delete"][*operation];
                let index = if *blocked { "followed" } else { "own" };
                writeln!(body, r#"{{"{name}":{{"_index":"{index}","_id":"{number}"}}}}"#).unwrap();
                if name != "delete" {
                    writeln!(body, r#"{{"n":{number}}}"#).unwrap();
                }
                if !blocked {
                    answered.push(json!({name: {"_id": number.to_string(), "status": 200}}));
                }
            }
            let sent = answered.len();
            let cluster = json!({"took": 3, "errors": false, "items": answered}).to_string();
            let cluster = ClusterAnswer::read(Bytes::from(cluster), sent).unwrap();
            let merged = answer(&body, Some(cluster), "");
            let items = merged["items"].as_array().unwrap();
            prop_assert_eq!(items.len(), plan.len());
            for (number, item) in items.iter().enumerate() {
                let (name, content) = item.as_object().unwrap().iter().next().unwrap();
                let operation = ["index", "create", "update", "delete"][plan[number].0];
                prop_assert_eq!(name.as_str(), operation);
                prop_assert_eq!(content["_id"].as_str().unwrap(), number.to_string());
                prop_assert_eq!(&content["status"], &json!(if plan[number].1 { 403 } else { 200 }));
            }
        }
    }
}
