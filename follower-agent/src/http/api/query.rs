//! Query strings and paths, decoded as OpenSearch decodes them.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use shardline::contract::error::ApiError;
use shardline::contract::{suggest, units};

use super::filter::PathFilter;
use super::render::{Format, Rendering};

/// Parameters that every route takes.
pub const COMMON: [&str; 7] = [
    "error_trace",
    "filter_path",
    "format",
    "human",
    "pretty",
    "source",
    "source_content_type",
];

/// The decoded parameters of a request; of a repeated one the last counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    parameters: BTreeMap<String, String>,
}

impl Query {
    pub(crate) fn parse(raw: Option<&str>) -> Self {
        let mut parameters = BTreeMap::new();
        // OpenSearch splits at a semicolon too.
        for pair in raw
            .unwrap_or_default()
            .split(['&', ';'])
            .filter(|pair| !pair.is_empty())
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            parameters.insert(decode_form(name), decode_form(value));
        }
        Self { parameters }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parameters
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A switch; a bare `?name` is on.
    pub(crate) fn boolean(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(other) => Err(ApiError::illegal_argument(format!(
                "Failed to parse value [{other}] as only [true] or [false] are allowed."
            ))),
        }
    }

    /// Refuses a duration without a unit OpenSearch knows; the value itself has no effect here.
    pub(super) fn check_time(&self, name: &str) -> Result<(), ApiError> {
        let Some(value) = self.get(name) else {
            return Ok(());
        };
        units::parse_time(name, value).map(drop)
    }

    /// Refuses parameters that are neither common nor in `known`.
    pub(super) fn check_known(&self, path: &str, known: &[&str]) -> Result<(), ApiError> {
        let candidates: Vec<&str> = known.iter().chain(&COMMON).copied().collect();
        let unknown: Vec<String> = self
            .parameters
            .keys()
            .filter(|name| !candidates.contains(&name.as_str()))
            .map(|name| match suggest::did_you_mean(name, &candidates) {
                Some(hint) => format!("[{name}] -> {hint}"),
                None => format!("[{name}]"),
            })
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let plural = if unknown.len() > 1 { "s" } else { "" };
        let list = unknown.join(", ");
        Err(ApiError::illegal_argument(format!(
            "request [{path}] contains unrecognized parameter{plural}: {list}"
        )))
    }

    /// How the caller wants the answer; a bad value counts as off, [`Self::check_rendering`]
    /// refuses it.
    pub(crate) fn rendering(&self) -> Rendering {
        Rendering {
            pretty: self.boolean("pretty").unwrap_or(false),
            filter: self.get("filter_path").and_then(PathFilter::parse),
            format: self.get("format").map(Format::named).unwrap_or_default(),
        }
    }

    pub(super) fn check_rendering(&self) -> Result<(), ApiError> {
        ["error_trace", "pretty", "human"]
            .iter()
            .try_for_each(|name| self.boolean(name).map(drop))
    }
}

fn decode_form(text: &str) -> String {
    decode_component(&text.replace('+', " "))
}

/// Percent-decodes once; bytes that are not UTF-8 become U+FFFD, as Java's decoder makes them.
pub(crate) fn decode_component(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_once_and_the_last_counts() {
        let query = Query::parse(Some("a=1&a=2;pretty&index=f%2Dro+x&p=%2525"));
        assert_eq!(query.get("a"), Some("2"));
        assert_eq!(query.get("index"), Some("f-ro x"));
        assert_eq!(query.get("p"), Some("%25"));
        assert!(query.rendering().pretty);
    }

    #[test]
    fn durations_need_a_unit() {
        for (value, good) in [
            ("30s", true),
            ("1m", true),
            ("-1", true),
            ("0", true),
            ("30", false),
            ("s", false),
            ("1.5s", false),
        ] {
            let query = Query::parse(Some(&format!("timeout={value}")));
            assert_eq!(query.check_time("timeout").is_ok(), good, "{value}");
        }
    }

    #[test]
    fn unknown_parameters_are_named() {
        let error = |raw: &str| {
            Query::parse(Some(raw))
                .check_known("/p", &["wait_for_restore"])
                .map_err(|e| e.message())
        };
        let expected =
            "illegal_argument_exception: request [/p] contains unrecognized parameter: [bogus]";
        assert_eq!(error("bogus=1&pretty"), Err(expected.to_owned()));
        let expected = "illegal_argument_exception: request [/p] contains unrecognized \
            parameters: [timeout], [wait_for_restor] -> did you mean [wait_for_restore]?";
        assert_eq!(
            error("wait_for_restor=1&timeout=1s"),
            Err(expected.to_owned())
        );
    }
}
