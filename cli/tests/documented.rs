//! The commands in the documentation are ones that the command line takes.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use clap::Parser as _;
use shardline::Program;

fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// The words of a line of shell, without its comment.
fn words(line: &str) -> Vec<String> {
    let line = line.split(" #").next().unwrap_or_default();
    let words = line.split_whitespace();
    words
        .map(|word| word.trim_matches(['\'', '"']).to_owned())
        .collect()
}

#[test]
fn every_command_in_the_documentation_is_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = vec![root.join("README.md")];
    pages(&root.join("docs"), &mut found);
    let (mut seen, mut wrong) = (0, Vec::new());
    for page in found {
        let text = std::fs::read_to_string(&page).unwrap();
        for line in text.lines().map(str::trim) {
            if line.starts_with("shardline ") && !line.contains(['<', '…', '|', '`']) {
                seen += 1;
                if let Err(error) = Program::try_parse_from(words(line)) {
                    wrong.push(format!("{}: {line}: {error}", page.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen >= 10, "only {seen} commands were found");
}
