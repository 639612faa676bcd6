//! The slots that this agent holds: what it may work on, and the letting go of them.
//!
//! All follower agents of a cluster share a fixed number of slots. An index (its making, copying,
//! state and metadata) belongs to one slot by its name, a shard to one by its partition. Who works
//! on something holds a [`Claim`] to its slot; a slot leaves the agent only when nobody holds one
//! any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::join_all;
use shardline_common::topic::fnv1a;
use shardline_common::types::{IndexName, ShardId, TopicName};
use tokio::sync::{OwnedRwLockReadGuard, RwLock, watch};
use tokio_util::sync::CancellationToken;

/// Partitions of the slots topic. All agents have to agree on it, so it never changes.
pub(super) const SLOTS: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

impl Slot {
    /// Of what concerns the whole cluster.
    pub const CLUSTER: Self = Self(0);

    pub fn of_index(follower: &IndexName) -> Self {
        Self::of_text(follower.as_str())
    }

    pub fn of_shard(topic: &TopicName, shard: ShardId) -> Self {
        Self::of_text(&format!("{topic}/{shard}"))
    }

    fn of_text(text: &str) -> Self {
        let hash = fnv1a(text.as_bytes());
        // The upper half has no part in the lower bits.
        let folded = (hash >> 32) ^ (hash & u64::from(u32::MAX));
        Self(u32::try_from(folded % u64::from(SLOTS)).unwrap_or_default())
    }
}

#[derive(Clone)]
struct Holding {
    lost: CancellationToken,
    /// Read by every claim; whoever lets go of the slot waits until it can write.
    in_use: Arc<RwLock<()>>,
}

/// The right to work on something of a slot; not for long once it is [`Claim::lost`].
pub(crate) struct Claim {
    lost: CancellationToken,
    _in_use: OwnedRwLockReadGuard<()>,
}

impl Claim {
    /// Cancelled when the slot is to go to another agent, which waits for this claim to be dropped;
    /// or when it went there without asking.
    pub(crate) fn lost(&self) -> &CancellationToken {
        &self.lost
    }
}

/// What this agent holds.
pub struct Slots {
    held: watch::Sender<BTreeMap<Slot, Holding>>,
}

impl Default for Slots {
    fn default() -> Self {
        Self {
            held: watch::Sender::new(BTreeMap::new()),
        }
    }
}

impl Slots {
    pub fn holds(&self, slot: Slot) -> bool {
        self.held.borrow().contains_key(&slot)
    }

    pub(crate) fn held(&self) -> BTreeSet<Slot> {
        self.held.borrow().keys().copied().collect()
    }

    /// Resolves when slots have come or gone since it was asked last.
    pub(crate) fn changes(&self) -> Changes {
        Changes(self.held.subscribe())
    }

    pub(crate) fn try_claim(&self, slot: Slot) -> Option<Claim> {
        let holding = self.held.borrow().get(&slot)?.clone();
        let in_use = holding.in_use.try_read_owned().ok()?;
        Some(Claim {
            lost: holding.lost,
            _in_use: in_use,
        })
    }

    /// Waits until the slot is this agent's.
    pub(crate) async fn claim(&self, slot: Slot) -> Claim {
        let mut changes = self.changes();
        loop {
            if let Some(claim) = self.try_claim(slot) {
                return claim;
            }
            changes.next().await;
        }
    }

    /// They are this agent's from now on.
    pub fn take(&self, slots: &BTreeSet<Slot>) {
        self.held.send_modify(|held| {
            for slot in slots {
                held.entry(*slot).or_insert_with(|| Holding {
                    lost: CancellationToken::new(),
                    in_use: Arc::default(),
                });
            }
        });
    }

    /// Gives slots up, and returns when no claim to them is left.
    pub(crate) async fn give_up(&self, slots: &BTreeSet<Slot>) {
        let mut leaving = Vec::new();
        self.held
            .send_modify(|held| leaving.extend(slots.iter().filter_map(|slot| held.remove(slot))));
        for holding in &leaving {
            holding.lost.cancel();
        }
        join_all(leaving.iter().map(|holding| holding.in_use.write())).await;
    }
}

pub(crate) struct Changes(watch::Receiver<BTreeMap<Slot, Holding>>);

impl Changes {
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn a_slot_is_given_up_only_when_its_claims_are_dropped() {
        let slots = Arc::new(Slots::default());
        let slot = Slot::of_index(&"books".into());
        assert!(slots.try_claim(slot).is_none());
        let waiting = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.claim(slot).await }
        });
        slots.take(&BTreeSet::from([slot]));
        let claim = waiting.await.unwrap();
        assert!(!claim.lost().is_cancelled() && slots.holds(slot));
        let giving_up = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.give_up(&BTreeSet::from([slot])).await }
        });
        claim.lost().cancelled().await;
        assert!(slots.try_claim(slot).is_none() && !giving_up.is_finished());
        drop(claim);
        giving_up.await.unwrap();
    }

    proptest! {
        /// No slot gets much more than its share of the shards of an index or of a few hundred
        /// indices.
        #[test]
        fn work_is_spread(name in "[a-z0-9.-]{1,40}") {
            let mut shards: BTreeMap<Slot, u32> = BTreeMap::new();
            for shard in 0..256 {
                *shards.entry(Slot::of_shard(&name.as_str().into(), ShardId(shard))).or_default() += 1;
            }
            let mut indices: BTreeMap<Slot, u32> = BTreeMap::new();
            for number in 0..256 {
                *indices.entry(Slot::of_index(&format!("{name}-{number:06}").into())).or_default() += 1;
            }
            prop_assert!(shards.values().chain(indices.values()).all(|count| *count <= 20));
            prop_assert!(shards.keys().chain(indices.keys()).all(|slot| slot.0 < SLOTS));
        }
    }
}
