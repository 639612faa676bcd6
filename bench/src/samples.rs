//! Several rounds of one measurement: the median, and how far the rounds lie apart.

use std::fmt;

#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => sorted[odd / 2],
            even => (sorted[even / 2 - 1] + sorted[even / 2]) / 2.0,
        }
    }

    /// Each round's value in relation to the other's of the same round.
    pub fn ratio_to(&self, other: &Self) -> Self {
        self.0
            .iter()
            .zip(&other.0)
            .map(|(mine, theirs)| mine / theirs)
            .collect()
    }

    pub fn map(&self, of: impl Fn(f64) -> f64) -> Self {
        self.0.iter().map(|value| of(*value)).collect()
    }

    /// `median (lowest–highest)`.
    pub fn show(&self, decimals: usize) -> String {
        let number = |value| grouped(value, decimals);
        let lowest = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        match self.0.len() {
            0 => "–".to_owned(),
            1 => number(self.median()),
            _ => format!(
                "{} ({}–{})",
                number(self.median()),
                number(lowest),
                number(highest)
            ),
        }
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show(2))
    }
}

/// A number with thousands separators.
pub fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text
        .split_once('.')
        .map_or((text.as_str(), None), |(w, f)| (w, Some(f)));
    let (sign, digits) = whole
        .strip_prefix('-')
        .map_or(("", whole), |digits| ("-", digits));
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    fraction.map_or_else(
        || format!("{sign}{grouped}"),
        |fraction| format!("{sign}{grouped}.{fraction}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_ratios_and_groups() {
        let times: Samples = [3.0, 1.0, 2.0].into_iter().collect();
        let baseline: Samples = [1.0, 1.0, 4.0].into_iter().collect();
        assert_eq!(times.to_string(), "2.00 (1.00–3.00)");
        assert_eq!(times.ratio_to(&baseline).show(1), "1.0 (0.5–3.0)");
        assert_eq!(grouped(-1234567.891, 1), "-1,234,567.9");
        assert_eq!(grouped(999.0, 0), "999");
    }
}
