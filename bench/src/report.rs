//! What a run found, as Markdown with plots beside it.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::plot::Plot;

#[derive(Default)]
pub struct Section {
    pub title: String,
    pub text: String,
    pub tables: Vec<Table>,
    pub plots: Vec<Plot>,
    pub checks: Vec<Check>,
}

pub struct Table {
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// Something that should hold, and whether it does.
pub struct Check {
    pub claim: String,
    pub limit: String,
    pub measured: String,
    pub holds: bool,
}

impl Section {
    pub fn new(title: &str, text: &str) -> Self {
        Self {
            title: title.to_owned(),
            text: text.split_whitespace().collect::<Vec<_>>().join(" "),
            ..Self::default()
        }
    }

    pub fn table(&mut self, header: &[&str], rows: Vec<Vec<String>>) {
        self.tables.push(Table {
            header: header.iter().map(|&cell| cell.to_owned()).collect(),
            rows,
        });
    }

    /// Something that should be at most `limit`.
    pub fn at_most(&mut self, claim: &str, limit: f64, measured: f64, unit: &str) {
        self.check(
            claim,
            format!("at most {limit}{unit}"),
            measured,
            unit,
            measured <= limit,
        );
    }

    /// Something that should be at least `limit`.
    pub fn at_least(&mut self, claim: &str, limit: f64, measured: f64, unit: &str) {
        self.check(
            claim,
            format!("at least {limit}{unit}"),
            measured,
            unit,
            measured >= limit,
        );
    }

    fn check(&mut self, claim: &str, limit: String, measured: f64, unit: &str, holds: bool) {
        let decimals = if measured.abs() >= 10.0 { 1 } else { 2 };
        let measured = format!("{measured:.decimals$}{unit}");
        self.checks.push(Check {
            claim: claim.to_owned(),
            limit,
            measured,
            holds,
        });
    }

    pub fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n{}\n\n", self.title, self.text);
        for table in &self.tables {
            text.push_str(&table.markdown());
            text.push('\n');
        }
        if !self.checks.is_empty() {
            text.push_str(&checks(self.checks.iter()));
            text.push('\n');
        }
        for plot in &self.plots {
            let _ = writeln!(text, "![{}]({}.svg)\n", plot.title(), plot.file());
        }
        text
    }
}

impl Table {
    fn markdown(&self) -> String {
        let mut text = format!(
            "| {} |\n|{}\n",
            self.header.join(" | "),
            "---|".repeat(self.header.len())
        );
        for row in &self.rows {
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
        text
    }
}

fn checks<'a>(checks: impl Iterator<Item = &'a Check>) -> String {
    let rows = checks.map(|check| {
        let holds = if check.holds { "yes" } else { "**no**" };
        vec![
            check.claim.clone(),
            check.limit.clone(),
            check.measured.clone(),
            holds.to_owned(),
        ]
    });
    let header = ["what should hold", "limit", "measured", "holds"]
        .map(str::to_owned)
        .to_vec();
    Table {
        header,
        rows: rows.collect(),
    }
    .markdown()
}

/// A file in Markdown, with its plots beside it; written anew with each section, so that what was
/// measured is not lost.
pub struct Report {
    pub file: PathBuf,
    pub preface: String,
    pub sections: Vec<Section>,
}

impl Report {
    pub fn add(&mut self, sections: impl IntoIterator<Item = Section>) -> Result<()> {
        self.sections.extend(sections);
        let folder = self.file.parent().unwrap_or(&self.file);
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let mut text = format!("# Benchmark results\n\n{}\n", self.preface);
        let all: Vec<&Check> = self
            .sections
            .iter()
            .flat_map(|section| &section.checks)
            .collect();
        if !all.is_empty() {
            let _ = write!(text, "## What should hold\n\n{}\n", checks(all.into_iter()));
        }
        for section in &self.sections {
            text.push_str(&section.markdown());
            for plot in &section.plots {
                plot.draw(&folder.join(format!("{}.svg", plot.file())))?;
            }
        }
        let text = text.trim_end().to_owned() + "\n";
        fs::write(&self.file, text).with_context(|| format!("cannot write {}", self.file.display()))
    }
}
