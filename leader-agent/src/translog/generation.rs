//! One `translog-N.tlog`: its header, and its operations up to a durable offset.
//!
//! Source: OpenSearch's `TranslogHeader` version 3 (codec header, uuid with an i32 length, primary
//! term, CRC32 of all that) and `BaseTranslogReader` (each operation: an i32 size, the body, a
//! CRC32 of the body that the size includes).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes, BytesMut};
use shardline_common::types::{Generation, PrimaryTerm};

use super::codec::{FormatError, Reader};
use super::operation::Operation;

/// How much is read at once, in bytes. An operation that is larger is read whole.
const CHUNK: usize = 1024 * 1024;
/// A header is shorter than this.
const HEADER_LIMIT: usize = 512;
/// The server takes no operation that is larger; a size above it is damage.
const LARGEST_OPERATION: usize = 1 << 31;
const CHECKSUM_BYTES: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("translog {path} at byte {offset}: {source}")]
    Format {
        path: PathBuf,
        offset: u64,
        source: FormatError,
    },
}

/// An open generation. The file may have been deleted since; what is open stays readable.
#[derive(Debug)]
pub struct GenerationFile {
    pub generation: Generation,
    pub uuid: String,
    /// The primary term in which the generation was begun.
    pub primary_term: PrimaryTerm,
    path: PathBuf,
    file: File,
    /// The next operation begins here.
    position: u64,
    /// Bytes from `position` on that have been read.
    buffer: Bytes,
}

impl GenerationFile {
    pub fn open(path: &Path, generation: Generation) -> Result<Self, GenerationError> {
        let failed = |source| GenerationError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let mut head = vec![0; HEADER_LIMIT];
        let length = read_at_most(&file, &mut head, 0).map_err(failed)?;
        head.truncate(length);
        let head = Bytes::from(head);
        let (uuid, primary_term, header_bytes) =
            parse_header(&head).map_err(|source| GenerationError::Format {
                path: path.to_owned(),
                offset: 0,
                source,
            })?;
        Ok(Self {
            generation,
            uuid,
            primary_term,
            path: path.to_owned(),
            file,
            position: header_bytes as u64,
            buffer: Bytes::new(),
        })
    }

    pub fn length(&self) -> Result<u64, GenerationError> {
        let metadata = self.file.metadata();
        metadata
            .map(|metadata| metadata.len())
            .map_err(|source| GenerationError::Io {
                path: self.path.clone(),
                source,
            })
    }

    /// Whether this is the file that a path leads to now.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        std::fs::metadata(path)
            .is_ok_and(|there| self.file.metadata().is_ok_and(|open| id(open) == id(there)))
    }

    /// Where the next operation begins.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next operation that ends at or before `durable_end`, `None` when there is none.
    pub fn next(&mut self, durable_end: u64) -> Result<Option<Operation>, GenerationError> {
        if !self.fill(4, durable_end)? {
            return Ok(None);
        }
        let size = u32::from_be_bytes([
            self.buffer[0],
            self.buffer[1],
            self.buffer[2],
            self.buffer[3],
        ]) as usize;
        if !(CHECKSUM_BYTES + 1..LARGEST_OPERATION).contains(&size) {
            let value = i64::try_from(size).unwrap_or(i64::MAX);
            return Err(self.format(FormatError::Impossible {
                what: "the operation's size",
                value,
            }));
        }
        if !self.fill(4 + size, durable_end)? {
            return Err(self.format(FormatError::Truncated(
                "an operation below the durable offset",
            )));
        }
        let (body, checksum) = self.buffer[4..4 + size].split_at(size - CHECKSUM_BYTES);
        if checksum != crc32fast::hash(body).to_be_bytes() {
            return Err(self.format(FormatError::Checksum));
        }
        let operation = Operation::parse(Reader::within(&self.buffer, body))
            .map_err(|source| self.format(source))?;
        self.buffer.advance(4 + size);
        if self.buffer.is_empty() {
            // An empty rest would keep all that was read with it, as long as the shard is idle.
            self.buffer = Bytes::new();
        }
        self.position += 4 + size as u64;
        Ok(Some(operation))
    }

    /// Forgets what has been read ahead.
    pub(crate) fn put_down(&mut self) {
        self.buffer = Bytes::new();
    }

    /// Makes `count` bytes available; false when the durable end comes first.
    fn fill(&mut self, count: usize, durable_end: u64) -> Result<bool, GenerationError> {
        if self.buffer.len() >= count {
            return Ok(true);
        }
        if self.position + count as u64 > durable_end {
            return Ok(false);
        }
        let have = self.buffer.len();
        let durable = usize::try_from(durable_end - self.position).unwrap_or(usize::MAX);
        let want = count.max(CHUNK).min(durable);
        // A buffer of its own each time, as sources refer to the one before.
        let mut larger = BytesMut::zeroed(want);
        larger[..have].copy_from_slice(&self.buffer);
        let read = read_at_most(&self.file, &mut larger[have..], self.position + have as u64)
            .map_err(|source| GenerationError::Io {
                path: self.path.clone(),
                source,
            })?;
        larger.truncate(have + read);
        self.buffer = larger.freeze();
        Ok(self.buffer.len() >= count)
    }

    fn format(&self, source: FormatError) -> GenerationError {
        GenerationError::Format {
            path: self.path.clone(),
            offset: self.position,
            source,
        }
    }
}

fn parse_header(head: &Bytes) -> Result<(String, PrimaryTerm, usize), FormatError> {
    let mut reader = Reader::new(head);
    let version = reader.codec_header("translog")?;
    if version != 3 {
        return Err(FormatError::UnknownVersion {
            what: "translog",
            found: i64::from(version),
            known: "3",
        });
    }
    let length = reader.i32("the uuid's length")?;
    let length = usize::try_from(length).map_err(|_| FormatError::Impossible {
        what: "the uuid's length",
        value: i64::from(length),
    })?;
    let uuid = reader.take(length, "the uuid")?;
    let primary_term = PrimaryTerm(reader.i64("the primary term")?);
    let covered = head.len() - reader.remaining();
    if reader.u32("the header's checksum")? != crc32fast::hash(&head[..covered]) {
        return Err(FormatError::Checksum);
    }
    Ok((
        String::from_utf8_lossy(uuid).into_owned(),
        primary_term,
        head.len() - reader.remaining(),
    ))
}

fn read_at_most(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
