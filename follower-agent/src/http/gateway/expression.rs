//! Index expressions as OpenSearch reads them, parsed once: names, wildcards, exclusions, date
//! math.
//!
//! OpenSearch cuts an expression at its commas as Java's `split` does, which drops empty parts at
//! the end: `,` has no parts, and an expression without parts means every index.

/// What a part of an expression stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// `_all`, `*`, or no expression at all.
    Everything,
    /// An index, an alias or a data stream.
    Name(&'a str),
    /// A name with `*` in it.
    Pattern(&'a str),
    /// `-name` or `-pattern` behind a wildcard.
    Exclusion(&'a str),
    /// `<name-{now/d}>`: what it stands for changes with the time, so it is judged by its shape.
    DateMath(Shape),
}

/// What names a date math part can come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// A date in the format that OpenSearch takes when none is given, `uuuu.MM.dd`.
    Day,
    /// A date in a format of the caller's, which may be any text.
    Anything,
}

/// A part beside the text that it was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Element<'a> {
    pub text: &'a str,
    pub part: Part<'a>,
}

/// Parses an expression into its parts; there is always at least one.
pub(super) fn parse(expression: &str) -> Vec<Element<'_>> {
    let mut elements = Vec::new();
    let mut after_wildcard = false;
    for text in expression.trim_end_matches(',').split(',') {
        let part = part_of(text.trim(), after_wildcard);
        after_wildcard |= matches!(part, Part::Pattern(_) | Part::Everything);
        elements.push(Element { text, part });
    }
    elements
}

fn part_of(text: &str, after_wildcard: bool) -> Part<'_> {
    if let Some(inner) = text
        .strip_prefix('<')
        .and_then(|rest| rest.strip_suffix('>'))
    {
        return match Shape::parse(inner).0.as_slice() {
            [] | [Piece::Text(_)] if !inner.contains('\\') => plain(inner, after_wildcard),
            pieces => Part::DateMath(Shape(pieces.to_vec())),
        };
    }
    plain(text, after_wildcard)
}

fn plain(text: &str, after_wildcard: bool) -> Part<'_> {
    if let Some(excluded) = text.strip_prefix('-').filter(|_| after_wildcard) {
        return Part::Exclusion(excluded);
    }
    match text {
        "" | "*" | "_all" => Part::Everything,
        text if text.contains('*') => Part::Pattern(text),
        text => Part::Name(text),
    }
}

impl Shape {
    /// From what stands between `<` and `>`.
    fn parse(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' => literal.extend(characters.next()),
                '{' => {
                    if !literal.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut literal)));
                    }
                    pieces.push(placeholder(&mut characters));
                }
                other => literal.push(other),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Self(pieces)
    }

    /// Whether the part may come to `name`, also by way of wildcards.
    pub(super) fn may_be(&self, name: &str) -> bool {
        let may_be_all = ["_all", "*"].iter().any(|all| matches(&self.0, all));
        may_be_all || matches(&self.0, name)
    }
}

/// Reads to the brace that closes a placeholder.
fn placeholder(characters: &mut std::str::Chars<'_>) -> Piece {
    let mut depth = 1;
    let mut has_format = false;
    while depth > 0 {
        match characters.next() {
            Some('{') => {
                has_format = true;
                depth += 1;
            }
            Some('}') => depth -= 1,
            Some('\\') => {
                has_format = true;
                characters.next();
            }
            Some(_) => {}
            None => break,
        }
    }
    if has_format {
        Piece::Anything
    } else {
        Piece::Day
    }
}

/// The pieces may hold wildcards of their own, in texts and in what formats print.
fn matches(pieces: &[Piece], name: &str) -> bool {
    let Some((piece, rest)) = pieces.split_first() else {
        return name.is_empty();
    };
    match piece {
        Piece::Text(text) => match text.split_once('*') {
            None => name
                .strip_prefix(text.as_str())
                .is_some_and(|left| matches(rest, left)),
            Some((before, after)) => {
                let mut behind = vec![Piece::Anything, Piece::Text(after.to_owned())];
                behind.extend_from_slice(rest);
                name.strip_prefix(before)
                    .is_some_and(|left| matches(&behind, left))
            }
        },
        Piece::Day => {
            let length = name
                .find(|character: char| !(character.is_ascii_digit() || "+-.".contains(character)))
                .unwrap_or(name.len());
            (0..=length).any(|end| matches(rest, &name[end..]))
        }
        Piece::Anything => name
            .char_indices()
            .map(|(start, _)| start)
            .chain([name.len()])
            .any(|start| matches(rest, &name[start..])),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(expression: &str) -> Vec<Part<'_>> {
        parse(expression)
            .into_iter()
            .map(|element| element.part)
            .collect()
    }

    #[test]
    fn expressions_are_read_as_the_server_reads_them() {
        use Part::{Everything, Exclusion, Name, Pattern};
        for (expression, expected) in [
            ("f", [Name("f")].as_slice()),
            ("", &[Everything]),
            (",", &[Everything]),
            (",,,", &[Everything]),
            ("f,", &[Name("f")]),
            (",f", &[Everything, Name("f")]),
            ("_all", &[Everything]),
            ("-f", &[Name("-f")]),
            ("f,-f", &[Name("f"), Name("-f")]),
            ("a*,-f", &[Pattern("a*"), Exclusion("f")]),
            ("*,-f*", &[Everything, Exclusion("f*")]),
            ("<f>", &[Name("f")]),
            ("<f*>", &[Pattern("f*")]),
            ("<_all>", &[Everything]),
        ] {
            assert_eq!(parts(expression), expected, "{expression}");
        }
    }

    #[test]
    fn date_math_is_judged_by_its_shape() {
        for (expression, name, expected) in [
            ("<logs-{now/d}>", "logs-2026.11.30", true),
            ("<logs-{now/d}>", "logs-archive", false),
            ("<logs-{now/d{'archive'}}>", "logs-archive", true),
            ("<{now{'*'}}>", "f", true),
            ("<_{now{'all'}}>", "f", true),
            ("<f\\{x>", "f{x", true),
            ("<f*{now/d}>", "fx-2026.11.30", true),
            ("<g{now{yyyy}}>", "f", false),
            ("<f{now/d", "f", false),
        ] {
            let found = parts(expression).iter().any(|part| match part {
                Part::DateMath(shape) => shape.may_be(name),
                _ => false,
            });
            assert_eq!(found, expected, "{expression} {name}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed(expression in ".{0,40}") {
            prop_assert!(!parse(&expression).is_empty());
        }
    }
}
