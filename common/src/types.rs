//! The words of the domain as types, so that no bare integer or string crosses a module.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }
    };
}

number! {
    /// Position of an operation in its shard's history: 0 for the first, gapless. −1 is "before the
    /// first".
    SeqNo(i64)
}
number! {
    /// Rises each time a shard gets a new primary; starts at 1.
    PrimaryTerm(i64)
}
number! {
    /// Number of a translog file of a shard; starts at 1 and rises by one with each roll.
    Generation(i64)
}
number! {
    /// Number of a shard in its index, which is also the number of its Kafka partition.
    ShardId(u32)
}
number! {
    /// Rises when a new owner of a follower index must outrank every version already there; see
    /// [`ExternalVersion`].
    Epoch(u32)
}
number! {
    /// Offset of a record in a Kafka partition.
    Offset(i64)
}
name! {
    /// Name of an OpenSearch index.
    IndexName
}
name! {
    /// UUID of one incarnation of an index, as in `index.uuid` (22 characters of URL-safe base64).
    IndexUuid
}
name! {
    /// UUID of an OpenSearch cluster, as `GET /` gives it.
    ClusterUuid
}
name! {
    /// Name of a Kafka topic.
    TopicName
}

impl SeqNo {
    /// What a shard without operations has for a checkpoint.
    pub const NONE: Self = Self(-1);

    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl ClusterUuid {
    /// A cluster that has not formed yet has no identity.
    pub fn is_formed(&self) -> bool {
        self.0 != "_na_"
    }
}

impl Generation {
    pub fn after(self) -> Self {
        Self(self.0 + 1)
    }
}

impl ShardId {
    /// The Kafka partition of this shard.
    pub fn partition(self) -> i32 {
        i32::try_from(self.0).unwrap_or(i32::MAX)
    }
}

/// The `version` that every write to a follower index carries: `(epoch << 44) + seq_no + 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExternalVersion(pub i64);

impl ExternalVersion {
    const EPOCH_SHIFT: u32 = 44;
    /// Versions stay below 2^62.
    const LAST_EPOCH: Epoch = Epoch((1 << 18) - 1);

    pub fn new(epoch: Epoch, seq_no: SeqNo) -> Self {
        debug_assert!(seq_no.0 >= 0 && seq_no.0 < (1 << Self::EPOCH_SHIFT) - 1);
        Self((i64::from(epoch.0) << Self::EPOCH_SHIFT) + seq_no.0 + 1)
    }

    /// The lowest epoch of which every version outranks this one, `at_least` that; none if there is
    /// no room for it.
    pub fn epoch_above(self, at_least: Epoch) -> Option<Epoch> {
        let above = u32::try_from((self.0.max(0) >> Self::EPOCH_SHIFT) + 1)
            .ok()
            .map(Epoch)?
            .max(at_least);
        (above <= Self::LAST_EPOCH).then_some(above)
    }

    /// The operation's, whatever the epoch.
    pub fn seq_no(self) -> SeqNo {
        SeqNo((self.0 & ((1 << Self::EPOCH_SHIFT) - 1)) - 1)
    }
}

/// Tells the records of one resync from those of another: two agents may overlap for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FrameId(pub i64);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::verify::Side;

    #[test]
    fn a_higher_epoch_outranks_every_sequence_number_of_a_lower_one() {
        let last_of_first = ExternalVersion::new(Epoch(0), SeqNo((1 << 44) - 2));
        assert!(ExternalVersion::new(Epoch(1), SeqNo(0)) > last_of_first);
        assert_eq!(ExternalVersion::new(Epoch(0), SeqNo(0)), ExternalVersion(1));
        assert_eq!(
            ExternalVersion::new(Epoch(7), SeqNo(12)).seq_no(),
            SeqNo(12)
        );
    }

    proptest! {
        /// An epoch that is chosen outranks what is there, and no lower one does.
        #[test]
        fn the_epoch_above_a_version_is_the_lowest_that_outranks_it(bits in 0u32..63, low: u64, at_least in 0u32..4) {
            let found = ExternalVersion(i64::try_from((1u64 << bits | low & ((1 << bits) - 1)) & i64::MAX as u64).unwrap());
            match found.epoch_above(Epoch(at_least)) {
                Some(epoch) => {
                    prop_assert!(ExternalVersion::new(epoch, SeqNo(0)) > found && epoch >= Epoch(at_least));
                    prop_assert!(epoch == Epoch(at_least) || ExternalVersion(i64::from(epoch.0 - 1) << 44) <= found);
                }
                None => prop_assert!(found.0 >= (1 << 62) - (1 << 44)),
            }
        }
    }

    #[test]
    fn a_restored_document_has_its_own_number() {
        assert_eq!(ExternalVersion(1).epoch_above(Epoch(0)), Some(Epoch(1)));
        assert_eq!(ExternalVersion((1 << 62) - 1).epoch_above(Epoch(1)), None);
        let side = |version| {
            Side::Follower {
                restored_below: 1 << 44,
            }
            .seq_no(SeqNo(7), version)
        };
        assert_eq!(
            (side(3), side(ExternalVersion::new(Epoch(1), SeqNo(5)).0)),
            (SeqNo(7), SeqNo(5))
        );
    }
}
