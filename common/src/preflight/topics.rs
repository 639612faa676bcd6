//! Topics under the prefix: whether they are what the agents make, and whether this agent may use
//! them.

use rdkafka::error::RDKafkaErrorCode;

use super::kafka::KafkaSide;
use super::{Problem, Report};
use crate::control::Capture;
use crate::kafka::{MAX_RECORD_BYTES, Settings, TopicSummary};
use crate::words::types::TopicName;

use super::control::ControlEntries;

/// How many topics are asked for at once.
const BATCH: usize = 100;
/// How many of them are told of; the others are like them.
const TOLD: usize = 5;

/// Checks a control topic, or whether it could be made.
pub(super) async fn check_control_topic(
    side: &KafkaSide,
    topic: &TopicName,
    writes: bool,
    report: &mut Report,
) {
    let known = side
        .cluster
        .topics
        .iter()
        .find(|known| known.name == topic.0);
    let check = format!("topic {topic}");
    match known {
        None => {
            let found = check_create(side, topic, &[("cleanup.policy", "compact")]).await;
            report.add(
                check,
                found.map(|()| "not there yet; the agents make it".to_owned()),
            );
        }
        Some(known) => {
            let (problems, is_compact) = problems_of_control(side, known).await;
            let is_right = problems.is_empty();
            for problem in problems {
                report.add(&check, Err(problem));
            }
            if writes && is_compact {
                report.add(format!("write to {topic}"), check_write(side, topic).await);
            }
            if is_right {
                report.ok(check, "one partition, compacted");
            }
        }
    }
}

/// Checks whether the agent could make topics under its prefix.
pub(super) async fn check_creation(side: &KafkaSide, report: &mut Report) {
    let topic = TopicName(format!("{}.check-config", side.prefix()));
    let found = check_create(side, &topic, &[("cleanup.policy", "delete")]).await;
    let ok = |()| format!("{}.* can be made", side.prefix());
    report.add("create topics", found.map(ok));
}

async fn check_create(
    side: &KafkaSide,
    topic: &TopicName,
    options: &[(&str, &str)],
) -> Result<(), Problem> {
    use RDKafkaErrorCode::{
        ClusterAuthorizationFailed, InvalidReplicationFactor, TopicAlreadyExists,
        TopicAuthorizationFailed,
    };
    let bytes = MAX_RECORD_BYTES.to_string();
    let mut options = options.to_vec();
    options.push(("max.message.bytes", &bytes));
    match side.kafka.may_create(topic, &options).await {
        Ok(()) => Ok(()),
        Err(TopicAlreadyExists) => Err(Problem::new(
            "it is there, but not shown to this agent (DESCRIBE)",
            side.grant("topic", &["Describe", "Read", "Write"]),
        )),
        Err(ClusterAuthorizationFailed | TopicAuthorizationFailed) => Err(Problem::new(
            "this agent may not make it (CREATE)",
            side.grant("topic", &["Create", "Describe", "Read", "Write"]),
        )),
        Err(code @ InvalidReplicationFactor) => Err(Problem::new(
            format!("it could not be made: {code}"),
            format!(
                "kafka.replication_factor = {}, or add brokers",
                side.cluster.brokers.len()
            ),
        )),
        Err(code) => Err(Problem::new(
            format!("it could not be made: {code}"),
            "see the broker's log; a create.topic.policy.class.name may refuse it",
        )),
    }
}

async fn check_write(side: &KafkaSide, topic: &TopicName) -> Result<String, Problem> {
    side.kafka
        .may_write(topic)
        .await
        .map(|()| String::new())
        .map_err(|code| {
            let mend = side.grant("topic", &["Write", "Describe"]);
            Problem::new(format!("this agent may not write to it: {code}"), mend)
        })
}

/// What is wrong with a control topic, and whether it is known to be compacted.
async fn problems_of_control(side: &KafkaSide, topic: &TopicSummary) -> (Vec<Problem>, bool) {
    let mut problems = Vec::new();
    if topic.partitions != 1 {
        let what = format!(
            "it has {} partitions, and the agents read the first one only",
            topic.partitions
        );
        let mend = format!(
            "choose another kafka.topic_prefix on both sides, or, if nothing is followed yet, stop \
             all agents and delete it: {} --delete --topic {}",
            side.tool("kafka-topics"),
            topic.name
        );
        problems.push(Problem::new(what, mend));
    }
    let asked = side.kafka.topic_settings(&[&topic.name]).await;
    let settings = asked.ok().and_then(|mut all| all.remove(&topic.name)?.ok());
    let Some(settings) = settings else {
        return (problems, false);
    };
    problems.extend(setting_problems(side, &topic.name, &settings, "compact"));
    let is_compact = settings.get("cleanup.policy").map(String::as_str) == Some("compact");
    (problems, is_compact)
}

fn setting_problems(
    side: &KafkaSide,
    topic: &str,
    settings: &Settings,
    cleanup: &str,
) -> Vec<Problem> {
    let alter = |setting: &str| {
        format!(
            "{} --entity-type topics --entity-name {topic} --alter --add-config {setting}",
            side.tool("kafka-configs")
        )
    };
    let mut problems = Vec::new();
    if let Some(policy) = settings.get("cleanup.policy")
        && policy != cleanup
    {
        let what = match cleanup {
            "compact" => format!("cleanup.policy={policy}: what was followed is forgotten"),
            _ => format!("cleanup.policy={policy}: records are lost before their time"),
        };
        problems.push(Problem::new(
            what,
            alter(&format!("cleanup.policy={cleanup}")),
        ));
    }
    let bytes = settings
        .get("max.message.bytes")
        .and_then(|value| value.parse::<usize>().ok());
    if let Some(bytes) = bytes
        && bytes < MAX_RECORD_BYTES
    {
        let what = format!("max.message.bytes={bytes}: large documents stop the replication");
        problems.push(Problem::new(
            what,
            alter(&format!("max.message.bytes={MAX_RECORD_BYTES}")),
        ));
    }
    problems
}

/// Checks the topics of indices.
pub(super) async fn check_data_topics(
    side: &KafkaSide,
    entries: &ControlEntries,
    report: &mut Report,
) {
    let captures = entries.leader::<Capture>();
    let is_data = |name: &str| captures.iter().any(|capture| capture.topic.0 == name);
    let topics: Vec<&TopicSummary> = side
        .cluster
        .topics
        .iter()
        .filter(|topic| is_data(&topic.name))
        .collect();
    let mut problems: Vec<(String, Problem)> = Vec::new();
    for capture in &captures {
        let topic = topics.iter().find(|topic| topic.name == capture.topic.0);
        let shards = capture.metadata.number_of_shards as usize;
        if let Some(topic) = topic
            && topic.partitions != shards
        {
            let what = format!("it has {} partitions for {shards} shards", topic.partitions);
            let mend = format!(
                "stop the replication of {}, delete the topic ({} --delete --topic {}) and start \
                 it again",
                capture.metadata.index,
                side.tool("kafka-topics"),
                topic.name
            );
            problems.push((topic.name.clone(), Problem::new(what, mend)));
        }
    }
    let mut unknown = 0;
    for batch in topics.chunks(BATCH) {
        let names: Vec<&str> = batch.iter().map(|topic| topic.name.as_str()).collect();
        let Ok(settings) = side.kafka.topic_settings(&names).await else {
            unknown += names.len();
            continue;
        };
        for (topic, settings) in settings {
            match settings {
                Ok(settings) => {
                    let found = setting_problems(side, &topic, &settings, "delete");
                    problems.extend(found.into_iter().map(|one| (topic.clone(), one)));
                }
                Err(_) => unknown += 1,
            }
        }
    }
    let count = problems.len();
    for (topic, problem) in problems.into_iter().take(TOLD) {
        report.add(format!("topic {topic}"), Err(problem));
    }
    if count == 0 {
        let mut found = format!("{} topics of indices", topics.len());
        if unknown > 0 {
            found.push_str("; their settings are not shown to this agent (DESCRIBE_CONFIGS)");
        }
        report.ok("data topics", found);
    } else if count > TOLD {
        let others = format!("{} problems more like these", count - TOLD);
        report.failed("data topics", others, "as above");
    }
}
