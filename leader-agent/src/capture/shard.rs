//! Ships one shard: from the partition's tail on, in `seq_no` order, each operation behind the
//! metadata it needs.
//!
//! The log is the only state. Whatever goes wrong, the capture starts again from the last record of
//! its partition, so a stretch may appear twice but nothing is skipped.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use shardline_common::backoff::Restarts;
use shardline_common::clock::now_ms;
use shardline_common::kafka::Reach;
use shardline_common::late::noticing;
use shardline_common::metadata::MetadataVersions;
use shardline_common::record::{Body, Record};
use shardline_common::types::{Offset, SeqNo};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::standing::STANDSTILL_AFTER;
use super::{Asked, CaptureError, Context, Shipped};
use crate::node::{self, Shard};
use crate::publish::{Appender, Pending, PublishError};
use crate::source::{
    Change, ChangeSource, Files, Origin, PollSource, Reason, TranslogSource, to_record,
};
use crate::translog;

/// How many batches of a shard may be on their way to Kafka.
const BATCHES_IN_FLIGHT_MAX: usize = 4;
/// A batch of fewer bytes is acknowledged before the next one is read.
const SMALL_BATCH_BYTES: u64 = 256 * 1024;
/// The least time from a batch to the reading of the next one, unless the shard is behind: what is
/// written in many small requests then travels together, at a fraction of the cost. A document after
/// a pause does not wait.
const BATCH_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// A heartbeat vouches for the shard's capture, so it is sent only while the cluster state, which
/// says that the primary is here, is no older than this.
const CLUSTER_STATE_AGE_MAX: Duration = Duration::from_secs(5);
/// The pause between two checks of a shard that owes a heartbeat and must not send it yet.
const HEARTBEAT_RECHECK_MIN: Duration = Duration::from_millis(500);
/// A heartbeat is late by at most one tick, and the time between two heartbeats has this many.
const HEARTBEAT_TICKS_PER_INTERVAL: u32 = 16;
const RETRY_DELAY_FIRST: Duration = Duration::from_millis(200);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(15);

/// Ships a shard until cancelled, starting again after every error. `newest` are the versions of
/// the index's metadata that the cluster's state has: a change travels without waiting for an
/// operation.
pub async fn ship_shard(
    shard: Shard,
    origin: Origin,
    context: Arc<Context>,
    shipped: watch::Sender<Option<Shipped>>,
    mut newest: watch::Receiver<MetadataVersions>,
    mut asked: Asked,
    stop: CancellationToken,
) {
    let shard_label = shard.shard.to_string();
    let labels = [shard.index.as_str(), shard_label.as_str()];
    let mut restarts = Restarts::new(RETRY_DELAY_FIRST, RETRY_DELAY_MAX);
    context.metrics.begin(&labels);
    // What comes while the shard cannot be shipped is held, until a source takes the watch over.
    let hold = || match &origin {
        Origin::Translog(Files { translog, spool }) => Some(context.watcher.watch(translog, spool)),
        Origin::Poll { .. } => None,
    };
    let mut _held = hold();
    loop {
        let capture = Capture::ship(&shard, &origin, &context, &shipped, &mut newest, &mut asked);
        let error = tokio::select! {
            Err(error) = capture => error,
            () = stop.cancelled() => break,
        };
        _held = hold();
        shipped.send_replace(None);
        context.metrics.errors.with_label_values(&labels).inc();
        // What another partition could not take says nothing of this one.
        let delay = if error.is_of_others() {
            RETRY_DELAY_FIRST
        } else {
            context
                .standing
                .note(&shard, error.cause(), error.to_string());
            restarts.next_delay()
        };
        warn!(index = %shard.index, shard = %shard.shard, %error, retry_in_ms = delay.as_millis() as u64,
              "capture stopped; starting again from the partition's tail");
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => break,
        }
    }
    context.standing.clear(&shard);
    context.metrics.forget_gauges(&labels);
}

pub(super) enum Never {}

/// One run of a shard's capture.
pub(crate) struct Capture<'a> {
    pub shard: &'a Shard,
    pub context: &'a Context,
    /// The appender of this run, made before the partition was asked how far it reaches.
    pub appender: Arc<dyn Appender>,
    shipped: &'a watch::Sender<Option<Shipped>>,
    /// The last operation handed to Kafka's queue.
    pub sent: SeqNo,
    /// The last operation that Kafka has.
    acknowledged_seq_no: SeqNo,
    /// Whether a resync is under way: nobody may start to read in the middle of one.
    pub(super) in_frame: bool,
    /// What the partition has got from this capture, and the cluster state of which that is known.
    versions: MetadataVersions,
    state_id: Arc<str>,
    in_flight: VecDeque<BatchInFlight>,
    last_record: Instant,
    /// Between operations, too: followers know from it how long silence may last.
    last_heartbeat: Instant,
    /// When the next heartbeat is due behind the last one, as that has announced; zero before the
    /// first, for which followers of an empty shard wait.
    next_heartbeat: Duration,
}

struct BatchInFlight {
    sent: Instant,
    last: SeqNo,
    operations: u64,
    bytes: u64,
    pending: Pending,
}

impl<'a> Capture<'a> {
    async fn ship(
        shard: &'a Shard,
        origin: &Origin,
        context: &'a Context,
        shipped: &'a watch::Sender<Option<Shipped>>,
        newest: &mut watch::Receiver<MetadataVersions>,
        asked: &mut Asked,
    ) -> Result<Never, CaptureError> {
        let appender = context.log.appender();
        let reach = match context.log.reach(&shard.topic, shard.shard).await {
            // It was made before the capture was started, and somebody has deleted it since.
            Err(error) if error.is_missing() => {
                context
                    .log
                    .create_replication_topic(&shard.topic, shard.number_of_shards)
                    .await?;
                return Err(error.into());
            }
            asked => asked?,
        };
        let sent = reach.as_ref().map_or(SeqNo::NONE, |reach| reach.seq_no);
        let capture = Self {
            shard,
            context,
            appender,
            shipped,
            sent,
            acknowledged_seq_no: sent,
            in_frame: false,
            versions: MetadataVersions::default(),
            state_id: Arc::default(),
            in_flight: VecDeque::new(),
            last_record: Instant::now(),
            last_heartbeat: Instant::now(),
            next_heartbeat: Duration::ZERO,
        };
        match origin {
            Origin::Translog(Files { translog, spool }) => {
                let last = async {
                    match &reach {
                        Some(Reach {
                            last: Some(last), ..
                        }) => Ok(Some(last.clone())),
                        Some(reach) => {
                            context
                                .log
                                .last_operation(&shard.topic, shard.shard, reach)
                                .await
                        }
                        None => Ok(None),
                    }
                };
                // Kept however slow the disk is: what is read waits in memory.
                let turn = context.turns.read().await;
                let opening =
                    TranslogSource::open(translog, spool.clone(), &context.watcher, sent, last);
                let source = opening.await?;
                drop(turn);
                capture.ship_from(source, reach, newest, asked).await
            }
            Origin::Poll {
                checkpoints,
                sweep_interval,
            } => {
                let shard = (shard.uuid.clone(), shard.shard);
                let source = PollSource::open(shard, checkpoints.clone(), *sweep_interval, sent);
                capture.ship_from(source, reach, newest, asked).await
            }
        }
    }

    async fn ship_from(
        mut self,
        mut source: impl ChangeSource,
        reach: Option<Reach>,
        newest: &mut watch::Receiver<MetadataVersions>,
        asked: &mut Asked,
    ) -> Result<Never, CaptureError> {
        self.begin_history().await?;
        self.ship_metadata().await?;
        if let Some(reach) = reach {
            self.acknowledged(reach.seq_no, reach.end);
        }
        info!(index = %self.shard.index, shard = %self.shard.shard, topic = %self.shard.topic,
              from = %self.sent.next(), "capture started");
        let (context, mut is_first) = (self.context, true);
        loop {
            let mut is_idle = false;
            self.until_taken(&mut source).await?;
            let turns = &context.turns;
            let mut turn = match turns.try_read() {
                Some(turn) => turn,
                None => {
                    source.put_down();
                    turns.read().await
                }
            };
            let began = Instant::now();
            let change = source.next(self.sent).await?;
            if !matches!(change, Change::Operations(_)) {
                turn.end();
            }
            let labels = self.labels();
            self.context
                .metrics
                .global_checkpoint
                .with_label_values(&labels)
                .set(source.global_checkpoint().0);
            match change {
                Change::Operations(operations) => {
                    let reading = self
                        .context
                        .metrics
                        .translog_read_seconds
                        .with_label_values(&labels);
                    reading.inc_by(began.elapsed().as_secs_f64());
                    let shipping = self.ship_batch(operations);
                    let bytes = noticing(shipping, || {
                        turn.end();
                        source.close();
                    });
                    let bytes = bytes.await?;
                    turn.end();
                    is_idle = self.sent >= source.global_checkpoint();
                    // Small batches come faster than Kafka takes them: the next one grows
                    // meanwhile.
                    let is_waited_for = is_idle || bytes < SMALL_BATCH_BYTES;
                    let allowed = if is_waited_for {
                        0
                    } else {
                        BATCHES_IN_FLIGHT_MAX
                    };
                    noticing(self.settle(allowed), || source.close()).await?;
                }
                Change::Missing(missing) if is_first && self.sent == SeqNo::NONE => {
                    // Followers begin with a copy of what is older than the partition.
                    self.sent = missing.to;
                    self.send_and_wait(Body::Gap { from: SeqNo(0) }).await?;
                }
                Change::Missing(missing) => {
                    self.settle(0).await?;
                    if missing.is_to_be_checked {
                        self.check_tail(missing.to).await?;
                    }
                    // For what another agent ships.
                    self.ship_metadata().await?;
                    if !(self.shard.has_replicas
                        && missing.reason == Reason::Lost
                        && self.fill(&missing).await?)
                    {
                        self.resync(missing).await?;
                    }
                }
                Change::Rewound { to } => match self.rewind(to).await? {},
                Change::Nothing => {
                    self.settle(0).await?;
                    is_idle = true;
                }
            }
            self.redeliver(asked).await?;
            is_first = false;
            source.release(self.acknowledged_seq_no).await?;
            let held = i64::try_from(source.held_bytes()).unwrap_or(i64::MAX);
            self.context
                .metrics
                .spool_bytes
                .with_label_values(&labels)
                .set(held);
            let size = i64::try_from(source.size_bytes()).unwrap_or(i64::MAX);
            self.context
                .metrics
                .translog_bytes
                .with_label_values(&labels)
                .set(size);
            if is_idle {
                self.idle(&mut source, newest, asked).await?;
            }
        }
    }

    pub(crate) fn labels(&self) -> [String; 2] {
        [self.shard.index.to_string(), self.shard.shard.to_string()]
    }

    /// Waits for something to do: a change of the shard or of the cluster, or the time for a
    /// heartbeat.
    async fn idle(
        &mut self,
        source: &mut impl ChangeSource,
        newest: &mut watch::Receiver<MetadataVersions>,
        asked: &mut Asked,
    ) -> Result<(), CaptureError> {
        // Kafka has all that there is.
        self.context.standing.clear(self.shard);
        if self.next_heartbeat.is_zero() && self.is_confirmed() {
            noticing(self.heartbeat(source.global_checkpoint()), || ()).await?;
        }
        let until_due = self
            .next_heartbeat
            .saturating_sub(self.last_heartbeat.elapsed())
            .max(HEARTBEAT_RECHECK_MIN);
        let until_heartbeat = self.context.until_tick(
            until_due,
            self.next_heartbeat / HEARTBEAT_TICKS_PER_INTERVAL,
        );
        tokio::select! {
            biased;
            () = source.changed() => tokio::time::sleep_until(self.last_record + BATCH_INTERVAL_MIN).await,
            () = asked.wait() => {}
            changed = newest.changed() => {
                if changed.is_ok() {
                    self.ship_metadata().await?;
                }
            }
            () = tokio::time::sleep(until_heartbeat) => {}
        }
        if self.last_heartbeat.elapsed() >= self.next_heartbeat && self.is_confirmed() {
            noticing(self.heartbeat(source.global_checkpoint()), || ()).await?;
        }
        Ok(())
    }

    fn is_confirmed(&self) -> bool {
        self.context.cluster_seen.lock().elapsed() < CLUSTER_STATE_AGE_MAX
    }

    async fn heartbeat(&mut self, global_checkpoint: SeqNo) -> Result<(), CaptureError> {
        self.last_heartbeat = Instant::now();
        self.next_heartbeat = self.context.heartbeat_interval();
        let next_within = self.next_heartbeat + self.next_heartbeat / HEARTBEAT_TICKS_PER_INTERVAL;
        let next_within_ms = i64::try_from(next_within.as_millis()).unwrap_or(i64::MAX);
        self.send_and_wait(Body::Heartbeat {
            global_checkpoint,
            next_within_ms,
        })
        .await
    }

    /// Before anything is read: waits until the partition takes what it did not take for a while.
    /// Where other partitions do not, it has to show that it takes a small record.
    async fn until_taken(&mut self, source: &mut impl ChangeSource) -> Result<(), CaptureError> {
        if self.appender.is_late() {
            source.close();
            self.settle(0).await?;
        }
        if self.appender.is_doubted() && self.is_confirmed() {
            let global_checkpoint = source.global_checkpoint().max(self.sent);
            noticing(self.heartbeat(global_checkpoint), || source.close()).await?;
        }
        Ok(())
    }

    /// Ships the index's metadata if the node has newer than the partition got from this capture.
    pub(super) async fn ship_metadata(&mut self) -> Result<(), CaptureError> {
        let (opensearch, index, uuid) = (
            &self.context.opensearch,
            &self.shard.index,
            &self.shard.uuid,
        );
        // Asked before the versions, which may be of a later state.
        let state_id = self.context.state_id.ask().await?;
        if self.state_id == state_id {
            return Ok(());
        }
        let state = node::local_state(opensearch, index, uuid)
            .await?
            .ok_or(CaptureError::IndexGone)?;
        if !state.versions.newer_than(self.versions) {
            self.state_id = state_id;
            return Ok(());
        }
        let metadata = node::fetch_metadata(opensearch, index, uuid, &state).await?;
        debug!(%index, shard = %self.shard.shard, versions = ?state.versions, "shipping metadata");
        self.settle(0).await?;
        self.send_and_wait(Body::Metadata(Box::new(metadata)))
            .await?;
        (self.state_id, self.versions) = (state_id, state.versions);
        self.context
            .metrics
            .metadata_records
            .with_label_values(&self.labels())
            .inc();
        Ok(())
    }

    /// Gives how many bytes of sources are in it.
    async fn ship_batch(
        &mut self,
        operations: Vec<translog::Operation>,
    ) -> Result<u64, CaptureError> {
        // The node applies a mapping before it indexes a document that needs it, so asked after the
        // batch was read, it cannot answer with metadata older than the batch.
        self.ship_metadata().await?;
        let timestamp_ms = now_ms();
        let mut records = Vec::with_capacity(operations.len());
        let mut bytes = 0;
        for operation in operations {
            debug_assert_eq!(
                operation.seq_no,
                self.sent.next(),
                "the tail yields every operation once, in order"
            );
            self.sent = operation.seq_no;
            if let translog::OperationKind::Index { source, .. } = &operation.kind {
                bytes += source.len() as u64;
            }
            records.push(to_record(operation, timestamp_ms));
        }
        let handing_over = self
            .appender
            .send(&self.shard.topic, self.shard.shard, &records);
        let pending = awaited(self.context, self.shard, handing_over).await?;
        self.last_record = Instant::now();
        let operations = records.len() as u64;
        self.in_flight.push_back(BatchInFlight {
            sent: self.last_record,
            last: self.sent,
            operations,
            bytes,
            pending,
        });
        Ok(bytes)
    }

    /// Waits until at most `allowed` batches are on their way.
    pub(crate) async fn settle(&mut self, allowed: usize) -> Result<(), CaptureError> {
        while self.in_flight.len() > allowed {
            let Some(batch) = self.in_flight.pop_front() else {
                break;
            };
            let last_offset = awaited(self.context, self.shard, batch.pending).await?;
            let took = batch.sent.elapsed().as_secs_f64();
            self.context.metrics.acknowledged_seconds.observe(took);
            // What is shipped goes on.
            self.context.standing.clear(self.shard);
            let labels = self.labels();
            self.context
                .metrics
                .operations
                .with_label_values(&labels)
                .inc_by(batch.operations);
            self.context
                .metrics
                .bytes
                .with_label_values(&labels)
                .inc_by(batch.bytes);
            self.acknowledged(batch.last, Offset(last_offset.0 + 1));
        }
        Ok(())
    }

    /// A record that is no operation, as of now.
    pub(super) fn record(&self, body: Body) -> Record {
        Record {
            seq_no: self.sent,
            timestamp_ms: now_ms(),
            body,
        }
    }

    pub(super) async fn send_and_wait(&mut self, body: Body) -> Result<(), CaptureError> {
        let record = self.record(body);
        let sending = async {
            let records = std::slice::from_ref(&record);
            self.appender
                .send(&self.shard.topic, self.shard.shard, records)
                .await?
                .await
        };
        let offset = awaited(self.context, self.shard, sending).await?;
        self.last_record = Instant::now();
        self.acknowledged(self.sent, Offset(offset.0 + 1));
        Ok(())
    }

    pub(crate) fn acknowledged(&mut self, seq_no: SeqNo, offset: Offset) {
        self.acknowledged_seq_no = seq_no;
        self.context
            .metrics
            .shipped_seq_no
            .with_label_values(&self.labels())
            .set(seq_no.0);
        self.shipped
            .send_replace((!self.in_frame).then_some(Shipped { seq_no, offset }));
    }
}

/// Waits for Kafka; what takes long is known as a standstill meanwhile, with the cause of the moment.
async fn awaited<T>(
    context: &Context,
    shard: &Shard,
    kafka: impl Future<Output = Result<T, PublishError>>,
) -> Result<T, PublishError> {
    let mut kafka = pin!(kafka);
    loop {
        if let Ok(done) = tokio::time::timeout(STANDSTILL_AFTER, &mut kafka).await {
            return done;
        }
        let cause = tokio::select! {
            biased;
            done = &mut kafka => return done,
            cause = context.log.why_stuck(&shard.topic, shard.shard) => cause,
        };
        let detail = format!(
            "topic {} partition {}: Kafka has not taken a record for {}s",
            shard.topic,
            shard.shard,
            STANDSTILL_AFTER.as_secs()
        );
        context.standing.note(shard, cause, detail);
    }
}
