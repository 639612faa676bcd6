//! Bodies that say what a request does: only what decides about a followed index is read of them.

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use super::inspect::Inspected;
use shardline::contract::{ApiError, syntax_error};

/// Most that such a body may hold, in bytes.
const MAX: usize = 4 << 20;
/// How much larger what is made of one can be than its text.
const FACTOR: usize = 64;

/// Reserves what reading the body takes.
///
/// # Errors
/// 413 or 429.
pub(super) fn charge(inspected: &mut Inspected) -> Result<(), ApiError> {
    let size = inspected.content.len();
    if size > MAX {
        return Err(ApiError::too_large(MAX));
    }
    inspected.charge.raise_to(FACTOR * size)
}

/// Reads the JSON value that a body starts with, as OpenSearch does; an empty body counts as an
/// empty object.
pub(super) fn parse<'a, T: Deserialize<'a>>(content: &'a [u8]) -> Result<T, ApiError> {
    let content = match content.trim_ascii().is_empty() {
        true => b"{}",
        false => content,
    };
    let mut deserializer = serde_json::Deserializer::from_slice(content);
    T::deserialize(&mut deserializer).map_err(|error| syntax_error::describe(content, &error))
}

/// One text or a list of texts; a list is also written as one text with commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Texts(pub Vec<String>);

impl Texts {
    /// The texts as one expression.
    pub(super) fn joined(&self) -> String {
        self.0.join(",")
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        List::<String>::deserialize(deserializer).map(|list| Self(list.0))
    }
}

/// A list, of which a single item may stand by itself, as OpenSearch takes it.
#[derive(Clone, Debug)]
pub(super) struct List<T>(pub Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
            type Value = List<T>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a value or a list of values")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<List<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(List(items))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<List<T>, E> {
                let single = serde::de::value::StrDeserializer::new(text);
                T::deserialize(single).map(|item| List(vec![item]))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<List<T>, A::Error> {
                let single = serde::de::value::MapAccessDeserializer::new(map);
                T::deserialize(single).map(|item| List(vec![item]))
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<List<T>, E> {
                Ok(List::default())
            }
        }

        deserializer.deserialize_any(Items(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Deserialize)]
    struct Body {
        #[serde(default)]
        index: Texts,
    }

    #[test]
    fn one_and_many_are_read_alike() {
        let read = |content: &str| parse::<Body>(content.as_bytes()).map(|body| body.index.0);
        assert_eq!(
            read(r#"{"index":"a","x":{"y":[1]}} trailing"#).unwrap(),
            ["a"]
        );
        assert_eq!(read(r#"{"index":["a","b"]}"#).unwrap(), ["a", "b"]);
        assert!(read("").unwrap().is_empty());
        for refused in [
            r#"{"index":5}"#,
            r#"{"index":[["a"]]}"#,
            r#"{"index":"a","index":"b"}"#,
            "[",
        ] {
            assert!(read(refused).is_err(), "{refused}");
        }
    }
}
