//! Reaching Kafka: address, TLS, login, brokers and what they are set to.

use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Problem, Report};
use crate::kafka::{BrokerAddress, Kafka, KafkaCluster, MAX_RECORD_BYTES, NoBroker, Settings};
use crate::process::config::KafkaConfig;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A Kafka that was reached.
pub struct KafkaSide {
    pub kafka: Kafka,
    pub cluster: KafkaCluster,
    pub config: KafkaConfig,
}

impl KafkaSide {
    pub fn prefix(&self) -> &str {
        &self.config.topic_prefix
    }

    /// How Kafka's own tools are to be called.
    pub(super) fn tool(&self, name: &str) -> String {
        let servers = &self.config.bootstrap_servers;
        format!("{name}.sh --bootstrap-server {servers}")
    }

    /// The command that gives the agent rights to all topics or groups of its prefix.
    pub(super) fn grant(&self, kind: &str, operations: &[&str]) -> String {
        let operations: Vec<String> = operations
            .iter()
            .map(|operation| format!("--operation {operation}"))
            .collect();
        format!(
            "{} --add --allow-principal 'User:{}' {} --{kind} {}. --resource-pattern-type prefixed",
            self.tool("kafka-acls"),
            principal(&self.config),
            operations.join(" "),
            self.prefix(),
        )
    }
}

/// The name under which Kafka knows the agent, as far as the configuration says it.
pub(super) fn principal(config: &KafkaConfig) -> String {
    let username = config.properties.get("sasl.username");
    username.map_or_else(
        || "<the agent's>".to_owned(),
        |name| name.reveal().to_owned(),
    )
}

/// Checks all that is needed to talk to Kafka; `None` if that is not possible.
pub async fn check_kafka(config: &KafkaConfig, report: &mut Report) -> Option<KafkaSide> {
    // Why it cannot be made stands among the settings.
    let kafka = Kafka::new(config.clone()).ok()?;
    let cluster = match kafka.connect().await {
        Ok(cluster) => cluster,
        Err(error) => {
            report.add("Kafka", Err(why_unreachable(config, &error)));
            return None;
        }
    };
    report.ok("Kafka", format!("{} answers", config.bootstrap_servers));
    check_brokers(config, &cluster.brokers, report).await;
    let side = KafkaSide {
        kafka,
        cluster,
        config: config.clone(),
    };
    check_broker_settings(&side, report).await;
    Some(side)
}

fn why_unreachable(config: &KafkaConfig, error: &NoBroker) -> Problem {
    let has = |part: &str| error.reason.contains(part);
    let what = format!(
        "{} cannot be used: {}",
        config.bootstrap_servers, error.reason
    );
    let mend = match error.code {
        Some(RDKafkaErrorCode::Authentication) => {
            "correct sasl.username, sasl.password and sasl.mechanism in kafka.properties"
        }
        Some(RDKafkaErrorCode::SSL) if has("certificate verify failed") => {
            "let ssl.ca.location in kafka.properties be the PEM file of the authority that signed \
             the brokers' certificates, and kafka.bootstrap_servers the names that they are for"
        }
        Some(RDKafkaErrorCode::SSL) => {
            "set security.protocol in kafka.properties to what the listener speaks: PLAINTEXT, \
             SSL, SASL_PLAINTEXT or SASL_SSL"
        }
        Some(RDKafkaErrorCode::Resolve) => {
            "correct the host in kafka.bootstrap_servers, or the name service: getent hosts HOST"
        }
        _ if has("refused") => {
            "start the broker, or correct host and port in kafka.bootstrap_servers"
        }
        _ => {
            "set security.protocol in kafka.properties to what the listener speaks (PLAINTEXT, \
             SSL, SASL_PLAINTEXT or SASL_SSL), and kafka.bootstrap_servers to its address"
        }
    };
    Problem::new(what, mend)
}

async fn check_brokers(config: &KafkaConfig, brokers: &[BrokerAddress], report: &mut Report) {
    let (there, wanted) = (brokers.len(), config.replication_factor);
    let found = if i32::try_from(there).is_ok_and(|there| there >= wanted) {
        Ok(format!("{there}, for kafka.replication_factor = {wanted}"))
    } else {
        let what = format!("{there}, but kafka.replication_factor = {wanted}");
        let mend = format!("kafka.replication_factor = {there}, or add brokers");
        Err(Problem::new(what, mend))
    };
    report.add("brokers", found);
    for broker in brokers {
        let BrokerAddress { id, host, port } = broker;
        let address = (host.as_str(), u16::try_from(*port).unwrap_or_default());
        let reason = match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
        };
        let what = format!("it says that it is at {host}:{port}, where it is not: {reason}");
        let mend = "set the broker's advertised.listeners to an address that this machine reaches";
        report.failed(format!("broker {id}"), what, mend);
    }
}

async fn check_broker_settings(side: &KafkaSide, report: &mut Report) {
    let Some(broker) = side.cluster.brokers.first() else {
        return;
    };
    let Ok(settings) = side.kafka.broker_settings(broker.id).await else {
        let why = "not shown to this agent (DESCRIBE_CONFIGS of the cluster)";
        report.ok("broker settings", why);
        return;
    };
    for problem in setting_problems(side, &settings) {
        report.add("broker settings", Err(problem));
    }
    report.ok("broker settings", "asked");
}

fn setting_problems(side: &KafkaSide, settings: &Settings) -> Vec<Problem> {
    let number = |key: &str| {
        settings
            .get(key)
            .and_then(|value| value.parse::<usize>().ok())
    };
    let mut problems = Vec::new();
    if let Some(bytes) = number("socket.request.max.bytes")
        && bytes < MAX_RECORD_BYTES
    {
        let what = format!(
            "socket.request.max.bytes={bytes}: a document of up to 100 MB does not fit into a \
             request"
        );
        let mend = "socket.request.max.bytes=104857600 (the default) in each broker's properties, \
                    and restart it";
        problems.push(Problem::new(what, mend));
    }
    if settings
        .get("auto.create.topics.enable")
        .map(String::as_str)
        == Some("true")
    {
        let what = "auto.create.topics.enable=true: a topic that was deleted comes back with one \
                    partition and settings that lose records";
        let mend = format!(
            "auto.create.topics.enable=false in each broker's properties, and restart it; see it \
             with {} --entity-type brokers --describe --all",
            side.tool("kafka-configs")
        );
        problems.push(Problem::new(what, mend));
    }
    problems
}
