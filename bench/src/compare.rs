//! `make bench COMPARE=<commit>`: the agents of another build measured in turns with these ones, on
//! the same servers, and the ratio of every figure that the phases print.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use shardline_dev::wait_until_ready;

use crate::arena::{Arena, PATIENCE};
use crate::report::{Section, Table};
use crate::samples::Samples;

const AGENTS: [(&str, &str); 2] = [
    ("leader-agent-1", "leader-agent"),
    ("follower-agent-1", "follower-agent"),
];

/// Both builds of the agents, as the folders of their programs.
pub struct Builds {
    pub ours: PathBuf,
    pub theirs: PathBuf,
}

impl Builds {
    /// The other build in `theirs`, beside the one that the arena was started with.
    pub fn beside(arena: &Arena, theirs: &Path) -> Result<Self> {
        let program = &arena.stack.process(AGENTS[0].0)?.spec().program;
        let ours = program.parent().context("the agent is in a folder")?;
        Ok(Self {
            ours: ours.to_owned(),
            theirs: theirs.to_owned(),
        })
    }
}

/// Runs a phase once with each build in every round, the one that begins changing from round to
/// round, and puts the figures of both side by side.
pub async fn in_turns(
    arena: &Arena,
    builds: &Builds,
    rounds: usize,
    phase: impl AsyncFn() -> Result<Section>,
) -> Result<Section> {
    let mut figures = Figures::default();
    let mut title = String::new();
    for round in 0..rounds {
        let mut turns = [(&builds.ours, true), (&builds.theirs, false)];
        if round % 2 == 1 {
            turns.reverse();
        }
        for (folder, is_ours) in turns {
            start_agents(arena, folder).await?;
            let section = phase().await?;
            figures.add(&section, is_ours);
            title = section.title;
        }
    }
    start_agents(arena, &builds.ours).await?;
    Ok(figures.section(&title))
}

/// Ends the agents cleanly, and starts those of another folder with the same configuration and
/// data.
async fn start_agents(arena: &Arena, folder: &Path) -> Result<()> {
    for (name, program) in AGENTS {
        let process = arena.stack.process(name)?;
        process.terminate().await?;
        process.spawn_as(&folder.join(program))?;
        wait_until_ready(&[process], PATIENCE).await?;
    }
    arena.settle().await
}

/// Every number in the phases' tables: what it is called, and what both builds showed.
#[derive(Default)]
struct Figures(Vec<Figure>);

struct Figure {
    row: String,
    column: String,
    ours: Samples,
    theirs: Samples,
}

impl Figures {
    fn add(&mut self, section: &Section, is_ours: bool) {
        for (row, column, value) in section.tables.iter().flat_map(numbers) {
            let place = self
                .0
                .iter()
                .position(|figure| figure.row == row && figure.column == column);
            let place = place.unwrap_or_else(|| {
                self.0.push(Figure {
                    row,
                    column,
                    ours: Samples::default(),
                    theirs: Samples::default(),
                });
                self.0.len() - 1
            });
            let figure = &mut self.0[place];
            let samples = if is_ours {
                &mut figure.ours
            } else {
                &mut figure.theirs
            };
            samples.push(value);
        }
    }

    fn section(self, title: &str) -> Section {
        let mut section = Section::new(
            title,
            "This build and the other one in turns on the same servers, one run of the phase in
            each turn. The ratio is this build's figure to the other one's of the same round: below
            1 is less.",
        );
        let rows = self.0.into_iter().map(|figure| {
            vec![
                figure.row,
                figure.column,
                figure.ours.show(2),
                figure.theirs.show(2),
                figure.ours.ratio_to(&figure.theirs).show(2),
            ]
        });
        section.table(
            &["", "figure", "this build", "the other", "ratio"],
            rows.collect(),
        );
        section
    }
}

/// The numbers of a table of one round, each with what its row begins with and its column's name.
/// Words, and what a number is followed by, are passed over.
fn numbers(table: &Table) -> impl Iterator<Item = (String, String, f64)> {
    table.rows.iter().flat_map(|cells| {
        let row = cells.first().cloned().unwrap_or_default();
        let named = table.header.iter().zip(cells).skip(1);
        named.filter_map(move |(column, cell)| {
            let number = cell.split_whitespace().next()?.replace(',', "");
            Some((row.clone(), column.clone(), number.parse().ok()?))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(seconds: &str) -> Section {
        let mut section = Section::new("Speed", "text");
        section.table(
            &["load", "seconds", "of what", "documents"],
            vec![vec![
                "logs".into(),
                seconds.into(),
                "the leader".into(),
                "100,000".into(),
            ]],
        );
        section
    }

    #[test]
    fn every_number_is_put_beside_the_same_one_of_the_other_build() {
        let mut figures = Figures::default();
        figures.add(&section("1.5 s"), true);
        figures.add(&section("3 s"), false);
        figures.add(&section("2 s"), false);
        figures.add(&section("2 s"), true);
        let shown = figures.section("Speed").markdown();
        let row = "| 1.75 (1.50–2.00) | 2.50 (2.00–3.00) | 0.75 (0.50–1.00) |";
        assert!(shown.contains(row), "{shown}");
        assert!(shown.contains("| logs | documents | 100,000.00"), "{shown}");
    }
}
