//! Scans as a source, for clusters whose files the agent cannot read: whenever a shard's global
//! checkpoint has moved, the documents changed since come as a frame. Deletions leave no trace that
//! a scan finds; they come with the next complete frame, which names every document of the shard.

use std::collections::HashMap;
use std::time::Duration;

use shardline_common::opensearch::{OpenSearch, OpenSearchError};
use shardline_common::shard_stats::all_primaries;
use shardline_common::tasks::changed_or_never;
use shardline_common::types::{IndexUuid, SeqNo, ShardId};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{CHECKPOINT_LAG_MAX, Change, ChangeSource, Missing, Reason, SourceError};

/// The global checkpoints of all shards of the leader cluster.
pub type Checkpoints = watch::Receiver<Known>;

#[derive(Debug)]
pub struct Known {
    checkpoints: HashMap<(IndexUuid, ShardId), SeqNo>,
    /// When they were asked for: no change is older.
    asked: Instant,
}

/// Asks for the global checkpoints of all shards every `interval`, with one request.
pub(crate) fn watch_checkpoints(
    opensearch: OpenSearch,
    interval: Duration,
    stop: CancellationToken,
) -> Checkpoints {
    let (sender, receiver) = watch::channel(Known {
        checkpoints: HashMap::new(),
        asked: Instant::now(),
    });
    tokio::spawn(async move {
        loop {
            let asked = Instant::now();
            match ask(&opensearch).await {
                Ok(checkpoints) => {
                    sender.send_if_modified(|known| {
                        let differs = known.checkpoints != checkpoints;
                        *known = Known { checkpoints, asked };
                        differs
                    });
                }
                Err(error) => warn!(%error, "the shards' checkpoints are unknown"),
            }
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = stop.cancelled() => return,
            }
        }
    });
    receiver
}

pub(crate) struct PollSource {
    shard: (IndexUuid, ShardId),
    checkpoints: Checkpoints,
    /// How often deletions are looked for, while the shard changes.
    sweep_interval: Duration,
    /// When a complete frame is due.
    sweep_due: Instant,
    /// Whether the shard was there, and not behind Kafka, when it was asked for last: without that
    /// nothing is shipped however long it has been due.
    can_ship: bool,
    changed_since_sweep: bool,
    /// Whether the primary may have come back with another history.
    is_to_be_checked: bool,
    /// Since when the shard has been behind Kafka.
    behind_since: Option<Instant>,
    global_checkpoint: SeqNo,
}

impl PollSource {
    /// What was deleted before `sent` may not have been shipped: the first frame is complete.
    pub(crate) fn open(
        shard: (IndexUuid, ShardId),
        checkpoints: Checkpoints,
        sweep_interval: Duration,
        sent: SeqNo,
    ) -> Self {
        Self {
            shard,
            checkpoints,
            sweep_interval,
            sweep_due: Instant::now(),
            can_ship: false,
            changed_since_sweep: sent > SeqNo::NONE,
            is_to_be_checked: true,
            behind_since: None,
            global_checkpoint: SeqNo::NONE,
        }
    }

    fn sweep_is_due(&self) -> bool {
        self.changed_since_sweep && Instant::now() >= self.sweep_due
    }
}

impl ChangeSource for PollSource {
    fn global_checkpoint(&self) -> SeqNo {
        self.global_checkpoint
    }

    async fn next(&mut self, sent: SeqNo) -> Result<Change, SourceError> {
        let (known, asked) = {
            let known = self.checkpoints.borrow_and_update();
            (known.checkpoints.get(&self.shard).copied(), known.asked)
        };
        self.can_ship = known.is_some_and(|now| now >= sent);
        let Some(now) = known else {
            self.behind_since = None;
            self.is_to_be_checked = true;
            return Ok(Change::Nothing);
        };
        self.global_checkpoint = now;
        if now < sent {
            // What Kafka has may be newer than the last answer, and a replica that has just become
            // the primary learns the global checkpoint a moment later: an answer counts that was
            // asked for long after.
            let since = *self.behind_since.get_or_insert_with(Instant::now);
            let is_rewound = asked >= since + CHECKPOINT_LAG_MAX;
            return Ok(if is_rewound {
                Change::Rewound { to: now }
            } else {
                Change::Nothing
            });
        }
        self.behind_since = None;
        self.changed_since_sweep |= now > sent;
        let complete = self.sweep_is_due();
        if now == sent && !complete {
            return Ok(Change::Nothing);
        }
        if complete {
            self.changed_since_sweep = false;
            self.sweep_due = Instant::now() + self.sweep_interval;
        }
        let is_to_be_checked = std::mem::take(&mut self.is_to_be_checked);
        Ok(Change::Missing(Missing {
            to: now,
            reason: Reason::Poll { complete },
            is_to_be_checked,
        }))
    }

    fn put_down(&mut self) {}

    fn close(&mut self) {}

    async fn release(&mut self, _acknowledged: SeqNo) -> Result<(), SourceError> {
        Ok(())
    }

    fn held_bytes(&self) -> u64 {
        0
    }

    fn size_bytes(&self) -> u64 {
        0
    }

    async fn changed(&mut self) {
        let sweep = async {
            if self.changed_since_sweep && self.can_ship {
                tokio::time::sleep_until(self.sweep_due).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = changed_or_never(&mut self.checkpoints) => {}
            () = sweep => {}
        }
    }
}

async fn ask(
    opensearch: &OpenSearch,
) -> Result<HashMap<(IndexUuid, ShardId), SeqNo>, OpenSearchError> {
    let primaries = all_primaries(opensearch).await?.into_iter();
    Ok(primaries
        .map(|(shard, primary)| (shard, primary.global_checkpoint.max(SeqNo::NONE)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(global_checkpoint: i64) -> Known {
        let shard = (IndexUuid("u".into()), ShardId(0));
        Known {
            checkpoints: HashMap::from([(shard, SeqNo(global_checkpoint))]),
            asked: Instant::now(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_that_stays_behind_kafka_was_rewound() {
        let shard = (IndexUuid("u".into()), ShardId(0));
        let (sender, checkpoints) = watch::channel(known(4));
        let mut source = PollSource::open(shard, checkpoints, Duration::from_secs(3), SeqNo(9));
        let rewound = |change| match change {
            Ok(Change::Rewound { to }) => Some(to.0),
            Ok(Change::Nothing) => None,
            _ => panic!("a shard that is behind has nothing to ship"),
        };
        assert_eq!(rewound(source.next(SeqNo(9)).await), None);
        // The cluster has not been heard of since.
        tokio::time::sleep(2 * CHECKPOINT_LAG_MAX).await;
        assert_eq!(rewound(source.next(SeqNo(9)).await), None);
        sender.send(known(5)).unwrap();
        assert_eq!(rewound(source.next(SeqNo(9)).await), Some(5));
        sender.send(known(9)).unwrap();
        assert!(matches!(
            source.next(SeqNo(9)).await,
            Ok(Change::Missing(_))
        ));
        // It was caught up in between.
        sender.send(known(8)).unwrap();
        assert_eq!(rewound(source.next(SeqNo(9)).await), None);
    }

    /// A capture that was woken at once, again and again, took a whole core meanwhile.
    #[tokio::test(start_paused = true)]
    async fn a_sweep_that_is_due_waits_for_a_shard_that_is_away_or_behind() {
        let shard = (IndexUuid("u".into()), ShardId(0));
        let (sender, checkpoints) = watch::channel(known(4));
        let mut source = PollSource::open(shard, checkpoints, Duration::from_secs(3), SeqNo(9));
        let wakes = async |source: &mut PollSource| {
            let changed = tokio::time::timeout(Duration::from_secs(60), source.changed());
            changed.await.is_ok()
        };
        assert!(matches!(source.next(SeqNo(9)).await, Ok(Change::Nothing)));
        assert!(!wakes(&mut source).await, "it is behind");
        sender
            .send(Known {
                checkpoints: HashMap::new(),
                asked: Instant::now(),
            })
            .unwrap();
        assert!(matches!(source.next(SeqNo(9)).await, Ok(Change::Nothing)));
        assert!(!wakes(&mut source).await, "it is away");
        sender.send(known(9)).unwrap();
        assert!(wakes(&mut source).await);
    }

    #[tokio::test]
    async fn a_primary_that_was_away_may_have_another_history() {
        let shard = (IndexUuid("u".into()), ShardId(0));
        let (sender, checkpoints) = watch::channel(known(4));
        let mut source = PollSource::open(shard, checkpoints, Duration::from_secs(9), SeqNo(4));
        let mut is_to_be_checked = async |sent: i64| match source.next(SeqNo(sent)).await {
            Ok(Change::Missing(missing)) => Some(missing.is_to_be_checked),
            _ => None,
        };
        assert_eq!(is_to_be_checked(4).await, Some(true));
        sender.send(known(9)).unwrap();
        assert_eq!(is_to_be_checked(4).await, Some(false));
        sender
            .send(Known {
                checkpoints: HashMap::new(),
                asked: Instant::now(),
            })
            .unwrap();
        assert_eq!(is_to_be_checked(9).await, None);
        sender.send(known(12)).unwrap();
        assert_eq!(is_to_be_checked(9).await, Some(true));
    }

    #[tokio::test]
    async fn deletions_are_looked_for_only_after_changes() {
        let shard = (IndexUuid("u".into()), ShardId(0));
        let (sender, checkpoints) = watch::channel(known(4));
        let mut source =
            PollSource::open(shard, checkpoints, Duration::from_millis(300), SeqNo::NONE);
        let frame = |change| match change {
            Ok(Change::Missing(Missing {
                to,
                reason: Reason::Poll { complete },
                ..
            })) => Some((to.0, complete)),
            _ => None,
        };
        assert_eq!(frame(source.next(SeqNo::NONE).await), Some((4, true)));
        assert_eq!(frame(source.next(SeqNo(4)).await), None);
        sender.send(known(9)).unwrap();
        assert_eq!(frame(source.next(SeqNo(4)).await), Some((9, false)));
        assert_eq!(frame(source.next(SeqNo(9)).await), None);
        source.changed().await;
        assert_eq!(frame(source.next(SeqNo(9)).await), Some((9, true)));
        assert_eq!(frame(source.next(SeqNo(9)).await), None);
    }
}
