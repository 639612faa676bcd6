//! Durations and sizes as OpenSearch writes them (`30s`, `10mb`), with its words for what it cannot
//! read.

use http::StatusCode;

use super::error::{ApiError, Cause};

const NANOS_PER_MILLI: i128 = 1_000_000;
const TIME_UNITS: [(&str, i128); 7] = [
    ("nanos", 1),
    ("micros", 1_000),
    ("ms", NANOS_PER_MILLI),
    ("s", 1_000 * NANOS_PER_MILLI),
    ("m", 60_000 * NANOS_PER_MILLI),
    ("h", 3_600_000 * NANOS_PER_MILLI),
    ("d", 86_400_000 * NANOS_PER_MILLI),
];
const SIZE_UNITS: [(&str, i128); 11] = [
    ("kb", 1 << 10),
    ("mb", 1 << 20),
    ("gb", 1 << 30),
    ("tb", 1 << 40),
    ("pb", 1 << 50),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
    ("p", 1 << 50),
    ("b", 1),
];

/// A duration in nanoseconds; −1 stands for "never" and is below every bound.
pub fn parse_time(setting: &str, value: &str) -> Result<i128, ApiError> {
    let text = value.trim();
    if let Some(special) = unitless(value) {
        return Ok(special);
    }
    let lower = text.to_lowercase();
    for (unit, nanos) in TIME_UNITS {
        // An upper-case M would be months.
        let found = if unit == "m" {
            text.strip_suffix(unit)
        } else {
            lower.strip_suffix(unit)
        };
        if let Some(number) = found.map(str::trim).filter(|number| !number.is_empty()) {
            if let Ok(count) = number.parse::<i64>() {
                return Ok(i128::from(count) * nanos);
            }
            if number.parse::<f64>().is_ok() {
                let reason =
                    format!("failed to parse [{value}], fractional time values are not supported");
                return Err(ApiError::illegal_argument(reason));
            }
        }
    }
    Err(ApiError::illegal_argument(format!(
        "failed to parse setting [{setting}] with value [{value}] as a time value: unit is \
         missing or unrecognized"
    )))
}

/// A size in bytes.
pub fn parse_size(setting: &str, value: &str) -> Result<i128, ApiError> {
    if let Some(special) = unitless(value) {
        return Ok(special);
    }
    let lower = value.trim().to_lowercase();
    for (unit, bytes) in SIZE_UNITS {
        if let Some(count) = lower
            .strip_suffix(unit)
            .and_then(|number| number.trim().parse::<i64>().ok())
        {
            return Ok(i128::from(count) * bytes);
        }
    }
    let reason = format!(
        "failed to parse setting [{setting}] with value [{value}] as a size in bytes: unit is \
         missing or unrecognized"
    );
    let inner = Cause::new("parse_exception", reason.as_str());
    let cause = Cause::new("illegal_argument_exception", reason.as_str()).with_cause(inner.clone());
    Err(ApiError::from_cause(StatusCode::BAD_REQUEST, cause).with_root(inner))
}

/// The two numbers that need no unit.
fn unitless(value: &str) -> Option<i128> {
    match value {
        "-1" => Some(-1),
        "0" => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_as_the_server_reads_them() {
        let time = |value: &str| parse_time("t", value).ok();
        assert_eq!(time("1S"), Some(1_000_000_000));
        assert_eq!(time("1 s"), Some(1_000_000_000));
        assert_eq!(time("2ms"), Some(2_000_000));
        assert_eq!(time("-1"), Some(-1));
        for bad in ["", "5", "s", "1M", "1.5s", "2gb", " 5"] {
            assert_eq!(time(bad), None, "{bad}");
        }
        let size = |value: &str| parse_size("b", value).ok();
        assert_eq!(size("10MB"), Some(10 << 20));
        assert_eq!(size("1m"), Some(1 << 20));
        assert_eq!(size("7b"), Some(7));
        for bad in ["", "101", "1ms", "1.5mb"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }
}
