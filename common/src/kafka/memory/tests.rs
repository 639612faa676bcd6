//! What agents rely on of Kafka, shown of the one in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::control::Entry;
use crate::kafka::{ControlTopic, Kafka};
use crate::process::config::KafkaConfig;

const SHARD: ShardId = ShardId(0);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    name: String,
    text: String,
}

impl Entry for Note {
    const KIND: &'static str = "note";
    fn key(&self) -> String {
        format!("note/{}", self.name)
    }
}

fn note(name: &str, text: &str) -> Note {
    Note {
        name: name.to_owned(),
        text: text.to_owned(),
    }
}

/// Each client's messages take as long as it says.
#[derive(Default)]
struct Slow(Mutex<BTreeMap<(String, &'static str), Fate>>);

impl Slow {
    fn set(&self, client: &str, act: Act, fate: Fate) {
        self.0
            .lock()
            .insert((client.to_owned(), name_of(act)), fate);
    }
}

fn name_of(act: Act) -> &'static str {
    match act {
        Act::Append => "append",
        Act::Fetch => "fetch",
        Act::Ask => "ask",
        Act::Heartbeat => "heartbeat",
        Act::Commit => "commit",
    }
}

impl Conduct for Slow {
    fn fate(&self, client: &str, act: Act) -> Fate {
        let fates = self.0.lock();
        let found = fates.get(&(client.to_owned(), name_of(act)));
        found.copied().unwrap_or(Fate::AT_ONCE)
    }
}

fn after(there: u64, back: u64) -> Fate {
    Fate {
        there: Some(Duration::from_millis(there)),
        back: Some(Duration::from_millis(back)),
    }
}

fn kafka(brokers: &Brokers, client: &str) -> Kafka {
    let config = KafkaConfig {
        bootstrap_servers: "memory:1".to_owned(),
        topic_prefix: "shardline".to_owned(),
        replication_factor: 1,
        retention_hours: 1,
        properties: BTreeMap::default(),
        properties_files: BTreeMap::default(),
    };
    Kafka::in_memory(brokers.client(client), config).unwrap()
}

async fn open(brokers: &Brokers, client: &str) -> ControlTopic {
    let kafka = kafka(brokers, client);
    let stop = CancellationToken::new();
    let opened = ControlTopic::open(&kafka, "control".into(), &stop).await;
    opened.unwrap()
}

fn slow() -> (Arc<Slow>, Brokers) {
    let slow = Arc::new(Slow::default());
    (Arc::clone(&slow), Brokers::new(slow))
}

#[tokio::test(start_paused = true)]
async fn a_write_returns_once_the_own_table_shows_it() {
    let (slow, brokers) = slow();
    slow.set("a", Act::Append, after(300, 200));
    slow.set("a", Act::Fetch, after(1_000, 0));
    let table = open(&brokers, "a").await;
    let began = Instant::now();
    table.publish(&note("x", "1")).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(1_300));
    assert_eq!(table.get("note/x"), Some(note("x", "1")));
    table.remove("note/x").await.unwrap();
    assert_eq!(table.get::<Note>("note/x"), None);
}

#[tokio::test(start_paused = true)]
async fn all_tables_have_the_writes_in_one_order() {
    let (slow, brokers) = slow();
    slow.set("a", Act::Append, after(70, 0));
    slow.set("b", Act::Fetch, after(900, 0));
    let (one, other) = (open(&brokers, "a").await, open(&brokers, "b").await);
    for n in 0..20 {
        let (name, text) = (format!("{}", n % 3), format!("{n}"));
        let (by_one, by_other) = (note(&name, &text), note(&name, "other"));
        let (first, second) = tokio::join!(one.publish(&by_one), other.publish(&by_other));
        first.and(second).unwrap();
    }
    sleep(Duration::from_secs(2)).await;
    assert_eq!(one.all::<Note>(), other.all::<Note>());
    assert_eq!(*one.changes().borrow(), *other.changes().borrow());
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_not_taken_in_time_is_never_made() {
    let (slow, brokers) = slow();
    let table = open(&brokers, "a").await;
    slow.set("a", Act::Append, after(5_100, 0));
    let began = Instant::now();
    table.publish(&note("x", "late")).await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 5);
    sleep(Duration::from_secs(60)).await;
    assert!(brokers.records(&"control".into(), SHARD).is_empty());
    // What is behind it goes on.
    slow.set("a", Act::Append, Fate::AT_ONCE);
    table.publish(&note("y", "1")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_write_of_which_nothing_is_heard_may_have_been_made() {
    let (slow, brokers) = slow();
    let table = open(&brokers, "a").await;
    let unheard = Fate {
        back: None,
        ..after(10, 0)
    };
    slow.set("a", Act::Append, unheard);
    table.publish(&note("x", "1")).await.unwrap_err();
    assert_eq!(table.get("note/x"), Some(note("x", "1")));
}

#[tokio::test(start_paused = true)]
async fn a_compacted_topic_is_read_to_its_end() {
    let brokers = Brokers::new(Arc::new(Prompt));
    let table = open(&brokers, "a").await;
    for n in 0..9 {
        let text = n.to_string();
        table.publish(&note("x", &text)).await.unwrap();
        table.publish(&note("y", &text)).await.unwrap();
    }
    table.remove("note/y").await.unwrap();
    brokers.compact(&"control".into(), SHARD, Offset(19));
    // The record just before the end is not there any more.
    assert_eq!(brokers.records(&"control".into(), SHARD).len(), 1);
    let later = open(&brokers, "b").await;
    assert_eq!(later.all::<Note>(), [note("x", "8")]);
    assert_eq!(*later.changes().borrow(), Offset(19));
    later.publish(&note("z", "1")).await.unwrap();
    assert_eq!(table.all::<Note>(), later.all::<Note>());
}

#[tokio::test(start_paused = true)]
async fn the_position_jumps_back_with_a_topic_that_is_made_anew() {
    let brokers = Brokers::new(Arc::new(Prompt));
    let table = open(&brokers, "a").await;
    for n in 0..5 {
        table.publish(&note("x", &n.to_string())).await.unwrap();
    }
    brokers.delete(&"control".into());
    brokers.create(&"control".into(), 1);
    let lost = Stored::entry("note/y", Some(br#"{"name": "y", "text": "new"}"#));
    brokers.append(&"control".into(), SHARD, lost);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(*table.changes().borrow(), Offset(1));
    assert_eq!(table.get("note/y"), Some(note("y", "new")));
    // So it does for who has opened it when it was longer.
    let later = open(&brokers, "b").await;
    brokers.delete(&"control".into());
    brokers.create(&"control".into(), 1);
    sleep(Duration::from_secs(15)).await;
    later.publish(&note("z", "1")).await.unwrap();
    assert_eq!(*later.changes().borrow(), Offset(1));
}

/// Whoever wrote it would take it for known, and nobody ever read it: whether the reader goes on
/// behind it, or is told first that the topic begins there.
#[tokio::test(start_paused = true)]
async fn a_write_that_the_topic_loses_before_it_is_read_is_told() {
    for fetch in [2_000, 8_000] {
        let (slow, brokers) = slow();
        let table = open(&brokers, "a").await;
        slow.set("a", Act::Fetch, after(fetch, 0));
        let losing = async {
            sleep(Duration::from_secs(1)).await;
            brokers.truncate(&"control".into(), SHARD, Offset(1));
            let behind = Stored::entry("note/y", Some(br#"{"name": "y", "text": "2"}"#));
            brokers.append(&"control".into(), SHARD, behind);
        };
        let entry = note("x", "1");
        let (written, ()) = tokio::join!(table.publish(&entry), losing);
        let error = written.unwrap_err().to_string();
        assert!(error.contains("lost records"), "{error}");
        slow.set("a", Act::Fetch, Fate::AT_ONCE);
        table.publish(&entry).await.unwrap();
        assert_eq!(table.get("note/x"), Some(entry));
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_of_another_form_is_no_entry() {
    let brokers = Brokers::new(Arc::new(Prompt));
    let table = open(&brokers, "a").await;
    let strange = Stored::entry("note/x", Some(br#"{"name": 5}"#));
    brokers.append(&"control".into(), SHARD, strange);
    table.publish(&note("y", "1")).await.unwrap();
    assert_eq!(table.all::<Note>(), [note("y", "1")]);
    assert_eq!(table.count_below("note/"), 2);
}

#[tokio::test(start_paused = true)]
async fn questions_about_a_topic_end_whether_or_not_it_is_there() {
    let (slow, brokers) = slow();
    let kafka = kafka(&brokers, "a");
    let missing = kafka.watermarks(&"t".into(), SHARD).await.unwrap_err();
    assert!(missing.is_missing());
    kafka.create_topic(&"t".into(), 2, &[]).await.unwrap();
    assert_eq!(brokers.partitions(&"t".into()), 2);
    assert_eq!(kafka.reach(&"t".into(), SHARD).await.unwrap(), None);
    slow.set("a", Act::Ask, Fate::LOST);
    let began = Instant::now();
    assert!(kafka.watermarks(&"t".into(), SHARD).await.is_err());
    assert_eq!(began.elapsed().as_secs(), 10);
}

/// A member that does at once what it is told, and what it has.
struct Obedient {
    member: Arc<Member>,
    has: Arc<Mutex<BTreeSet<u32>>>,
    lost: Arc<Mutex<u32>>,
}

fn join(brokers: &Brokers, client: &str) -> Obedient {
    let (sender, mut rebalances) = mpsc::unbounded_channel();
    let joining = Joining {
        group: "g".to_owned(),
        topic: "slots".into(),
        session: Duration::from_secs(6),
        heartbeat: Duration::from_secs(1),
        rebalance: Duration::from_secs(60),
    };
    let tell = move |rebalance| sender.send(rebalance).is_ok();
    let member = Arc::new(Member::join(brokers.client(client), joining, tell));
    let (has, lost): (Arc<Mutex<BTreeSet<u32>>>, Arc<Mutex<u32>>) = Default::default();
    let obeying = (Arc::clone(&member), Arc::clone(&has), Arc::clone(&lost));
    tokio::spawn(async move {
        let (member, has, lost) = obeying;
        while let Some(rebalance) = rebalances.recv().await {
            match rebalance {
                Rebalance::Assigned(slots) => has.lock().extend(slots),
                Rebalance::Revoked {
                    slots,
                    lost: is_lost,
                } => {
                    has.lock().retain(|slot| !slots.contains(slot));
                    *lost.lock() += u32::from(is_lost);
                    member.release(&slots);
                }
            }
        }
    });
    Obedient { member, has, lost }
}

async fn commit(member: &Member) -> bool {
    let position = (("slots".into(), SHARD), Offset(0), "here".to_owned());
    let committed = member.commit(vec![position], Duration::from_secs(10)).await;
    committed.is_ok()
}

#[tokio::test(start_paused = true)]
async fn members_share_the_slots_and_a_lost_one_has_none() {
    let (slow, brokers) = slow();
    brokers.create(&"slots".into(), 8);
    let one = join(&brokers, "one");
    sleep(Duration::from_secs(3)).await;
    assert_eq!(one.has.lock().len(), 8);
    let other = join(&brokers, "other");
    sleep(Duration::from_secs(5)).await;
    assert_eq!((one.has.lock().len(), other.has.lock().len()), (4, 4));
    assert!(one.has.lock().is_disjoint(&other.has.lock()));
    assert!(commit(&one.member).await && commit(&other.member).await);

    for act in [Act::Heartbeat, Act::Commit] {
        slow.set("one", act, Fate::LOST);
    }
    sleep(Duration::from_secs(5)).await;
    assert_eq!(other.has.lock().len(), 4, "its session is not over yet");
    sleep(Duration::from_secs(4)).await;
    assert_eq!(other.has.lock().len(), 8);
    // It does not know yet, and Kafka takes nothing from it.
    assert_eq!(one.has.lock().len(), 4);
    slow.set("one", Act::Commit, Fate::AT_ONCE);
    assert!(!commit(&one.member).await);
    slow.set("one", Act::Heartbeat, Fate::AT_ONCE);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(*one.lost.lock(), 1);
    assert_eq!((one.has.lock().len(), other.has.lock().len()), (4, 4));
    assert!(one.has.lock().is_disjoint(&other.has.lock()));
    let asked = [("slots".into(), SHARD)];
    let committed = one.member.committed(&asked, Duration::from_secs(10)).await;
    assert_eq!(committed.unwrap()[0].1, "here");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_leaves_gives_its_slots_to_the_others() {
    let brokers = Brokers::new(Arc::new(Prompt));
    brokers.create(&"slots".into(), 5);
    let (one, other) = (join(&brokers, "one"), join(&brokers, "other"));
    sleep(Duration::from_secs(5)).await;
    let held = one.has.lock().clone();
    one.member.release(&held);
    one.member.leave();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(other.has.lock().len(), 5);
    let owners: BTreeSet<_> = (0..5).map(|slot| brokers.owner("g", slot)).collect();
    assert_eq!(owners, BTreeSet::from([Some("other".to_owned())]));
}
