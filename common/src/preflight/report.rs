//! What was checked, line by line: `ok`, or `FAILED` with what is wrong and what mends it.

use std::fmt;

/// What is wrong, and the command or setting that mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub what: String,
    pub mend: String,
}

impl Problem {
    pub fn new(what: impl fmt::Display, mend: impl fmt::Display) -> Self {
        Self {
            what: what.to_string(),
            mend: mend.to_string(),
        }
    }
}

#[derive(Debug)]
struct Line {
    check: String,
    found: Result<String, Problem>,
}

/// The lines, in the order in which they were checked.
#[derive(Debug, Default)]
pub struct Report(Vec<Line>);

impl Report {
    pub fn ok(&mut self, check: impl fmt::Display, found: impl fmt::Display) {
        self.add(check, Ok(found.to_string()));
    }

    pub fn failed(
        &mut self,
        check: impl fmt::Display,
        what: impl fmt::Display,
        mend: impl fmt::Display,
    ) {
        self.add(check, Err(Problem::new(what, mend)));
    }

    pub fn add(&mut self, check: impl fmt::Display, found: Result<String, Problem>) {
        self.0.push(Line {
            check: check.to_string(),
            found,
        });
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is wrong, each with the name of its check.
    pub fn failures(&self) -> Vec<String> {
        let failed = |line: &Line| {
            let problem = line.found.as_ref().err()?;
            Some(format!("{}: {}", line.check, problem.what))
        };
        self.0.iter().filter_map(failed).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Line { check, found } in &self.0 {
            match found {
                Ok(found) if found.is_empty() => writeln!(f, "ok      {check}")?,
                Ok(found) => writeln!(f, "ok      {check}: {found}")?,
                Err(Problem { what, mend }) => {
                    writeln!(f, "FAILED  {check}: {what}")?;
                    writeln!(f, "        to mend: {mend}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_mends_it() {
        let mut report = Report::default();
        report.ok("a", "");
        report.ok("b", "5 of 5");
        report.failed("c", "it is gone", "bring it back");
        let lines =
            "ok      a\nok      b: 5 of 5\nFAILED  c: it is gone\n        to mend: bring it back\n";
        assert_eq!(report.to_string(), lines);
        assert_eq!(
            (report.len(), report.failures()),
            (3, vec!["c: it is gone".to_owned()])
        );
    }
}
