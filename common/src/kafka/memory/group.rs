//! Consumer groups: a coordinator that shares the partitions of a topic among its members, and
//! takes them from those it has not heard of in time.
//!
//! The protocol is the cooperative one: what a member is to give up it is asked for first, and
//! nobody else gets it before the member has let go or lost its session.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::time::{Instant, sleep};

use super::{Act, Client, State};
use crate::words::types::{Offset, ShardId, TopicName};

/// What becomes of a member's partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rebalance {
    Assigned(BTreeSet<u32>),
    /// To be let go of; `lost` when others may have them already.
    Revoked {
        slots: BTreeSet<u32>,
        lost: bool,
    },
}

/// How a member joins a group.
#[derive(Clone, Debug)]
pub struct Joining {
    pub group: String,
    pub topic: TopicName,
    /// After this time without a word a member is out.
    pub session: Duration,
    pub heartbeat: Duration,
    /// How long a member may take to let go of what it is asked for.
    pub rebalance: Duration,
}

type Partition = (TopicName, ShardId);

/// Between two looks at whether what was lost has been let go of.
const UNTIL_RELEASED: Duration = Duration::from_millis(50);

#[derive(Default)]
pub(super) struct Coordinator {
    seats: BTreeMap<u64, Seat>,
    last_seat: u64,
    offsets: BTreeMap<Partition, (Offset, String)>,
}

struct Seat {
    client: Arc<str>,
    joining: Joining,
    heard: Instant,
    /// Nobody else has them.
    owned: BTreeSet<u32>,
    /// Asked back, and since when.
    leaving: BTreeMap<u32, Instant>,
    /// Numbered, and kept until the member says that it has heard them.
    news: BTreeMap<u64, Rebalance>,
    last_news: u64,
}

impl Seat {
    fn tell(&mut self, rebalance: Rebalance) {
        self.last_news += 1;
        self.news.insert(self.last_news, rebalance);
    }
}

impl Coordinator {
    pub(super) fn owner(&self, slot: u32) -> Option<String> {
        let seat = self
            .seats
            .values()
            .find(|seat| seat.owned.contains(&slot))?;
        Some(seat.client.to_string())
    }

    fn join(&mut self, client: &Arc<str>, joining: &Joining) -> u64 {
        self.last_seat += 1;
        let seat = Seat {
            client: Arc::clone(client),
            joining: joining.clone(),
            heard: Instant::now(),
            owned: BTreeSet::new(),
            leaving: BTreeMap::new(),
            news: BTreeMap::new(),
            last_news: 0,
        };
        self.seats.insert(self.last_seat, seat);
        self.last_seat
    }

    /// A member is heard of; false if it is out.
    fn hear(&mut self, seat: u64) -> bool {
        let now = Instant::now();
        self.seats.retain(|_, seat| {
            let is_slow = |since: &Instant| now - *since > seat.joining.rebalance;
            now - seat.heard <= seat.joining.session && !seat.leaving.values().any(is_slow)
        });
        let found = self.seats.get_mut(&seat);
        let is_in = found.is_some();
        found.into_iter().for_each(|seat| seat.heard = now);
        is_in
    }

    fn release(&mut self, seat: u64, slots: &BTreeSet<u32>) {
        if let Some(seat) = self.seats.get_mut(&seat) {
            seat.owned.retain(|slot| !slots.contains(slot));
            seat.leaving.retain(|slot, _| !slots.contains(slot));
        }
    }

    /// Gives free slots away, and asks those back that some have more of than their share.
    fn balance(&mut self, slots: u32) {
        let seats = u32::try_from(self.seats.len()).unwrap_or(u32::MAX);
        if seats == 0 {
            return;
        }
        let owned = |seat: &Seat| seat.owned.iter().copied().collect::<Vec<_>>();
        let taken: BTreeSet<u32> = self.seats.values().flat_map(owned).collect();
        let mut free: Vec<u32> = (0..slots).filter(|slot| !taken.contains(slot)).collect();
        for (number, seat) in (0..).zip(self.seats.values_mut()) {
            let share = (slots / seats + u32::from(number < slots % seats)) as usize;
            let stays = seat.owned.len() - seat.leaving.len();
            if stays > share {
                let staying = seat.owned.iter().rev();
                let surplus: BTreeSet<u32> = staying
                    .filter(|slot| !seat.leaving.contains_key(slot))
                    .take(stays - share)
                    .copied()
                    .collect();
                let now = Instant::now();
                (seat.leaving).extend(surplus.iter().map(|slot| (*slot, now)));
                seat.tell(Rebalance::Revoked {
                    slots: surplus,
                    lost: false,
                });
            } else {
                let missing = (share - stays).min(free.len());
                let gained: BTreeSet<u32> = free.drain(..missing).collect();
                if !gained.is_empty() {
                    seat.owned.extend(&gained);
                    seat.tell(Rebalance::Assigned(gained));
                }
            }
        }
    }
}

impl State {
    fn coordinate<T>(&mut self, joining: &Joining, act: impl FnOnce(&mut Coordinator) -> T) -> T {
        let slots = self.topics.get(&joining.topic).map_or(0, Vec::len);
        let group = self.groups.entry(joining.group.clone()).or_default();
        let done = act(group);
        group.balance(u32::try_from(slots).unwrap_or(u32::MAX));
        done
    }
}

/// A member of a group. Its heartbeats go on by themselves until it leaves or its agent is gone.
pub struct Member {
    client: Client,
    joining: Joining,
    own: Arc<Mutex<Own>>,
}

/// What the member knows.
#[derive(Default)]
struct Own {
    seat: Option<u64>,
    /// The last news that it has heard in that seat.
    heard: u64,
    /// What it was told to be its own, and has not let go of.
    slots: BTreeSet<u32>,
    /// Let go of, and not told to the coordinator yet.
    released: BTreeSet<u32>,
    has_left: bool,
}

impl Member {
    /// Asks to join, and is told of rebalances; `tell` says whether anybody still listens.
    pub fn join(
        client: Client,
        joining: Joining,
        tell: impl Fn(Rebalance) -> bool + Send + Sync + 'static,
    ) -> Self {
        let own = Arc::new(Mutex::new(Own::default()));
        let beating = beat(client.clone(), joining.clone(), Arc::clone(&own), tell);
        tokio::spawn(beating);
        Self {
            client,
            joining,
            own,
        }
    }

    /// Lets go of slots; nobody works on them any more.
    pub fn release(&self, slots: &BTreeSet<u32>) {
        let mut own = self.own.lock();
        own.slots.retain(|slot| !slots.contains(slot));
        if own.seat.is_some() {
            own.released.extend(slots);
        }
    }

    pub fn leave(&self) {
        self.own.lock().has_left = true;
    }

    /// Commits positions as the member that this is now: refused once it is out.
    pub async fn commit(
        &self,
        positions: Vec<(Partition, Offset, String)>,
        within: Duration,
    ) -> Result<(), KafkaError> {
        let (joining, seat) = (self.joining.clone(), self.own.lock().seat);
        let conduct = Arc::clone(&self.client.brokers.conduct);
        let name = Arc::clone(&self.client.name);
        let committed = self.client.ask(Act::Commit, within, move |state| {
            state.coordinate(&joining, |group| {
                let is_fencing = conduct.is_fencing();
                let is_in = !is_fencing || seat.is_some_and(|seat| group.hear(seat));
                if is_in {
                    for (partition, offset, metadata) in positions {
                        let metadata = conduct.commits(&name, metadata);
                        group.offsets.insert(partition, (offset, metadata));
                    }
                }
                is_in
            })
        });
        match committed.await? {
            true => Ok(()),
            false => Err(KafkaError::ConsumerCommit(
                RDKafkaErrorCode::UnknownMemberId,
            )),
        }
    }

    /// What is committed for partitions; those without are left out.
    pub async fn committed(
        &self,
        partitions: &[Partition],
        within: Duration,
    ) -> Result<Vec<(Partition, String)>, KafkaError> {
        let (group, partitions) = (self.joining.group.clone(), partitions.to_vec());
        let asked = self.client.ask(Act::Ask, within, move |state| {
            let group = state.groups.entry(group).or_default();
            let found = partitions.into_iter().filter_map(|partition| {
                let (_, metadata) = group.offsets.get(&partition)?;
                Some((partition, metadata.clone()))
            });
            found.collect()
        });
        asked.await
    }
}

/// The answer to a heartbeat: the seat that the member has now, and news; `None` when it is out.
type Answer = Option<(u64, BTreeMap<u64, Rebalance>)>;

async fn beat(
    client: Client,
    joining: Joining,
    own: Arc<Mutex<Own>>,
    tell: impl Fn(Rebalance) -> bool + Send + Sync,
) {
    loop {
        if client.is_gone() {
            return;
        }
        let (seat, heard, released, has_left) = {
            let own = own.lock();
            (own.seat, own.heard, own.released.clone(), own.has_left)
        };
        let (told, name) = (released.clone(), Arc::clone(&client.name));
        let group = joining.clone();
        let answer = client.ask(
            Act::Heartbeat,
            joining.heartbeat * 3,
            move |state| -> Answer {
                state.coordinate(&group, |group| match seat {
                    Some(seat) if has_left => {
                        group.seats.remove(&seat);
                    }
                    Some(seat) => group.release(seat, &told),
                    None => {}
                });
                state
                    .coordinate(&group, |coordinator| match seat {
                        Some(seat) => coordinator.hear(seat).then_some(seat),
                        None if has_left => None,
                        None => Some(coordinator.join(&name, &group)),
                    })
                    .map(|seat| {
                        let group = state.groups.entry(group.group).or_default();
                        let news = group.seats.get_mut(&seat).map(|seat| {
                            seat.news = seat.news.split_off(&(heard + 1));
                            seat.news.clone()
                        });
                        (seat, news.unwrap_or_default())
                    })
            },
        );
        match answer.await {
            Ok(_) if has_left => return,
            Ok(Some((seat, news))) => {
                let mut own = own.lock();
                own.seat = Some(seat);
                own.released.retain(|slot| !released.contains(slot));
                for (number, rebalance) in news {
                    if number > own.heard {
                        own.heard = number;
                        own.hear(rebalance, &tell);
                    }
                }
            }
            Ok(None) => lose(&own, &tell).await,
            // The session may still be there.
            Err(_) => {}
        }
        sleep(joining.heartbeat).await;
    }
}

impl Own {
    /// Passes the word on; if nobody listens any more, slots are let go of at once.
    fn hear(&mut self, rebalance: Rebalance, tell: &impl Fn(Rebalance) -> bool) {
        let (Rebalance::Assigned(slots) | Rebalance::Revoked { slots, .. }) = rebalance.clone();
        if matches!(rebalance, Rebalance::Assigned(_)) {
            self.slots.extend(&slots);
        }
        if !tell(rebalance) {
            self.slots.retain(|slot| !slots.contains(slot));
            self.released.extend(&slots);
        }
    }
}

/// The member is out: it lets go of all that it has, and joins anew.
async fn lose(own: &Mutex<Own>, tell: &impl Fn(Rebalance) -> bool) {
    {
        let mut own = own.lock();
        own.seat = None;
        own.heard = 0;
        own.released.clear();
        if !own.slots.is_empty() {
            let slots = own.slots.clone();
            own.hear(Rebalance::Revoked { slots, lost: true }, tell);
            own.released.clear();
        }
    }
    while !own.lock().slots.is_empty() {
        sleep(UNTIL_RELEASED).await;
    }
}
