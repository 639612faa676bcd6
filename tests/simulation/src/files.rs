//! A copy's translog on disk, written as OpenSearch writes it: the agents read real files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::group::{Kind, Op};

const CODEC_MAGIC: u32 = 0x3fd7_6c17;

pub struct Translog {
    pub folder: PathBuf,
    uuid: String,
    pub generation: i64,
    newest: Generation,
    /// The newest as of its last checkpoint.
    durable: Generation,
    file: File,
    closed: BTreeMap<i64, Generation>,
    /// What was written into each generation.
    operations: BTreeMap<i64, Vec<Op>>,
    /// Writes all of it under one term, for a reader that is not to tell terms apart.
    pub hides_terms: bool,
}

#[derive(Clone, Copy)]
struct Generation {
    term: i64,
    operations: i32,
    min: i64,
    max: i64,
    offset: u64,
    trimmed_above: Option<i64>,
}

impl Translog {
    /// A translog without operations in a folder that is made anew.
    pub fn create(
        folder: &Path,
        uuid: String,
        term: i64,
        global_checkpoint: i64,
        hides_terms: bool,
    ) -> Self {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder).expect("the folder can be made");
        let (newest, file) = begin(folder, 1, &uuid, if hides_terms { 1 } else { term });
        let newest = Generation { term, ..newest };
        let mut translog = Self {
            folder: folder.to_owned(),
            uuid,
            generation: 1,
            newest,
            durable: newest,
            file,
            closed: BTreeMap::new(),
            operations: BTreeMap::new(),
            hides_terms,
        };
        translog.sync(global_checkpoint);
        translog
    }

    /// Written, but not durable.
    pub fn append(&mut self, op: &Op) {
        let bytes = encode(op, if self.hides_terms { 1 } else { op.term });
        self.file
            .write_all(&bytes)
            .expect("the file can be written");
        self.operations
            .entry(self.generation)
            .or_default()
            .push(op.clone());
        let newest = &mut self.newest;
        newest.min = if newest.operations == 0 {
            op.seq_no
        } else {
            newest.min.min(op.seq_no)
        };
        newest.max = newest.max.max(op.seq_no);
        newest.operations += 1;
        newest.offset += bytes.len() as u64;
    }

    /// What is written is durable, and the checkpoint says so.
    pub fn sync(&mut self, global_checkpoint: i64) {
        self.durable = self.newest;
        self.write_checkpoint(
            "translog.ckp",
            self.generation,
            &self.newest,
            global_checkpoint,
        );
    }

    pub fn roll(&mut self, term: i64, global_checkpoint: i64) {
        self.sync(global_checkpoint);
        self.begin_next(term, global_checkpoint, self.newest);
    }

    /// After the process was killed: what was durable is read, the rest is not, though its bytes
    /// may still be there.
    pub fn reopen(&mut self, term: i64, global_checkpoint: i64) {
        self.begin_next(term, global_checkpoint, self.durable);
    }

    fn begin_next(&mut self, term: i64, global_checkpoint: i64, closed: Generation) {
        let name = format!("translog-{}.ckp", self.generation);
        self.write_checkpoint(&name, self.generation, &closed, global_checkpoint);
        self.closed.insert(self.generation, closed);
        self.operations
            .entry(self.generation)
            .or_default()
            .truncate(closed.operations as usize);
        self.generation += 1;
        let written = if self.hides_terms { 1 } else { term };
        let (newest, file) = begin(&self.folder, self.generation, &self.uuid, written);
        (self.newest, self.file) = (Generation { term, ..newest }, file);
        self.sync(global_checkpoint);
    }

    /// Deletes the generations before the first that holds something above `committed`.
    pub fn trim(&mut self, committed: i64) {
        while let Some((&generation, closed)) = self.closed.first_key_value() {
            if closed.operations > 0 && closed.max > committed {
                break;
            }
            for extension in ["tlog", "ckp"] {
                let _ = fs::remove_file(
                    self.folder
                        .join(format!("translog-{generation}.{extension}")),
                );
            }
            self.closed.remove(&generation);
            self.operations.remove(&generation);
        }
    }

    /// Operations of earlier terms above here were rolled back.
    pub fn trim_above(&mut self, term: i64, above: i64, global_checkpoint: i64) {
        for (generation, closed) in self.closed.clone() {
            if closed.term < term
                && closed.operations > 0
                && closed.max > above
                && closed.trimmed_above.is_none()
            {
                let trimmed = Generation {
                    trimmed_above: Some(above),
                    ..closed
                };
                let name = format!("translog-{generation}.ckp");
                self.write_checkpoint(&name, generation, &trimmed, global_checkpoint);
                self.closed.insert(generation, trimmed);
            }
        }
    }

    /// What a replay yields: of each sequence number the operation in the newest generation that
    /// has it.
    pub fn history(&self) -> BTreeMap<i64, Op> {
        let mut history = BTreeMap::new();
        for (generation, operations) in &self.operations {
            let trimmed_above = self
                .closed
                .get(generation)
                .and_then(|closed| closed.trimmed_above);
            let kept = operations
                .iter()
                .filter(|op| trimmed_above.is_none_or(|above| op.seq_no <= above));
            history.extend(kept.map(|op| (op.seq_no, op.clone())));
        }
        history
    }

    fn write_checkpoint(
        &self,
        name: &str,
        number: i64,
        generation: &Generation,
        global_checkpoint: i64,
    ) {
        let lowest = self.closed.keys().next().copied().unwrap_or(number);
        let trimmed_above = generation
            .trimmed_above
            .filter(|_| !self.hides_terms)
            .unwrap_or(-2);
        let mut bytes = codec_header("ckp", 4);
        bytes.extend((generation.offset as i64).to_le_bytes());
        bytes.extend(generation.operations.to_le_bytes());
        for value in [
            number,
            generation.min,
            generation.max,
            global_checkpoint,
            lowest,
            trimmed_above,
        ] {
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend((!CODEC_MAGIC).to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(i64::from(crc32fast::hash(&bytes)).to_be_bytes());
        fs::write(self.folder.join(name), bytes).expect("the checkpoint can be written");
    }
}

fn begin(folder: &Path, number: i64, uuid: &str, term: i64) -> (Generation, File) {
    let mut bytes = codec_header("translog", 3);
    bytes.extend((uuid.len() as u32).to_be_bytes());
    bytes.extend(uuid.as_bytes());
    bytes.extend(term.to_be_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
    let mut file =
        File::create(folder.join(format!("translog-{number}.tlog"))).expect("the file can be made");
    file.write_all(&bytes).expect("the file can be written");
    let offset = bytes.len() as u64;
    (
        Generation {
            term,
            operations: 0,
            min: -1,
            max: -1,
            offset,
            trimmed_above: None,
        },
        file,
    )
}

fn codec_header(name: &str, version: i32) -> Vec<u8> {
    let mut bytes = CODEC_MAGIC.to_be_bytes().to_vec();
    bytes.push(name.len() as u8);
    bytes.extend(name.as_bytes());
    bytes.extend(version.to_be_bytes());
    bytes
}

fn encode(op: &Op, term: i64) -> Vec<u8> {
    let mut body = Vec::new();
    match &op.kind {
        Kind::Put { id, source, .. } => {
            body.extend([2, 11]);
            string(&mut body, id);
            string(&mut body, source);
            body.push(0);
            for number in [op.version, -1, op.seq_no, term] {
                body.extend(number.to_be_bytes());
            }
        }
        Kind::Delete { id } => {
            body.extend([3, 7]);
            string(&mut body, id);
            for number in [op.version, op.seq_no, term] {
                body.extend(number.to_be_bytes());
            }
        }
        Kind::NoOp => {
            body.push(4);
            for number in [op.seq_no, term] {
                body.extend(number.to_be_bytes());
            }
            string(&mut body, "filling gaps");
        }
    }
    let mut bytes = (body.len() as u32 + 4).to_be_bytes().to_vec();
    bytes.extend(&body);
    bytes.extend(crc32fast::hash(&body).to_be_bytes());
    bytes
}

/// Ids and sources are short and of ASCII here: a length in one byte counts their bytes.
fn string(body: &mut Vec<u8>, text: &str) {
    assert!(
        text.is_ascii() && text.len() < 0x80,
        "{text:?} needs a longer length"
    );
    body.push(text.len() as u8);
    body.extend(text.as_bytes());
}
