//! Where answers go: tables as wide as the terminal, or JSON.

use std::io::Write as _;

use comfy_table::{ContentArrangement, Table};
use console::Term;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::CtlError;
use super::client::unexpected;

pub(super) struct Output {
    json: bool,
    terminal: Option<Term>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let stdout = Term::stdout();
        Self {
            json,
            terminal: stdout.is_term().then_some(stdout),
        }
    }

    /// Prints an answer as it is, or else the tables that are made of it.
    pub(super) fn show<T: DeserializeOwned>(
        &self,
        answer: &Value,
        tables: impl FnOnce(T) -> Vec<Table>,
    ) -> Result<(), CtlError> {
        self.print(&self.render(answer, tables)?)
    }

    /// As [`Self::show`], in the place of all that stands on the terminal.
    pub(super) fn show_anew<T: DeserializeOwned>(
        &self,
        answer: &Value,
        tables: impl FnOnce(T) -> Vec<Table>,
    ) -> Result<(), CtlError> {
        let text = self.render(answer, tables)?;
        if let Some(terminal) = &self.terminal {
            terminal.clear_screen()?;
        }
        self.print(&text)
    }

    /// What was done, or the answer that says so.
    pub(super) fn done(&self, answer: &Value, words: &str) -> Result<(), CtlError> {
        if self.json {
            self.print(&answer.to_string())
        } else {
            self.print(words)
        }
    }

    /// The answer that says why not; in words it is the caller's to say.
    pub(crate) fn refused(&self, answer: &Value) -> Result<(), CtlError> {
        if self.json {
            self.print(&answer.to_string())
        } else {
            Ok(())
        }
    }

    fn render<T: DeserializeOwned>(
        &self,
        answer: &Value,
        tables: impl FnOnce(T) -> Vec<Table>,
    ) -> Result<String, CtlError> {
        if self.json {
            return Ok(answer.to_string());
        }
        let answer = serde_json::from_value(answer.clone())
            .map_err(|error| unexpected("the call", &error))?;
        let mut texts = Vec::new();
        for mut table in tables(answer) {
            if let Some((_, width)) = self.terminal.as_ref().and_then(Term::size_checked) {
                table
                    .set_content_arrangement(ContentArrangement::Dynamic)
                    .set_width(width);
            }
            texts.push(table.trim_fmt());
        }
        Ok(texts.join("\n\n"))
    }

    fn print(&self, text: &str) -> Result<(), CtlError> {
        Ok(writeln!(std::io::stdout().lock(), "{text}")?)
    }
}
