//! What every file keeps to: it says what it is for, its functions are short and its lines are not
//! wide.

use std::collections::BTreeSet;

use shardline_tidy::{Source, code_only, expect_none, files};

const LONGEST_FUNCTION: usize = 70;
const WIDEST_CODE: usize = 100;
const WIDEST_PROSE: usize = 200;

/// Functions that are longer still. The list may only shrink.
const LONG_FUNCTIONS: &str = include_str!("../exceptions/long-functions.txt");

/// Files with wider lines still. The list may only shrink.
const WIDE_FILES: &str = include_str!("../exceptions/wide-files.txt");

/// Pages with wider lines still. The list may only shrink.
const WIDE_PAGES: &str = include_str!("../exceptions/wide-pages.txt");

/// The name and the length of each function: rustfmt puts the end at the beginning's indentation.
fn functions(file: &Source) -> Vec<(String, usize)> {
    let code = code_only(&file.text);
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some(name) = function_name(line.trim_start()) else {
            continue;
        };
        let is_end = |line: &&str| {
            line.len() > indent
                && line[..indent].trim().is_empty()
                && !line[indent..].starts_with([' ', ')'])
        };
        let declared = |line: &str| line.trim_end().ends_with(';');
        if declared(line) {
            continue;
        }
        let mut rest = lines[at + 1..].iter();
        if let Some(length) = rest.position(is_end)
            && lines[at + 1 + length][indent..].starts_with('}')
        {
            found.push((name.to_owned(), length + 2));
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let is_qualifier = |word: &str| {
        matches!(word, "async" | "const" | "unsafe" | "pub") || word.starts_with("pub(")
    };
    if !before.split_whitespace().all(is_qualifier) {
        return None;
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = after.find(|c| !is_word(c))?;
    (end > 0).then(|| &after[..end])
}

fn is_wide(file: &Source, most: usize) -> bool {
    file.text.lines().any(|line| line.chars().count() > most)
}

/// What is found and not listed, and what is listed and not found.
fn against(found: BTreeSet<String>, listed: &str) -> Vec<String> {
    let listed: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
    let new = found.difference(&listed).cloned();
    let gone = listed
        .difference(&found)
        .map(|name| format!("{name} keeps to it now: take it off the list"));
    new.chain(gone).collect()
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent = files("", "rs")
        .into_iter()
        .filter(|file| !file.text.starts_with("//!"))
        .map(|file| file.path);
    expect_none(
        "files that do not begin with //!",
        &silent.collect::<Vec<_>>(),
    );
}

#[test]
fn functions_are_short() {
    let mut long = BTreeSet::new();
    for file in files("", "rs") {
        for (name, length) in functions(&file) {
            if length > LONGEST_FUNCTION {
                long.insert(format!("{} {name}", file.path));
            }
        }
    }
    expect_none("functions over 70 lines", &against(long, LONG_FUNCTIONS));
}

#[test]
fn lines_of_code_are_not_wide() {
    let wide = files("", "rs")
        .into_iter()
        .filter(|file| is_wide(file, WIDEST_CODE))
        .map(|file| file.path);
    expect_none(
        "files with lines over 100 columns",
        &against(wide.collect(), WIDE_FILES),
    );
}

#[test]
fn lines_of_prose_are_not_wide() {
    let is_prose = |line: &&str| !line.starts_with('|');
    let mut wide = BTreeSet::new();
    for file in files("", "md") {
        let text = file.text.lines();
        if text
            .filter(is_prose)
            .any(|line| line.chars().count() > WIDEST_PROSE)
        {
            wide.insert(file.path);
        }
    }
    expect_none(
        "pages with lines over 200 columns",
        &against(wide, WIDE_PAGES),
    );
}
