//! What is left of an expression without the followed indices that it covers.

use shardline_common::wildcard::wildcard_match;

use super::super::expression::{Element, Part};
use super::{Followed, Names, Rest, contains};

/// The parts of an expression that stay.
#[derive(Default)]
struct Kept<'a> {
    parts: Vec<&'a str>,
    has_wildcard: bool,
    /// Whether they cover any index.
    covers_others: bool,
}

/// No expression covers the rest alone.
struct Unsayable;

impl Names {
    /// The expression without its followed indices.
    pub(super) fn rest(
        &self,
        elements: &[Element<'_>],
        found: &[String],
        followed: &Followed,
        finds_hidden: bool,
    ) -> Rest {
        let mut kept = Kept::default();
        for element in elements {
            if self.keep(element, found, followed, &mut kept).is_err() {
                return Rest::Unsayable;
            }
        }
        if !kept.covers_others {
            return Rest::Nothing;
        }
        let mut expression = kept.parts.join(",");
        let mut exclude = |name: &str| {
            expression.push_str(",-");
            expression.push_str(name);
        };
        if kept.has_wildcard {
            // OpenSearch refuses an exclusion of what is not there.
            found
                .iter()
                .filter(|name| self.has_index(name))
                .for_each(|name| exclude(name));
        }
        let is_everything = matches!(elements, [only] if only.part == Part::Everything);
        if is_everything && !finds_hidden {
            self.hidden_with_alias
                .iter()
                .filter(|name| !contains(followed, name))
                .for_each(|name| exclude(name));
        }
        Rest::Expression(expression)
    }

    fn keep<'a>(
        &'a self,
        element: &Element<'a>,
        found: &[String],
        followed: &Followed,
        kept: &mut Kept<'a>,
    ) -> Result<(), Unsayable> {
        match &element.part {
            Part::Name(name) if contains(followed, name) => {}
            Part::Name(name) => return self.keep_name(name, element.text, followed, kept),
            Part::DateMath(shape) if found.iter().any(|name| shape.may_be(name)) => {
                return Err(Unsayable);
            }
            Part::DateMath(_) => {
                kept.covers_others = true;
                kept.parts.push(element.text);
            }
            Part::Everything | Part::Pattern(_) => {
                kept.has_wildcard = true;
                let pattern = match element.part {
                    Part::Pattern(pattern) => pattern,
                    _ => "*",
                };
                kept.covers_others |= self.has_others(pattern, followed);
                kept.parts.push(pattern);
            }
            Part::Exclusion(_) => kept.parts.push(element.text),
        }
        Ok(())
    }

    fn keep_name<'a>(
        &'a self,
        name: &str,
        text: &'a str,
        followed: &Followed,
        kept: &mut Kept<'a>,
    ) -> Result<(), Unsayable> {
        let Some(group) = self.groups.get(name) else {
            kept.covers_others = true;
            kept.parts.push(text);
            return Ok(());
        };
        let (theirs, others) = group.parted(followed);
        kept.covers_others |= !others.is_empty();
        match (theirs, group.narrows()) {
            (false, _) => kept.parts.push(text),
            (true, true) if !others.is_empty() => return Err(Unsayable),
            (true, _) => kept.parts.extend(others),
        }
        Ok(())
    }

    /// Whether a pattern finds an index that is not followed.
    fn has_others(&self, pattern: &str, followed: &Followed) -> bool {
        let by_name = self
            .indices
            .keys()
            .filter(|name| wildcard_match(pattern, name));
        let by_group = self
            .groups
            .iter()
            .filter(|(name, _)| wildcard_match(pattern, name))
            .flat_map(|(_, group)| group.members.keys());
        by_name
            .chain(by_group)
            .any(|name| !contains(followed, name))
    }
}
