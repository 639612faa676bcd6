//! The ordered view of one shard: each operation once, in `seq_no` order, none above the persisted
//! global checkpoint.
//!
//! Files are read forward only as far as the next sequence number demands; what comes early waits
//! in memory, so that is bounded by how far the file's order strays from `seq_no` order.
//!
//! Where a copy was rolled back after a failover, one sequence number may stand in generations of
//! several primary terms: the newest generation counts, as it does for OpenSearch, whatever term
//! the operation itself is of. Where the newer generation is missing, because it came and went
//! while nobody held it, the older one counts only up to the global checkpoint that it was closed
//! with.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use shardline_common::types::{Generation, SeqNo};

use super::checkpoint::{Checkpoint, CheckpointError};
use super::generation::{GenerationError, GenerationFile};
use super::hold::{ShardSpool, file_name, list_generations};
use super::operation::{Operation, OperationKind};
use super::spool::SpoolError;
use super::window::Window;

#[derive(Debug)]
pub struct TailBatch {
    pub operations: Vec<Operation>,
    pub global_checkpoint: SeqNo,
}

#[derive(Debug, thiserror::Error)]
pub enum TailError {
    #[error(
        "operation {wanted} is in neither translog nor spool, though the global checkpoint is {global_checkpoint} (the \
         lowest there is {lowest:?})"
    )]
    Gap {
        wanted: SeqNo,
        lowest: Option<SeqNo>,
        global_checkpoint: SeqNo,
    },
    #[error(
        "the shard's translog {0} is gone: the index was closed or deleted, or the shard has moved"
    )]
    ShardGone(PathBuf),
    #[error(
        "the translog {0} has another history than before: the shard was restored or allocated anew"
    )]
    Replaced(PathBuf),
    #[error(transparent)]
    Checkpoint(CheckpointError),
    #[error(transparent)]
    Generation(#[from] GenerationError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
}

pub struct ShardTail {
    folder: PathBuf,
    spool: ShardSpool,
    next: SeqNo,
    current: Checkpoint,
    uuid: String,
    generations: BTreeMap<Generation, OpenGeneration>,
    /// The generation that is read from.
    reading: Generation,
    early: BTreeMap<SeqNo, (Generation, Operation)>,
    early_bytes: usize,
    window: Window,
    /// The newest generation that has a sequence number which one of an earlier term may have too.
    superseded: HashMap<SeqNo, Generation>,
    /// Up to here [`Self::superseded`] has them all.
    certain_up_to: SeqNo,
}

struct OpenGeneration {
    file: GenerationFile,
    /// The last one that was seen; of the newest generation, the shard's.
    checkpoint: Option<Checkpoint>,
    /// Whether that is its last one: it is closed.
    is_whole: bool,
    /// What it holds above may have been rolled back: what would tell is missing.
    certain_up_to: Option<SeqNo>,
}

impl ShardTail {
    /// Opens a shard's translog so that `next` is the first operation to come.
    pub fn open(folder: &Path, spool: ShardSpool, next: SeqNo) -> Result<Self, TailError> {
        let current = read_current(folder)?;
        spool.keep(folder)?;
        let newest = open_generation(folder, &spool, current.generation)?
            .ok_or_else(|| TailError::ShardGone(folder.to_owned()))?;
        let mut tail = Self {
            folder: folder.to_owned(),
            spool,
            next,
            current,
            uuid: newest.uuid,
            generations: BTreeMap::new(),
            reading: current.generation,
            early: BTreeMap::new(),
            early_bytes: 0,
            window: Window::default(),
            superseded: HashMap::new(),
            certain_up_to: current.global_checkpoint,
        };
        tail.add_generations()?;
        tail.check_newest()?;
        tail.complete_deleted()?;
        tail.find_superseded()?;
        tail.find_uncertain();
        let needed = tail
            .generations
            .iter()
            .find(|(_, open)| open.max_seq_no().is_none_or(|max| max >= next));
        tail.reading = needed.map_or(current.generation, |(generation, _)| *generation);
        Ok(tail)
    }

    /// Looks at what OpenSearch has written since.
    pub fn refresh(&mut self) -> Result<(), TailError> {
        let before = self.current;
        self.current = read_current(&self.folder)?;
        if self.current.generation < before.generation {
            return Err(TailError::Replaced(self.folder.clone()));
        }
        if self.current.generation != before.generation {
            self.spool.keep(&self.folder)?;
            self.add_generations()?;
            self.complete_deleted()?;
            self.find_uncertain();
        }
        if let Some(newest) = self.generations.get_mut(&self.current.generation) {
            newest.checkpoint = Some(self.current);
        }
        self.check_newest()
    }

    /// The checkpoint has to be of the translog that is open: one that is made anew begins with the
    /// same generations.
    fn check_newest(&self) -> Result<(), TailError> {
        let path = self.folder.join(file_name(self.current.generation, "tlog"));
        match self.generations.get(&self.current.generation) {
            Some(open) if open.file.is_at(&path) => Ok(()),
            _ => Err(TailError::Replaced(self.folder.clone())),
        }
    }

    /// The next operations, up to about `max_bytes` of sources; none when there is nothing new.
    pub fn next_batch(&mut self, max_bytes: usize) -> Result<TailBatch, TailError> {
        let global_checkpoint = self.current.global_checkpoint;
        let (mut operations, mut bytes) = (Vec::new(), 0);
        while self.next <= global_checkpoint && bytes < max_bytes {
            match self.find_next()? {
                Some((_, operation)) => {
                    bytes += weight(&operation);
                    operations.push(operation);
                    self.next = self.next.next();
                }
                None if operations.is_empty() => return Err(self.gap()),
                None => break,
            }
        }
        Ok(TailBatch {
            operations,
            global_checkpoint,
        })
    }

    /// Whether the next operation is there, or not due yet; [`TailError::Gap`] when it is missing.
    pub fn reaches_next(&mut self) -> Result<(), TailError> {
        if self.next > self.current.global_checkpoint {
            return Ok(());
        }
        if self.begins_later() {
            return Err(self.gap());
        }
        let (generation, operation) = self.find_next()?.ok_or_else(|| self.gap())?;
        self.put_aside(generation, operation);
        Ok(())
    }

    /// What stands in the files under a sequence number, at or above the global checkpoint too:
    /// there it may be rolled back, or never have happened.
    pub fn look_up(&self, seq_no: SeqNo) -> Result<Option<Operation>, TailError> {
        for (generation, open) in self.generations.iter().rev() {
            let (Some(checkpoint), true) = (
                open.checkpoint,
                open.max_seq_no().is_none_or(|max| max >= seq_no),
            ) else {
                continue;
            };
            if checkpoint.trimmed_above.is_some_and(|limit| seq_no > limit) {
                continue;
            }
            let Some(mut file) = open_generation(&self.folder, &self.spool, *generation)? else {
                continue;
            };
            while let Some(operation) = file.next(checkpoint.offset)? {
                if operation.seq_no == seq_no {
                    return Ok(Some(operation));
                }
            }
        }
        Ok(None)
    }

    /// Forgets what has been read ahead.
    pub(crate) fn put_down(&mut self) {
        for open in self.generations.values_mut() {
            open.file.put_down();
        }
    }

    /// What the generations take that are read or kept, in bytes.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.generations
            .values()
            .filter_map(|open| open.checkpoint)
            .map(|checkpoint| checkpoint.offset)
            .sum()
    }

    /// Whether [`Self::release_up_to`] would let anything go.
    pub(crate) fn can_release(&self, acked: SeqNo) -> bool {
        self.generations
            .keys()
            .next()
            .is_some_and(|lowest| *lowest < self.needed_above(acked))
    }

    /// Lets go of the generations that hold nothing above `acked`.
    pub fn release_up_to(&mut self, acked: SeqNo) -> Result<(), TailError> {
        if self.can_release(acked) {
            let below = self.needed_above(acked);
            self.spool.release(below)?;
            self.generations = self.generations.split_off(&below);
        }
        Ok(())
    }

    /// The first generation that may hold something above `acked`.
    fn needed_above(&self, acked: SeqNo) -> Generation {
        let done = |open: &OpenGeneration| open.max_seq_no().is_some_and(|max| max <= acked);
        let needed = self
            .generations
            .range(..self.reading)
            .find(|(_, open)| !done(open));
        needed.map_or(self.reading, |(generation, _)| *generation)
    }

    fn gap(&self) -> TailError {
        let lowest = self
            .generations
            .values()
            .filter_map(OpenGeneration::min_seq_no)
            .min();
        TailError::Gap {
            wanted: self.next,
            lowest,
            global_checkpoint: self.current.global_checkpoint,
        }
    }

    /// The next operation, from among the early ones or by reading on; `None` when the translog
    /// does not have it.
    fn find_next(&mut self) -> Result<Option<(Generation, Operation)>, TailError> {
        loop {
            let (generation, operation) = match self.early.remove(&self.next) {
                Some((generation, operation)) => {
                    self.early_bytes -= weight(&operation);
                    (generation, operation)
                }
                None if self.is_lost() => return Ok(None),
                None => match self.read()? {
                    Some(operation) => (self.reading, operation),
                    None => return Ok(None),
                },
            };
            let seq_no = operation.seq_no;
            if seq_no == self.next
                && self.certain_up_to < seq_no
                && self.is_of_earlier_term(generation)
            {
                self.find_superseded()?;
                self.certain_up_to = self.current.global_checkpoint;
            }
            if seq_no < self.next
                || self
                    .superseded
                    .get(&seq_no)
                    .is_some_and(|newer| *newer > generation)
            {
                continue;
            }
            if seq_no == self.next {
                return Ok(Some((generation, operation)));
            }
            self.put_aside(generation, operation);
        }
    }

    /// Whether no generation that is still to be read can have the next operation.
    fn begins_later(&self) -> bool {
        let is_above = |open: &OpenGeneration| match &open.checkpoint {
            Some(checkpoint) => checkpoint.operations == 0 || checkpoint.min_seq_no > self.next,
            None => false,
        };
        let unread = self
            .generations
            .range(self.reading..=self.current.generation);
        !self.early.contains_key(&self.next) && unread.map(|(_, open)| open).all(is_above)
    }

    /// Whether the next operation is given up: so much that comes behind it has been read.
    fn is_lost(&mut self) -> bool {
        self.window.is_narrow(self.early_bytes)
            && (self.begins_later() || !self.window.widen(self.early_bytes))
    }

    fn is_of_earlier_term(&self, generation: Generation) -> bool {
        let term = |generation| {
            self.generations
                .get(&generation)
                .map(|open| open.file.primary_term)
        };
        term(generation) != term(self.current.generation)
    }

    fn put_aside(&mut self, generation: Generation, mut operation: Operation) {
        if let OperationKind::Index { source, .. } = &mut operation.kind {
            // It would keep all that was read with it.
            *source = Bytes::copy_from_slice(source);
        }
        self.early_bytes += weight(&operation);
        if let Some((_, replaced)) = self.early.insert(operation.seq_no, (generation, operation)) {
            self.early_bytes -= weight(&replaced);
        }
    }

    /// The next durable operation in the order of the files that was not rolled back.
    fn read(&mut self) -> Result<Option<Operation>, TailError> {
        loop {
            if let Some(open) = self.generations.get_mut(&self.reading) {
                let (end, trimmed_above) = match &open.checkpoint {
                    Some(checkpoint) => (checkpoint.offset, checkpoint.trimmed_above),
                    None => (0, None),
                };
                let is_above =
                    |limit: Option<SeqNo>, seq_no| limit.is_some_and(|limit| seq_no > limit);
                match open.file.next(end)? {
                    Some(operation)
                        if is_above(trimmed_above, operation.seq_no)
                            || is_above(open.certain_up_to, operation.seq_no) =>
                    {
                        continue;
                    }
                    Some(operation) => return Ok(Some(operation)),
                    None => {}
                }
            }
            let later = self.generations.range(self.reading.after()..).next();
            match later {
                Some((generation, _)) if *generation <= self.current.generation => {
                    self.reading = *generation
                }
                _ => return Ok(None),
            }
        }
    }

    /// Opens the generations that are not open yet, and learns where closed ones end.
    fn add_generations(&mut self) -> Result<(), TailError> {
        let failed = |source| TailError::Io {
            path: self.folder.clone(),
            source,
        };
        let mut known = list_generations(&self.folder).map_err(failed)?;
        known.extend(self.spool.generations()?);
        // What was let go for the spool's limit takes disk until it is closed here too.
        self.generations
            .retain(|generation, _| known.contains(generation));
        for generation in known
            .into_iter()
            .filter(|generation| *generation <= self.current.generation)
        {
            let is_newest = generation == self.current.generation;
            let closed = if is_newest {
                Some(self.current)
            } else {
                self.closed_checkpoint(generation)?
            };
            if let Some(open) = self.generations.get_mut(&generation) {
                // A generation whose last checkpoint was missed is durable at least up to the one
                // seen last.
                open.is_whole |= closed.is_some() && !is_newest;
                open.checkpoint = closed.or(open.checkpoint);
                continue;
            }
            let Some(file) = open_generation(&self.folder, &self.spool, generation)? else {
                continue;
            };
            if file.uuid == self.uuid {
                let is_whole = closed.is_some() && !is_newest;
                self.generations.insert(
                    generation,
                    OpenGeneration {
                        file,
                        checkpoint: closed,
                        is_whole,
                        certain_up_to: None,
                    },
                );
            } else if is_newest {
                return Err(TailError::Replaced(self.folder.clone()));
            } else {
                // Of a history that has ended.
                self.spool.let_go(generation)?;
            }
        }
        Ok(())
    }

    fn closed_checkpoint(&self, generation: Generation) -> Result<Option<Checkpoint>, TailError> {
        for path in [
            self.folder.join(file_name(generation, "ckp")),
            self.spool.path(generation, "ckp"),
        ] {
            match Checkpoint::read(&path) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(TailError::Checkpoint(error)),
            }
        }
        Ok(None)
    }

    /// A generation that OpenSearch closed and deleted while no agent was there to hold its
    /// checkpoint is durable to its end, and at or below the global checkpoint. What of it had been
    /// rolled back before is told by the generations behind it, so none of them may be missing.
    fn complete_deleted(&mut self) -> Result<(), TailError> {
        let mut behind = self.current.generation;
        let generations: Vec<Generation> = self
            .generations
            .range(..behind)
            .rev()
            .map(|(at, _)| *at)
            .collect();
        for generation in generations {
            if generation.after() != behind {
                break;
            }
            behind = generation;
            let is_unknown = !self.generations[&generation].is_whole;
            if is_unknown
                && !self.folder.join(file_name(generation, "tlog")).exists()
                && let Some(whole) = self.whole(generation)?
                && let Some(open) = self.generations.get_mut(&generation)
            {
                (open.checkpoint, open.is_whole) = (Some(whole), true);
            }
        }
        Ok(())
    }

    /// The checkpoint of a generation that is durable to its end; `None` if that end is no
    /// operation's.
    fn whole(&self, generation: Generation) -> Result<Option<Checkpoint>, TailError> {
        let Some(mut file) = open_generation(&self.folder, &self.spool, generation)? else {
            return Ok(None);
        };
        let mut whole = Checkpoint {
            offset: file.length()?,
            operations: 0,
            generation,
            min_seq_no: SeqNo(i64::MAX),
            max_seq_no: SeqNo::NONE,
            trimmed_above: None,
            ..self.current
        };
        loop {
            match file.next(whole.offset) {
                Ok(Some(operation)) => {
                    whole.operations += 1;
                    whole.min_seq_no = whole.min_seq_no.min(operation.seq_no);
                    whole.max_seq_no = whole.max_seq_no.max(operation.seq_no);
                }
                Ok(None) => return Ok((file.position() == whole.offset).then_some(whole)),
                Err(GenerationError::Format { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What nobody held may have had other operations in the place of those in earlier generations,
    /// if a term began between. What was settled when the last of these was closed has no other.
    fn find_uncertain(&mut self) {
        let (mut certain_up_to, mut hidden, mut behind) = (None, None, None);
        for (generation, open) in self.generations.iter_mut().rev() {
            let term = open.file.primary_term;
            if let Some((later, later_term)) = behind
                && generation.after() != later
            {
                hidden = Some(later_term);
            }
            if hidden.take_if(|hidden| *hidden > term).is_some() {
                certain_up_to = Some(
                    open.checkpoint
                        .map_or(SeqNo::NONE, |checkpoint| checkpoint.global_checkpoint),
                );
            }
            open.certain_up_to = certain_up_to;
            if !open.is_whole && *generation != self.current.generation {
                hidden = hidden.max(Some(term));
            }
            behind = Some((*generation, term));
        }
    }

    /// Whatever is at or below the global checkpoint has its last operation in the translog.
    fn find_superseded(&mut self) -> Result<(), TailError> {
        self.superseded.retain(|seq_no, _| *seq_no >= self.next);
        let generations: Vec<Generation> = self.generations.keys().copied().collect();
        for (at, later) in generations.iter().enumerate() {
            let open = &self.generations[later];
            let (term, Some(lowest)) = (open.file.primary_term, open.min_seq_no()) else {
                continue;
            };
            let trimmed_above = open
                .checkpoint
                .and_then(|checkpoint| checkpoint.trimmed_above);
            let earlier = generations[..at]
                .iter()
                .map(|generation| &self.generations[generation]);
            let overlaps = earlier
                .filter(|open| open.file.primary_term < term)
                .filter_map(OpenGeneration::max_seq_no)
                .any(|highest| highest >= lowest && highest >= self.next);
            let (Some(end), true) = (
                open.checkpoint.map(|checkpoint| checkpoint.offset),
                overlaps,
            ) else {
                continue;
            };
            let Some(mut file) = open_generation(&self.folder, &self.spool, *later)? else {
                continue;
            };
            while let Some(operation) = file.next(end)? {
                if trimmed_above.is_none_or(|limit| operation.seq_no <= limit) {
                    self.superseded.insert(operation.seq_no, *later);
                }
            }
        }
        Ok(())
    }
}

impl OpenGeneration {
    /// −1 for a generation without operations, `None` when unknown.
    fn max_seq_no(&self) -> Option<SeqNo> {
        self.checkpoint.map(|checkpoint| checkpoint.max_seq_no)
    }

    fn min_seq_no(&self) -> Option<SeqNo> {
        self.checkpoint
            .filter(|checkpoint| checkpoint.operations > 0)
            .map(|checkpoint| checkpoint.min_seq_no)
    }
}

fn read_current(folder: &Path) -> Result<Checkpoint, TailError> {
    Checkpoint::read(&folder.join("translog.ckp")).map_err(|error| {
        if error.is_missing() {
            TailError::ShardGone(folder.to_owned())
        } else {
            TailError::Checkpoint(error)
        }
    })
}

/// Opens a generation where it still is; `None` when it is nowhere.
fn open_generation(
    folder: &Path,
    spool: &ShardSpool,
    generation: Generation,
) -> Result<Option<GenerationFile>, TailError> {
    for path in [
        folder.join(file_name(generation, "tlog")),
        spool.path(generation, "tlog"),
    ] {
        match GenerationFile::open(&path, generation) {
            Ok(file) => return Ok(Some(file)),
            Err(GenerationError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// The memory that an operation takes: at least 1, so that every operation counts.
fn weight(operation: &Operation) -> usize {
    1 + match &operation.kind {
        OperationKind::Index { id, source, .. } => id.len() + source.len(),
        OperationKind::Delete { id, .. } => id.len(),
        OperationKind::NoOp { .. } => 0,
    }
}
