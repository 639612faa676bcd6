//! Writes translogs as OpenSearch writes them.

use std::fs;
use std::path::Path;

const CODEC_MAGIC: u32 = 0x3fd7_6c17;

/// Of the translog, unless it is made anew.
pub const UUID: &str = "ibhFku_AQZ2fBjSXIclm_A";

#[derive(Debug, Clone)]
pub struct Generation {
    pub term: i64,
    /// In the order of the file: seq_no, term, document.
    pub operations: Vec<(i64, i64, String)>,
    /// Written but not durable when the node went down.
    pub lost: Vec<(i64, i64, String)>,
    pub trimmed_above: Option<i64>,
}

fn header() -> impl Fn(&str, i32) -> Vec<u8> {
    |name, version| {
        let mut bytes = CODEC_MAGIC.to_be_bytes().to_vec();
        bytes.push(name.len() as u8);
        bytes.extend(name.as_bytes());
        bytes.extend(version.to_be_bytes());
        bytes
    }
}

fn vint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn operation(seq_no: i64, term: i64, document: &str) -> Vec<u8> {
    let mut body = vec![2, 11];
    body.extend(vint(document.len()));
    body.extend(document.as_bytes());
    let source = format!("{{\"d\":\"{document}\",\"t\":{term}}}");
    body.extend(vint(source.len()));
    body.extend(source.as_bytes());
    body.push(0);
    for number in [1, -1, seq_no, term] {
        body.extend(number.to_be_bytes());
    }
    let mut bytes = (body.len() as u32 + 4).to_be_bytes().to_vec();
    bytes.extend(&body);
    bytes.extend(crc32fast::hash(&body).to_be_bytes());
    bytes
}

/// Writes a generation; returns its durable length.
pub fn write_generation(folder: &Path, uuid: &str, number: usize, generation: &Generation) -> u64 {
    let mut bytes = header()("translog", 3);
    bytes.extend((uuid.len() as u32).to_be_bytes());
    bytes.extend(uuid.as_bytes());
    bytes.extend(generation.term.to_be_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
    for (seq_no, term, document) in &generation.operations {
        bytes.extend(operation(*seq_no, *term, document));
    }
    let durable = bytes.len() as u64;
    for (seq_no, term, document) in &generation.lost {
        bytes.extend(operation(*seq_no, *term, document));
    }
    fs::write(folder.join(format!("translog-{number}.tlog")), bytes).unwrap();
    durable
}

pub fn write_checkpoint(
    path: &Path,
    number: usize,
    generation: &Generation,
    offset: u64,
    global: i64,
) {
    let seq_nos = || generation.operations.iter().map(|(seq_no, ..)| *seq_no);
    let mut bytes = header()("ckp", 4);
    bytes.extend((offset as i64).to_le_bytes());
    bytes.extend((generation.operations.len() as i32).to_le_bytes());
    for value in [
        number as i64,
        seq_nos().min().unwrap_or(-1),
        seq_nos().max().unwrap_or(-1),
        global,
        1,
        generation.trimmed_above.unwrap_or(-2),
    ] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend((!CODEC_MAGIC).to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(i64::from(crc32fast::hash(&bytes)).to_be_bytes());
    fs::write(path, bytes).unwrap();
}
