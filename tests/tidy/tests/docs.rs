//! The documentation against the code: what can be configured, what is measured, and where things
//! are.

use std::collections::{BTreeMap, BTreeSet};

use shardline_tidy::{expect_none, files, root};

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_default()
}

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Words like `shardline_leader_operations_total`.
fn metrics(text: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(|c| !is_word(c)).filter(|word| {
        word.starts_with("shardline_leader_") || word.starts_with("shardline_follower_")
    });
    words.map(str::to_owned).collect()
}

fn differences(code: &BTreeSet<String>, docs: &BTreeSet<String>) -> Vec<String> {
    let missing = code
        .difference(docs)
        .map(|name| format!("{name} is not in the docs"));
    let stale = docs
        .difference(code)
        .map(|name| format!("{name} is not in the code"));
    missing.chain(stale).collect()
}

#[test]
fn every_metric_is_described() {
    let code = [
        "leader-agent/src/metrics.rs",
        "follower-agent/src/metrics.rs",
    ]
    .map(|path| metrics(&read(path)))
    .concat_sets();
    let docs = metrics(&read("docs/metrics.md"));
    expect_none("metrics", &differences(&code, &docs));
}

trait ConcatSets {
    fn concat_sets(self) -> BTreeSet<String>;
}

impl<const N: usize> ConcatSets for [BTreeSet<String>; N] {
    fn concat_sets(self) -> BTreeSet<String> {
        self.into_iter().flatten().collect()
    }
}

/// The fields of each configuration struct that the file may hold: name and type.
fn structs(text: &str) -> BTreeMap<&str, Vec<(&str, &str)>> {
    let mut found: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    let (mut current, mut before) = (None, "");
    for line in text.lines() {
        let is_skipped = std::mem::replace(&mut before, line).trim() == "#[serde(skip)]";
        if is_skipped {
            continue;
        }
        if let Some(rest) = line.strip_prefix("pub struct ") {
            current = rest.split_once(' ').map(|(name, _)| name);
        } else if line.starts_with('}') {
            current = None;
        } else if let (Some(name), Some(field)) = (current, field_of(line))
            && let Some((field, kind)) = field.split_once(": ")
        {
            let kind = kind.trim_end_matches(',');
            found.entry(name).or_default().push((field, kind));
        }
    }
    found
}

/// What a line says after a field's visibility, whatever that is.
fn field_of(line: &str) -> Option<&str> {
    let line = line.strip_prefix("    pub")?;
    line.strip_prefix("(crate)")
        .unwrap_or(line)
        .strip_prefix(' ')
}

/// The keys of a configuration struct, with those of its sections.
fn keys(
    structs: &BTreeMap<&str, Vec<(&str, &str)>>,
    name: &str,
    prefix: &str,
    found: &mut BTreeSet<String>,
) {
    for (field, kind) in structs.get(name).into_iter().flatten() {
        let key = format!("{prefix}{field}");
        match structs.contains_key(kind) {
            true => keys(structs, kind, &format!("{key}."), found),
            false => {
                found.insert(key);
            }
        }
    }
}

fn configuration_in_code() -> BTreeSet<String> {
    let common: String = files("common/src", "rs")
        .into_iter()
        .filter(|file| file.path.starts_with("common/src/process/config/"))
        .map(|file| file.text)
        .collect();
    let mut found = BTreeSet::new();
    for (path, name) in [
        ("leader-agent/src/config.rs", "LeaderConfig"),
        ("follower-agent/src/config.rs", "FollowerConfig"),
    ] {
        let text = format!("{common}\n{}", read(path));
        keys(&structs(&text), name, "", &mut found);
    }
    found
}

/// The first column of the configuration's table: a name that begins with a dot belongs to the
/// section of the one before, and one in angle brackets is the user's.
fn configuration_in_docs() -> BTreeSet<String> {
    let page = read("docs/operations.md");
    let table = page
        .lines()
        .skip_while(|line| !line.starts_with("| key |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let mut found = BTreeSet::new();
    for row in table {
        let mut section = "";
        for key in quoted(row.split('|').nth(1).unwrap_or_default()) {
            let key = match key.strip_prefix('.') {
                Some(rest) => format!("{section}.{rest}"),
                None => key.trim_end_matches(".<alias>").to_owned(),
            };
            section = row
                .split('`')
                .nth(1)
                .and_then(|first| first.split('.').next())
                .unwrap_or_default();
            found.insert(key);
        }
    }
    found
}

#[test]
fn every_configuration_key_is_described() {
    let code = configuration_in_code();
    assert!(code.contains("kafka.topic_prefix"), "{code:?}");
    expect_none(
        "configuration keys",
        &differences(&code, &configuration_in_docs()),
    );
}

/// Every path of the workspace, folders too.
fn all_paths() -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for extension in [
        "rs", "md", "toml", "yaml", "html", "sh", "json", "service", "svg", "txt", "tsv", "jsonl",
    ] {
        for file in files("", extension) {
            let mut path = file.path.as_str();
            paths.insert(path.to_owned());
            while let Some((folder, _)) = path.rsplit_once('/') {
                paths.insert(format!("{folder}/"));
                path = folder;
            }
        }
    }
    paths
}

/// Whether a word is meant as a path to a source file or a folder of them.
fn is_path(word: &str) -> bool {
    const LIKE: [&str; 6] = [
        "leader-agent/",
        "follower-agent/",
        "common/",
        "cli/",
        "tests/",
        "bench/",
    ];
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    word.chars().all(is_plain)
        && (word.ends_with(".rs")
            || (word.contains('/') && LIKE.iter().any(|of| word.starts_with(of))))
}

#[test]
fn every_path_in_the_documentation_exists() {
    let paths = all_paths();
    let exists = |word: &str| {
        paths
            .iter()
            .any(|path| path == word || path.ends_with(&format!("/{word}")))
            || paths.contains(&format!("{word}/"))
    };
    let mut missing = Vec::new();
    for page in files("docs", "md").into_iter().chain(files("", "md")) {
        if page.path.contains('/') && !page.path.starts_with("docs/") {
            continue;
        }
        for word in quoted(&page.text).filter(|word| is_path(word) && !exists(word)) {
            missing.push(format!("{}: `{word}`", page.path));
        }
    }
    missing.dedup();
    expect_none("paths that do not exist", &missing);
}
