//! Holds shards from the moment that an agent starts, before Kafka is asked for anything: what
//! OpenSearch flushes while the agent waits would be gone otherwise. Which shards matter, the
//! spool folders of the agent before say.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use shardline_common::types::{IndexUuid, ShardId};
use tracing::{info, warn};

use super::spools::Spools;
use crate::node::LocalNode;
use crate::translog::{ShardKey, ShardSpool, TranslogWatcher, Wake};

/// Shards that are held until their captures, or those who hold replicas, have taken them over.
#[derive(Default)]
pub(crate) struct Held(HashMap<ShardKey, Wake>);

impl Held {
    /// Holds every shard that has a spool folder.
    pub(crate) fn from_before(
        node: &LocalNode,
        spools: &mut Spools,
        watcher: &TranslogWatcher,
    ) -> Self {
        let mut held = Self::default();
        for data_path in &node.data_paths {
            let found = match spools.in_use(data_path) {
                Ok(found) => found,
                Err(error) => {
                    warn!(%error, "what an earlier agent held cannot be looked through");
                    continue;
                }
            };
            for (key, spool) in found {
                let translog = data_path.join(translog_folder(&node.own_folder, &key.0, key.1));
                if translog.is_dir() {
                    held.hold(key, &translog, &spool, watcher);
                }
            }
        }
        if !held.0.is_empty() {
            info!(shards = held.0.len(), "held since before Kafka is asked");
        }
        held
    }

    pub(super) fn hold(
        &mut self,
        key: ShardKey,
        translog: &Path,
        spool: &ShardSpool,
        watcher: &TranslogWatcher,
    ) {
        if self.0.contains_key(&key) {
            return;
        }
        // First the watch, then what was there before it.
        let wake = watcher.watch(translog, spool);
        if let Err(error) = spool.keep(translog) {
            warn!(translog = %translog.display(), %error, "a translog is not held yet");
        }
        self.0.insert(key, wake);
    }

    /// Whoever needs shards holds them by itself now.
    pub(super) fn let_go(&mut self) {
        self.0.clear();
    }
}

/// The folder of a shard's translog, relative to a data folder.
pub(super) fn translog_folder(own_folder: &Path, index: &IndexUuid, shard: ShardId) -> PathBuf {
    let shard = shard.to_string();
    own_folder
        .join("indices")
        .join(index.as_str())
        .join(shard)
        .join("translog")
}
