//! The rules an index or rule name has to keep, in the order and the words of the plugin.

const FORBIDDEN: [char; 10] = [' ', '"', '*', '\\', '<', '|', ',', '>', '/', '?'];
const MAX_BYTES: usize = 255;

/// Adds a line to `problems` for each rule that `name` breaks.
pub fn check(name: &str, problems: &mut Vec<String>) {
    let mut require = |kept: bool, rule: &str| {
        if !kept {
            problems.push(format!("Value {name} {rule}"));
        }
    };
    require(name.to_lowercase() == name, "must be lowercase");
    require(
        !name.contains(FORBIDDEN),
        "must not contain the following characters [ , \", *, \\, <, |, ,, >, /, ?]",
    );
    require(!name.contains(['#', ':']), "must not contain '#' or ':'");
    require(name != "." && name != "..", "must not be '.' or '..'");
    require(
        !name.starts_with(['_', '-', '+']),
        "must not start with '_' or '-' or '+'",
    );
    require(name.len() <= MAX_BYTES, "must not be longer than 255 bytes");
    // Backing indices of data streams are followed as plain indices of the same name.
    require(
        !name.starts_with('.') || name.starts_with(".ds-"),
        "must not start with '.'",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_broken_rule_adds_a_line_in_order() {
        let problems_of = |name: &str| {
            let mut problems = Vec::new();
            check(name, &mut problems);
            problems
        };
        assert!(problems_of("logs-2024.01").is_empty());
        assert_eq!(
            problems_of(".."),
            [
                "Value .. must not be '.' or '..'",
                "Value .. must not start with '.'"
            ]
        );
        let long = "x".repeat(256);
        assert_eq!(
            problems_of(&long),
            [format!("Value {long} must not be longer than 255 bytes")]
        );
        assert_eq!(
            problems_of("_A#"),
            [
                "Value _A# must be lowercase",
                "Value _A# must not contain '#' or ':'",
                "Value _A# must not start with '_' or '-' or '+'"
            ]
        );
    }
}
