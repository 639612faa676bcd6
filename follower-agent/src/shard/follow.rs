//! Follows one partition into one shard of the follower index, from a checkpoint on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use shardline_common::clock::now_ms;
use shardline_common::control::OwnHistory;
use shardline_common::record::{Body, FrameId, Operation, OperationKind, Record, ResyncBegin};
use shardline_common::types::{ExternalVersion, Offset, SeqNo, ShardId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::error::ShardError;
use super::foreign::Ledger;
use super::own_history::{Observed, Witness};
use super::ports::ShardPorts;
use super::standstill::failed;
use super::sweep::sweep;
use super::tracker::{Hole, Tracker, Verdict};
use crate::progress::{Checkpoint, Retries, Source};
use crate::read::{Positioned, Records, StreamError, before_more};
use crate::write::{Applied, ApplyError, Batch, Destination, Pipeline};

/// How often the position of an idle shard is saved, so that it does not fall behind Kafka's
/// retention.
const IDLE_SAVE: Duration = Duration::from_secs(10);
/// How long a shard that is told to stop waits for the writes under way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// After so long without an error, the last one is over.
const CALM: Duration = Duration::from_secs(10);

/// Follows the shard until stopped, trying again after what may pass. What comes back is for
/// somebody else to solve.
pub async fn follow<I: ShardPorts>(
    index: Arc<I>,
    destination: Destination,
    stop: CancellationToken,
) -> Result<(), ShardError> {
    let shard = destination.target.shard;
    let mut highest = SeqNo::NONE;
    let mut retries = Retries::new(FIRST_RETRY, LAST_RETRY);
    destination.metrics.begin(index.name().as_str(), shard);
    loop {
        let error = match follow_once(&*index, &destination, highest, &stop).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let labels = [index.name().as_str(), &shard.to_string()];
        destination.metrics.errors.with_label_values(&labels).inc();
        if matches!(error, ShardError::Stream(_) | ShardError::Topic(_)) {
            destination
                .metrics
                .failed_reads
                .with_label_values(&labels)
                .inc();
        }
        let may_pass = match &error {
            ShardError::Apply(ApplyError::ForeignWrite { found, .. }) => {
                // As long as the log is.
                let known = tokio::select! {
                    known = highest_in_log(&*index, shard) => known,
                    () = stop.cancelled() => return Ok(()),
                };
                match known {
                    Ok(known) => {
                        highest = known;
                        known > SeqNo::NONE
                            && ExternalVersion::new(destination.target.epoch, known).0 >= *found
                    }
                    Err(unknown) => unknown.retryable(),
                }
            }
            error => error.retryable(),
        };
        if !may_pass {
            return Err(error);
        }
        let retry = failed(&*index, shard, &mut retries, &error);
        if retry.is_news {
            warn!(index = %index.name(), %shard, %error, "shard stopped; starting again from its checkpoint");
        }
        tokio::select! {
            () = tokio::time::sleep(retry.delay) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

async fn follow_once(
    index: &impl ShardPorts,
    destination: &Destination,
    highest: SeqNo,
    stop: &CancellationToken,
) -> Result<(), ShardError> {
    let shard = destination.target.shard;
    // It may wait for another agent, which may have been told to stop, too.
    let beginning = async {
        let mut checkpoint = start(index, shard, index.recover(shard).await?).await?;
        let witness = look_back(index, shard, checkpoint.own.take()).await?;
        checkpoint.own = witness.own();
        let reach = index.reach(index.topic(), shard).await?;
        Ok::<_, ShardError>((checkpoint, witness, reach))
    };
    let (checkpoint, witness, reach) = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        beginning = beginning => beginning?,
    };
    let tail = reach.as_ref().map_or(SeqNo::NONE, |reach| reach.seq_no);
    let end = reach.map_or(checkpoint.offset, |reach| reach.end);
    info!(
        index = %index.name(), %shard, after = %checkpoint.seq_no, offset = %checkpoint.offset,
        "following"
    );
    let progress = index.progress(shard);
    progress.note_applied(checkpoint.seq_no, 0);
    progress.note_acknowledged(witness.acknowledged());
    progress.note_known(tail);
    if tail > checkpoint.seq_no {
        // When it was captured is not known before it is read, which may take its turn.
        progress.note_pending(now_ms());
    }
    let mut stream = index
        .open(index.topic(), shard, checkpoint.offset..end)
        .await?;
    let mut follower = Follower {
        index,
        shard,
        tracker: Tracker::after(checkpoint.seq_no),
        pipeline: Pipeline::new(destination.clone(), index.limits()),
        highest: checkpoint.highest.max(tail).max(highest),
        waiting: VecDeque::new(),
        batch: Batch::default(),
        taken: checkpoint.offset,
        batch_since_ms: 0,
        put_aside: None,
        frame: None,
        ledger: Ledger::new(checkpoint.foreign_writes, Instant::now()),
        witness,
        checkpoint,
        last_save: Instant::now(),
    };
    // Dropping a run at any point is safe: what it has read and not handed to the pipeline is read
    // again.
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => None,
        outcome = follower.run(&mut stream, destination) => Some(outcome),
    };
    match ended {
        Some(outcome) => outcome,
        None => follower.drain(destination).await,
    }
}

/// Compares what the follower shard has with what it is known to have had (`saved`).
pub(crate) async fn look_back(
    index: &impl ShardPorts,
    shard: ShardId,
    saved: Option<OwnHistory>,
) -> Result<Witness, ShardError> {
    let mut witness = Witness::of(saved);
    let asked = index.own_history(shard, witness.acknowledged()).await?;
    if let Some(seen) = asked {
        observe(index, shard, &mut witness, &seen).await?;
    }
    Ok(witness)
}

/// Takes in what a follower shard said. What speaks for lost data is asked about once more: a node
/// that is cut off from its cluster answers with what it last knew.
async fn observe(
    index: &impl ShardPorts,
    shard: ShardId,
    witness: &mut Witness,
    seen: &Observed,
) -> Result<(), ShardError> {
    let Err(suspected) = witness.observed(seen) else {
        return Ok(());
    };
    warn!(index = %index.name(), %shard, %suspected, "asking the follower cluster once more");
    let asked = index.own_history(shard, witness.acknowledged()).await?;
    Ok(asked.map_or(Ok(()), |seen| witness.observed(&seen))?)
}

/// The highest operation that anybody with a later checkpoint than this agent's can have written:
/// somebody may have read a resync, which is ahead of the operations before and behind it.
async fn highest_in_log(index: &impl ShardPorts, shard: ShardId) -> Result<SeqNo, ShardError> {
    let checkpoint = start(index, shard, index.recover(shard).await?).await?;
    let end = index.watermarks(index.topic(), shard).await?.high;
    let mut highest = checkpoint.highest;
    if checkpoint.offset < end {
        let mut stream = index
            .open(index.topic(), shard, checkpoint.offset..end)
            .await?;
        loop {
            let Positioned {
                next,
                record: Record { seq_no, body, .. },
                ..
            } = stream.next().await?;
            highest = highest.max(if let Body::ResyncBegin(begin) = body {
                begin.to
            } else {
                seq_no
            });
            if next >= end {
                break;
            }
        }
    }
    Ok(highest)
}

/// Where to read from: the checkpoint's offset, or if the partition has moved on, its first record,
/// provided that nothing lies between.
async fn start(
    index: &impl ShardPorts,
    shard: ShardId,
    saved: Option<Checkpoint>,
) -> Result<Checkpoint, ShardError> {
    let beginning = Checkpoint {
        seq_no: SeqNo::NONE,
        offset: Offset(-1),
        highest: SeqNo::NONE,
        foreign_writes: 0,
        own: None,
    };
    let mut checkpoint = saved.unwrap_or(beginning);
    let marks = index.watermarks(index.topic(), shard).await?;
    if checkpoint.offset >= marks.low && checkpoint.offset <= marks.high {
        return Ok(checkpoint);
    }
    let records = index.first_records(shard).await?;
    let Some((offset, first)) = records.first() else {
        if checkpoint.seq_no == SeqNo::NONE || checkpoint.offset <= marks.high {
            checkpoint.offset = marks.low;
            return Ok(checkpoint);
        }
        return Err(StreamError::PositionLost {
            topic: index.topic().clone(),
            shard,
            offset: checkpoint.offset,
        }
        .into());
    };
    let is_behind = checkpoint.offset < marks.low;
    lie_behind(checkpoint.seq_no, is_behind, first, &records)?;
    // Metadata may have been among the records that are gone.
    if let Some(metadata) = index.announced_metadata() {
        index.apply_metadata(shard, &metadata).await?;
    }
    checkpoint.offset = *offset;
    Ok(checkpoint)
}

/// Fails unless the first records that are left go on behind an operation, with nothing between.
/// Those of a partition that has lost its end, rather than what lay before it, may go over the same
/// again (`is_behind`).
fn lie_behind(
    followed: SeqNo,
    is_behind: bool,
    first: &Record,
    records: &[(Offset, Record)],
) -> Result<(), ShardError> {
    let before_first = match first.body {
        Body::Operation(_) => SeqNo(first.seq_no.0 - 1),
        Body::Gap { from } => SeqNo(from.0 - 1),
        _ => first.seq_no,
    };
    if before_first > followed {
        return Err(Hole {
            from: followed.next(),
            to: before_first,
        }
        .into());
    }
    // The record that said so may be among those that are gone.
    let is_in_order = matches!(
        first.body,
        Body::Operation(_) | Body::Metadata(_) | Body::Heartbeat { .. }
    );
    if is_behind && is_in_order && before_first < followed {
        return Err(ShardError::Rewound {
            from: followed,
            to: before_first,
        });
    }
    // A copy that is needed anyway need not wait for the stream.
    let no_news = |body: &Body| matches!(body, Body::Metadata(_) | Body::Heartbeat { .. });
    if let Some((
        _,
        Record {
            seq_no,
            body: Body::Gap { .. },
            ..
        },
    )) = records.iter().find(|(_, record)| !no_news(&record.body))
        && *seq_no > followed
    {
        return Err(ShardError::Gap {
            from: followed.next(),
            to: *seq_no,
        });
    }
    Ok(())
}

struct Follower<'a, I: ShardPorts> {
    index: &'a I,
    shard: ShardId,
    tracker: Tracker,
    pipeline: Pipeline,
    checkpoint: Checkpoint,
    highest: SeqNo,
    /// Capture times of the batches under way, oldest first.
    waiting: VecDeque<i64>,
    batch: Batch,
    /// Where reading goes on behind the last record that is in it, or needs nothing.
    taken: Offset,
    batch_since_ms: i64,
    /// A record that was read behind the batch and has to wait for it.
    put_aside: Option<(Offset, Record)>,
    /// The resync that is being read.
    frame: Option<Frame>,
    /// Whose writes the follower shard holds.
    ledger: Ledger,
    /// Whether it still has what it had.
    witness: Witness,
    last_save: Instant,
}

/// A resync under way: see [`ResyncBegin`]. Ordinary operations may stand within it, from an agent
/// that overlaps.
struct Frame {
    id: FrameId,
    to: SeqNo,
    /// Of its `ResyncBegin`: from there it is read again after a crash.
    offset: Offset,
    /// Documents of it that are in the batch.
    ids: Vec<String>,
}

impl<I: ShardPorts> Follower<'_, I> {
    async fn run(
        &mut self,
        stream: &mut I::Records,
        destination: &Destination,
    ) -> Result<(), ShardError> {
        let mut observations = self.index.observations();
        let mut calm = std::pin::pin!(tokio::time::sleep(CALM));
        let mut is_calm = false;
        loop {
            // A batch that could grow waits for the requests before it, so that requests become
            // larger as load does.
            if !self.batch.is_empty()
                && (self.pipeline.is_idle() || self.pipeline.is_full(&self.batch))
            {
                before_more(stream, self.start_batch(destination)).await?;
            }
            let next = tokio::select! {
                biased;
                applied = self.pipeline.finish_one() => {
                    self.applied(applied?, destination)?;
                    continue;
                }
                Ok(()) = observations.changed() => {
                    let seen = observations.borrow_and_update().get(&self.shard).cloned();
                    if let Some(seen) = seen {
                        before_more(stream, self.observed(seen)).await?;
                    }
                    continue;
                }
                () = &mut calm, if !is_calm => {
                    is_calm = true;
                    self.index.progress(self.shard).set_standing(Source::Reading, None);
                    continue;
                }
                next = stream.next() => next,
            };
            self.take(next?)?;
            while self.put_aside.is_none() && !self.pipeline.is_full(&self.batch) {
                let Some(ready) = stream.ready() else { break };
                self.take(ready?)?;
            }
            if let Some((at, record)) = self.put_aside.take() {
                before_more(stream, self.start_batch(destination)).await?;
                before_more(stream, self.marker(at, record, destination)).await?;
            }
        }
    }

    /// What the follower shard says of itself from time to time.
    async fn observed(&mut self, seen: Observed) -> Result<(), ShardError> {
        observe(self.index, self.shard, &mut self.witness, &seen).await?;
        self.note_own();
        self.ledger
            .highest_assigned(seen.max_seq_no, Instant::now());
        self.note_foreign_writes()
    }

    fn note_own(&mut self) {
        self.checkpoint.own = self.witness.own();
        let acknowledged = self.witness.acknowledged();
        self.index
            .progress(self.shard)
            .note_acknowledged(acknowledged);
    }

    /// Adds a record to the batch, or puts it aside if it is no operation.
    fn take(
        &mut self,
        Positioned {
            offset,
            next,
            record,
        }: Positioned,
    ) -> Result<(), ShardError> {
        let Record {
            seq_no,
            timestamp_ms,
            body,
        } = record;
        self.taken = next;
        let progress = self.index.progress(self.shard);
        progress.set_standing(Source::Reading, None);
        match body {
            Body::Operation(operation) => {
                progress.note_heard(seq_no, timestamp_ms);
                if self.tracker.operation(seq_no)? == Verdict::Repeat {
                    return Ok(());
                }
                self.add(seq_no, operation, timestamp_ms);
                if self.frame.as_ref().is_some_and(|frame| frame.to <= seq_no) {
                    // The agent that began it is gone; another has had the operations.
                    self.end_frame()?;
                }
                Ok(())
            }
            Body::ResyncDocument {
                frame: id,
                seq_no,
                operation,
            } => {
                let Some(frame) = self.frame.as_mut().filter(|frame| frame.id == id) else {
                    return Ok(());
                };
                if let OperationKind::Index { id, .. } = &operation.kind {
                    frame.ids.push(id.clone());
                }
                progress.resynced(1);
                self.add(seq_no, operation, timestamp_ms);
                Ok(())
            }
            body => {
                self.taken = offset;
                self.put_aside = Some((
                    offset,
                    Record {
                        seq_no,
                        timestamp_ms,
                        body,
                    },
                ));
                Ok(())
            }
        }
    }

    fn add(&mut self, seq_no: SeqNo, operation: Operation, timestamp_ms: i64) {
        if let OperationKind::Index { id, version, .. } = &operation.kind {
            let seen = &self.index.progress(self.shard).external_versions;
            seen.note(id, *version, seq_no);
        }
        self.highest = self.highest.max(seq_no);
        if self.batch.is_empty() {
            self.batch_since_ms = timestamp_ms;
        }
        self.index.progress(self.shard).note_pending(timestamp_ms);
        self.batch.add(seq_no, operation.kind);
    }

    async fn start_batch(&mut self, destination: &Destination) -> Result<(), ShardError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut offset = self.taken;
        if let Some(frame) = &mut self.frame {
            let ids = std::mem::take(&mut frame.ids);
            self.index.checkpoints().name(
                self.index.key(),
                self.shard,
                ids.iter().map(String::as_str),
            )?;
            offset = frame.offset;
        }
        while !self.pipeline.has_room_for(&self.batch) {
            let applied = self.pipeline.finish_one().await?;
            self.applied(applied, destination)?;
        }
        let batch = std::mem::take(&mut self.batch);
        let labels = [self.index.name().as_str(), &self.shard.to_string()];
        destination
            .metrics
            .operations_read
            .with_label_values(&labels)
            .inc_by(batch.operations());
        destination
            .metrics
            .writes
            .with_label_values(&labels)
            .inc_by(batch.writes().len() as u64);
        destination
            .metrics
            .bytes
            .with_label_values(&labels)
            .inc_by(batch.bytes() as u64);
        self.waiting.push_back(self.batch_since_ms);
        self.ledger.request_started();
        self.witness.request_started();
        self.pipeline
            .start(batch, self.tracker.last(), offset, self.highest);
        Ok(())
    }

    fn applied(&mut self, applied: Applied, destination: &Destination) -> Result<(), ShardError> {
        if let Some(captured_ms) = self.waiting.pop_front() {
            let age = Duration::from_millis(u64::try_from(now_ms() - captured_ms).unwrap_or(0));
            let delivery = &destination.metrics.delivery_seconds;
            delivery.observe(age.as_secs_f64());
        }
        self.witness.request_finished(&applied.written.seq_nos)?;
        self.note_own();
        self.ledger.request_finished(
            &applied.written.seq_nos,
            applied.written.repeated,
            Instant::now(),
        );
        self.note_foreign_writes()?;
        self.checkpoint.seq_no = applied.seq_no;
        self.checkpoint.offset = applied.offset;
        self.checkpoint.highest = self.checkpoint.highest.max(applied.seq_no);
        self.save()?;
        let next_pending = self.waiting.front().copied().unwrap_or_default();
        let progress = self.index.progress(self.shard);
        progress.note_applied(applied.seq_no, next_pending);
        let labels = [self.index.name().as_str(), &self.shard.to_string()];
        destination
            .metrics
            .operations
            .with_label_values(&labels)
            .inc_by(applied.operations);
        Ok(())
    }

    /// Deals with a record that is no operation; everything before it has been handed to the
    /// pipeline.
    async fn marker(
        &mut self,
        offset: Offset,
        record: Record,
        destination: &Destination,
    ) -> Result<(), ShardError> {
        let index = self.index;
        let progress = index.progress(self.shard);
        let (reached, next) = (record.seq_no, Offset(offset.0 + 1));
        progress.note_heard(reached, record.timestamp_ms);
        match record.body {
            Body::Gap { .. } if reached > self.tracker.last() => {
                return Err(ShardError::Gap {
                    from: self.tracker.last().next(),
                    to: reached,
                });
            }
            Body::Rewound { .. } => {
                return Err(ShardError::Rewound {
                    from: self.tracker.last(),
                    to: reached,
                });
            }
            Body::Metadata(metadata) => {
                self.tracker.marker(reached)?;
                index.apply_metadata(self.shard, &metadata).await?;
            }
            Body::Heartbeat {
                global_checkpoint,
                next_within_ms,
            } => {
                self.tracker.marker(reached)?;
                progress.heartbeat(global_checkpoint, record.timestamp_ms, next_within_ms);
            }
            // A poll that found nothing new may still bring deletions.
            Body::ResyncBegin(begin) if begin.to >= self.tracker.last() => {
                self.tracker.marker(SeqNo(begin.from.0 - 1))?;
                self.begin_frame(begin, offset, destination).await?;
            }
            Body::ResyncIds { frame: id, ids }
                if self.frame.as_ref().is_some_and(|frame| frame.id == id) =>
            {
                index.checkpoints().name(
                    index.key(),
                    self.shard,
                    ids.iter().map(String::as_str),
                )?;
                progress.resynced(ids.len() as u64);
            }
            Body::ResyncEnd(end)
                if self
                    .frame
                    .as_ref()
                    .is_some_and(|frame| frame.id == end.frame) =>
            {
                self.finish(destination).await?;
                if end.complete {
                    sweep(index, destination, reached, self.highest).await?;
                    self.ledger.forgive(Instant::now());
                }
                index.redelivered(self.shard, end.frame, reached).await?;
                self.tracker = Tracker::after(reached);
                self.checkpoint.seq_no = reached;
                self.checkpoint.offset = next;
                self.save()?;
                self.end_frame()?;
                progress.note_applied(reached, 0);
            }
            // Its beginning was not read.
            Body::ResyncEnd(_) => self.tracker.marker(reached)?,
            _ => {}
        }
        if self.pipeline.is_idle() && self.frame.is_none() {
            self.checkpoint.offset = next;
            if self.last_save.elapsed() >= IDLE_SAVE {
                self.save()?;
            }
        }
        Ok(())
    }

    async fn begin_frame(
        &mut self,
        begin: ResyncBegin,
        offset: Offset,
        destination: &Destination,
    ) -> Result<(), ShardError> {
        let ResyncBegin {
            frame: id,
            from,
            to,
            cause,
            documents,
        } = begin;
        info!(
            index = %self.index.name(), shard = %self.shard, %from, %to, cause, documents, "resync"
        );
        self.finish(destination).await?;
        // Noted before anything of the frame is written.
        self.highest = self.highest.max(to);
        self.checkpoint.highest = self.checkpoint.highest.max(to);
        self.checkpoint.offset = offset;
        self.save()?;
        self.index
            .checkpoints()
            .forget_named(self.index.key(), self.shard)?;
        self.index
            .progress(self.shard)
            .resync_began(from, to, cause, documents);
        self.frame = Some(Frame {
            id,
            to,
            offset,
            ids: Vec::new(),
        });
        Ok(())
    }

    fn end_frame(&mut self) -> Result<(), ShardError> {
        self.frame = None;
        self.index.progress(self.shard).resync_ended();
        Ok(self
            .index
            .checkpoints()
            .forget_named(self.index.key(), self.shard)?)
    }

    /// Waits for everything that is under way.
    async fn finish(&mut self, destination: &Destination) -> Result<(), ShardError> {
        while !self.pipeline.is_idle() {
            let applied = self.pipeline.finish_one().await?;
            self.applied(applied, destination)?;
        }
        Ok(())
    }

    /// Waits for what is under way, but not for a follower cluster that does not answer: that is
    /// written again.
    async fn drain(&mut self, destination: &Destination) -> Result<(), ShardError> {
        if let Ok(finished) = tokio::time::timeout(DRAIN_TIMEOUT, self.finish(destination)).await {
            finished?;
        }
        self.save()
    }

    fn note_foreign_writes(&mut self) -> Result<(), ShardError> {
        let (known, found) = (self.checkpoint.foreign_writes, self.ledger.foreign());
        self.index
            .progress(self.shard)
            .foreign_writes
            .store(found, Relaxed);
        if found == known {
            return Ok(());
        }
        if found > known {
            warn!(index = %self.index.name(), shard = %self.shard, more = found - known,
                  "somebody else writes to the follower index: _verify says which documents differ");
        }
        self.checkpoint.foreign_writes = found;
        self.save()
    }

    fn save(&mut self) -> Result<(), ShardError> {
        self.last_save = Instant::now();
        Ok(self.index.save(self.shard, &self.checkpoint)?)
    }
}

#[cfg(test)]
mod tests {
    use shardline_common::kafka::TopicError;
    use shardline_common::record::RecordError;

    use super::*;

    /// Behind operation 100, with one record left.
    fn with_left(seq_no: i64, body: Body) -> Result<(), ShardError> {
        let first = Record {
            seq_no: SeqNo(seq_no),
            timestamp_ms: 0,
            body,
        };
        lie_behind(SeqNo(100), true, &first.clone(), &[(Offset(7), first)])
    }

    fn heartbeat() -> Body {
        Body::Heartbeat {
            global_checkpoint: SeqNo(0),
            next_within_ms: 0,
        }
    }

    #[test]
    fn records_that_are_left_have_to_go_on_where_the_shard_is() {
        assert!(with_left(100, heartbeat()).is_ok());
        assert!(matches!(
            with_left(101, heartbeat()),
            Err(ShardError::Hole(_))
        ));
        assert!(matches!(
            with_left(120, Body::Gap { from: SeqNo(101) }),
            Err(ShardError::Gap { .. })
        ));
        // The shard was put back, and what said so is gone.
        assert!(matches!(
            with_left(80, heartbeat()),
            Err(ShardError::Rewound { .. })
        ));
    }

    /// It would not become readable.
    #[test]
    fn a_record_of_an_unknown_format_is_not_tried_again() {
        let source = RecordError::UnknownFormat("9".to_owned());
        let error = TopicError::Record {
            topic: "t".into(),
            shard: ShardId(0),
            offset: 1,
            source,
        };
        assert!(!ShardError::from(error).retryable());
    }
}
