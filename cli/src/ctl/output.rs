//! Where answers go: tables as wide as the terminal, JSON or YAML.

use std::io::Write as _;

use console::Term;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::CtlError;
use super::client::{Sent, unexpected};
use super::grid::{Grid, Look};
use super::options::Format;

pub(super) struct Output {
    format: Format,
    terminal: Option<Term>,
}

/// Tables, and a line that sums them up.
pub(super) struct Shown {
    pub tables: Vec<Grid>,
    pub summary: Option<String>,
}

impl From<Vec<Grid>> for Shown {
    fn from(tables: Vec<Grid>) -> Self {
        Self {
            tables,
            summary: None,
        }
    }
}

impl Output {
    pub(super) fn new(format: Format) -> Self {
        let stdout = Term::stdout();
        Self {
            format,
            terminal: stdout.is_term().then_some(stdout),
        }
    }

    /// Whether tables are printed on a terminal, so that a screen can be drawn.
    pub(super) fn is_screen(&self) -> bool {
        self.format == Format::Table && self.terminal.is_some()
    }

    /// How tables look here: colours are for terminals, and not for those who do not want them.
    pub(super) fn look(&self) -> Look {
        let size = self.terminal.as_ref().and_then(Term::size_checked);
        let has_colours = self.terminal.as_ref().is_some_and(|terminal| {
            terminal.features().colors_supported() && std::env::var_os("NO_COLOR").is_none()
        });
        Look {
            width: size.map(|(_, width)| usize::from(width)),
            has_colours,
        }
    }

    /// Prints an answer as it is, or else the tables that are made of it.
    pub(super) fn show<T: DeserializeOwned, S: Into<Shown>>(
        &self,
        answer: &Value,
        tables: impl FnOnce(T) -> S,
    ) -> Result<(), CtlError> {
        if self.format != Format::Table {
            return self.value(answer);
        }
        let answer = serde_json::from_value(answer.clone())
            .map_err(|error| unexpected("the call", &error))?;
        let Shown { tables, summary } = tables(answer).into();
        let look = self.look();
        let mut texts: Vec<String> = tables
            .iter()
            .map(|table| table.lines(look).join("\n"))
            .collect();
        texts.extend(summary);
        self.print(&texts.join("\n\n"))
    }

    /// What was done, or the answer that says so.
    pub(super) fn done(&self, answer: &Value, words: &str) -> Result<(), CtlError> {
        match self.format {
            Format::Table => self.print(words),
            _ => self.value(answer),
        }
    }

    /// The answer that says why not; in words it is the caller's to say.
    pub(super) fn refused(&self, answer: &Value) -> Result<(), CtlError> {
        match self.format {
            Format::Table => Ok(()),
            _ => self.value(answer),
        }
    }

    /// The request that was not sent.
    pub(super) fn sent(&self, sent: &Sent) -> Result<(), CtlError> {
        if self.format != Format::Table {
            return self.value(&sent.to_json());
        }
        let mut text = format!("{} {}", sent.method, sent.url);
        if let Some(body) = &sent.body {
            text.push('\n');
            text.push_str(&format!("{body:#}"));
        }
        self.print(&text)
    }

    fn value(&self, value: &Value) -> Result<(), CtlError> {
        match self.format {
            Format::Yaml => {
                let text = serde_yaml_ng::to_string(&yaml(value));
                let text = text.map_err(std::io::Error::other)?;
                self.print(text.trim_end())
            }
            _ => self.print(&value.to_string()),
        }
    }

    pub(super) fn print(&self, text: &str) -> Result<(), CtlError> {
        Ok(writeln!(std::io::stdout().lock(), "{text}")?)
    }
}

/// The same value as YAML: numbers of any precision are texts inside of `serde_json`.
fn yaml(value: &Value) -> serde_yaml_ng::Value {
    use serde_yaml_ng::Value as Yaml;
    match value {
        Value::Null => Yaml::Null,
        Value::Bool(is) => Yaml::Bool(*is),
        Value::String(text) => Yaml::String(text.clone()),
        Value::Array(items) => Yaml::Sequence(items.iter().map(yaml).collect()),
        Value::Object(members) => Yaml::Mapping(mapping(members)),
        Value::Number(number) => {
            if let Some(number) = number.as_i64() {
                Yaml::Number(number.into())
            } else if let Some(number) = number.as_u64() {
                Yaml::Number(number.into())
            } else {
                Yaml::Number(number.as_f64().unwrap_or(f64::NAN).into())
            }
        }
    }
}

fn mapping(members: &Map<String, Value>) -> serde_yaml_ng::Mapping {
    let members = members.iter();
    members
        .map(|(key, value)| (serde_yaml_ng::Value::String(key.clone()), yaml(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_has_numbers_as_numbers_and_keys_in_order() {
        let value = json!({"z": 1, "a": [2.5, -3, u64::MAX, null], "t": "1", "n": {"b": true}});
        let text = serde_yaml_ng::to_string(&yaml(&value)).unwrap();
        let expected =
            "z: 1\na:\n- 2.5\n- -3\n- 18446744073709551615\n- null\nt: '1'\nn:\n  b: true\n";
        assert_eq!(text, expected);
    }
}
