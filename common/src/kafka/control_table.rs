//! What an agent keeps of a control topic in memory. Pure.
//!
//! Records count in the order in which they stand, with one exception. A topic that lost records,
//! as when it was deleted or cut short, is read again from what is left. What is remembered and was
//! not read again stays, and is announced again by who it belongs to. Such a record says how new
//! the entry is, and counts only where nothing newer is known: so it does not matter who announces
//! first, or how much each remembers.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use tokio::time::Instant;

use crate::control::{CatalogEntry, Entry, Subscription};
use crate::words::types::Offset;

/// Kinds of which a removal is remembered: that they are missing says nothing.
const REMOVALS_OF: &[&str] = &[CatalogEntry::KIND, Subscription::KIND];

/// Kinds that only the holder of a slot writes, who has read what was written before. A record of
/// an earlier version was under way for longer than its writer held the slot.
const ORDERED: &[&str] = &[Subscription::KIND];

/// What a record says of itself; those of earlier builds say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Rises with each write of a key.
    pub(super) version: u64,
    /// Whether it was announced again after the topic had lost it.
    pub(super) is_again: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    /// `None`: removed.
    value: Option<Bytes>,
    version: u64,
    /// Whether the topic has lost it.
    is_lost: bool,
    /// The offset behind the last record of its key.
    until: Offset,
}

#[derive(Default)]
pub(super) struct Table {
    entries: BTreeMap<String, Known>,
    /// Of each kind, how many records had been taken with the last one.
    newest: HashMap<String, Offset>,
    taken: i64,
    /// The topic is being read again up to here.
    again_until: Option<Offset>,
    lost_since: Option<Instant>,
    /// The offset behind the last removal.
    removed_until: Option<Offset>,
}

/// An entry, or its removal, that the topic has lost.
pub(super) struct Lost {
    pub(super) key: String,
    pub(super) value: Option<Bytes>,
    pub(super) version: u64,
}

fn kind_of(key: &str) -> &str {
    key.split_once('/').map_or(key, |(kind, _)| kind)
}

impl Table {
    /// Takes a record in; `next` is the offset behind it.
    pub(super) fn take(
        &mut self,
        key: String,
        value: Option<Bytes>,
        stamp: Option<Stamp>,
        next: Offset,
    ) {
        let again = self.again_until.is_some() || stamp.is_some_and(|stamp| stamp.is_again);
        if self.again_until.is_some_and(|until| next >= until) {
            self.again_until = None;
        }
        let known = self.entries.get_mut(&key);
        let version = match (&known, stamp) {
            (_, Some(stamp)) => stamp.version,
            (Some(known), None) => known.version + 1,
            (None, None) => 1,
        };
        let is_ordered = ORDERED.contains(&kind_of(&key));
        let is_late = |known: &Known| is_ordered && known.version > version;
        if let Some(known) = known.filter(|known| again || is_late(known)) {
            known.until = next;
            let is_same = known.value == value;
            let is_newer = stamp.is_some_and(|stamp| stamp.version > known.version);
            if is_same {
                known.is_lost = false;
                known.version = known.version.max(stamp.map_or(0, |stamp| stamp.version));
                return;
            }
            if !is_newer {
                // Whoever else remembers less has to hear of it.
                known.is_lost = true;
                self.lost_since.get_or_insert_with(Instant::now);
                return;
            }
        }
        self.set(key, value, version, next);
    }

    fn set(&mut self, key: String, value: Option<Bytes>, version: u64, until: Offset) {
        self.taken += 1;
        let newest = Offset(self.taken);
        match self.newest.get_mut(kind_of(&key)) {
            Some(known) => *known = newest,
            None => drop(self.newest.insert(kind_of(&key).to_owned(), newest)),
        }
        if value.is_none() {
            self.removed_until = Some(until);
        }
        if value.is_none() && !REMOVALS_OF.contains(&kind_of(&key)) {
            self.entries.remove(&key);
            return;
        }
        let known = Known {
            value,
            version,
            is_lost: false,
            until,
        };
        self.entries.insert(key, known);
    }

    /// The topic has lost records, and is read again up to this offset.
    pub(super) fn went_back(&mut self, until: Offset) {
        self.again_until = (until > Offset(0)).then_some(until);
        self.lost_since = Some(Instant::now());
        self.removed_until = None;
        for known in self.entries.values_mut() {
            known.is_lost = true;
            known.until = Offset(0);
        }
    }

    /// All that is left of the topic has been read.
    pub(super) fn reached_end(&mut self) {
        self.again_until = None;
    }

    /// What the topic has lost, once it has been read again; and since when it is known.
    pub(super) fn lost(&self) -> Option<(Instant, Vec<Lost>)> {
        let since = self.lost_since.filter(|_| self.again_until.is_none())?;
        let lost = |(key, known): (&String, &Known)| Lost {
            key: key.clone(),
            value: known.value.clone(),
            version: known.version,
        };
        let all = self.entries.iter().filter(|(_, known)| known.is_lost);
        Some((since, all.map(lost).collect()))
    }

    /// Nothing is lost any more.
    pub(super) fn is_whole_again(&mut self) {
        self.lost_since = None;
    }

    /// Of the next write of a key: above all that are known, and, where nothing is known, above
    /// those that others may remember.
    pub(super) fn next_version(&self, key: &str, now_ms: u64) -> u64 {
        let known = self.entries.get(key).map_or(0, |known| known.version);
        now_ms.max(known + 1)
    }

    /// Whether a record of a key that stands at an offset was read, or one behind it. Of a topic
    /// that loses its beginning some never are; those in between may have been compacted away.
    pub(super) fn has_read(&self, key: &str, offset: Offset, is_removal: bool) -> bool {
        match self.entries.get(key) {
            Some(known) => known.until > offset,
            None => is_removal || self.removed_until.is_some_and(|until| until > offset),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<Bytes> {
        self.entries.get(key)?.value.clone()
    }

    /// Whether what is known of a key is newer than this version of it.
    pub(super) fn is_overtaken(&self, key: &str, version: u64) -> bool {
        let known = self.entries.get(key).map_or(0, |known| known.version);
        ORDERED.contains(&kind_of(key)) && known > version
    }

    /// Whether a record was read that removed the entry, and none since.
    pub(super) fn was_removed(&self, key: &str) -> bool {
        self.entries
            .get(key)
            .is_some_and(|known| known.value.is_none())
    }

    pub(super) fn below(&self, prefix: &str) -> impl Iterator<Item = (&String, &Bytes)> {
        self.entries
            .range(prefix.to_owned()..)
            .take_while(move |(key, _)| key.starts_with(prefix))
            .filter_map(|(key, known)| Some((key, known.value.as_ref()?)))
    }

    pub(super) fn newest(&self, kind: &str) -> Option<Offset> {
        self.newest.get(kind).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.below("").count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS: [&str; 3] = ["subscription/c/a", "catalog/c/a", "subscription/c/b"];

    type Logged = (String, Option<Vec<u8>>, Option<Stamp>);

    struct Agent {
        table: Table,
        /// How far it is in the log.
        position: usize,
    }

    impl Agent {
        fn read(&mut self, log: &[Logged], up_to: usize) {
            let from = self.position.min(up_to);
            for (n, (key, value, stamp)) in log[..up_to].iter().enumerate().skip(from) {
                let next = Offset(n as i64 + 1);
                let value = value.clone().map(Bytes::from);
                self.table.take(key.clone(), value, *stamp, next);
            }
            self.position = self.position.max(up_to);
        }

        fn shows(&self) -> Vec<Option<Bytes>> {
            KEYS.iter().map(|key| self.table.get(key)).collect()
        }

        /// Announces one of the entries that the topic has lost.
        fn announce(&mut self, which: usize, log: &mut Vec<Logged>) -> bool {
            let Some((_, lost)) = self.table.lost() else {
                return false;
            };
            let count = lost.len();
            let Some(lost) = lost.into_iter().nth(which % count.max(1)) else {
                return false;
            };
            let stamp = Stamp {
                version: lost.version,
                is_again: true,
            };
            log.push((
                lost.key,
                lost.value.map(|value| value.to_vec()),
                Some(stamp),
            ));
            true
        }
    }

    /// A history of writes and removals, each one newer than the one before.
    fn histories() -> impl Strategy<Value = Vec<Logged>> {
        let write = (0..KEYS.len(), prop::option::weighted(0.8, any::<u8>()));
        prop::collection::vec(write, 1..12).prop_map(|writes| {
            let logged = |(n, (key, value)): (usize, (usize, Option<u8>))| {
                let stamp = Stamp {
                    version: n as u64 + 1,
                    is_again: false,
                };
                let value = value.map(|value| vec![n as u8, value]);
                (KEYS[key].to_owned(), value, Some(stamp))
            };
            writes.into_iter().enumerate().map(logged).collect()
        })
    }

    proptest! {
        /// Two agents with different memories, of a topic that is cut short at any place: whoever
        /// announces first, both end with what the one knows that remembers more, and so does one
        /// that begins with nothing.
        #[test]
        fn what_the_topic_lost_comes_back_as_the_newest_that_anybody_remembers(
            history in histories(), behind in 0usize..12, kept in 0usize..12,
            turns in prop::collection::vec((0usize..2, any::<usize>(), any::<bool>()), 0..20),
        ) {
            let agent = || Agent { table: Table::default(), position: 0 };
            let mut agents = [agent(), agent()];
            agents[0].read(&history, history.len());
            agents[1].read(&history, history.len().saturating_sub(behind));
            let wanted = agents[0].shows();
            let mut log = history[..kept.min(history.len())].to_vec();
            for agent in &mut agents {
                agent.table.went_back(Offset(log.len() as i64));
                agent.position = 0;
                let end = log.len();
                agent.read(&log, end);
            }
            // They announce without having read what the other has announced, or not.
            for (who, which, reads) in turns {
                agents[who].announce(which, &mut log);
                if reads {
                    let end = log.len();
                    agents[who].read(&log, end);
                }
            }
            for round in 0.. {
                prop_assert!(round < 50, "they never agree");
                let mut announced = false;
                for agent in &mut agents {
                    let end = log.len();
                    agent.read(&log, end);
                    announced |= agent.announce(0, &mut log);
                }
                if !announced {
                    break;
                }
            }
            prop_assert_eq!(agents[0].shows(), wanted.clone());
            prop_assert_eq!(agents[1].shows(), wanted.clone());
            let mut fresh = agent();
            fresh.read(&log, log.len());
            prop_assert_eq!(fresh.shows(), wanted);
        }
    }

    /// A write that Kafka took late, when another agent had the slot and had written: it would undo
    /// that.
    #[test]
    fn a_subscription_is_not_undone_by_a_record_of_before() {
        let (mut table, key) = (Table::default(), "subscription/c/a");
        let stamp = |version| {
            let is_again = false;
            Some(Stamp { version, is_again })
        };
        let take = |table: &mut Table, value: Option<&'static str>, version, next| {
            let value = value.map(Bytes::from);
            table.take(key.to_owned(), value, stamp(version), Offset(next));
        };
        take(&mut table, Some("running"), 5, 1);
        take(&mut table, Some("paused"), 9, 2);
        take(&mut table, Some("running again"), 7, 3);
        assert_eq!(table.get(key).as_deref(), Some(b"paused".as_slice()));
        assert!(table.is_overtaken(key, 7) && !table.is_overtaken(key, 9));
        // Who reads the topic once it is compacted is to hear of it.
        let (_, lost) = table.lost().unwrap();
        assert_eq!((lost.len(), lost[0].version), (1, 9));
        take(&mut table, None, 10, 4);
        take(&mut table, Some("paused"), 9, 5);
        assert!(table.was_removed(key) && table.get(key).is_none());
    }

    #[test]
    fn records_of_earlier_builds_count_in_their_order() {
        let mut table = Table::default();
        for value in ["1", "2"] {
            table.take("a/b".to_owned(), Some(value.into()), None, Offset(1));
        }
        assert_eq!(table.get("a/b").as_deref(), Some(b"2".as_slice()));
        assert!(table.next_version("a/b", 0) > 2);
        // A removal of a kind whose absence says nothing is remembered.
        let key = "subscription/c/a";
        assert!(!table.was_removed(key));
        table.take(key.to_owned(), Some("1".into()), None, Offset(3));
        table.take(key.to_owned(), None, None, Offset(4));
        assert!(table.was_removed(key) && table.get(key).is_none());
        assert_eq!(table.below("subscription/").count(), 0);
    }
}
