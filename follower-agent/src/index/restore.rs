//! Fills a follower index from a snapshot that the leader's agents had made in a repository which
//! both clusters reach.
//!
//! Nothing but the restored files is in the index until its streams begin, so whatever breaks off
//! is looked at anew, by this agent or another one: what the snapshot has brought is waited for, or
//! begun again.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::try_join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use shardline_common::control::{Checkpoint, Entry};
use shardline_common::kafka::ControlError;
use shardline_common::metadata::IndexMetadata;
use shardline_common::opensearch::{OpenSearch, OpenSearchError, StateOf, path_segment};
use shardline_common::repository::{
    Outcome, Snapshot, SnapshotRequest, is_final, snapshot_name, snapshot_path,
};
use shardline_common::scan::{ScanError, ShardScan, Stretch};
use shardline_common::types::{Epoch, ExternalVersion, IndexName, SeqNo, ShardId};
use tracing::{info, warn};

use super::admin::IndexLoad;
use super::followed_copy::FollowedCopy;
use crate::progress::Recovery;

const LOOK: Duration = Duration::from_millis(250);
const SHOW_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    #[error("the leader cluster has no snapshot in repository [{repository}]: {reason}")]
    NoSnapshot { repository: String, reason: String },
    #[error("snapshot [{snapshot}] of repository [{repository}] cannot be restored: {reason}")]
    Refused {
        snapshot: String,
        repository: String,
        reason: String,
    },
    #[error(
        "the leader's documents have versions up to {newest}, which users have set and which leave no room for this \
         replication's: _stop, and _start with \"repository\": \"\", which copies without them"
    )]
    Versions { newest: i64 },
    #[error("somebody else has begun to restore the index: {0}")]
    Begun(OpenSearchError),
    #[error("the follower index holds what did not come from the snapshot")]
    Unclear,
    #[error(transparent)]
    OpenSearch(#[from] OpenSearchError),
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl RestoreError {
    pub(crate) fn retryable(&self) -> bool {
        match self {
            Self::OpenSearch(error) => error.retryable(),
            Self::Scan(error) => error.retryable(),
            Self::Control(_) | Self::Begun(_) => true,
            _ => false,
        }
    }
}

/// What a restored index begins with.
pub(super) struct Restored {
    pub from: Vec<Checkpoint>,
    /// It outranks the documents' versions.
    pub epoch: Epoch,
}

pub(super) struct Restore<'a> {
    pub index: &'a FollowedCopy,
    pub request: &'a SnapshotRequest,
    pub metadata: &'a IndexMetadata,
}

impl Restore<'_> {
    /// Waits for the snapshot and restores it; the replication's epoch is at least `epoch`.
    pub(crate) async fn run(&self, epoch: Epoch) -> Result<Restored, RestoreError> {
        let from = self.snapshot().await?;
        let opensearch = &self.index.follower.opensearch;
        if !self.is_begun().await? {
            self.begin().await?;
        }
        while !self.is_complete().await? {
            tokio::time::sleep(LOOK).await;
        }
        let shards = (0..self.metadata.number_of_shards).map(ShardId);
        let newest = try_join_all(
            shards.map(|shard| newest_version(opensearch, &self.index.follower.name, shard)),
        );
        let newest = newest.await?.into_iter().max().unwrap_or_default();
        let epoch = ExternalVersion(newest)
            .epoch_above(epoch)
            .ok_or(RestoreError::Versions { newest })?;
        info!(
            index = %self.index.follower.name, repository = self.request.repository, %epoch,
            "snapshot restored"
        );
        Ok(Restored { from, epoch })
    }

    /// Where the streams go on behind the snapshot, once it is complete.
    async fn snapshot(&self) -> Result<Vec<Checkpoint>, RestoreError> {
        let table = &self.index.context.leader_table;
        let key = Snapshot::key_of(&self.request.leader_cluster, &self.request.id);
        let mut changes = table.changes();
        loop {
            changes.mark_unchanged();
            match table
                .get::<Snapshot>(&key)
                .and_then(|snapshot| snapshot.outcome)
            {
                Some(Outcome::Complete { from }) => return Ok(from),
                Some(Outcome::Failed { reason }) => {
                    return Err(RestoreError::NoSnapshot {
                        repository: self.request.repository.clone(),
                        reason,
                    });
                }
                None => {}
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether the restore is under way, or done. An index that is neither it nor empty is left
    /// alone.
    async fn is_begun(&self) -> Result<bool, RestoreError> {
        let follower = &self.index.follower;
        if !follower.exists().await? {
            return Ok(false);
        }
        if self.request.is_restoring {
            let name = snapshot_name(&self.request.id);
            let is_it = |source: &Source| source.snapshot.as_ref() == Some(&name);
            let routing = routing(&follower.opensearch, &follower.name).await?;
            let recoveries = recoveries(&follower.opensearch, &follower.name).await?;
            if routing.values().any(|copy| is_it(&copy.recovery_source))
                || recoveries.iter().any(|recovery| is_it(&recovery.source))
            {
                return Ok(true);
            }
            // Its node was started again since then, and does not say whether the restore was
            // complete.
        } else if !follower.is_empty().await? {
            return Err(RestoreError::Unclear);
        }
        follower.delete().await?;
        Ok(false)
    }

    async fn begin(&self) -> Result<(), RestoreError> {
        let (follower, request) = (&self.index.follower, self.request);
        let restoring = SnapshotRequest {
            is_restoring: true,
            ..request.clone()
        };
        self.index
            .context
            .follower_table
            .publish(&restoring)
            .await?;
        self.index.forget_made().await?;
        info!(index = %follower.name, repository = request.repository, "restoring a snapshot");
        let body = json!({
            "indices": self.metadata.index,
            "include_global_state": false,
            "include_aliases": false,
            "partial": false,
            "rename_pattern": ".+",
            // A replacement of regular expressions.
            "rename_replacement": follower.name.as_str().replace('$', "\\$"),
            "index_settings": IndexLoad::Restore.settings(),
            "ignore_index_settings": NOT_RESTORED,
        });
        let path = format!(
            "{}/_restore?wait_for_completion=false",
            snapshot_path(&request.repository, &request.id)
        );
        match follower.opensearch.post::<Value>(&path, &body).await {
            Err(error) if is_final(&error) && follower.exists().await? => {
                Err(RestoreError::Begun(error))
            }
            Err(error) if is_final(&error) => Err(self.refused(error.to_string())),
            begun => Ok(begun.map(drop)?),
        }
    }

    /// Removes what was restored; the request is withdrawn, so that another attempt is another
    /// snapshot's.
    pub(crate) async fn give_up(&self) -> Result<(), RestoreError> {
        let (table, key) = (&self.index.context.follower_table, self.request.key());
        if table
            .get::<SnapshotRequest>(&key)
            .is_some_and(|request| request.is_restoring)
        {
            self.index.follower.delete().await?;
        }
        Ok(table.remove(&key).await?)
    }

    fn refused(&self, reason: String) -> RestoreError {
        RestoreError::Refused {
            snapshot: snapshot_name(&self.request.id),
            repository: self.request.repository.clone(),
            reason,
        }
    }

    async fn is_complete(&self) -> Result<bool, RestoreError> {
        let follower = &self.index.follower;
        let primaries = routing(&follower.opensearch, &follower.name).await?;
        if primaries.is_empty() {
            return Err(self.refused("the index was deleted meanwhile".to_owned()));
        }
        for (shard, primary) in &primaries {
            if let Some(Unassigned {
                details,
                allocation_status,
            }) = &primary.unassigned_info
                && primary.state == "UNASSIGNED"
                && allocation_status.as_deref() == Some("deciders_no")
            {
                warn!(index = %follower.name, %shard, details, "a shard is not restored");
                let details = details
                    .as_deref()
                    .unwrap_or("no node may have it: see _cluster/allocation/explain");
                return Err(self.refused(format!("shard {shard}: {details}")));
            }
        }
        let is_started =
            |primary: &Primary| primary.state == "STARTED" || primary.state == "RELOCATING";
        Ok(primaries.len() == self.metadata.number_of_shards as usize
            && primaries.values().all(is_started))
    }
}

/// The leader's settings that no follower takes over; those that say what an index is cannot be
/// left out of a restore.
const NOT_RESTORED: &[&str] = &[
    "index.default_pipeline",
    "index.final_pipeline",
    "index.search.default_pipeline",
    "index.plugins.index_state_management.*",
    "index.opendistro.*",
    "index.blocks.*",
    "index.routing.allocation.*",
    "index.routing.rebalance.*",
    "index.write.wait_for_active_shards",
    "index.translog.*",
];

async fn newest_version(
    opensearch: &OpenSearch,
    index: &IndexName,
    shard: ShardId,
) -> Result<i64, ScanError> {
    let scan = ShardScan::refreshed(opensearch, index, shard).await?;
    let scanned = async {
        let (mut newest, mut pages) = (
            0,
            scan.ids(Stretch {
                from: SeqNo(0),
                to: None,
            }),
        );
        loop {
            let page = pages.next().await?;
            let Some(of_page) = page.iter().map(|hit| hit.version).max() else {
                return Ok(newest);
            };
            newest = newest.max(of_page);
        }
    };
    let scanned = scanned.await;
    scan.close().await;
    scanned
}

/// Keeps progress up to date with what the follower cluster says of the restore.
pub(crate) async fn show(index: &FollowedCopy) {
    loop {
        if let Ok(recoveries) = recoveries(&index.follower.opensearch, &index.follower.name).await {
            for recovery in recoveries
                .into_iter()
                .filter(|recovery| recovery.source.snapshot.is_some())
            {
                if let Some(shard) = index.progress.shards.get(recovery.id.0 as usize) {
                    shard.recovered(recovery.index.progress());
                }
            }
        }
        tokio::time::sleep(SHOW_INTERVAL).await;
    }
}

/// What the cluster's state says of each primary.
async fn routing(
    opensearch: &OpenSearch,
    index: &IndexName,
) -> Result<BTreeMap<ShardId, Primary>, OpenSearchError> {
    let parts = format!("routing_table/{}", path_segment(index.as_str()));
    let state: State = opensearch
        .cluster_state(StateOf::Manager, &parts, "routing_table.indices.*.shards")
        .await?;
    let shards = state
        .routing_table
        .indices
        .into_values()
        .flat_map(|index| index.shards);
    let primary = |(shard, copies): (ShardId, Vec<Primary>)| {
        copies
            .into_iter()
            .find(|copy| copy.primary)
            .map(|primary| (shard, primary))
    };
    Ok(shards.filter_map(primary).collect())
}

async fn recoveries(
    opensearch: &OpenSearch,
    index: &IndexName,
) -> Result<Vec<ShardRecovery>, OpenSearchError> {
    let answer: BTreeMap<String, Recoveries> = opensearch
        .get(&format!("/{}/_recovery", path_segment(index.as_str())))
        .await?;
    let shards = answer.into_values().flat_map(|index| index.shards);
    Ok(shards.filter(|recovery| recovery.primary).collect())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct State {
    routing_table: RoutingTable,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RoutingTable {
    indices: BTreeMap<String, IndexRouting>,
}

#[derive(Deserialize)]
struct IndexRouting {
    shards: BTreeMap<ShardId, Vec<Primary>>,
}

#[derive(Deserialize)]
struct Primary {
    primary: bool,
    state: String,
    #[serde(default)]
    recovery_source: Source,
    unassigned_info: Option<Unassigned>,
}

#[derive(Deserialize)]
struct Unassigned {
    details: Option<String>,
    allocation_status: Option<String>,
}

/// Where a shard comes from: a snapshot, or anything else.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Source {
    snapshot: Option<String>,
}

#[derive(Deserialize)]
struct Recoveries {
    shards: Vec<ShardRecovery>,
}

#[derive(Deserialize)]
struct ShardRecovery {
    id: ShardId,
    primary: bool,
    #[serde(default)]
    source: Source,
    index: RecoveryIndex,
}

#[derive(Deserialize)]
struct RecoveryIndex {
    size: RecoverySize,
    files: RecoveryFiles,
}

#[derive(Deserialize)]
struct RecoverySize {
    total_in_bytes: i64,
    recovered_in_bytes: i64,
}

#[derive(Deserialize)]
struct RecoveryFiles {
    total: i64,
    recovered: i64,
}

impl RecoveryIndex {
    fn progress(&self) -> Recovery {
        Recovery {
            bytes_total: self.size.total_in_bytes,
            bytes_done: self.size.recovered_in_bytes,
            files_total: self.files.total,
            files_done: self.files.recovered,
        }
    }
}
