//! `translog.ckp` and `translog-N.ckp`: how far a shard's translog is durable, and its global
//! checkpoint.
//!
//! Source: OpenSearch's `Checkpoint` class. Versions 2 (Elasticsearch 6.0) and 3 (Elasticsearch 6.4
//! to OpenSearch 1.x) are big-endian, version 4 (OpenSearch 2 on, with Lucene 9) is little-endian;
//! version 2 has no `trimmedAboveSeqNo`. A Lucene footer follows.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use shardline_common::types::{Generation, SeqNo};

use super::codec::{FOOTER_BYTES, FOOTER_MAGIC, FormatError, Reader};

/// The server writes `translog.ckp` in place, so a reader may see half of a write.
const READ_ATTEMPTS: u32 = 50;
const READ_PAUSE: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Bytes of the generation's file that are durable.
    pub offset: u64,
    pub operations: i32,
    pub generation: Generation,
    pub(super) min_seq_no: SeqNo,
    pub(crate) max_seq_no: SeqNo,
    pub global_checkpoint: SeqNo,
    pub(super) min_generation: Generation,
    /// Operations of this generation above here were rolled back.
    pub trimmed_above: Option<SeqNo>,
}

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("checkpoint {path} cannot be read: {source}")]
    Format { path: PathBuf, source: FormatError },
}

impl CheckpointError {
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

impl Checkpoint {
    /// Reads a checkpoint file, again if it was just being written.
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        let mut attempt = 1;
        loop {
            let bytes = std::fs::read(path).map_err(|source| CheckpointError::Io {
                path: path.to_owned(),
                source,
            })?;
            match Self::parse(bytes.into()) {
                Err(FormatError::Checksum | FormatError::Truncated(_))
                    if attempt < READ_ATTEMPTS =>
                {
                    attempt += 1;
                    std::thread::sleep(READ_PAUSE);
                }
                parsed => {
                    return parsed.map_err(|source| CheckpointError::Format {
                        path: path.to_owned(),
                        source,
                    });
                }
            }
        }
    }

    pub fn parse(bytes: Bytes) -> Result<Self, FormatError> {
        let mut reader = Reader::new(&bytes);
        let version = reader.codec_header("ckp")?;
        type Read<'a, T> = fn(&mut Reader<'a>, &'static str) -> Result<T, FormatError>;
        let (long, int): (Read<'_, i64>, Read<'_, i32>) = match version {
            2 | 3 => (Reader::i64, Reader::i32),
            4 => (Reader::i64_le, Reader::i32_le),
            other => {
                let found = i64::from(other);
                return Err(FormatError::UnknownVersion {
                    what: "checkpoint",
                    found,
                    known: "2 to 4",
                });
            }
        };
        let offset = long(&mut reader, "the offset")?;
        let checkpoint = Self {
            offset: u64::try_from(offset).unwrap_or(u64::MAX),
            operations: int(&mut reader, "the number of operations")?,
            generation: Generation(long(&mut reader, "the generation")?),
            min_seq_no: SeqNo(long(&mut reader, "the lowest seq_no")?),
            max_seq_no: SeqNo(long(&mut reader, "the highest seq_no")?),
            global_checkpoint: SeqNo(long(&mut reader, "the global checkpoint")?),
            min_generation: Generation(long(&mut reader, "the lowest generation")?),
            trimmed_above: match version {
                2 => None,
                _ => Some(SeqNo(long(&mut reader, "trimmedAboveSeqNo")?))
                    .filter(|seq_no| seq_no.0 >= -1),
            },
        };
        if reader.remaining() < FOOTER_BYTES {
            return Err(FormatError::Truncated("the footer"));
        }
        if reader.u32("the footer")? != FOOTER_MAGIC {
            return Err(FormatError::Checksum);
        }
        reader.u32("the footer")?;
        let expected = reader.i64("the footer")?;
        let covered = &bytes[..bytes.len() - reader.remaining() - 8];
        if i64::from(crc32fast::hash(covered)) != expected {
            return Err(FormatError::Checksum);
        }
        // Checked last: half a write may hold anything.
        if offset < 0 {
            return Err(FormatError::Impossible {
                what: "the offset",
                value: offset,
            });
        }
        Ok(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(version: i32, checkpoint: &Checkpoint) -> Vec<u8> {
        let mut bytes = super::super::codec::CODEC_MAGIC.to_be_bytes().to_vec();
        bytes.extend(b"\x03ckp");
        bytes.extend(version.to_be_bytes());
        let long = |value: i64| {
            if version == 4 {
                value.to_le_bytes()
            } else {
                value.to_be_bytes()
            }
        };
        bytes.extend(long(checkpoint.offset as i64));
        let operations = checkpoint.operations;
        bytes.extend(if version == 4 {
            operations.to_le_bytes()
        } else {
            operations.to_be_bytes()
        });
        bytes.extend(long(checkpoint.generation.0));
        bytes.extend(long(checkpoint.min_seq_no.0));
        bytes.extend(long(checkpoint.max_seq_no.0));
        bytes.extend(long(checkpoint.global_checkpoint.0));
        bytes.extend(long(checkpoint.min_generation.0));
        if version > 2 {
            bytes.extend(long(checkpoint.trimmed_above.map_or(-2, |seq_no| seq_no.0)));
        }
        bytes.extend(FOOTER_MAGIC.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(i64::from(crc32fast::hash(&bytes)).to_be_bytes());
        bytes
    }

    proptest! {
        #[test]
        fn every_version_reads_back(
            version in 2i32..=4, numbers: [i32; 6], offset: u32, trimmed in prop::option::of(0i64..1000)
        ) {
            let [operations, generation, min, max, global, lowest] = numbers;
            let checkpoint = Checkpoint {
                offset: u64::from(offset),
                operations,
                generation: Generation(generation.into()),
                min_seq_no: SeqNo(min.into()),
                max_seq_no: SeqNo(max.into()),
                global_checkpoint: SeqNo(global.into()),
                min_generation: Generation(lowest.into()),
                trimmed_above: trimmed.map(SeqNo).filter(|_| version > 2),
            };
            prop_assert_eq!(Checkpoint::parse(encode(version, &checkpoint).into()), Ok(checkpoint));
        }

        #[test]
        fn a_flipped_bit_is_noticed(bit in 0usize..88 * 8) {
            let checkpoint = Checkpoint {
                offset: 1160, operations: 5, generation: Generation(2), min_seq_no: SeqNo(0), max_seq_no: SeqNo(4),
                global_checkpoint: SeqNo(4), min_generation: Generation(2), trimmed_above: None,
            };
            let mut bytes = encode(4, &checkpoint);
            prop_assert_eq!(bytes.len(), 88);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Checkpoint::parse(bytes.into()).is_err());
        }
    }
}
