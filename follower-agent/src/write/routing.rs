//! Finds a routing value that leads to a given shard.
//!
//! A delete in the translog has no routing, but a document that was indexed with one does not live
//! on the shard that its id alone leads to. The partition says which shard it was, so any routing
//! value that leads there will do: a delete stores none. The hash is OpenSearch's: MurmurHash3 (32
//! bits, seed 0) of the UTF-16 little-endian text.

use shardline_common::types::ShardId;

/// How an index spreads documents over its shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    pub number_of_shards: u32,
    pub routing_num_shards: u32,
    /// `index.routing_partition_size`: 1 unless a routing value spreads over several shards.
    pub partition_size: u32,
}

impl Spread {
    /// The shard of a document with this id and routing; the routing is the id where none was
    /// given.
    pub fn shard(&self, id: &str, routing: &str) -> ShardId {
        let offset = if self.partition_size > 1 {
            hash(id).rem_euclid(i32::try_from(self.partition_size).unwrap_or(i32::MAX))
        } else {
            0
        };
        let slots = i32::try_from(self.routing_num_shards.max(1)).unwrap_or(i32::MAX);
        let slot = hash(routing)
            .wrapping_add(offset)
            .rem_euclid(slots)
            .unsigned_abs();
        let factor = (self.routing_num_shards / self.number_of_shards.max(1)).max(1);
        ShardId(slot / factor)
    }

    /// A routing value with which an operation on `id` reaches `shard`.
    pub fn routing_to(&self, shard: ShardId, id: &str) -> String {
        // Each try hits with a chance of one in the number of shards, so this ends soon for every
        // shard there is.
        (0u32..)
            .map(|n| n.to_string())
            .find(|candidate| self.shard(id, candidate) == shard)
            .unwrap_or_default()
    }
}

fn hash(text: &str) -> i32 {
    let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    murmur3(&bytes).cast_signed()
}

/// MurmurHash3_x86_32 with seed 0.
fn murmur3(bytes: &[u8]) -> u32 {
    const C1: u32 = 0xcc9e_2d51;
    const C2: u32 = 0x1b87_3593;
    let scramble = |k: u32| k.wrapping_mul(C1).rotate_left(15).wrapping_mul(C2);
    let (blocks, tail) = bytes.as_chunks::<4>();
    let mut hash = blocks.iter().fold(0u32, |hash, block| {
        (hash ^ scramble(u32::from_le_bytes(*block)))
            .rotate_left(13)
            .wrapping_mul(5)
            .wrapping_add(0xe654_6b64)
    });
    let last = tail
        .iter()
        .rev()
        .fold(0u32, |last, byte| (last << 8) | u32::from(*byte));
    hash ^= scramble(last);
    hash ^= u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hash_is_murmur3() {
        // The reference implementation's verification values for seed 0.
        assert_eq!(murmur3(b""), 0);
        assert_eq!(murmur3(b"hello"), 0x248b_fa47);
        assert_eq!(murmur3(b"hello, world"), 0x149b_bb7f);
        assert_eq!(
            murmur3(b"The quick brown fox jumps over the lazy dog"),
            0x2e4f_f723
        );
    }

    proptest! {
        #[test]
        fn every_shard_is_reached(shards in 1u32..20, factor in 1u32..64, shard: u32, partition in 1u32..4, id in ".{0,20}") {
            let spread = Spread {
                number_of_shards: shards,
                routing_num_shards: shards * factor,
                partition_size: partition.min(shards),
            };
            let shard = ShardId(shard % shards);
            prop_assert_eq!(spread.shard(&id, &spread.routing_to(shard, &id)), shard);
        }
    }
}
