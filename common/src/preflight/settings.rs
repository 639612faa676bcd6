//! The configuration by itself: values, files that it names, and what librdkafka makes of its
//! properties.

use super::{Problem, Report};
use crate::kafka::{Kafka, property_problems};
use crate::process::config::{AgentConfig, ConfigError};
use crate::process::telemetry;

const MEND: &str = "correct the value; docs/operations.md has all keys";

pub(super) fn check_settings<C: AgentConfig>(config: &C, report: &mut Report) {
    let mut problems = config.problems();
    let (opensearch, kafka) = (config.opensearch(), config.kafka());
    let is_valid = problems.is_empty();
    problems.extend(telemetry::check_logs(config.log()).err());
    problems.extend(property_problems(&kafka.properties));
    if problems.is_empty() {
        report.ok("values", "all keys are known and have values that can be");
    }
    for problem in problems {
        report.failed("values", problem, MEND);
    }
    if opensearch.password_file.is_some() || opensearch.ca_certificate.is_some() {
        let read = opensearch.login().and_then(|_| opensearch.authorities());
        let found = read.map(|certificates| match certificates.len() {
            0 => "the password can be read".to_owned(),
            count => format!("can be read; certificates of authorities: {count}"),
        });
        report.add("files of opensearch", found.map_err(file_problem));
    }
    if !kafka.properties_files.is_empty() {
        let read = kafka.all_properties();
        let found = read.map(|_| "can be read".to_owned());
        report.add(
            "files of kafka.properties_files",
            found.map_err(file_problem),
        );
    }
    if is_valid && kafka.all_properties().is_ok() {
        let client = Kafka::new(kafka.clone()).map(|_| String::new());
        let mend = "correct kafka.properties: librdkafka's CONFIGURATION.md has all of them";
        report.add(
            "Kafka client",
            client.map_err(|error| Problem::new(error, mend)),
        );
    }
}

fn file_problem(error: ConfigError) -> Problem {
    let mend = match &error {
        ConfigError::File { file, .. } => format!(
            "give the agent's user a file that it can read: install -m 0400 -o <user> … {}",
            file.display()
        ),
        _ => MEND.to_owned(),
    };
    Problem::new(error, mend)
}
