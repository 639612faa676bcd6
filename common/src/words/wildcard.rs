//! Name patterns.

/// Whether `text` matches `pattern`, in which `*` stands for any run of characters.
pub fn wildcard_match(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut left) = text.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let Some(last) = pattern.rsplit('*').next().filter(|_| pattern.contains('*')) else {
        return left.is_empty();
    };
    let mut middle: Vec<&str> = parts.collect();
    middle.pop();
    for part in middle {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::wildcard_match;

    #[test]
    fn wildcards_stand_for_any_run_of_characters() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("f*", "f-ro", true),
            ("f*o", "f-ro", true),
            ("f-ro", "f-ro", true),
            ("f-r", "f-ro", false),
            ("*r*", "f-ro", true),
            ("f*r*o*", "f-ro", true),
            ("ab*ba", "aba", false),
            ("", "x", false),
        ] {
            assert_eq!(
                wildcard_match(pattern, text),
                expected,
                "{pattern} on {text}"
            );
        }
    }
}
