//! What has to hold, watched while a schedule runs. The oracle sees the whole log and both
//! clusters, which no agent does.

use std::collections::{BTreeMap, BTreeSet};

use shardline_common::control::{Subscription, SubscriptionState};
use shardline_common::kafka::memory::{Place, Stored};
use shardline_common::types::Offset;
use tokio::time::Instant;

/// The reason of an index whose stop is under way.
const STOPPING: &str = "_stop was called and did not come to its end: call it again";

/// A call of a user that has not been answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Start,
    Stop,
    Pause,
    Resume,
    Update,
}

pub struct Oracle {
    began: Instant,
    pub violation: Option<String>,
    trace: Option<Vec<String>>,
    /// Subscriptions as the log has them, by key.
    pub subscriptions: BTreeMap<String, Subscription>,
    /// The newest version of each of them.
    versions: BTreeMap<String, u64>,
    /// Every change of a subscription: where it stands, its key, and whether it is there since.
    pub history: Vec<(Offset, String, bool)>,
    /// Ids that were given once.
    ids: BTreeSet<String>,
    /// Calls under way, by the subscription's key.
    pub calls: BTreeMap<String, Vec<Verb>>,
    /// Indices that a user has been told nothing writes to any more.
    pub quiet: BTreeSet<String>,
    /// Uuids of leader indices that were closed at some time.
    pub was_closed: BTreeSet<String>,
    /// Uuids of leader indices that are no more.
    pub is_deleted: BTreeSet<String>,
}

impl Oracle {
    pub fn new(traced: bool) -> Self {
        Self {
            began: Instant::now(),
            violation: None,
            trace: traced.then(Vec::new),
            subscriptions: BTreeMap::new(),
            versions: BTreeMap::new(),
            history: Vec::new(),
            ids: BTreeSet::new(),
            calls: BTreeMap::new(),
            quiet: BTreeSet::new(),
            was_closed: BTreeSet::new(),
            is_deleted: BTreeSet::new(),
        }
    }

    pub fn note(&mut self, event: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let seconds = self.began.elapsed().as_secs_f64();
            trace.push(format!("{seconds:8.3} {}", event()));
        }
    }

    pub fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default()
    }

    pub fn fail(&mut self, violation: impl FnOnce() -> String) {
        if self.violation.is_none() {
            let violation = violation();
            self.note(|| format!("VIOLATION {violation}"));
            self.violation = Some(violation);
        }
    }

    pub fn begin_call(&mut self, key: &str, verb: Verb) {
        self.calls.entry(key.to_owned()).or_default().push(verb);
        if matches!(verb, Verb::Start | Verb::Resume) {
            self.quiet.remove(key);
        }
    }

    pub fn end_call(&mut self, key: &str, verb: Verb, is_done: bool) {
        let calls = self.calls.entry(key.to_owned()).or_default();
        if let Some(place) = calls.iter().position(|call| *call == verb) {
            calls.remove(place);
        }
        let may_start = calls
            .iter()
            .any(|call| matches!(call, Verb::Start | Verb::Resume));
        if is_done && matches!(verb, Verb::Stop | Verb::Pause) && !may_start {
            self.quiet.insert(key.to_owned());
        }
    }

    fn is_called(&self, key: &str, verb: Verb) -> bool {
        (self.calls.get(key)).is_some_and(|calls| calls.contains(&verb))
    }

    /// A record stands in a control topic.
    pub fn appended(&mut self, client: &str, place: &Place, record: &Stored) {
        if !place.topic.as_str().ends_with(".control.follower") {
            return;
        }
        let Some(key) = (record.key.as_ref()).and_then(|key| std::str::from_utf8(key).ok()) else {
            return;
        };
        if !key.starts_with("subscription/") {
            return;
        }
        if !self.counts(key, record) {
            return self.note(|| format!("{client} {}: {key} came too late", place.offset));
        }
        let next: Option<Subscription> =
            (record.value.as_ref()).and_then(|value| serde_json::from_slice(value).ok());
        self.note(|| match &next {
            Some(next) => format!(
                "{client} {}: {key} {:?} epoch {} copy {} bootstrap {} {:?}",
                place.offset,
                next.state,
                next.epoch,
                next.copy.is_some(),
                next.bootstrap.is_some(),
                next.reason,
            ),
            None => format!("{client} {}: {key} removed", place.offset),
        });
        let before = self.subscriptions.get(key).cloned();
        let fault = self.fault(key, before.as_ref(), next.as_ref());
        if let Some(fault) = fault {
            self.fail(|| format!("{client} wrote at {}: {key}: {fault}", place.offset));
        }
        self.history
            .push((place.offset, key.to_owned(), next.is_some()));
        match next {
            Some(next) => {
                self.ids.insert(next.id.clone());
                self.subscriptions.insert(key.to_owned(), next);
            }
            None => drop(self.subscriptions.remove(key)),
        }
    }

    /// Whether agents go by a record: not by one of an earlier version than they know, nor by one
    /// that is announced again and says nothing new.
    fn counts(&mut self, key: &str, record: &Stored) -> bool {
        let header = |name: &str| {
            let found = record.headers.iter().find(|(key, _)| key == name)?;
            Some(String::from_utf8_lossy(found.1.as_deref()?).into_owned())
        };
        let Some(version) = header("version").and_then(|text| text.parse::<u64>().ok()) else {
            return true;
        };
        let known = self.versions.entry(key.to_owned()).or_default();
        let counts = version > *known || (version == *known && header("again").is_none());
        *known = version.max(*known);
        counts
    }

    /// Why a subscription cannot have become this, if it cannot.
    fn fault(
        &self,
        key: &str,
        before: Option<&Subscription>,
        next: Option<&Subscription>,
    ) -> Option<String> {
        match (before, next) {
            (None, None) => None,
            (None, Some(next)) if self.ids.contains(&next.id) => {
                Some("a subscription that had ended is there again".to_owned())
            }
            (None, Some(_)) => (!self.is_called(key, Verb::Start))
                .then(|| "it begins, and nobody has called _start".to_owned()),
            (Some(before), None) => self.fault_of_end(key, before),
            (Some(before), Some(next)) if before.id != next.id => {
                Some("another subscription stands in its place".to_owned())
            }
            (Some(before), Some(next)) => self.fault_of_change(key, before, next),
        }
    }

    fn fault_of_end(&self, key: &str, before: &Subscription) -> Option<String> {
        let is_called = self.is_called(key, Verb::Stop) || self.is_called(key, Verb::Start);
        let is_deleted = self.is_deleted.contains(before.leader_uuid.as_str());
        (!is_called && !is_deleted)
            .then(|| "it ends; nobody has called _stop, and its leader index is there".to_owned())
    }

    fn fault_of_change(
        &self,
        key: &str,
        before: &Subscription,
        next: &Subscription,
    ) -> Option<String> {
        use SubscriptionState::{Paused, Running};
        let may_copy = |one: &Subscription| one.bootstrap.clone();
        if next.epoch < before.epoch {
            return Some(format!("epoch {} behind {}", next.epoch, before.epoch));
        }
        if may_copy(before) != may_copy(next)
            && next.bootstrap.is_some()
            && next.epoch == before.epoch
        {
            return Some("another copy begins under the same epoch".to_owned());
        }
        if before.bootstrap.is_none() && before.copy.is_some() && next.copy != before.copy {
            return Some("another copy is followed, and none was under way".to_owned());
        }
        match (before.state, next.state) {
            (Paused, Running) => {
                let reopens = before.reason.contains("IndexClosedException");
                (!self.is_called(key, Verb::Resume) && !reopens)
                    .then(|| "it runs again, and nobody has called _resume".to_owned())
            }
            (Running, Paused) => self.fault_of_pause(key, next),
            _ => None,
        }
    }

    /// The reason is a claim.
    fn fault_of_pause(&self, key: &str, next: &Subscription) -> Option<String> {
        let uuid = next.leader_uuid.as_str();
        let reason = &next.reason;
        if reason.contains("IndexNotFoundException") {
            return (!self.is_deleted.contains(uuid)).then(|| {
                format!("paused since its leader index is gone, which is there: {reason}")
            });
        }
        if reason.contains("IndexClosedException") {
            return (!self.was_closed.contains(uuid)).then(|| {
                format!("paused since its leader index is closed, and never was: {reason}")
            });
        }
        let is_called = self.is_called(key, Verb::Pause) || self.is_called(key, Verb::Stop);
        let goes_with_leader = reason == STOPPING && self.is_deleted.contains(uuid);
        (!is_called && !goes_with_leader)
            .then(|| format!("paused, and nobody has called _pause: {reason}"))
    }

    /// Which subscriptions there are as of a position of the log.
    pub fn followed_at(&self, position: Offset) -> BTreeSet<&str> {
        let mut followed = BTreeSet::new();
        for (offset, key, is_there) in &self.history {
            if *offset >= position {
                break;
            }
            match is_there {
                true => drop(followed.insert(key.as_str())),
                false => drop(followed.remove(key.as_str())),
            }
        }
        followed
    }
}
