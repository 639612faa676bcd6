//! Which folder of a package may use which other: docs/architecture.md has the picture.

use std::collections::BTreeSet;

use shardline_tidy::{Source, code_only, expect_none, files};

/// A folder, or a file beside them, and what it may use beside itself and the base.
type Arrows = &'static [(&'static str, &'static [&'static str])];

/// A package, with what all of its folders may use.
struct Package {
    folder: &'static str,
    base: &'static [&'static str],
    arrows: Arrows,
}

const CLI: Package = Package {
    folder: "cli/src",
    base: &[],
    arrows: &[("contract", &[]), ("ctl", &["contract"])],
};

const FOLLOWER_AGENT: Package = Package {
    folder: "follower-agent/src",
    base: &["metrics"],
    arrows: &[
        ("metrics", &[]),
        ("config", &[]),
        ("read", &[]),
        ("progress", &[]),
        ("membership", &["progress"]),
        ("write", &["progress"]),
        ("shard", &["read", "write", "progress", "membership"]),
        (
            "index",
            &["shard", "read", "write", "progress", "membership"],
        ),
        ("control", &["index", "progress", "membership"]),
        ("http", &["membership"]),
        ("preflight", &["config", "progress"]),
        (
            "engine",
            &["control", "index", "membership", "progress", "read"],
        ),
        (
            "agent",
            &["config", "control", "engine", "http", "progress"],
        ),
    ],
};

/// Where `leader-agent` and `common` are to stand. Their files are still flat: a package is held to
/// its table as soon as it has all of its folders.
const LEADER_AGENT: Package = Package {
    folder: "leader-agent/src",
    base: &["metrics", "config"],
    arrows: &[
        ("metrics", &[]),
        ("config", &[]),
        ("translog", &[]),
        ("publish", &[]),
        ("node", &[]),
        ("source", &["translog", "node"]),
        ("scan", &["node"]),
        (
            "capture",
            &["source", "scan", "publish", "translog", "node"],
        ),
        (
            "serve",
            &["capture", "source", "scan", "publish", "translog", "node"],
        ),
        (
            "supervise",
            &[
                "serve", "capture", "source", "scan", "publish", "translog", "node",
            ],
        ),
        ("preflight", &["node", "supervise"]),
        ("page", &["capture", "node", "supervise"]),
        (
            "agent",
            &[
                "page",
                "supervise",
                "serve",
                "capture",
                "source",
                "scan",
                "publish",
                "translog",
                "node",
            ],
        ),
    ],
};

const COMMON: Package = Package {
    folder: "common/src",
    base: &[],
    arrows: &[
        ("words", &[]),
        ("process", &[]),
        ("page", &["process"]),
        ("record", &["words"]),
        ("control", &["words", "record"]),
        ("kafka", &["control", "record", "process", "words"]),
        ("opensearch", &["control", "process", "words", "record"]),
        (
            "preflight",
            &["opensearch", "kafka", "control", "process", "words"],
        ),
        ("launch", &["preflight", "process"]),
    ],
};

/// The folders and files of a package that `text`, a file of it, uses.
fn used(module: &[&str], text: &str) -> BTreeSet<String> {
    let code = code_only(text);
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if is_word_start(&code, at) {
            found.extend(heads(&code[at + "crate::".len()..]));
        }
    }
    for (at, _) in code.match_indices("super::") {
        if !is_word_start(&code, at) || code[..at].ends_with("super::") {
            continue;
        }
        let mut rest = &code[at..];
        let mut up = 0;
        while let Some(deeper) = rest.strip_prefix("super::") {
            (rest, up) = (deeper, up + 1);
        }
        if up >= module.len() {
            found.extend(heads(rest));
        }
    }
    found
}

fn is_word_start(code: &str, at: usize) -> bool {
    let before = code[..at].bytes().next_back();
    before.is_none_or(|byte| !byte.is_ascii_alphanumeric() && byte != b'_')
}

/// The first names of the paths that stand at the beginning of `code`: one, or those in braces.
fn heads(code: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        let is_word = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
        text.trim_start().chars().take_while(is_word).collect()
    };
    let Some(list) = code.strip_prefix('{') else {
        return vec![name(code)];
    };
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(name(&list[start..at]));
                start = at + 1;
                if character == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

/// The module that a file is, as a path below the package's root.
fn module_of<'a>(package: &Package, file: &'a Source) -> Vec<&'a str> {
    let inner = file.path[package.folder.len() + 1..].trim_end_matches(".rs");
    let mut parts: Vec<&str> = inner.split('/').collect();
    if matches!(parts.last(), Some(&("mod" | "lib" | "main"))) {
        parts.pop();
    }
    parts
}

fn check(package: &Package) -> Vec<String> {
    let names: BTreeSet<&str> = package.arrows.iter().map(|(name, _)| *name).collect();
    let mut wrong = Vec::new();
    for file in files(package.folder, "rs") {
        let module = module_of(package, &file);
        let Some(own) = module.first() else { continue };
        let Some((_, allowed)) = package.arrows.iter().find(|(name, _)| name == own) else {
            if !package.base.contains(own) {
                wrong.push(format!("{}: {own} is not in the table", file.path));
            }
            continue;
        };
        for target in used(&module, &file.text) {
            let target = target.as_str();
            let is_allowed = target == *own
                || !names.contains(target)
                || allowed.contains(&target)
                || package.base.contains(&target);
            if !is_allowed {
                wrong.push(format!("{}: {own} may not use {target}", file.path));
            }
        }
    }
    wrong
}

fn has_its_folders(package: &Package) -> bool {
    let root = shardline_tidy::root().join(package.folder);
    let mut names = package.arrows.iter().map(|(name, _)| name);
    names.all(|name| root.join(name).is_dir() || root.join(format!("{name}.rs")).is_file())
}

#[test]
fn arrows_are_read_from_paths() {
    let text = "use crate::{a, b::{c, d}, e};\nuse super::f;\nfn g() { super::super::h::i() }";
    let names = |module: &[&str]| used(module, text).into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(names(&["room", "file"]), "a b e h");
    assert_eq!(names(&["room"]), "a b e f h");
}

#[test]
fn every_arrow_is_allowed() {
    for package in [CLI, FOLLOWER_AGENT] {
        expect_none("arrows that the layout does not allow", &check(&package));
    }
    for package in [LEADER_AGENT, COMMON] {
        if has_its_folders(&package) {
            expect_none("arrows that the layout does not allow", &check(&package));
        }
    }
}

#[test]
fn a_package_has_at_most_sixteen_entries() {
    for package in [CLI, FOLLOWER_AGENT] {
        let entries = std::fs::read_dir(shardline_tidy::root().join(package.folder));
        let count = entries.map_or(0, Iterator::count);
        assert!((1..=16).contains(&count), "{}: {count}", package.folder);
    }
}
