//! Kafka brokers in KRaft mode, each broker and controller in one.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use crate::jars::Jars;
use crate::ports::BrokerPorts;
use crate::process::{ProcessSpec, make_home};
use crate::ready::Ready;

/// A base64 UUID; one is as good as another, as no two stacks share data or ports.
const CLUSTER_ID: &str = "c2hhcmRsaW5lLWRldi0wMQ";
const HEAP_MB: usize = 512;

pub(crate) struct Kafka<'a> {
    pub brokers: &'a [BrokerPorts],
    /// Broker properties that are added or win over the ones here.
    pub overrides: &'a [(String, String)],
}

impl Kafka<'_> {
    pub fn bootstrap_servers(&self) -> String {
        let brokers: Vec<String> = self
            .brokers
            .iter()
            .map(|ports| format!("127.0.0.1:{}", ports.client))
            .collect();
        brokers.join(",")
    }

    pub fn replication_factor(&self) -> usize {
        self.brokers.len().min(3)
    }

    /// Writes each broker's properties and says how to start it.
    pub fn specs(&self, run_dir: &Path, jars: &Jars) -> Result<Vec<ProcessSpec>> {
        (0..self.brokers.len())
            .map(|index| self.spec(index, run_dir, jars))
            .collect()
    }

    fn spec(&self, index: usize, run_dir: &Path, jars: &Jars) -> Result<ProcessSpec> {
        let name = format!("kafka-{}", index + 1);
        let home = make_home(run_dir, &name)?;
        let data_dir = home.join("data");
        let config = home.join("server.properties");
        std::fs::write(&config, self.properties(index, &data_dir))
            .with_context(|| format!("cannot write {}", config.display()))?;

        let mut arguments = jars.jvm_arguments("kafka", HEAP_MB, &home);
        arguments.extend([
            "ShardlineBroker".into(),
            CLUSTER_ID.into(),
            config.display().to_string(),
        ]);
        Ok(ProcessSpec {
            program: jars.java().to_owned(),
            arguments,
            environment: Vec::new(),
            url: format!("127.0.0.1:{}", self.brokers[index].client),
            // The port opens a little before the broker is in the cluster's metadata; this line
            // comes after it.
            ready: Ready::LogLine("Kafka Server started".into()),
            data_dir,
            log_file: home.join(format!("{name}.log")),
            name,
        })
    }

    fn properties(&self, index: usize, data_dir: &Path) -> String {
        let ports = self.brokers[index];
        let voters: Vec<String> = (1..)
            .zip(self.brokers)
            .map(|(id, ports)| format!("{id}@127.0.0.1:{}", ports.controller))
            .collect();
        let replication = self.replication_factor().to_string();
        let in_sync = self.replication_factor().min(2).to_string();

        let mut properties: BTreeMap<&str, String> = BTreeMap::from([
            ("node.id", (index + 1).to_string()),
            ("process.roles", "broker,controller".into()),
            ("controller.quorum.voters", voters.join(",")),
            ("controller.listener.names", "CONTROLLER".into()),
            (
                "listeners",
                format!(
                    "PLAINTEXT://127.0.0.1:{},CONTROLLER://127.0.0.1:{}",
                    ports.client, ports.controller
                ),
            ),
            ("log.dirs", data_dir.display().to_string()),
            ("auto.create.topics.enable", "false".into()),
            ("default.replication.factor", replication.clone()),
            ("offsets.topic.replication.factor", replication.clone()),
            ("offsets.topic.num.partitions", "5".into()),
            (
                "transaction.state.log.replication.factor",
                replication.clone(),
            ),
            ("transaction.state.log.num.partitions", "5".into()),
            ("transaction.state.log.min.isr", in_sync.clone()),
            (
                "share.coordinator.state.topic.replication.factor",
                replication,
            ),
            ("share.coordinator.state.topic.min.isr", in_sync),
            ("group.initial.rebalance.delay.ms", "0".into()),
            // OpenSearch takes documents of up to 100 MB.
            ("message.max.bytes", "104857600".into()),
            ("replica.fetch.max.bytes", "104857600".into()),
            ("socket.request.max.bytes", "209715200".into()),
        ]);
        properties.extend(
            self.overrides
                .iter()
                .map(|(key, value)| (key.as_str(), value.clone())),
        );
        properties
            .iter()
            .map(|(key, value)| format!("{key}={value}\n"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_the_properties_of_a_broker() {
        let brokers = [9092, 9192].map(|client| BrokerPorts {
            client,
            controller: client + 1,
        });
        let overrides = [
            ("log.retention.ms".to_owned(), "1000".to_owned()),
            ("node.id".to_owned(), "7".to_owned()),
        ];
        let kafka = Kafka {
            brokers: &brokers,
            overrides: &overrides,
        };
        assert_eq!(kafka.bootstrap_servers(), "127.0.0.1:9092,127.0.0.1:9192");
        let text = kafka.properties(1, Path::new("/run/kafka-2/data"));
        for line in [
            "listeners=PLAINTEXT://127.0.0.1:9192,CONTROLLER://127.0.0.1:9193",
            "controller.quorum.voters=1@127.0.0.1:9093,2@127.0.0.1:9193",
            "log.dirs=/run/kafka-2/data",
            "offsets.topic.replication.factor=2",
            "log.retention.ms=1000",
            "node.id=7",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is missing from\n{text}"
            );
        }
        assert!(!text.contains("node.id=2"));
    }
}
