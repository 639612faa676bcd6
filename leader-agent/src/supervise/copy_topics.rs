//! The topics of copies: each is noted in the control topic before it is made, and the note is
//! removed when the topic is deleted. So it is deleted, too, when the agent that made it is gone,
//! or Kafka did not answer.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use shardline_common::control::{BootstrapRequest, CopyTopic, Entry};
use shardline_common::kafka::{ControlError, ControlTopic, Kafka, TopicError};
use shardline_common::types::ClusterUuid;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

/// How long an agent that has not made a topic waits before it deletes it: whoever asks for the
/// copy may be known to others first.
const STAND_IN_DELAY: Duration = Duration::from_secs(30);

pub(super) struct CopyTopics {
    cluster: ClusterUuid,
    kafka: Kafka,
    table: ControlTopic,
    /// The ids of those that this agent has made.
    made: HashSet<String>,
    /// Those that nobody needs, and since when.
    unneeded: HashMap<String, Instant>,
    deletions: HashMap<String, JoinHandle<()>>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum MakeError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Topic(#[from] TopicError),
}

impl CopyTopics {
    pub(super) fn new(cluster: ClusterUuid, kafka: Kafka, table: ControlTopic) -> Self {
        Self {
            cluster,
            kafka,
            table,
            made: HashSet::new(),
            unneeded: HashMap::new(),
            deletions: HashMap::new(),
        }
    }

    /// Makes the topic that a copy is asked for in, unless this agent has.
    pub(super) async fn make(
        &mut self,
        request: &BootstrapRequest,
        shards: u32,
    ) -> Result<(), MakeError> {
        if self.made.contains(&request.id) {
            return Ok(());
        }
        let note = CopyTopic {
            leader_cluster: self.cluster.clone(),
            id: request.id.clone(),
            topic: request.topic.clone(),
        };
        if self.table.get::<CopyTopic>(&note.key()).as_ref() != Some(&note) {
            self.table.publish(&note).await?;
        }
        self.kafka
            .create_replication_topic(&request.topic, shards)
            .await?;
        self.made.insert(request.id.clone());
        Ok(())
    }

    /// Deletes those that nobody asks for any more. The agent that has made one does at once; the
    /// one beside the cluster manager (`stands_in`) what is still there a while later.
    pub(super) fn tend(&mut self, requests: &HashMap<String, BootstrapRequest>, stands_in: bool) {
        self.deletions.retain(|_, deletion| !deletion.is_finished());
        let notes =
            self.table.all::<CopyTopic>().into_iter().filter(|note| {
                note.leader_cluster == self.cluster && !requests.contains_key(&note.id)
            });
        let mut unneeded = HashMap::new();
        for note in notes {
            let since = self.unneeded.get(&note.id).copied();
            let since = since.unwrap_or_else(Instant::now);
            unneeded.insert(note.id.clone(), since);
            let is_due =
                self.made.contains(&note.id) || (stands_in && since.elapsed() >= STAND_IN_DELAY);
            if is_due && !self.deletions.contains_key(&note.id) {
                let deletion = delete(self.kafka.clone(), self.table.clone(), note.clone());
                // Nothing waits for it, and Kafka may not answer.
                self.deletions.insert(note.id, tokio::spawn(deletion));
            }
        }
        self.made
            .retain(|id| requests.contains_key(id) || unneeded.contains_key(id));
        self.unneeded = unneeded;
    }
}

async fn delete(kafka: Kafka, table: ControlTopic, note: CopyTopic) {
    let topic = &note.topic;
    if let Err(error) = kafka.delete_topic(topic).await {
        return warn!(
            %topic, %error,
            "a bootstrap topic that nobody needs any more could not be deleted yet"
        );
    }
    match table.remove(&note.key()).await {
        Ok(()) => info!(%topic, "bootstrap topic deleted"),
        Err(error) => warn!(%topic, %error, "the note of a bootstrap topic could not be removed"),
    }
}
