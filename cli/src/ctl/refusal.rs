//! What an agent refuses, with the innermost cause first: the layers above it only repeat where it
//! happened.

use std::fmt;

use serde_json::Value;

/// An answer that is an error.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: u16,
    /// The innermost first.
    causes: Vec<Cause>,
    pub body: Box<Value>,
}

#[derive(Debug, PartialEq, Eq)]
struct Cause {
    error_type: String,
    reason: String,
}

impl Refusal {
    /// `error_type` and `reason` are what is said where the body names no cause.
    pub(super) fn new(status: u16, error_type: String, reason: String, body: Box<Value>) -> Self {
        let mut causes = Vec::new();
        let mut layer = &body["error"];
        while let Some(reason) = layer["reason"].as_str() {
            let cause = Cause {
                error_type: layer["type"].as_str().unwrap_or_default().to_owned(),
                reason: reason.to_owned(),
            };
            if causes.last() != Some(&cause) {
                causes.push(cause);
            }
            layer = &layer["caused_by"];
        }
        if causes.len() < 2 {
            causes = vec![Cause { error_type, reason }];
        }
        causes.reverse();
        Self {
            status,
            causes,
            body,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, Cause { error_type, reason }) in self.causes.iter().enumerate() {
            match depth {
                0 => write!(f, "{reason} ({error_type}, status {})", self.status)?,
                _ => write!(f, "\n  seen as: {reason} ({error_type})")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(body: Value) -> String {
        Refusal::new(500, "t".to_owned(), "outermost".to_owned(), Box::new(body)).to_string()
    }

    #[test]
    fn the_innermost_cause_comes_first() {
        let body = json!({"status": 500, "error": {
            "type": "connect_exception", "reason": "[][COZ] connect_exception", "caused_by": {
                "type": "connect_transport_exception", "reason": "[][COZ] connect_exception",
                "caused_by": {
                    "type": "io_exception", "reason": "no leader agent answered within 10s",
                },
            },
        }});
        let expected = "no leader agent answered within 10s (io_exception, status 500)\n  \
                        seen as: [][COZ] connect_exception (connect_transport_exception)\n  \
                        seen as: [][COZ] connect_exception (connect_exception)";
        assert_eq!(refusal(body), expected);
    }

    #[test]
    fn an_error_without_a_cause_is_said_as_it_is() {
        for body in [
            json!({"error": {"type": "x", "reason": "y"}}),
            json!(null),
            json!("no"),
        ] {
            assert_eq!(refusal(body), "outermost (t, status 500)");
        }
    }
}
