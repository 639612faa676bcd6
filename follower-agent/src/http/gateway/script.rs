//! Whether the script of a `_reindex` leaves the destination alone.
//!
//! Such a script can set `ctx._index`, in more ways than can be listed. So it is let through only
//! if each `ctx` in its text, comments and texts in it included, is followed at once by one of the
//! fields that do not name an index: then none of its statements has `ctx` itself in hand.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Fields of `ctx` that name no index.
const HARMLESS: [&str; 5] = ["_source", "_id", "_version", "_routing", "op"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Script<'a> {
    source: Option<String>,
    lang: Option<String>,
    #[serde(borrow, rename = "params")]
    _parameters: Option<&'a RawValue>,
    #[serde(borrow, rename = "options")]
    _options: Option<&'a RawValue>,
}

/// Whether the script cannot change the index that a document goes to.
pub(super) fn keeps_index(script: &RawValue) -> bool {
    if let Ok(source) = serde_json::from_str::<String>(script.get()) {
        return is_harmless(&source);
    }
    // A stored script cannot be read here, nor another language.
    let Ok(script) = serde_json::from_str::<Script<'_>>(script.get()) else {
        return false;
    };
    let is_painless = script.lang.is_none_or(|lang| lang == "painless");
    is_painless && script.source.is_some_and(|source| is_harmless(&source))
}

fn is_harmless(source: &str) -> bool {
    source
        .match_indices("ctx")
        .all(|(at, found)| names_harmless_field(&source[at + found.len()..]))
}

fn names_harmless_field(behind: &str) -> bool {
    let behind = behind.trim_start();
    if let Some(quoted) = behind.strip_prefix('[') {
        let quoted = quoted.trim_start();
        return ['\'', '"'].iter().any(|quote| {
            let field = quoted
                .strip_prefix(*quote)
                .and_then(|rest| rest.split_once(*quote));
            field.is_some_and(|(name, rest)| {
                HARMLESS.contains(&name) && rest.trim_start().starts_with(']')
            })
        });
    }
    let Some(field) = behind
        .strip_prefix("?.")
        .or_else(|| behind.strip_prefix('.'))
    else {
        return false;
    };
    let field = field.trim_start();
    let end = field
        .find(|character: char| !(character.is_alphanumeric() || character == '_'))
        .unwrap_or(field.len());
    // A call is none of a field.
    HARMLESS.contains(&&field[..end]) && !field[end..].trim_start().starts_with('(')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeps(json: &str) -> bool {
        keeps_index(&serde_json::from_str::<Box<RawValue>>(json).unwrap())
    }

    #[test]
    fn what_has_no_hold_of_the_context_passes() {
        for source in [
            "ctx._source.remove('heat_index')",
            "ctx._source.n += 1; ctx.op = 'noop'",
            "if (ctx . _source ?. _index == 'x') { ctx['_id'] = params.id + ctx[ \"_routing\" ] }",
            "int a = 1;",
        ] {
            let text = serde_json::to_string(source).unwrap();
            assert!(keeps(&text), "{source}");
            assert!(keeps(&format!(
                r#"{{"source":{text},"lang":"painless","params":{{"f":1}}}}"#
            )));
        }
    }

    #[test]
    fn what_could_name_an_index_is_held_back() {
        for source in [
            "ctx._index = 'f'",
            "ctx['_in'+'dex']='f'",
            "ctx[params.a+params.b]='f'",
            "for (k in ctx.keySet()) { }",
            "def c = ctx; c._index = 'f'",
            "Map f(Map m) { m._index = 'f'; return m } f(ctx)",
            "ctx.put(params.k, 'f')",
            "ctx.op('x')",
            "ctx/**/._index = 'f'",
            "ctx /* ._source */ ._index = 'f'",
            "def a = /'/; ctx['_index']='f'; //'",
            "ctx\n._index = 'f'",
            "ctx._sourcex",
            "ctx.computeIfPresent(params.k, (k, v) -> 'f')",
        ] {
            assert!(!keeps(&serde_json::to_string(source).unwrap()), "{source}");
        }
        assert!(!keeps(r#"{"id":"stored"}"#));
        assert!(!keeps(r#"{"source":"x","lang":"other"}"#));
        assert!(!keeps(r#"{"source":"1","source":"ctx._index='f'"}"#));
        assert!(!keeps(r#"{"inline":"ctx._index='f'"}"#));
        assert!(keeps(r#""\u0063tx._source.n = 1""#));
        assert!(!keeps(r#""\u0063tx._index = 'f'""#));
    }
}
