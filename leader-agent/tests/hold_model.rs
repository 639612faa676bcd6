//! The spool of several shards against a model: what is held, what is let go for the limit, and
//! what that takes on disk.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use leader_agent::{ShardSpool, ShardTail, Spool, TailError};
use proptest::prelude::*;
use shardline_common::types::{Generation, SeqNo, ShardId};

const SHARDS: u32 = 3;
const LIMIT: u64 = 1000;

#[derive(Debug, Clone)]
enum Step {
    /// OpenSearch begins a generation, and what is wanted is linked.
    Write { shard: u32, bytes: u64 },
    /// OpenSearch deletes a shard's oldest generation.
    Flush { shard: u32 },
    /// Kafka has a shard's oldest generation that is kept.
    Ship { shard: u32 },
    /// The agent is started again.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let shard = 0..SHARDS;
    prop_oneof![
        4 => (shard.clone(), 1..600u64).prop_map(|(shard, bytes)| Step::Write { shard, bytes }),
        4 => shard.clone().prop_map(|shard| Step::Flush { shard }),
        1 => shard.prop_map(|shard| Step::Ship { shard }),
        1 => Just(Step::Restart),
    ]
}

#[derive(Debug, Clone, Copy)]
struct Written {
    at: u64,
    bytes: u64,
    is_live: bool,
}

/// By shard and generation: what OpenSearch has or the spool keeps.
#[derive(Default)]
struct Model {
    kept: BTreeMap<(u32, i64), Written>,
    let_go: u64,
}

impl Model {
    fn held(&self) -> impl Iterator<Item = (&(u32, i64), &Written)> {
        self.kept.iter().filter(|(_, written)| !written.is_live)
    }

    fn held_bytes(&self) -> u64 {
        self.held().map(|(_, written)| written.bytes).sum()
    }

    fn enforce(&mut self) {
        while self.held_bytes() > LIMIT {
            let oldest = self
                .held()
                .min_by_key(|(_, written)| written.at)
                .map(|(key, _)| *key)
                .unwrap();
            self.kept.remove(&oldest);
            self.let_go += 1;
        }
    }

    fn generations(&self, shard: u32) -> BTreeSet<Generation> {
        self.kept
            .keys()
            .filter(|(of, _)| *of == shard)
            .map(|(_, generation)| Generation(*generation))
            .collect()
    }

    fn oldest(&self, shard: u32, is_live: bool) -> Option<i64> {
        let of = |((of, _), written): &(&(u32, i64), &Written)| {
            *of == shard && (written.is_live || !is_live)
        };
        self.kept
            .iter()
            .find(of)
            .map(|((_, generation), _)| *generation)
    }
}

struct World {
    folder: tempfile::TempDir,
    spool: Spool,
    shards: Vec<ShardSpool>,
    let_go_before: u64,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for shard in 0..SHARDS {
            fs::create_dir_all(translog(folder.path(), shard)).unwrap();
        }
        let (spool, shards) = Self::open(folder.path());
        Self {
            folder,
            spool,
            shards,
            let_go_before: 0,
        }
    }

    fn open(folder: &Path) -> (Spool, Vec<ShardSpool>) {
        let spool = Spool::open(&folder.join("spool"), LIMIT).unwrap();
        let shards = (0..SHARDS)
            .map(|shard| spool.shard(&"u".into(), ShardId(shard)).unwrap())
            .collect();
        (spool, shards)
    }

    fn file(&self, shard: u32, generation: i64) -> PathBuf {
        translog(self.folder.path(), shard).join(format!("translog-{generation}.tlog"))
    }

    fn keep(&self, shard: u32) {
        self.shards[shard as usize]
            .keep(&translog(self.folder.path(), shard))
            .unwrap();
    }

    /// What files of the spool take that no translog has.
    fn bytes_on_disk(&self) -> u64 {
        let folders =
            (0..SHARDS).map(|shard| self.folder.path().join("spool/u").join(shard.to_string()));
        let files = folders.flat_map(|folder| {
            fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().metadata().unwrap())
        });
        files
            .filter(|file| file.nlink() == 1)
            .map(|file| file.len())
            .sum()
    }
}

fn translog(folder: &Path, shard: u32) -> PathBuf {
    folder.join("translogs").join(shard.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Nothing is let go below the limit, then the oldest of all shards; and whatever happens, the
    /// disk that the spool takes stays within the limit.
    #[test]
    fn the_spool_stays_within_its_limit(steps in prop::collection::vec(step(), 1..80)) {
        let (mut world, mut model) = (World::new(), Model::default());
        for (at, step) in (1..).zip(&steps) {
            match *step {
                Step::Write { shard, bytes } => {
                    let (generation, path) = (at as i64, world.file(shard, at as i64));
                    fs::write(&path, vec![0; bytes as usize]).unwrap();
                    let written = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
                    File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
                    model.kept.insert((shard, generation), Written { at, bytes, is_live: true });
                    world.keep(shard);
                }
                Step::Flush { shard } => {
                    if let Some(generation) = model.oldest(shard, true) {
                        fs::remove_file(world.file(shard, generation)).unwrap();
                        model.kept.get_mut(&(shard, generation)).unwrap().is_live = false;
                        world.keep(shard);
                    }
                }
                Step::Ship { shard } => {
                    // One that OpenSearch still has would be linked again.
                    if let Some(generation) = model.oldest(shard, false).filter(|generation| !model.kept[&(shard, *generation)].is_live) {
                        world.shards[shard as usize].release(Generation(generation + 1)).unwrap();
                        model.kept.remove(&(shard, generation));
                    }
                }
                Step::Restart => {
                    world.let_go_before = model.let_go;
                    (world.spool, world.shards) = World::open(world.folder.path());
                }
            }
            model.enforce();
            for shard in 0..SHARDS {
                prop_assert_eq!(world.shards[shard as usize].generations().unwrap(), model.generations(shard));
            }
            let usage = world.spool.usage();
            prop_assert_eq!(usage.held_bytes, world.bytes_on_disk());
            prop_assert_eq!(usage.let_go, model.let_go - world.let_go_before);
            prop_assert!(usage.held_bytes <= LIMIT);
        }
    }
}

/// The sample's generations, all but the newest deleted by OpenSearch after a tail had begun to
/// read them.
#[test]
fn a_full_spool_takes_no_disk_for_a_tail_that_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let (translog, sample) = (
        folder.path().join("translog"),
        "tests/data/translog-sample/generations",
    );
    fs::create_dir(&translog).unwrap();
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join(sample);
    for name in ["translog-2.tlog", "translog-2.ckp"] {
        fs::copy(sample.join(name), translog.join(name)).unwrap();
    }
    fs::copy(sample.join("translog-2.ckp"), translog.join("translog.ckp")).unwrap();
    let spool = Spool::open(&folder.path().join("spool"), 0).unwrap();
    let mut tail = ShardTail::open(
        &translog,
        spool.shard(&"u".into(), ShardId(0)).unwrap(),
        SeqNo(0),
    )
    .unwrap();

    for entry in fs::read_dir(&sample).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), translog.join(entry.file_name())).unwrap();
    }
    fs::remove_file(translog.join("translog-2.tlog")).unwrap();
    tail.refresh().unwrap();
    assert_eq!(spool.usage().let_go, 1);
    let open: Vec<PathBuf> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .collect();
    let deleted = format!("{} (deleted)", translog.join("translog-2.tlog").display());
    assert!(
        !open.iter().any(|path| path.as_os_str() == deleted.as_str()),
        "{open:?}"
    );
    // What is missing is not passed over: the shard is scanned for it.
    assert!(matches!(
        tail.next_batch(usize::MAX),
        Err(TailError::Gap {
            wanted: SeqNo(0),
            ..
        })
    ));
}
