//! From the tree of keys to typed configuration. The type that is wanted decides how a text of the
//! environment is read, and no error shows a value.

use std::collections::btree_map;
use std::fmt;

use serde::de::value::StringDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor,
};

use super::tree::Node;

/// What is wrong, and with which key.
#[derive(Debug)]
pub struct KeyError {
    path: Vec<String>,
    variable: Option<String>,
    what: String,
}

impl KeyError {
    fn under(mut self, key: &str) -> Self {
        self.path.insert(0, key.to_owned());
        self
    }

    fn of(mut self, variable: &str) -> Self {
        self.variable = Some(variable.to_owned());
        self
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.what);
        }
        write!(f, "key {}", self.path.join("."))?;
        if let Some(variable) = &self.variable {
            write!(f, " (variable {variable})")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for KeyError {}

impl de::Error for KeyError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            path: Vec::new(),
            variable: None,
            what: message.to_string(),
        }
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {expected}"))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {expected}"))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("expected one of {}", expected.join(", ")))
    }
}

/// Makes typed configuration of a tree.
pub(super) fn from_tree<T: DeserializeOwned>(tree: Node) -> Result<T, KeyError> {
    T::deserialize(Typed(tree))
}

struct Typed(Node);

/// A text as a number, or as what else the target's type can be parsed from.
macro_rules! parsed {
    ($($method:ident $visit:ident $type:ty, $expected:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyError> {
            match self.0 {
                Node::Variable { name, text } => match text.trim().parse::<$type>() {
                    Ok(value) => visitor.$visit(value),
                    Err(_) => {
                        Err(de::Error::custom(concat!("expected ", $expected)))
                    }
                }
                .map_err(|error: KeyError| error.of(&name)),
                node => Self(node).deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Typed {
    type Error = KeyError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyError> {
        match self.0 {
            Node::Table(table) => visitor.visit_map(Entries {
                left: table.into_iter(),
                value: None,
            }),
            Node::List(items) => visitor.visit_seq(Items(items.into_iter())),
            Node::Boolean(value) => visitor.visit_bool(value),
            Node::Integer(value) => visitor.visit_i64(value),
            Node::Float(value) => visitor.visit_f64(value),
            Node::Text(text) => visitor.visit_string(text),
            Node::Variable { name, text } => visitor
                .visit_string(text)
                .map_err(|error: KeyError| error.of(&name)),
        }
    }

    parsed! {
        deserialize_bool visit_bool bool, "true or false";
        deserialize_i8 visit_i8 i8, "a whole number";
        deserialize_i16 visit_i16 i16, "a whole number";
        deserialize_i32 visit_i32 i32, "a whole number";
        deserialize_i64 visit_i64 i64, "a whole number";
        deserialize_u8 visit_u8 u8, "a whole number from 0 on";
        deserialize_u16 visit_u16 u16, "a whole number from 0 on";
        deserialize_u32 visit_u32 u32, "a whole number from 0 on";
        deserialize_u64 visit_u64 u64, "a whole number from 0 on";
        deserialize_f32 visit_f32 f32, "a number";
        deserialize_f64 visit_f64 f64, "a number";
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, KeyError> {
        visitor.visit_newtype_struct(self)
    }

    /// A list in a variable is TOML in brackets, or texts with commas between them.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyError> {
        let Node::Variable { name, text } = self.0 else {
            return self.deserialize_any(visitor);
        };
        let list = if text.trim_start().starts_with('[') {
            literal(&text).ok_or_else(|| {
                <KeyError as de::Error>::custom("expected a list: [\"one\", \"two\"]").of(&name)
            })?
        } else {
            let items = text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            Node::List(items.map(|item| Node::Text(item.to_owned())).collect())
        };
        Self(list)
            .deserialize_any(visitor)
            .map_err(|error| error.of(&name))
    }

    /// A table in a variable is TOML in braces.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyError> {
        let Node::Variable { name, text } = self.0 else {
            return self.deserialize_any(visitor);
        };
        let table = literal(&text).ok_or_else(|| {
            <KeyError as de::Error>::custom("expected a table: {\"key\" = \"value\"}").of(&name)
        })?;
        Self(table)
            .deserialize_any(visitor)
            .map_err(|error| error.of(&name))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, KeyError> {
        let (name, text) = match self.0 {
            Node::Text(text) => (None, text),
            Node::Variable { name, text } => (Some(name), text),
            _ => return Err(de::Error::custom("expected a text")),
        };
        let text: StringDeserializer<KeyError> = text.into_deserializer();
        visitor.visit_enum(text).map_err(|error| match &name {
            Some(name) => error.of(name),
            None => error,
        })
    }

    serde::forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct tuple tuple_struct struct identifier
        ignored_any i128 u128
    }
}

/// A TOML literal.
fn literal(text: &str) -> Option<Node> {
    let mut table: toml::Table = format!("literal = {text}").parse().ok()?;
    table.remove("literal").map(Node::from)
}

struct Entries {
    left: btree_map::IntoIter<String, Node>,
    value: Option<(String, Node)>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = KeyError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, KeyError> {
        let Some((key, node)) = self.left.next() else {
            return Ok(None);
        };
        let text: StringDeserializer<KeyError> = key.clone().into_deserializer();
        self.value = Some((key, node));
        seed.deserialize(text).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, KeyError> {
        let Some((key, node)) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(Typed(node))
            .map_err(|error| error.under(&key))
    }
}

struct Items(std::vec::IntoIter<Node>);

impl<'de> SeqAccess<'de> for Items {
    type Error = KeyError;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, KeyError> {
        self.0
            .next()
            .map(|node| seed.deserialize(Typed(node)))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsString;

    use serde::Deserialize;

    use super::*;
    use crate::process::config::Secret;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        part: Part,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Part {
        password: Option<Secret>,
        number: u64,
        flag: bool,
        list: Vec<String>,
        table: BTreeMap<String, Secret>,
        kind: Kind,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        #[default]
        Plain,
        Fancy,
    }

    fn read(toml: &str, variables: &[(&str, &str)]) -> Result<Part, KeyError> {
        let mut tree = Node::from_toml(toml).unwrap();
        let variables = variables.iter().map(|(key, value)| {
            (
                format!("SHARDLINE_PART__{key}").into(),
                OsString::from(value),
            )
        });
        tree.overlay(variables).unwrap();
        from_tree::<Sample>(tree).map(|sample| sample.part)
    }

    #[test]
    fn the_targets_type_decides_what_a_variable_is() {
        let part = read(
            "[part]\nnumber = 1",
            &[
                ("PASSWORD", "00271828"),
                ("NUMBER", "7"),
                ("FLAG", "true"),
                ("LIST", "a-*, b"),
                ("TABLE", "{\"x\" = \"1\"}"),
                ("KIND", "fancy"),
            ],
        )
        .unwrap();
        assert_eq!(part.password.unwrap().reveal(), "00271828");
        assert_eq!((part.number, part.flag, part.kind), (7, true, Kind::Fancy));
        assert_eq!(part.list, ["a-*", "b"]);
        assert_eq!(part.table["x"].reveal(), "1");
        for text in ["true", "1e5", "[1]", "{}", ""] {
            let part = read("[part]", &[("PASSWORD", text)]).unwrap();
            assert_eq!(part.password.unwrap().reveal(), text);
        }
        assert_eq!(
            read("[part]", &[("LIST", "['a,b']")]).unwrap().list,
            ["a,b"]
        );
    }

    #[test]
    fn an_error_names_the_key_and_shows_no_value() {
        for (toml, variables, named) in [
            ("[part]\npassword = 987654321", &[][..], "part.password"),
            ("[part]\nnumber = 'hunter2'", &[], "part.number"),
            ("[part]\ntable = {a = 271828}", &[], "part.table.a"),
            ("[part]\nkind = 'hunter2'", &[], "part.kind"),
            ("[part]\nnumber = -1", &[], "part.number"),
            ("[part]\nother = 'hunter2'", &[], "other"),
            ("[part]", &[("NUMBER", "hunter2")], "SHARDLINE_PART__NUMBER"),
            ("[part]", &[("FLAG", "hunter2")], "part.flag"),
            ("[part]", &[("KIND", "hunter2")], "part.kind"),
            ("[part]", &[("TABLE", "hunter2")], "part.table"),
            ("[part]", &[("LIST", "[hunter2")], "part.list"),
        ] {
            let error = read(toml, variables).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(named), "{shown}");
            for value in ["hunter2", "987654321", "271828"] {
                assert!(!shown.contains(value), "{shown}");
            }
        }
    }
}
