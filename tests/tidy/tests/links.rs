//! The documentation as a site: every link leads somewhere, every page is found, and every command
//! that `make` is given exists.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Component, Path, PathBuf};

use shardline_tidy::{Source, expect_none, files, root};

/// Where a reader begins.
const ENTRANCES: [&str; 3] = ["docs/SUMMARY.md", "README.md", "CHANGELOG.md"];

/// The pages that are held to this.
fn pages() -> Vec<Source> {
    let is_page = |page: &Source| !page.path.contains('/') || page.path.starts_with("docs/");
    files("", "md").into_iter().filter(is_page).collect()
}

/// The targets of links, without those in code.
fn links(text: &str) -> Vec<String> {
    let mut is_code = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            let ends = line.split("](").skip(1);
            let targets = ends.filter_map(|rest| rest.split(')').next());
            found.extend(targets.map(str::to_owned));
        }
    }
    found
}

/// The path of a link's target from the workspace's root, and the heading that it names.
fn resolve(page: &str, link: &str) -> Option<(String, Option<String>)> {
    if link.contains("://") || link.starts_with("mailto:") || link.contains(' ') {
        return None;
    }
    let (path, heading) = match link.split_once('#') {
        Some((path, heading)) => (path, Some(heading.to_owned())),
        None => (link, None),
    };
    if path.is_empty() {
        return Some((page.to_owned(), heading));
    }
    let mut target = PathBuf::new();
    let folder = Path::new(page).parent().unwrap_or(Path::new(""));
    for part in folder.join(path).components() {
        match part {
            Component::ParentDir => {
                target.pop();
            }
            part => target.push(part),
        }
    }
    Some((target.to_string_lossy().into_owned(), heading))
}

/// The name by which a heading is linked to.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().replace(' ', "-")
}

fn has_heading(text: &str, wanted: &str) -> bool {
    let mut headings = text.lines().filter(|line| line.starts_with('#'));
    headings.any(|heading| anchor(heading) == wanted)
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let mut broken = Vec::new();
    for page in &pages {
        for link in links(&page.text) {
            let Some((target, heading)) = resolve(&page.path, &link) else {
                continue;
            };
            let is_there = root().join(&target).exists();
            let target = pages.iter().find(|page| page.path == target);
            let is_right = match (&heading, target) {
                (Some(heading), Some(target)) => has_heading(&target.text, heading),
                _ => is_there,
            };
            if !is_right {
                broken.push(format!("{}: {link}", page.path));
            }
        }
    }
    expect_none("links that lead nowhere", &broken);
}

/// The pages that a link leads to: a folder shows all of its own.
fn led_to(page: &Source, pages: &[Source]) -> Vec<String> {
    let links = links(&page.text).into_iter();
    let targets = links.filter_map(|link| resolve(&page.path, &link));
    let in_target = |target: &str, path: &str| path == target || folder_of(path) == target;
    let paths = |target: String| {
        let paths = pages.iter().map(|page| page.path.clone());
        paths.filter(move |path| in_target(&target, path))
    };
    targets.flat_map(|(target, _)| paths(target)).collect()
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[test]
fn every_page_is_found() {
    let pages = pages();
    let mut found: BTreeSet<String> = ENTRANCES.map(str::to_owned).into();
    let mut left: VecDeque<String> = found.iter().cloned().collect();
    while let Some(path) = left.pop_front() {
        let page = pages.iter().find(|page| page.path == path);
        for target in page.map(|page| led_to(page, &pages)).unwrap_or_default() {
            if found.insert(target.clone()) {
                left.push_back(target);
            }
        }
    }
    let in_docs = pages.iter().filter(|page| page.path.starts_with("docs/"));
    let lost = in_docs.filter(|page| !found.contains(&page.path));
    let lost: Vec<String> = lost.map(|page| page.path.clone()).collect();
    expect_none("pages that no link leads to", &lost);
}

#[test]
fn every_make_command_exists() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap_or_default();
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter(|line| !line.starts_with(['\t', '#', '.', ' ']))
        .filter_map(|line| line.split_once(':').map(|(target, _)| target))
        .collect();
    let mut unknown = Vec::new();
    for page in pages() {
        let commands = page
            .text
            .lines()
            .filter_map(|line| line.strip_prefix("make "));
        for command in commands {
            let target = command.split_whitespace().next().unwrap_or_default();
            if !targets.contains(target) {
                unknown.push(format!("{}: make {command}", page.path));
            }
        }
    }
    expect_none("commands that make does not know", &unknown);
}

#[test]
fn anchors_are_those_of_the_site() {
    let heading = "## GET /{follower}/_dead_letters, POST /{follower}/_dead_letters/_replay";
    let expected = "get-follower_dead_letters-post-follower_dead_letters_replay";
    assert_eq!(anchor(heading), expected);
    let resolved = resolve("docs/a.md", "../README.md#x");
    assert_eq!(
        resolved,
        Some(("README.md".to_owned(), Some("x".to_owned())))
    );
}
