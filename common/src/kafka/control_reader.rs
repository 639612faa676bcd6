//! Keeps the table of a control topic up to date, and looks after the topic itself.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::control_records::{Next, Record, Records};
use super::control_table::Table;
use super::control_topic::SHARD;
use super::{Kafka, TopicError, Watermarks};
use crate::words::types::{Offset, TopicName};

const READ_RETRY: Duration = Duration::from_millis(250);
/// How often the topic itself is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Makes the topic unless it is there.
pub(super) async fn make(kafka: &Kafka, topic: &TopicName) -> Result<(), TopicError> {
    let options = [
        ("cleanup.policy", "compact".to_owned()),
        ("min.cleanable.dirty.ratio", "0.1".to_owned()),
    ];
    kafka.create_topic(topic, 1, &options).await
}

/// Where a control topic begins and ends, a while from now.
async fn later_marks(kafka: Kafka, topic: TopicName) -> Result<Watermarks, TopicError> {
    tokio::time::sleep(LOOK).await;
    kafka.watermarks(&topic, SHARD).await
}

/// Keeps a table up to date.
pub(super) struct Reader {
    pub(super) kafka: Kafka,
    pub(super) topic: TopicName,
    pub(super) records: Records,
    pub(super) table: Arc<RwLock<Table>>,
    pub(super) progress: watch::Sender<Offset>,
    pub(super) fault: Arc<RwLock<Option<String>>>,
    /// Whether the topic ended before what was read when it was looked at last: a broker that has
    /// just become the leader may say so for a moment.
    pub(super) is_short: bool,
    /// Where it ended when it was opened, or was found to have lost records: who is at its end has
    /// read as far as that, though compaction may have removed the last ones.
    pub(super) end: Offset,
    /// Where the topic began when it was looked at last. Compaction leaves that as it is.
    pub(super) low: Offset,
}

impl Reader {
    /// Until the agent stops.
    pub(super) async fn follow(mut self, stop: CancellationToken) {
        // Reading goes on while the question is under way.
        let mut look = Box::pin(later_marks(self.kafka.clone(), self.topic.clone()));
        let mut said = None;
        loop {
            tokio::select! {
                next = self.records.next() => match next {
                    Ok(Next::Record(record)) => {
                        said = None;
                        self.take(record).await;
                    }
                    Ok(Next::End) => self.reached_end(),
                    Err(error) => {
                        let words = error.to_string();
                        if said.as_ref() != Some(&words) {
                            let topic = &self.topic;
                            warn!(%topic, %error, "control topic cannot be read for now");
                            said = Some(words);
                        }
                        tokio::time::sleep(READ_RETRY).await;
                    }
                },
                marks = &mut look => {
                    self.look(marks).await;
                    look.set(later_marks(self.kafka.clone(), self.topic.clone()));
                }
                () = stop.cancelled() => return,
            }
        }
    }

    async fn take(&mut self, record: Record) {
        let Record {
            offset,
            key,
            value,
            stamp,
        } = record;
        let next = Offset(offset.0 + 1);
        if offset < *self.progress.borrow() {
            let end = self.kafka.watermarks(&self.topic, SHARD).await;
            self.went_back(end.map_or(next, |marks| marks.high));
        }
        if let Some(key) = key {
            self.table.write().take(key, value, stamp, next);
        }
        self.progress.send_replace(next);
    }

    fn reached_end(&self) {
        self.table.write().reached_end();
        let end = self.end;
        self.progress.send_if_modified(|position| {
            let behind = *position < end;
            *position = (*position).max(end);
            behind
        });
    }

    /// Looks whether the topic is there, and still has what was read.
    async fn look(&mut self, marks: Result<Watermarks, TopicError>) {
        let marks = match marks {
            Ok(marks) => marks,
            Err(error) if error.is_missing() => {
                error!(topic = %self.topic, "the control topic is gone: it is made anew");
                if let Err(error) = make(&self.kafka, &self.topic).await {
                    warn!(topic = %self.topic, %error, "the control topic could not be made anew");
                }
                return;
            }
            Err(_) => return,
        };
        let is_short = marks.high < *self.progress.borrow();
        let was_short = std::mem::replace(&mut self.is_short, is_short);
        let low = std::mem::replace(&mut self.low, marks.low);
        if (is_short && was_short) || low < marks.low {
            self.went_back(marks.high);
            *self.fault.write() = self.kafka.keep_compacted(&self.topic).await;
            if let Err(error) = self.records.begin_at(&self.topic, marks.low) {
                let topic = &self.topic;
                warn!(%topic, %error, "the control topic cannot be read from its beginning");
            }
            self.progress.send_replace(marks.low);
        }
    }

    /// The topic ends before what was read of it, or begins behind that.
    fn went_back(&mut self, end: Offset) {
        self.end = end;
        let position = *self.progress.borrow();
        error!(
            topic = %self.topic,
            %position,
            %end,
            "the control topic has lost records, or was made anew: what is remembered stays, and \
             is announced again"
        );
        self.table.write().went_back(end);
    }
}
