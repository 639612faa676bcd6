//! The spools of all data folders: their metrics, and the removal of what no shard needs any more.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::translog::{ShardKey, ShardSpool, Spool, SpoolError, Usage};

pub(crate) const SPOOL_FOLDER: &str = "shardline-spool";
/// How often spools are looked through. Where translogs are watched, what OpenSearch deletes is
/// counted at once.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// How long a shard's spool stays that nothing needs: a copy that is moved away may come back, and
/// so may a follower.
pub(super) const UNNEEDED_SPOOL_GRACE: Duration = Duration::from_secs(600);
/// What was not seen for longer than this may have been needed meanwhile.
const UNSEEN_MAX: Duration = Duration::from_secs(60);

pub(crate) struct Spools {
    limit_bytes: u64,
    open: fn(&Path, u64) -> Result<Spool, SpoolError>,
    by_data_path: HashMap<PathBuf, Spool>,
    unneeded: Unneeded,
    looked: Option<Instant>,
}

impl Spools {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            open: Spool::open_sparing_disk,
            by_data_path: HashMap::new(),
            unneeded: Unneeded::default(),
            looked: None,
        }
    }

    /// The spool beside a data folder's shards.
    pub(super) fn of(&mut self, data_path: &Path) -> Result<&Spool, SpoolError> {
        if !self.by_data_path.contains_key(data_path) {
            let spool = (self.open)(&data_path.join(SPOOL_FOLDER), self.limit_bytes)?;
            self.by_data_path.insert(data_path.to_owned(), spool);
        }
        // Just inserted where it was missing.
        Ok(&self.by_data_path[data_path])
    }

    /// The shards that have a part of a data folder's spool, from an earlier agent or this one.
    pub(super) fn in_use(
        &mut self,
        data_path: &Path,
    ) -> Result<Vec<(ShardKey, ShardSpool)>, SpoolError> {
        if !data_path.join(SPOOL_FOLDER).is_dir() {
            return Ok(Vec::new());
        }
        let spool = self.of(data_path)?;
        let shards = spool.shards().into_iter();
        shards
            .map(|key| Ok((key.clone(), spool.shard(&key.0, key.1)?)))
            .collect()
    }

    /// The shards that have something in a spool, if it is time to look again.
    pub(crate) fn look(&mut self, data_paths: &[PathBuf], now: Instant) -> Option<Vec<ShardKey>> {
        if self
            .looked
            .is_some_and(|looked| now.saturating_duration_since(looked) < LOOK_INTERVAL)
        {
            return None;
        }
        self.looked = Some(now);
        // Those of an earlier agent, on data folders that have nothing to capture now.
        for data_path in data_paths
            .iter()
            .filter(|path| path.join(SPOOL_FOLDER).is_dir())
        {
            if let Err(error) = self.of(data_path) {
                warn!(%error, "a spool cannot be looked through");
            }
        }
        Some(self.by_data_path.values().flat_map(Spool::shards).collect())
    }

    /// Keeps the limit, and removes what has been `unneeded` at every look for [`UNNEEDED_SPOOL_GRACE`].
    pub(super) async fn clean_up(&mut self, unneeded: Vec<ShardKey>, now: Instant) {
        let expired = self.unneeded.expired(unneeded, now);
        let spools: Vec<Spool> = self.by_data_path.values().cloned().collect();
        let work = tokio::task::spawn_blocking(move || {
            spools.iter().for_each(|spool| clean_up(spool, &expired))
        });
        if let Err(error) = work.await {
            warn!(%error, "the spools were not looked through");
        }
    }

    pub(super) fn report(&self, metrics: &Metrics) {
        for (data_path, spool) in &self.by_data_path {
            metrics.report_spool(&data_path.to_string_lossy(), spool.usage());
        }
    }
}

fn clean_up(spool: &Spool, expired: &[ShardKey]) {
    let present = spool.shards();
    for key @ (index, shard) in expired.iter().filter(|key| present.contains(key)) {
        match spool.remove(key) {
            Ok(()) => {
                info!(%index, %shard, "the spool of a shard that is not captured here any more is removed")
            }
            Err(error) => {
                warn!(%error, "the spool of a shard that is not captured here any more stays")
            }
        }
    }
    if let Err(error) = spool.recount() {
        warn!(%error, "what a spool takes is not known");
    }
}

impl Metrics {
    fn report_spool(&self, data_path: &str, usage: Usage) {
        let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.spool_used_bytes
            .with_label_values(&[data_path])
            .set(gauge(usage.held_bytes));
        self.spool_limit_bytes
            .with_label_values(&[data_path])
            .set(gauge(usage.limit_bytes));
        let let_go = self.spool_let_go.with_label_values(&[data_path]);
        let_go.inc_by(usage.let_go.saturating_sub(let_go.get()));
    }
}

/// Since when shards have not been needed.
#[derive(Debug, Default)]
struct Unneeded {
    since: HashMap<ShardKey, Instant>,
    looked: Option<Instant>,
}

impl Unneeded {
    /// The shards among `unneeded` that were so at every look for [`UNNEEDED_SPOOL_GRACE`].
    fn expired(&mut self, unneeded: Vec<ShardKey>, now: Instant) -> Vec<ShardKey> {
        if self
            .looked
            .replace(now)
            .is_some_and(|looked| now.saturating_duration_since(looked) > UNSEEN_MAX)
        {
            self.since.clear();
        }
        let before = std::mem::take(&mut self.since);
        let mut expired = Vec::new();
        for key in unneeded {
            let since = before.get(&key).copied().unwrap_or(now);
            if now.saturating_duration_since(since) >= UNNEEDED_SPOOL_GRACE {
                expired.push(key);
            } else {
                self.since.insert(key, since);
            }
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use shardline_common::types::ShardId;

    use super::*;

    /// However full the disk of the tests is.
    fn spools(limit_bytes: u64) -> Spools {
        Spools {
            open: Spool::open,
            ..Spools::new(limit_bytes)
        }
    }

    /// A data folder whose spool has shards 0 and 1 of one index, each with 1,000 bytes that
    /// OpenSearch has deleted.
    struct World {
        data: tempfile::TempDir,
        spools: Spools,
        metrics: Metrics,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let data = tempfile::tempdir().unwrap();
            for shard in ["0", "1"] {
                let folder = data.path().join(SPOOL_FOLDER).join("u").join(shard);
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join("translog-7.tlog"), [0; 1000]).unwrap();
            }
            let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
            Self {
                data,
                spools: spools(5000),
                metrics,
                now: Instant::now(),
            }
        }

        async fn tend(&mut self, needed: &[u32]) {
            if let Some(present) = self.spools.look(&[self.data.path().to_owned()], self.now) {
                let unneeded = present
                    .into_iter()
                    .filter(|(_, shard)| !needed.contains(&shard.0))
                    .collect();
                self.spools.clean_up(unneeded, self.now).await;
            }
            self.spools.report(&self.metrics);
        }

        /// Looks as often as the agent does.
        async fn pass(&mut self, time: Duration, needed: &[u32]) {
            let end = self.now + time;
            while self.now < end {
                self.now += LOOK_INTERVAL;
                self.tend(needed).await;
            }
        }

        fn has(&self, shard: &str) -> bool {
            self.data
                .path()
                .join(SPOOL_FOLDER)
                .join("u")
                .join(shard)
                .exists()
        }

        fn used(&self) -> i64 {
            self.metrics
                .spool_used_bytes
                .with_label_values(&[&*self.data.path().to_string_lossy()])
                .get()
        }
    }

    #[tokio::test]
    async fn the_spool_of_a_shard_that_is_not_needed_is_removed_after_ten_minutes() {
        let mut world = World::new();
        world.tend(&[1]).await;
        assert_eq!(world.used(), 2000);
        world.pass(UNNEEDED_SPOOL_GRACE - LOOK_INTERVAL, &[1]).await;
        assert!(world.has("0"));
        world.pass(LOOK_INTERVAL, &[1]).await;
        assert!(!world.has("0") && world.has("1"));
        assert_eq!(world.used(), 1000);
    }

    #[tokio::test]
    async fn a_shard_that_comes_back_keeps_its_spool() {
        let mut world = World::new();
        world.pass(UNNEEDED_SPOOL_GRACE - LOOK_INTERVAL, &[1]).await;
        world.pass(LOOK_INTERVAL, &[0, 1]).await;
        world.pass(UNNEEDED_SPOOL_GRACE, &[1]).await;
        assert!(world.has("0"));
        world.pass(LOOK_INTERVAL, &[1]).await;
        assert!(!world.has("0"));
    }

    #[tokio::test]
    async fn time_in_which_nobody_looked_does_not_count() {
        let mut world = World::new();
        world.tend(&[1]).await;
        world.now += UNNEEDED_SPOOL_GRACE * 3;
        world.pass(UNNEEDED_SPOOL_GRACE, &[1]).await;
        assert!(world.has("0"));
        world.pass(LOOK_INTERVAL, &[1]).await;
        assert!(!world.has("0"));
    }

    #[tokio::test]
    async fn limit_and_what_was_let_go_for_it_are_metrics() {
        let mut world = World::new();
        world.spools = spools(1500);
        world.tend(&[0, 1]).await;
        world.pass(LOOK_INTERVAL, &[0, 1]).await;
        let path = world.data.path().to_string_lossy().into_owned();
        let metrics = &world.metrics;
        assert_eq!(world.used(), 1000);
        assert_eq!(
            metrics.spool_limit_bytes.with_label_values(&[&path]).get(),
            1500
        );
        assert_eq!(metrics.spool_let_go.with_label_values(&[&path]).get(), 1);
    }

    /// So that one that could not be removed is tried again.
    #[test]
    fn an_expired_shard_begins_anew() {
        let (mut unneeded, start) = (Unneeded::default(), Instant::now());
        let key: ShardKey = ("u".into(), ShardId(0));
        let mut look =
            |seconds| unneeded.expired(vec![key.clone()], start + Duration::from_secs(seconds));
        let removed: Vec<u64> = (0..=1300)
            .step_by(10)
            .filter(|second| !look(*second).is_empty())
            .collect();
        assert_eq!(removed, [600, 1210]);
    }
}
