//! Content encodings that OpenSearch unpacks: those of its HTTP library, Netty.

use std::io::{self, Read};

use bytes::Bytes;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::StatusCode;

use super::budget::Charge;
use shardline::contract::ApiError;

/// How much is unpacked at a time, in bytes.
const STEP: usize = 64 << 10;

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    /// With zlib's frame or without.
    Deflate,
    Snappy,
    Zstd,
}

impl Encoding {
    /// By the value of `Content-Encoding`. `None` if OpenSearch takes the body as it comes, as it
    /// does with one that it does not know.
    ///
    /// # Errors
    /// 415 for Brotli: whether OpenSearch unpacks it depends on its installation.
    pub(super) fn named(name: &str) -> Result<Option<Self>, ApiError> {
        match name.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Ok(Some(Self::Gzip)),
            "deflate" | "x-deflate" => Ok(Some(Self::Deflate)),
            "snappy" => Ok(Some(Self::Snappy)),
            "zstd" => Ok(Some(Self::Zstd)),
            "br" => Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "illegal_argument_exception",
                "content encoding [br] is not supported where the gateway has to read the body; \
                 use [gzip] or [zstd]",
            )),
            _ => Ok(None),
        }
    }

    /// How many bytes a packed body unpacks to. They are charged, as often as unpacking holds them,
    /// before the body is unpacked further.
    ///
    /// # Errors
    /// 413 above `limit`, without unpacking further; 400 if it is not packed so; 429.
    pub(super) fn unpacked_size(
        self,
        packed: &[u8],
        limit: usize,
        charge: &mut Charge,
    ) -> Result<usize, ApiError> {
        // A Zstandard frame is unpacked into a window, which may be as large as its content.
        let copies = if self == Self::Zstd { 2 } else { 1 };
        let mut content = self.reader(packed)?;
        let mut buffer = vec![0; STEP];
        let mut size = 0;
        loop {
            match content
                .read(&mut buffer)
                .map_err(|error| self.broken(&error))?
            {
                0 => return Ok(size),
                length => size += length,
            }
            if size > limit {
                return Err(ApiError::too_large(limit));
            }
            charge.raise_to(packed.len() + copies * size)?;
        }
    }

    /// Unpacks a body whose size is known.
    ///
    /// # Errors
    /// 400 if it is not packed so.
    pub(super) fn unpack(self, packed: &[u8], size: usize) -> Result<Bytes, ApiError> {
        let mut content = vec![0; size];
        self.reader(packed)?
            .read_exact(&mut content)
            .map_err(|error| self.broken(&error))?;
        Ok(Bytes::from(content))
    }

    fn reader(self, packed: &[u8]) -> Result<Box<dyn Read + '_>, ApiError> {
        Ok(match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Self::Deflate if has_zlib_frame(packed) => Box::new(ZlibDecoder::new(packed)),
            Self::Deflate => Box::new(DeflateDecoder::new(packed)),
            Self::Snappy => Box::new(snap::read::FrameDecoder::new(packed)),
            Self::Zstd => Box::new(ZstdFrames {
                packed,
                frame: None,
            }),
        })
    }

    fn broken(self, error: &io::Error) -> ApiError {
        let name = match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Snappy => "snappy",
            Self::Zstd => "zstd",
        };
        ApiError::illegal_argument(format!("request body is not valid {name}: {error}"))
    }
}

/// As Netty tells zlib's frame from bare deflate.
fn has_zlib_frame(packed: &[u8]) -> bool {
    match packed {
        [first, second, ..] => {
            first & 0x78 == 0x78 && u16::from_be_bytes([*first, *second]).is_multiple_of(31)
        }
        _ => false,
    }
}

/// Zstandard frames, one behind the other.
struct ZstdFrames<'a> {
    packed: &'a [u8],
    frame: Option<ruzstd::decoding::FrameDecoder>,
}

impl Read for ZstdFrames<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
        loop {
            let Some(frame) = &mut self.frame else {
                if self.packed.is_empty() || into.is_empty() {
                    return Ok(0);
                }
                let mut frame = FrameDecoder::new();
                frame.init(&mut self.packed).map_err(io::Error::other)?;
                self.frame = Some(frame);
                continue;
            };
            if frame.can_collect() < into.len() && !frame.is_finished() {
                let wanted = BlockDecodingStrategy::UptoBytes(into.len());
                frame
                    .decode_blocks(&mut self.packed, wanted)
                    .map_err(io::Error::other)?;
            }
            let length = frame.read(into)?;
            if length > 0 {
                return Ok(length);
            }
            if frame.is_finished() {
                self.frame = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    use super::super::budget::Budget;
    use super::*;

    fn size(encoding: Encoding, packed: &[u8], limit: usize) -> Result<usize, ApiError> {
        let mut charge = Budget::ample().open();
        encoding.unpacked_size(packed, limit, &mut charge)
    }

    fn packed(how: &str, content: &[u8]) -> Vec<u8> {
        let level = Compression::default();
        match how {
            "gzip" => {
                let mut encoder = GzEncoder::new(Vec::new(), level);
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap()
            }
            "zlib" => {
                let mut encoder = ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap()
            }
            "deflate" => {
                let mut encoder = DeflateEncoder::new(Vec::new(), level);
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap()
            }
            "snappy" => {
                let mut encoder = snap::write::FrameEncoder::new(Vec::new());
                encoder.write_all(content).unwrap();
                encoder.into_inner().unwrap()
            }
            _ => ruzstd::encoding::compress_to_vec(
                content,
                ruzstd::encoding::CompressionLevel::Fastest,
            ),
        }
    }

    const KINDS: [(&str, Encoding); 5] = [
        ("gzip", Encoding::Gzip),
        ("zlib", Encoding::Deflate),
        ("deflate", Encoding::Deflate),
        ("snappy", Encoding::Snappy),
        ("zstd", Encoding::Zstd),
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn each_is_unpacked(content in prop::collection::vec(any::<u8>(), 1..5000)) {
            for (how, encoding) in KINDS {
                let packed = packed(how, &content);
                let unpacked = size(encoding, &packed, content.len()).unwrap();
                prop_assert_eq!(unpacked, content.len(), "{}", how);
                prop_assert_eq!(&encoding.unpack(&packed, unpacked).unwrap()[..], &content[..]);
                prop_assert!(size(encoding, &packed, content.len() - 1).is_err());
            }
        }

        #[test]
        fn any_bytes_are_refused_or_unpacked(
            content in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            for (_, encoding) in KINDS {
                let _ = size(encoding, &content, 1000);
            }
        }
    }

    #[test]
    fn members_are_unpacked_one_behind_the_other_and_broken_ones_refused() {
        for (how, encoding) in [KINDS[0], KINDS[4]] {
            let two = [packed(how, b"one "), packed(how, b"two")].concat();
            assert_eq!(size(encoding, &two, 100).unwrap(), 7, "{how}");
            assert_eq!(encoding.unpack(&two, 7).unwrap(), "one two");
        }
        for (how, encoding) in KINDS {
            let whole = packed(how, &[b'x'; 1000]);
            let cut = &whole[..whole.len() - 5];
            assert!(size(encoding, cut, 2000).is_err(), "{how}");
        }
        assert!(Encoding::named("br").is_err());
        assert_eq!(Encoding::named("GZIP").unwrap(), Some(Encoding::Gzip));
        assert_eq!(Encoding::named("identity").unwrap(), None);
    }
}
