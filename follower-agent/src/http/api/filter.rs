//! `filter_path`: keeps, or with a leading `-` drops, the parts of an answer that dotted paths with
//! wildcards name.

use serde_json::{Map, Value};
use shardline_common::wildcard::wildcard_match;

/// A parsed `filter_path`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathFilter {
    includes: Vec<Vec<String>>,
    excludes: Vec<Vec<String>>,
}

/// What is left of one pattern at some depth.
type Rest<'a> = &'a [String];

impl PathFilter {
    /// `None` when nothing is filtered.
    pub fn parse(text: &str) -> Option<Self> {
        let mut filter = Self::default();
        for path in text
            .split(',')
            .map(str::trim)
            .filter(|path| !path.is_empty())
        {
            let (list, path) = match path.strip_prefix('-') {
                Some(excluded) => (&mut filter.excludes, excluded),
                None => (&mut filter.includes, path),
            };
            list.push(path.split('.').map(str::to_owned).collect());
        }
        (filter != Self::default()).then_some(filter)
    }

    /// The part of `body` that passes; an empty object when nothing does.
    pub fn apply(&self, body: &Value) -> Value {
        let includes: Vec<Rest<'_>> = self.includes.iter().map(Vec::as_slice).collect();
        let included = match includes.is_empty() {
            true => Some(body.clone()),
            false => keep(body, &includes),
        };
        let excludes: Vec<Rest<'_>> = self.excludes.iter().map(Vec::as_slice).collect();
        match included {
            Some(value) if !excludes.is_empty() => {
                drop_matching(&value, &excludes).unwrap_or_else(empty_object)
            }
            Some(value) => value,
            None => empty_object(),
        }
    }
}

fn empty_object() -> Value {
    Value::Object(Map::new())
}

fn keep(value: &Value, patterns: &[Rest<'_>]) -> Option<Value> {
    match value {
        Value::Object(object) => {
            let mut kept = Map::new();
            for (key, child) in object {
                let next = descend(patterns, key);
                if next.iter().any(|rest| rest.is_empty()) {
                    kept.insert(key.clone(), child.clone());
                } else if let Some(part) = keep_nested(child, &next) {
                    kept.insert(key.clone(), part);
                }
            }
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        Value::Array(items) => {
            let kept: Vec<Value> = items
                .iter()
                .filter_map(|item| keep_nested(item, patterns))
                .collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        _ => None,
    }
}

fn keep_nested(value: &Value, patterns: &[Rest<'_>]) -> Option<Value> {
    if patterns.is_empty() {
        None
    } else {
        keep(value, patterns)
    }
}

fn drop_matching(value: &Value, patterns: &[Rest<'_>]) -> Option<Value> {
    match value {
        Value::Object(object) => {
            let mut kept = Map::new();
            for (key, child) in object {
                let next = descend(patterns, key);
                if next.iter().any(|rest| rest.is_empty()) {
                    continue;
                }
                if let Some(part) = drop_matching(child, &next) {
                    kept.insert(key.clone(), part);
                }
            }
            (!kept.is_empty() || object.is_empty()).then_some(Value::Object(kept))
        }
        Value::Array(items) => Some(Value::Array(
            items
                .iter()
                .filter_map(|item| drop_matching(item, patterns))
                .collect(),
        )),
        other => Some(other.clone()),
    }
}

/// The patterns that still apply below `key`; an empty one has matched whole.
fn descend<'a>(patterns: &[Rest<'a>], key: &str) -> Vec<Rest<'a>> {
    let mut next = Vec::new();
    for pattern in patterns {
        let Some((head, rest)) = pattern.split_first() else {
            continue;
        };
        if head == "**" {
            next.push(*pattern);
            match rest.split_first() {
                None => next.push(rest),
                Some((after, tail)) if wildcard_match(after, key) => next.push(tail),
                Some(_) => {}
            }
        } else if wildcard_match(head, key) {
            next.push(rest);
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_keep_or_drop() {
        let body = json!({"errors": true, "items": [{"index": {"_id": "1", "status": 403}}, {"delete": {"_id": "2"}}]});
        let cut = |path: &str| PathFilter::parse(path).map(|filter| filter.apply(&body));
        assert_eq!(cut("errors"), Some(json!({"errors": true})));
        assert_eq!(
            cut("items.*.status"),
            Some(json!({"items": [{"index": {"status": 403}}]}))
        );
        assert_eq!(
            cut("**._id"),
            Some(json!({"items": [{"index": {"_id": "1"}}, {"delete": {"_id": "2"}}]}))
        );
        assert_eq!(cut("-items"), Some(json!({"errors": true})));
        assert_eq!(cut("nothing"), Some(json!({})));
        assert_eq!(cut(""), None);
    }
}
