//! "did you mean": the candidates OpenSearch would offer for a misspelt field or parameter.

/// Candidates more than half alike, best first; equal ones in alphabetical order.
pub fn alike<'a>(word: &str, candidates: &[&'a str]) -> Vec<&'a str> {
    let mut scored: Vec<(f32, &str)> = candidates
        .iter()
        .map(|candidate| (similarity(word, candidate), *candidate))
        .filter(|(score, _)| *score > 0.5)
        .collect();
    scored.sort_by(|left, right| right.0.total_cmp(&left.0).then(left.1.cmp(right.1)));
    scored.into_iter().map(|(_, candidate)| candidate).collect()
}

/// `did you mean [a]?` or `did you mean any of [a, b]?`; `None` without a candidate.
pub fn did_you_mean(word: &str, candidates: &[&str]) -> Option<String> {
    match alike(word, candidates).as_slice() {
        [] => None,
        [only] => Some(format!("did you mean [{only}]?")),
        several => Some(format!("did you mean any of [{}]?", several.join(", "))),
    }
}

/// 1 for equal words, 0 for words without anything in common: one minus the edit distance over the
/// longer length.
fn similarity(left: &str, right: &str) -> f32 {
    let (left, right): (Vec<char>, Vec<char>) =
        (left.chars().take(256).collect(), right.chars().collect());
    let longest = left.len().max(right.len());
    if longest == 0 {
        return 1.0;
    }
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, left_char) in left.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (column, right_char) in right.iter().enumerate() {
            let substitution = diagonal + usize::from(left_char != right_char);
            diagonal = row[column + 1];
            row[column + 1] = substitution.min(diagonal + 1).min(row[column] + 1);
        }
    }
    1.0 - row[right.len()] as f32 / longest as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_what_the_server_offers() {
        let fields = ["leader_alias", "leader_index", "use_roles", "settings"];
        let both = Some("did you mean any of [leader_alias, leader_index]?".to_owned());
        assert_eq!(did_you_mean("leader_alis", &fields), both);
        assert_eq!(did_you_mean("leader", &fields), None);
        assert_eq!(
            did_you_mean("setting", &fields),
            Some("did you mean [settings]?".to_owned())
        );
    }
}
