//! Whether librdkafka can make a client of some settings: asked of librdkafka itself, without a
//! network. What it says of a property is told without the property's value.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{IsError, KafkaError};

use crate::process::config::{ConfigError, Secret};

/// Makes a client that knows no broker: libraries, mechanisms, certificates and keys are looked at
/// then.
pub(super) fn check(settings: &ClientConfig) -> Result<(), ConfigError> {
    let mut settings = settings.clone();
    settings
        .remove("bootstrap.servers")
        .remove("metadata.broker.list");
    BaseConsumer::from_config(&settings)
        .map(drop)
        .map_err(without_value)
}

/// Says of each property whether librdkafka knows it and takes its value.
pub(crate) fn property_problems(properties: &BTreeMap<String, Secret>) -> Vec<ConfigError> {
    let wrong = |(property, value): (&String, &Secret)| {
        let mut settings = ClientConfig::new();
        settings.set(property, value.reveal());
        settings.create_native_config().err().map(without_value)
    };
    properties.iter().filter_map(wrong).collect()
}

fn without_value(error: KafkaError) -> ConfigError {
    match error {
        KafkaError::ClientConfig(result, description, property, _) => {
            debug_assert!(result.is_error());
            let problem = if description.starts_with("No such configuration property") {
                "is no property that librdkafka knows"
            } else {
                "has a value that librdkafka does not take"
            };
            ConfigError::Property {
                property,
                problem: problem.to_owned(),
            }
        }
        KafkaError::ClientCreation(reason) => ConfigError::KafkaClient(reason),
        other => ConfigError::KafkaClient(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(all: &[(&str, &str)]) -> BTreeMap<String, Secret> {
        let secret = |text: &str| Secret::from(text.to_owned());
        all.iter()
            .map(|(key, value)| ((*key).to_owned(), secret(value)))
            .collect()
    }

    #[test]
    fn properties_that_librdkafka_refuses_are_named_without_their_values() {
        let all = properties(&[
            ("sasl.oauthbearer.client.sekret", "hunter2"),
            ("security.protocol", "hunter2"),
            ("socket.timeout.ms", "hunter2"),
            ("sasl.password", "hunter2"),
        ]);
        let problems = property_problems(&all);
        let shown = format!("{problems:?} {}", problems[0]);
        assert_eq!(problems.len(), 3, "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("sasl.oauthbearer.client.sekret"), "{shown}");
    }

    #[test]
    fn what_shows_only_when_a_client_is_made_is_found_without_a_network() {
        for (property, value) in [
            ("ssl.ca.location", "/nowhere/ca.pem"),
            ("ssl.certificate.location", "/nowhere/cert.pem"),
        ] {
            let mut settings = ClientConfig::new();
            settings
                .set("bootstrap.servers", "127.0.0.1:1")
                .set("security.protocol", "ssl")
                .set(property, value);
            let error = check(&settings).unwrap_err().to_string();
            assert!(error.contains(property), "{error}");
        }
        let mut settings = ClientConfig::new();
        settings
            .set("security.protocol", "sasl_ssl")
            .set("sasl.mechanism", "GSSAPI");
        let error = check(&settings).unwrap_err().to_string();
        assert!(error.contains("GSSAPI"), "{error}");
    }
}
