//! Reads the workspace's own sources, for the tests that hold them to the layout, the style and the
//! documentation.

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the workspace.
pub struct Source {
    /// Relative to the workspace's root, with `/` between its parts.
    pub path: String,
    pub text: String,
}

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every file below `folder` whose name ends in `.extension`, sorted by path. Build output and what
/// hides behind a dot are left out.
pub fn files(folder: &str, extension: &str) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root().join(folder), extension, &mut found);
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

fn collect(folder: &Path, extension: &str, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            collect(&path, extension, found);
        } else if name.ends_with(&format!(".{extension}"))
            && let Ok(text) = fs::read_to_string(&path)
        {
            let root = root();
            let path = path.strip_prefix(root).unwrap_or(&path);
            let path = path.to_string_lossy().into_owned();
            found.push(Source { path, text });
        }
    }
}

/// Rust code without its comments and the contents of its strings; line breaks stay.
pub fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut code, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let end = opaque_end(bytes, at);
        if end > at {
            let breaks = bytes[at..end].iter().filter(|byte| **byte == b'\n');
            code.extend(breaks);
            code.push(b' ');
            at = end;
        } else {
            code.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// Where the comment, string or character that begins at `at` ends; `at` if none does.
fn opaque_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let is_inside_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => at + find(rest, b"\n").unwrap_or(rest.len()),
        [b'/', b'*', ..] => at + find(rest, b"*/").map_or(rest.len(), |end| end + 2),
        [b'"', ..] => at + string_end(rest),
        [b'r', b'"' | b'#', ..] if !is_inside_word => at + raw_string_end(rest),
        [b'\'', b'\\', _, ..] => at + 3 + find(&rest[3..], b"'").map_or(0, |end| end + 1),
        [b'\'', _, b'\'', ..] => at + 3,
        _ => at,
    }
}

fn string_end(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string_end(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let body = &rest[2 + hashes..];
    let end = find(body, close.as_bytes()).map_or(body.len(), |end| end + close.len());
    2 + hashes + end
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

/// Fails with everything that was found, one a line.
pub fn expect_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[cfg(test)]
mod tests {
    use super::code_only;

    #[test]
    fn comments_and_strings_are_no_code() {
        let text = "use a; // crate::b\nlet c = \"crate::d \\\" e\"; '\"' r#\"f\"# g /* h */ i";
        let code = code_only(text);
        for (word, is_code) in [
            ("use a;", true),
            ("crate::b", false),
            ("crate::d", false),
            ("f", false),
            ("g", true),
            ("h", false),
            ("i", true),
        ] {
            assert_eq!(code.contains(word), is_code, "{word} in {code}");
        }
    }
}
