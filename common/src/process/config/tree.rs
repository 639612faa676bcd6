//! Configuration as it was written: a tree of keys from a TOML file, with what the environment adds
//! and overrides. Values of the environment stay the texts that they are.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::ConfigError;

const VARIABLE_PREFIX: &str = "SHARDLINE_";
/// Separates section and key in the name of a variable.
const SEPARATOR: &str = "__";
/// The tables of the section `kafka` whose keys are librdkafka's, which have dots. Not every shell
/// and not systemd can have a dot in a variable's name, so an underscore stands for it, too.
const DOTTED: [&str; 2] = ["properties", "properties_files"];

/// A value, or a table of further ones.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Table(BTreeMap<String, Node>),
    List(Vec<Node>),
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    /// What a variable of the environment holds, and its name.
    Variable {
        name: String,
        text: String,
    },
}

impl Default for Node {
    fn default() -> Self {
        Self::Table(BTreeMap::new())
    }
}

impl From<toml::Value> for Node {
    fn from(value: toml::Value) -> Self {
        match value {
            toml::Value::Table(table) => {
                let entries = table.into_iter().map(|(key, value)| (key, value.into()));
                Self::Table(entries.collect())
            }
            toml::Value::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
            toml::Value::Boolean(value) => Self::Boolean(value),
            toml::Value::Integer(value) => Self::Integer(value),
            toml::Value::Float(value) => Self::Float(value),
            toml::Value::String(text) => Self::Text(text),
            toml::Value::Datetime(value) => Self::Text(value.to_string()),
        }
    }
}

impl Node {
    /// Parses TOML. The error says where it is wrong and shows nothing of the text, which may hold
    /// passwords.
    pub(super) fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let parsed: Result<toml::Table, _> = text.parse();
        parsed
            .map(|table| toml::Value::Table(table).into())
            .map_err(|error| {
                let start = error.span().map_or(0, |span| span.start).min(text.len());
                let before = &text.as_bytes()[..start];
                let line = before.iter().filter(|byte| **byte == b'\n').count();
                let column = before.iter().rev().take_while(|byte| **byte != b'\n');
                ConfigError::Syntax {
                    line: line + 1,
                    column: column.count() + 1,
                }
            })
    }

    /// Adds `SHARDLINE_<SECTION>__<KEY>` variables, which win. One without a section, such as
    /// `SHARDLINE_LOG`, is no configuration key.
    pub(super) fn overlay(
        &mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(), ConfigError> {
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            let Some(path) = name.strip_prefix(VARIABLE_PREFIX).and_then(path_of) else {
                continue;
            };
            let text = value
                .into_string()
                .map_err(|_| ConfigError::NotText(name.to_owned()))?;
            let name = name.to_owned();
            self.set(&path, Self::Variable { name, text });
        }
        Ok(())
    }

    fn set(&mut self, path: &[String], value: Self) {
        let Some((last, tables)) = path.split_last() else {
            return;
        };
        let mut table = self.table();
        for key in tables {
            table = table.entry(key.clone()).or_default().table();
        }
        table.insert(last.clone(), value);
    }

    /// Makes a table of this node unless it is one.
    fn table(&mut self) -> &mut BTreeMap<String, Self> {
        if !matches!(self, Self::Table(_)) {
            *self = Self::default();
        }
        match self {
            Self::Table(table) => table,
            _ => unreachable!("just made a table"),
        }
    }

    /// The keys, with dots, whose values differ.
    pub(super) fn changed(&self, other: &Self) -> Vec<String> {
        let (mut own, mut others) = (BTreeMap::new(), BTreeMap::new());
        self.leaves(String::new(), &mut own);
        other.leaves(String::new(), &mut others);
        let mut keys: Vec<String> = own
            .iter()
            .filter(|(key, value)| others.get(*key) != Some(value))
            .map(|(key, _)| key.clone())
            .collect();
        keys.extend(others.into_keys().filter(|key| !own.contains_key(key)));
        keys.sort();
        keys
    }

    fn leaves<'a>(&'a self, path: String, found: &mut BTreeMap<String, &'a Self>) {
        match self {
            Self::Table(table) => {
                for (key, node) in table {
                    let path = if path.is_empty() {
                        key.clone()
                    } else {
                        format!("{path}.{key}")
                    };
                    node.leaves(path, found);
                }
            }
            value => {
                found.insert(path, value);
            }
        }
    }
}

/// The keys that a variable's name without its prefix stands for; `None` if it has no section.
fn path_of(name: &str) -> Option<Vec<String>> {
    let name = name.to_lowercase();
    let parts: Vec<&str> = name.split(SEPARATOR).collect();
    if parts.len() < 2 {
        return None;
    }
    let path = match parts.as_slice() {
        ["kafka", table, property @ ..] if DOTTED.contains(table) && !property.is_empty() => {
            let property = property.join(".").replace('_', ".");
            vec!["kafka".to_owned(), (*table).to_owned(), property]
        }
        parts => parts.iter().map(|part| (*part).to_owned()).collect(),
    };
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, text: &str) -> (OsString, OsString) {
        (name.into(), text.into())
    }

    #[test]
    fn properties_of_the_environment_may_have_dots_or_underscores() {
        for name in [
            "SHARDLINE_KAFKA__PROPERTIES__SASL.PASSWORD",
            "SHARDLINE_KAFKA__PROPERTIES__SASL_PASSWORD",
            "SHARDLINE_KAFKA__PROPERTIES__sasl.password",
            "SHARDLINE_KAFKA__PROPERTIES__SASL__PASSWORD",
        ] {
            let mut tree = Node::from_toml("[kafka.properties]\n'sasl.password' = 'x'").unwrap();
            tree.overlay([variable(name, "y")]).unwrap();
            let changed = tree.changed(&Node::default());
            assert_eq!(changed, ["kafka.properties.sasl.password"], "{name}");
        }
    }

    #[test]
    fn what_differs_is_named_by_its_key() {
        let old = Node::from_toml("[a]\nx = 1\ny = 2\n[b]\nz = [1]").unwrap();
        let new = Node::from_toml("[a]\nx = 1\ny = 3\n[c]\nz = 1").unwrap();
        assert_eq!(old.changed(&new), ["a.y", "b.z", "c.z"]);
    }

    #[test]
    fn a_syntax_error_says_where_and_shows_nothing() {
        for text in [
            "[opensearch]\npassword = 'hunter2",
            "[opensearch]\npassword = hunter2",
            "[opensearch]\npassword = 'a'hunter2",
            "[opensearch]\npassword hunter2",
            "[opensearch]\npassword = 12hunter2",
            "[opensearch]\nhunter2 = 1\nhunter2 = 2",
        ] {
            let error = Node::from_toml(text).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(
                shown.contains("line 2") || shown.contains("line 3"),
                "{shown}"
            );
        }
    }
}
