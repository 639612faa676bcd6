//! The translog as a source: woken when it is written, and kept from deletion until Kafka has what
//! is in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::FutureExt;
use shardline_common::blocking::blocking;
use shardline_common::kafka::TopicError;
use shardline_common::types::SeqNo;
use tokio::time::Instant;
use tracing::warn;

use super::{
    CHECKPOINT_LAG_MAX, Change, ChangeSource, Missing, Reason, SourceError, is_same, to_operation,
};
use crate::translog::{
    Operation, ShardSpool, ShardTail, TailBatch, TailError, TranslogWatcher, Wake,
};

const BATCH_BYTES: usize = 1024 * 1024;
/// How often a translog is looked at that cannot be watched, unless the last look found something.
/// One that can is looked at with every heartbeat, because watches are silent on network file
/// systems.
const UNWATCHED_POLL_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct TranslogSource {
    /// Away while a blocking task works with it.
    tail: Option<ShardTail>,
    folder: PathBuf,
    spool: ShardSpool,
    wake: Wake,
    /// Whether the tail is away because nothing is to be kept open.
    is_closed: bool,
    /// The translog begins behind this.
    missing: Option<SeqNo>,
    /// The last operation that Kafka has: the translog's own is to be the same.
    last: Option<shardline_common::record::Operation>,
    /// Whether the last look at it found operations.
    is_busy: bool,
    /// Whether it has just been written, so that what is new is in the page cache.
    is_fresh: bool,
    /// Since when the shard has been behind Kafka.
    behind_since: Option<Instant>,
    global_checkpoint: SeqNo,
    /// How much is read at once, in bytes of sources.
    batch_bytes: usize,
}

impl TranslogSource {
    /// Opens the translog behind `sent`, or where it does not reach back that far, behind the
    /// global checkpoint. `last` gives the operation `sent`, if Kafka has it: asked only where the
    /// translog has it, too.
    pub(crate) async fn open(
        folder: &Path,
        spool: ShardSpool,
        watcher: &TranslogWatcher,
        sent: SeqNo,
        last: impl Future<Output = Result<Option<shardline_common::record::Operation>, TopicError>>,
    ) -> Result<Self, SourceError> {
        let wake = watcher.watch(folder, &spool);
        let open = |with_last| {
            let (translog, kept) = (folder.to_owned(), spool.clone());
            blocking(move || open_tail(&translog, &kept, sent, with_last))
        };
        let mut opened = open(sent > SeqNo::NONE).await??;
        let last = if opened.with_last { last.await? } else { None };
        if opened.with_last && last.is_none() {
            opened = open(false).await??;
        }
        let Opened {
            mut tail, missing, ..
        } = opened;
        tail.put_down();
        Ok(Self {
            tail: Some(tail),
            folder: folder.to_owned(),
            spool,
            wake,
            is_closed: false,
            missing,
            last,
            is_busy: false,
            is_fresh: false,
            behind_since: None,
            global_checkpoint: SeqNo::NONE,
            batch_bytes: BATCH_BYTES,
        })
    }

    /// Where the shard's history goes on if it is not the one that Kafka has.
    fn rewound(&mut self, sent: SeqNo, operations: &mut Vec<Operation>) -> Option<SeqNo> {
        if self.global_checkpoint < sent {
            // A replica that has just become the primary learns the global checkpoint a moment
            // later.
            let since = *self.behind_since.get_or_insert_with(Instant::now);
            return (since.elapsed() >= CHECKPOINT_LAG_MAX).then_some(self.global_checkpoint);
        }
        self.behind_since = None;
        if operations.is_empty() {
            return None;
        }
        let shipped = self.last.take()?;
        let own = operations.remove(0);
        debug_assert_eq!(own.seq_no, sent);
        (!is_same(&to_operation(own), &shipped)).then_some(self.global_checkpoint)
    }

    /// Whether the translog has the operation that Kafka has last, though it is above the global
    /// checkpoint: a primary does not raise that while a copy that is in sync is away. Then nothing
    /// is lost, and the shard is waited for.
    async fn still_has(&mut self, sent: SeqNo) -> Result<bool, SourceError> {
        let Some(shipped) = self.last.clone() else {
            return Ok(false);
        };
        let own = self.work(move |tail| tail.look_up(sent)).await?;
        let has = own.is_some_and(|own| is_same(&to_operation(own), &shipped));
        if has {
            warn!(
                translog = %self.folder.display(), %sent,
                global_checkpoint = %self.global_checkpoint,
                "the shard has operations that Kafka has above its global checkpoint: a copy that \
                 is in sync is away, and is waited for"
            );
        }
        Ok(has)
    }

    /// The next operations, or what only a scan can bring.
    async fn read(&mut self, sent: SeqNo) -> Result<Result<TailBatch, Missing>, SourceError> {
        let mut is_open_anew = std::mem::take(&mut self.is_closed);
        if is_open_anew {
            self.reopen(sent).await?;
        }
        loop {
            if let Some(to) = self.missing.take() {
                return Ok(Err(Missing {
                    to,
                    reason: Reason::Lost,
                    is_to_be_checked: true,
                }));
            }
            let bytes = self.batch_bytes;
            let read =
                move |tail: &mut ShardTail| tail.refresh().and_then(|()| tail.next_batch(bytes));
            match self.work(read).await {
                Err(SourceError::Translog(TailError::Gap { .. })) if !is_open_anew => {
                    self.reopen(sent).await?
                }
                outcome => return Ok(Ok(outcome?)),
            }
            is_open_anew = true;
        }
    }

    /// Looks anew whether the translog reaches back to what comes behind `sent`.
    async fn reopen(&mut self, sent: SeqNo) -> Result<(), SourceError> {
        let (folder, spool) = (self.folder.clone(), self.spool.clone());
        let opened = blocking(move || open_tail(&folder, &spool, sent, false)).await??;
        self.is_closed = false;
        (self.tail, self.missing, self.last) = (Some(opened.tail), opened.missing, None);
        Ok(())
    }

    /// Works with the tail beside the runtime's threads, unless what it reads is fresh.
    async fn work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut ShardTail) -> Result<T, TailError> + Send + 'static,
    ) -> Result<T, SourceError> {
        if let (true, Some(tail)) = (std::mem::take(&mut self.is_fresh), &mut self.tail) {
            return Ok(work(tail)?);
        }
        let mut tail = self.tail.take().ok_or(SourceError::Interrupted)?;
        let (tail, outcome) = blocking(move || {
            let outcome = work(&mut tail);
            (tail, outcome)
        })
        .await?;
        self.tail = Some(tail);
        Ok(outcome?)
    }
}

impl ChangeSource for TranslogSource {
    fn global_checkpoint(&self) -> SeqNo {
        self.global_checkpoint
    }

    async fn next(&mut self, sent: SeqNo) -> Result<Change, SourceError> {
        // Changes until now are seen by reading.
        let _ = self.wake.notified().now_or_never();
        let batch = loop {
            let mut batch = match self.read(sent).await? {
                Ok(batch) => batch,
                Err(missing) => return Ok(Change::Missing(missing)),
            };
            self.global_checkpoint = batch.global_checkpoint;
            let compares = self.last.is_some();
            if let Some(to) = self.rewound(sent, &mut batch.operations) {
                let is_behind = self.global_checkpoint < sent;
                if !(is_behind && self.still_has(sent).await?) {
                    return Ok(Change::Rewound { to });
                }
                self.behind_since = None;
            }
            // What was compared may be as large as a batch.
            if !(compares && self.last.is_none() && batch.operations.is_empty()) {
                break batch;
            }
        };
        self.is_busy = !batch.operations.is_empty();
        Ok(if self.is_busy {
            Change::Operations(batch.operations)
        } else {
            Change::Nothing
        })
    }

    fn put_down(&mut self) {
        if let Some(tail) = &mut self.tail {
            tail.put_down();
        }
    }

    fn close(&mut self) {
        // What is still to be compared would not be afterwards.
        if self.missing.is_none() && self.last.is_none() {
            self.is_closed |= self.tail.take().is_some();
        }
    }

    async fn release(&mut self, acked: SeqNo) -> Result<(), SourceError> {
        if self
            .tail
            .as_ref()
            .is_some_and(|tail| tail.can_release(acked))
        {
            self.work(move |tail| tail.release_up_to(acked)).await?;
        }
        Ok(())
    }

    fn held_bytes(&self) -> u64 {
        self.spool.extra_bytes()
    }

    fn size_bytes(&self) -> u64 {
        self.tail.as_ref().map_or(0, ShardTail::size_bytes)
    }

    async fn changed(&mut self) {
        if self.wake.is_watching() {
            self.wake.notified().await;
            self.is_fresh = true;
        } else if !self.is_busy {
            tokio::time::sleep(UNWATCHED_POLL_INTERVAL).await;
        }
    }
}

struct Opened {
    tail: ShardTail,
    missing: Option<SeqNo>,
    /// Whether the first operation to come is `sent` itself.
    with_last: bool,
}

fn open_tail(
    folder: &Path,
    spool: &ShardSpool,
    sent: SeqNo,
    with_last: bool,
) -> Result<Opened, TailError> {
    if with_last {
        let mut tail = ShardTail::open(folder, spool.clone(), sent)?;
        match tail.reaches_next() {
            Ok(()) => {
                return Ok(Opened {
                    tail,
                    missing: None,
                    with_last,
                });
            }
            // It may begin right behind it.
            Err(TailError::Gap { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let mut tail = ShardTail::open(folder, spool.clone(), sent.next())?;
    let missing = match tail.reaches_next() {
        Ok(()) => None,
        Err(TailError::Gap {
            global_checkpoint, ..
        }) => {
            tail = ShardTail::open(folder, spool.clone(), global_checkpoint.next())?;
            Some(global_checkpoint)
        }
        Err(error) => return Err(error),
    };
    Ok(Opened {
        tail,
        missing,
        with_last: false,
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use bytes::Bytes;
    use inotify::Inotify;
    use shardline_common::record::OperationKind;
    use shardline_common::types::{PrimaryTerm, ShardId};

    use super::*;
    use crate::translog::{self, Spool};

    /// Errors by which inotify says that a limit is reached: ENOSPC for watches, EMFILE for
    /// instances.
    #[tokio::test]
    async fn what_cannot_be_watched_is_found_by_polling() {
        for watcher in [
            TranslogWatcher::start_with(Inotify::init, |_, _, _| {
                Err(io::Error::from_raw_os_error(28))
            }),
            TranslogWatcher::start_with(
                || Err(io::Error::from_raw_os_error(24)),
                |watches, folder, mask| watches.add(folder, mask),
            ),
        ] {
            let sample = Sample::new();
            let mut source = sample.source(&watcher).await;
            let before = read(&mut source, SeqNo::NONE).await;

            sample.write_the_rest();
            assert!(source.changed().now_or_never().is_none());
            tokio::time::timeout(Duration::from_secs(10), source.changed())
                .await
                .unwrap();
            let sent = before.last().copied().unwrap_or(SeqNo::NONE);
            let Change::Operations(found) = source.next(sent).await.unwrap() else {
                panic!("nothing was found")
            };
            // More may have come meanwhile.
            assert!(source.changed().now_or_never().is_some());
            let mut after: Vec<SeqNo> = found.iter().map(|operation| operation.seq_no).collect();
            after.extend(read(&mut source, after.last().copied().unwrap_or(sent)).await);
            let read: Vec<i64> = before.iter().chain(&after).map(|seq_no| seq_no.0).collect();
            assert!(!after.is_empty());
            assert_eq!(read, (0..=15).collect::<Vec<_>>());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_has_just_been_written_is_read_at_once() {
        let sample = Sample::new();
        let mut source = sample.source(&TranslogWatcher::start()).await;
        let before = read(&mut source, SeqNo::NONE).await;
        sample.write_the_rest();
        tokio::time::timeout(Duration::from_secs(10), source.changed())
            .await
            .unwrap();
        let found = source.next(before.last().copied().unwrap()).now_or_never();
        assert!(
            matches!(found, Some(Ok(Change::Operations(_)))),
            "{:?}",
            found.map(|found| found.is_ok())
        );
    }

    async fn first_operations(watcher: &TranslogWatcher) -> Vec<Operation> {
        let sample = Sample::new();
        let mut source = sample.source(watcher).await;
        match source.next(SeqNo::NONE).await.unwrap() {
            Change::Operations(operations) => operations,
            _ => panic!("nothing was found"),
        }
    }

    #[tokio::test]
    async fn another_operation_than_the_last_one_in_kafka_is_noticed() {
        let watcher = TranslogWatcher::start();
        let operations = first_operations(&watcher).await;
        let document = |operation: &&Operation| {
            matches!(operation.kind, translog::OperationKind::Index { .. })
        };
        let sent = operations.iter().rfind(document).unwrap().clone();
        let (seq_no, own) = (sent.seq_no, to_operation(sent));
        let scanned = |version_by: i64| {
            let OperationKind::Index {
                id,
                routing,
                version,
                ..
            } = own.kind.clone()
            else {
                panic!("it is a document")
            };
            let kind = OperationKind::Index {
                id,
                source: Bytes::new(),
                routing,
                version: version + version_by,
            };
            shardline_common::record::Operation {
                kind,
                ..own.clone()
            }
        };
        let of_another_term = PrimaryTerm(own.primary_term.0 + 1);
        let another = shardline_common::record::Operation {
            primary_term: of_another_term,
            ..own.clone()
        };
        for (shipped, is_rewound) in [
            (Some(own.clone()), false),
            (Some(another), true),
            (Some(scanned(0)), false),
            (Some(scanned(1)), true),
            (None, false),
        ] {
            let sample = Sample::new();
            let mut source = sample
                .source_behind(&watcher, seq_no, shipped.clone())
                .await;
            let change = source.next(seq_no).await.unwrap();
            assert_eq!(
                matches!(change, Change::Rewound { .. }),
                is_rewound,
                "{shipped:?}"
            );
        }
    }

    /// A primary does not raise its global checkpoint while a copy that is in sync is away.
    #[tokio::test]
    async fn a_shard_that_still_has_the_last_operation_is_waited_for() {
        let watcher = TranslogWatcher::start();
        let operations = first_operations(&watcher).await;
        let sent = operations.last().unwrap().clone();
        let (seq_no, own) = (sent.seq_no, to_operation(sent));
        let another = shardline_common::record::Operation {
            primary_term: PrimaryTerm(own.primary_term.0 + 1),
            ..own.clone()
        };
        for (shipped, is_rewound) in [(own, false), (another, true)] {
            let sample = Sample::new();
            sample.put_global_checkpoint(seq_no.0 - 1);
            let mut source = sample.source_behind(&watcher, seq_no, Some(shipped)).await;
            let change = source.next(seq_no).await.unwrap();
            assert!(matches!(change, Change::Nothing));
            source.behind_since = Instant::now().checked_sub(CHECKPOINT_LAG_MAX);
            let change = source.next(seq_no).await.unwrap();
            assert_eq!(matches!(change, Change::Rewound { .. }), is_rewound);
        }
    }

    #[tokio::test]
    async fn a_source_that_was_closed_goes_on_where_it_was() {
        let sample = Sample::new();
        let mut source = sample.source(&TranslogWatcher::start()).await;
        let before = read(&mut source, SeqNo::NONE).await;
        source.close();
        assert!(source.tail.is_none());
        sample.write_the_rest();
        let after = read(&mut source, before.last().copied().unwrap()).await;
        let read: Vec<i64> = before.iter().chain(&after).map(|seq_no| seq_no.0).collect();
        assert_eq!(read, (0..=15).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_comes_behind_a_last_operation_as_large_as_a_batch_is_read_at_once() {
        let watcher = TranslogWatcher::start();
        let operations = first_operations(&watcher).await;
        let sent = operations[0].clone();
        let sample = Sample::new();
        let mut source = sample
            .source_behind(&watcher, sent.seq_no, Some(to_operation(sent.clone())))
            .await;
        source.batch_bytes = 1;
        let Change::Operations(found) = source.next(sent.seq_no).await.unwrap() else {
            panic!("nothing was found")
        };
        assert_eq!(found[0].seq_no, sent.seq_no.next());
    }

    struct Sample {
        folder: tempfile::TempDir,
    }

    impl Sample {
        /// A shard as it was before its third generation.
        fn new() -> Self {
            let sample = Self {
                folder: tempfile::tempdir().unwrap(),
            };
            let translog = sample.translog();
            std::fs::create_dir(&translog).unwrap();
            std::fs::copy(
                Self::whole().join("translog-2.tlog"),
                translog.join("translog-2.tlog"),
            )
            .unwrap();
            std::fs::copy(
                Self::whole().join("translog-2.ckp"),
                translog.join("translog.ckp"),
            )
            .unwrap();
            sample
        }

        fn whole() -> PathBuf {
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/translog-sample/generations")
        }

        fn translog(&self) -> PathBuf {
            self.folder.path().join("translog")
        }

        async fn source(&self, watcher: &TranslogWatcher) -> TranslogSource {
            self.source_behind(watcher, SeqNo::NONE, None).await
        }

        async fn source_behind(
            &self,
            watcher: &TranslogWatcher,
            sent: SeqNo,
            last: Option<shardline_common::record::Operation>,
        ) -> TranslogSource {
            let spool = Spool::open(&self.folder.path().join("spool"), 1 << 30).unwrap();
            let spool = spool.shard(&"u".into(), ShardId(0)).unwrap();
            TranslogSource::open(&self.translog(), spool, watcher, sent, async { Ok(last) })
                .await
                .unwrap()
        }

        /// As `Checkpoint` has it in version 4.
        fn put_global_checkpoint(&self, global_checkpoint: i64) {
            let path = self.translog().join("translog.ckp");
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[48..56].copy_from_slice(&global_checkpoint.to_le_bytes());
            let checksum = i64::from(crc32fast::hash(&bytes[..80]));
            bytes[80..88].copy_from_slice(&checksum.to_be_bytes());
            std::fs::write(&path, bytes).unwrap();
        }

        fn write_the_rest(&self) {
            for entry in std::fs::read_dir(Self::whole())
                .unwrap()
                .map(Result::unwrap)
            {
                std::fs::copy(entry.path(), self.translog().join(entry.file_name())).unwrap();
            }
        }
    }

    async fn read(source: &mut TranslogSource, mut sent: SeqNo) -> Vec<SeqNo> {
        let mut seq_nos = Vec::new();
        while let Change::Operations(operations) = source.next(sent).await.unwrap() {
            seq_nos.extend(operations.iter().map(|operation| operation.seq_no));
            sent = seq_nos.last().copied().unwrap_or(sent);
        }
        seq_nos
    }
}
