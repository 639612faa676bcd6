//! A producer: what it was given arrives in that order, or is given up when its time is over.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::producer::{InFlight, Outgoing};
use super::{Act, Client, Place, RETRY, Stored};
use crate::words::types::{ShardId, TopicName};

/// Hands records over to the task that delivers them.
#[derive(Clone)]
pub(in crate::kafka) struct Sender(mpsc::UnboundedSender<Queued>);

struct Queued {
    topic: TopicName,
    shard: ShardId,
    record: Stored,
    in_flight: Arc<InFlight>,
    sent: Instant,
}

impl Sender {
    /// A record that has not arrived after `patience` never does; without, it is tried until it
    /// has.
    pub(in crate::kafka) fn new(client: Client, patience: Option<Duration>) -> Self {
        let (sender, queue) = mpsc::unbounded_channel();
        tokio::spawn(deliver(client, queue, patience));
        Self(sender)
    }

    pub(in crate::kafka) fn send(
        &self,
        topic: &TopicName,
        shard: ShardId,
        record: Outgoing<'_>,
        in_flight: Arc<InFlight>,
    ) {
        let record = Stored::of(record.key, record.value, &record.headers);
        // The task ends only with its agent.
        let _ = self.0.send(Queued {
            topic: topic.clone(),
            shard,
            record,
            in_flight,
            sent: Instant::now(),
        });
    }
}

async fn deliver(
    client: Client,
    mut queue: mpsc::UnboundedReceiver<Queued>,
    patience: Option<Duration>,
) {
    while let Some(queued) = queue.recv().await {
        let end = patience.map(|patience| queued.sent + patience);
        let back = loop {
            if client.is_gone() {
                return;
            }
            let fate = client.fate(Act::Append);
            let arrival = fate.there.map(|there| queued.sent + there);
            match (arrival, end) {
                (Some(arrival), end)
                    if end.is_none_or(|end| arrival.max(Instant::now()) <= end) =>
                {
                    sleep_until(arrival).await;
                    break Some(fate.back);
                }
                (_, Some(end)) => {
                    sleep_until(end).await;
                    break None;
                }
                (_, None) => sleep(RETRY).await,
            }
        };
        let Some(back) = back else {
            queued.in_flight.fail(timed_out());
            continue;
        };
        let Queued {
            topic,
            shard,
            record,
            in_flight,
            ..
        } = queued;
        let record = (client.brokers.conduct).arrives(&client.name, record);
        let appended = (client.brokers.state.lock()).append(&topic, shard, record.clone());
        let Some(offset) = appended else {
            in_flight.fail(KafkaError::MessageProduction(
                RDKafkaErrorCode::UnknownTopicOrPartition,
            ));
            continue;
        };
        let place = Place {
            topic,
            shard,
            offset,
        };
        (client.brokers.conduct).appended(&client.name, &place, &record);
        report(in_flight, place, back, end);
    }
}

/// The agent hears of it, or does not and takes it for lost.
fn report(in_flight: Arc<InFlight>, place: Place, back: Option<Duration>, end: Option<Instant>) {
    let heard = back.map(|back| Instant::now() + back);
    tokio::spawn(async move {
        match (heard, end) {
            (Some(heard), end) if end.is_none_or(|end| heard <= end) => {
                sleep_until(heard).await;
                in_flight.deliver(place.offset);
            }
            (_, Some(end)) => {
                sleep_until(end).await;
                in_flight.fail(timed_out());
            }
            // An idempotent producer asks until it knows.
            (_, None) => {
                sleep(RETRY).await;
                in_flight.deliver(place.offset);
            }
        }
    });
}

fn timed_out() -> KafkaError {
    KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut)
}
