//! Lucene's and OpenSearch's primitives: headers, variable-length integers, strings.
//!
//! Sources: Lucene's `CodecUtil` (header: magic, name, version, all big-endian; footer: magic,
//! algorithm, CRC32 as i64) and OpenSearch's `StreamInput` (vint: 7 bits a byte, low first; string:
//! a vint count of UTF-16 code units, each in one to three bytes).

use bytes::{Buf, Bytes};

pub(super) const CODEC_MAGIC: u32 = 0x3fd7_6c17;
pub(super) const FOOTER_MAGIC: u32 = !CODEC_MAGIC;
/// Footer magic, algorithm and checksum.
pub(super) const FOOTER_BYTES: usize = 16;

/// What does not fit the format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("it ends in the middle of {0}")]
    Truncated(&'static str),
    #[error("it does not begin with a Lucene codec header (found {0:#010x})")]
    NoHeader(u32),
    #[error("its header says {found:?} where {expected:?} belongs")]
    WrongCodec {
        expected: &'static str,
        found: String,
    },
    #[error("{what} version {found} is not known to this build (it knows {known})")]
    UnknownVersion {
        what: &'static str,
        found: i64,
        known: &'static str,
    },
    #[error("its checksum does not match")]
    Checksum,
    #[error("{what} has an impossible value: {value}")]
    Impossible { what: &'static str, value: i64 },
}

/// Reads primitives off the front of a stretch of a buffer, without ever reading past its end.
pub(super) struct Reader<'a> {
    buffer: &'a Bytes,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(buffer: &'a Bytes) -> Self {
        Self::within(buffer, buffer)
    }

    /// Reads `stretch`, which is a part of `buffer`.
    pub(super) fn within(buffer: &'a Bytes, stretch: &'a [u8]) -> Self {
        Self {
            buffer,
            rest: stretch,
        }
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn take(
        &mut self,
        count: usize,
        what: &'static str,
    ) -> Result<&'a [u8], FormatError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(FormatError::Truncated(what))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, FormatError> {
        Ok(self.take(1, what)?[0])
    }

    pub(super) fn i32(&mut self, what: &'static str) -> Result<i32, FormatError> {
        Ok(self.take(4, what)?.get_i32())
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, FormatError> {
        Ok(self.take(4, what)?.get_u32())
    }

    pub(super) fn i64(&mut self, what: &'static str) -> Result<i64, FormatError> {
        Ok(self.take(8, what)?.get_i64())
    }

    pub(super) fn i32_le(&mut self, what: &'static str) -> Result<i32, FormatError> {
        Ok(self.take(4, what)?.get_i32_le())
    }

    pub(super) fn i64_le(&mut self, what: &'static str) -> Result<i64, FormatError> {
        Ok(self.take(8, what)?.get_i64_le())
    }

    pub(super) fn vint(&mut self, what: &'static str) -> Result<u32, FormatError> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.u8(what)?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(FormatError::Impossible { what, value: -1 })
    }

    /// Bytes behind a vint length; not copied.
    pub(super) fn byte_array(&mut self, what: &'static str) -> Result<Bytes, FormatError> {
        let length = self.vint(what)? as usize;
        Ok(self.buffer.slice_ref(self.take(length, what)?))
    }

    /// A string. A surrogate without its other half, which is no character, becomes U+FFFD.
    pub(super) fn string(&mut self, what: &'static str) -> Result<String, FormatError> {
        let units = self.vint(what)? as usize;
        let (plain, behind) = self
            .rest
            .split_at_checked(units)
            .ok_or(FormatError::Truncated(what))?;
        // Nearly all are ASCII: one byte a unit.
        if plain.is_ascii() {
            self.rest = behind;
            return Ok(String::from_utf8_lossy(plain).into_owned());
        }
        let mut decoded = Vec::with_capacity(units);
        for _ in 0..units {
            decoded.push(self.code_unit(what)?);
        }
        Ok(String::from_utf16_lossy(&decoded))
    }

    pub(super) fn optional_string(
        &mut self,
        what: &'static str,
    ) -> Result<Option<String>, FormatError> {
        match self.u8(what)? {
            0 => Ok(None),
            1 => self.string(what).map(Some),
            other => Err(FormatError::Impossible {
                what,
                value: i64::from(other),
            }),
        }
    }

    fn code_unit(&mut self, what: &'static str) -> Result<u16, FormatError> {
        let first = self.u8(what)?;
        let mut low = || Ok::<_, FormatError>(u16::from(self.u8(what)? & 0x3f));
        match first >> 4 {
            0..=7 => Ok(u16::from(first)),
            12 | 13 => Ok((u16::from(first & 0x1f) << 6) | low()?),
            14 => Ok((u16::from(first & 0x0f) << 12) | (low()? << 6) | low()?),
            _ => Err(FormatError::Impossible {
                what,
                value: i64::from(first),
            }),
        }
    }

    /// A codec header: its version, if the name is `expected`.
    pub(super) fn codec_header(&mut self, expected: &'static str) -> Result<i32, FormatError> {
        let magic = self.u32("the codec header")?;
        if magic != CODEC_MAGIC {
            return Err(FormatError::NoHeader(magic));
        }
        let name = self.byte_array("the codec's name")?;
        if name.as_ref() != expected.as_bytes() {
            let found = String::from_utf8_lossy(&name[..name.len().min(64)]).into_owned();
            return Err(FormatError::WrongCodec { expected, found });
        }
        self.i32("the codec's version")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes text as OpenSearch's `StreamOutput.writeString` does.
    pub(super) fn encode_string(text: &str) -> Vec<u8> {
        let units: Vec<u16> = text.encode_utf16().collect();
        let mut bytes = encode_vint(units.len() as u32);
        for unit in units {
            match unit {
                0..=0x7f => bytes.push(unit as u8),
                0x80..=0x7ff => {
                    bytes.extend([0xc0 | (unit >> 6) as u8, 0x80 | (unit & 0x3f) as u8])
                }
                _ => bytes.extend([
                    0xe0 | (unit >> 12) as u8,
                    0x80 | ((unit >> 6) & 0x3f) as u8,
                    0x80 | (unit & 0x3f) as u8,
                ]),
            }
        }
        bytes
    }

    pub(super) fn encode_vint(mut value: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    proptest! {
        #[test]
        fn strings_read_back(text in ".{0,40}") {
            prop_assert_eq!(Reader::new(&encode_string(&text).into()).string("text"), Ok(text));
        }

        #[test]
        fn vints_read_back(value: u32) {
            prop_assert_eq!(Reader::new(&encode_vint(value).into()).vint("value"), Ok(value));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let bytes = Bytes::from(bytes);
            let _ = Reader::new(&bytes).string("text");
            let _ = Reader::new(&bytes).optional_string("text");
            let _ = Reader::new(&bytes).byte_array("bytes");
            let _ = Reader::new(&bytes).codec_header("translog");
        }
    }

    #[test]
    fn an_astral_character_takes_two_units_of_three_bytes() {
        assert_eq!(encode_string("\u{1F600}").len(), 1 + 6);
    }
}
