//! Makes snapshots in a repository for followers that begin with one.
//!
//! The agent beside each primary writes down how far its partition is. When all have, the one
//! beside shard 0 has the snapshot made: so each partition has from there what the snapshot does
//! not have. A snapshot shows operations as soon as the primary has them, so it counts only once
//! the global checkpoints have reached all that it can show, under the primaries that it was begun
//! under.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use shardline_common::control::{Checkpoint, Entry};
use shardline_common::kafka::{ControlError, ControlTopic};
use shardline_common::opensearch::{OpenSearch, OpenSearchError};
use shardline_common::repository::{
    Outcome, Snapshot, SnapshotPosition, SnapshotRequest, is_final, snapshot_path,
};
use shardline_common::shard_stats::primaries;
use shardline_common::tasks::changed_or_never;
use shardline_common::types::{PrimaryTerm, SeqNo, ShardId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::capture::Shipped;
use crate::node::{self, Shard};

const SNAPSHOT_POLL_INTERVAL: Duration = Duration::from_millis(200);
const SNAPSHOT_RETRY_DELAY: Duration = Duration::from_secs(2);
/// How often a snapshot is begun anew that failed, or that primaries changed under.
const SNAPSHOT_ATTEMPTS_MAX: usize = 5;

#[derive(Debug, thiserror::Error)]
enum MakeError {
    #[error(transparent)]
    OpenSearch(#[from] OpenSearchError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("the shard's capture has ended")]
    NoCapture,
    #[error("the index is not on this cluster any more")]
    IndexGone,
    #[error("the snapshot is {state}: {reason}")]
    Failed { state: String, reason: String },
    #[error("positions of shards were lost while the snapshot was made")]
    NoPositions,
    #[error("a primary changed while the snapshot was made")]
    PrimaryChanged,
}

impl MakeError {
    fn is_final(&self) -> bool {
        matches!(self, Self::OpenSearch(error) if is_final(error))
    }

    fn wants_another(&self) -> bool {
        matches!(
            self,
            Self::Failed { .. } | Self::PrimaryChanged | Self::NoPositions
        )
    }
}

/// Serves one request for one shard, until that is done.
pub(crate) async fn serve_snapshot(
    shard: Shard,
    request: SnapshotRequest,
    opensearch: OpenSearch,
    table: ControlTopic,
    shipped: watch::Receiver<Option<Shipped>>,
    stop: CancellationToken,
) {
    let maker = Maker {
        shard: &shard,
        request: &request,
        opensearch: &opensearch,
        table: &table,
    };
    tokio::select! {
        () = maker.serve(shipped) => {}
        () = stop.cancelled() => {}
    }
}

struct Maker<'a> {
    shard: &'a Shard,
    request: &'a SnapshotRequest,
    opensearch: &'a OpenSearch,
    table: &'a ControlTopic,
}

impl Maker<'_> {
    async fn serve(&self, mut shipped: watch::Receiver<Option<Shipped>>) {
        let mut given_up = 0;
        loop {
            let error = match self.try_serve(&mut shipped).await {
                Ok(()) => {
                    self.until_position_is_gone().await;
                    continue;
                }
                Err(error) => error,
            };
            let (index, repository) = (&self.shard.index, &self.request.repository);
            warn!(%index, shard = %self.shard.shard, repository, %error, "a snapshot could not be made");
            given_up += usize::from(error.wants_another());
            let told = if error.is_final() || given_up == SNAPSHOT_ATTEMPTS_MAX {
                self.tell(
                    BTreeMap::new(),
                    Some(Outcome::Failed {
                        reason: error.to_string(),
                    }),
                )
                .await
                .map(drop)
            } else if error.wants_another() {
                self.discard().await
            } else {
                Ok(())
            };
            if let Err(error) = told {
                warn!(%index, repository, %error, "what became of a snapshot could not be written down");
            }
            tokio::time::sleep(SNAPSHOT_RETRY_DELAY).await;
        }
    }

    async fn try_serve(
        &self,
        shipped: &mut watch::Receiver<Option<Shipped>>,
    ) -> Result<(), MakeError> {
        if !self.has_position() {
            let shipped = shipped
                .wait_for(Option::is_some)
                .await
                .ok()
                .and_then(|shipped| *shipped);
            let Shipped { seq_no, offset } = shipped.ok_or(MakeError::NoCapture)?;
            let (id, leader_cluster) = (
                self.request.id.as_str().into(),
                self.request.leader_cluster.clone(),
            );
            let shard = self.shard.shard;
            self.table
                .publish(&SnapshotPosition {
                    id,
                    leader_cluster,
                    shard,
                    seq_no,
                    offset,
                })
                .await?;
        }
        if self.shard.shard != ShardId(0) {
            return Ok(());
        }
        let begun = match self.table.get(&Snapshot::key_of(
            &self.request.leader_cluster,
            &self.request.id,
        )) {
            Some(Snapshot {
                outcome: Some(_), ..
            }) => return Ok(()),
            Some(begun) => begun,
            None => {
                self.wait_for_positions().await;
                self.tell(self.primary_terms().await?, None).await?
            }
        };
        self.begin().await?;
        self.complete().await?;
        let highest = self.settled(&begun.primary_terms).await?;
        let positions = self.positions();
        if positions.len() != self.shard.number_of_shards as usize {
            return Err(MakeError::NoPositions);
        }
        let from = positions.into_iter().map(
            |SnapshotPosition {
                 shard,
                 seq_no,
                 offset,
                 ..
             }| Checkpoint {
                seq_no,
                offset,
                highest: highest.get(&shard).copied().unwrap_or(seq_no).max(seq_no),
                foreign_writes: 0,
                own: None,
            },
        );
        self.tell(
            begun.primary_terms,
            Some(Outcome::Complete {
                from: from.collect(),
            }),
        )
        .await?;
        info!(index = %self.shard.index, repository = self.request.repository, id = self.request.id, "snapshot complete");
        Ok(())
    }

    /// The positions that agents have written down so far, in the order of the shards.
    fn positions(&self) -> Vec<SnapshotPosition> {
        let prefix = SnapshotPosition::prefix_of(&self.request.leader_cluster, &self.request.id);
        let mut positions: Vec<SnapshotPosition> = self.table.below(&prefix);
        positions.sort_by_key(|position| position.shard);
        positions
    }

    /// This task ends with its request: until then its position is there for whoever makes the
    /// snapshot. What one that has begun goes by stays as it was.
    async fn until_position_is_gone(&self) {
        let key = Snapshot::key_of(&self.request.leader_cluster, &self.request.id);
        let mut changes = self.table.changes();
        loop {
            changes.mark_unchanged();
            let is_there = self.has_position();
            if !is_there && self.table.get::<Snapshot>(&key).is_none() {
                return;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn has_position(&self) -> bool {
        let positions = self.positions();
        positions
            .iter()
            .any(|position| position.shard == self.shard.shard)
    }

    async fn wait_for_positions(&self) {
        let mut changes = self.table.changes();
        loop {
            changes.mark_unchanged();
            if self.positions().len() == self.shard.number_of_shards as usize {
                return;
            }
            changed_or_never(&mut changes).await;
        }
    }

    /// Writes down what is known of the snapshot.
    async fn tell(
        &self,
        primary_terms: BTreeMap<ShardId, PrimaryTerm>,
        outcome: Option<Outcome>,
    ) -> Result<Snapshot, MakeError> {
        let snapshot = Snapshot {
            id: self.request.id.as_str().into(),
            leader_cluster: self.request.leader_cluster.clone(),
            leader_uuid: self.request.leader_uuid.clone(),
            repository: self.request.repository.clone(),
            primary_terms,
            outcome,
        };
        self.table.publish(&snapshot).await?;
        Ok(snapshot)
    }

    fn path(&self) -> String {
        snapshot_path(&self.request.repository, &self.request.id)
    }

    async fn primary_terms(&self) -> Result<BTreeMap<ShardId, PrimaryTerm>, MakeError> {
        let terms =
            node::primary_terms(self.opensearch, &self.shard.index, &self.shard.uuid).await?;
        terms.ok_or(MakeError::IndexGone)
    }

    /// It may have been begun before, by an agent that is gone.
    async fn begin(&self) -> Result<(), MakeError> {
        let body =
            json!({"indices": self.shard.index, "include_global_state": false, "partial": false});
        let begun = self
            .opensearch
            .put::<Value>(&format!("{}?wait_for_completion=false", self.path()), &body)
            .await;
        let is_known = |error: &OpenSearchError| matches!(error, OpenSearchError::Refused { error_type, .. } if error_type == "invalid_snapshot_name_exception");
        match begun {
            Err(error) if !is_known(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Waits until the snapshot is complete.
    async fn complete(&self) -> Result<(), MakeError> {
        loop {
            let Found { snapshots } = self.opensearch.get(&self.path()).await?;
            for Made {
                state,
                reason,
                failures,
            } in snapshots
            {
                match state.as_str() {
                    "SUCCESS" => return Ok(()),
                    "IN_PROGRESS" | "STARTED" => {}
                    _ => {
                        let reason =
                            reason.unwrap_or_default() + &Value::from(failures).to_string();
                        return Err(MakeError::Failed { state, reason });
                    }
                }
            }
            tokio::time::sleep(SNAPSHOT_POLL_INTERVAL).await;
        }
    }

    /// Waits until nothing that the snapshot shows can be rolled back; gives the highest operation
    /// that it may show of each shard.
    async fn settled(
        &self,
        terms: &BTreeMap<ShardId, PrimaryTerm>,
    ) -> Result<BTreeMap<ShardId, SeqNo>, MakeError> {
        let mut highest: BTreeMap<ShardId, SeqNo> = BTreeMap::new();
        loop {
            let now = primaries(self.opensearch, &self.shard.index).await?.shards;
            if self.primary_terms().await? != *terms {
                return Err(MakeError::PrimaryChanged);
            }
            for (shard, primary) in &now {
                highest.entry(*shard).or_insert(primary.max_seq_no);
            }
            let is_settled = |(shard, highest): (&ShardId, &SeqNo)| {
                now.get(shard)
                    .is_some_and(|primary| primary.global_checkpoint >= *highest)
            };
            if highest.len() == self.shard.number_of_shards as usize
                && highest.iter().all(is_settled)
            {
                return Ok(highest);
            }
            tokio::time::sleep(SNAPSHOT_POLL_INTERVAL).await;
        }
    }

    /// Makes room for another attempt.
    async fn discard(&self) -> Result<(), MakeError> {
        delete(self.opensearch, &self.request.repository, &self.request.id).await?;
        Ok(self
            .table
            .remove(&Snapshot::key_of(
                &self.request.leader_cluster,
                &self.request.id,
            ))
            .await?)
    }
}

/// Deletes a snapshot that nobody wants any more, and what was written down about it.
pub(crate) async fn clear_snapshot(
    snapshot: Snapshot,
    opensearch: OpenSearch,
    table: ControlTopic,
) {
    let cleared = async {
        delete(&opensearch, &snapshot.repository, snapshot.id.as_str()).await?;
        Ok::<_, MakeError>(table.remove(&snapshot.key()).await?)
    };
    match cleared.await {
        Ok(()) => info!(
            repository = snapshot.repository,
            id = %snapshot.id,
            "snapshot deleted"
        ),
        Err(error) => {
            warn!(repository = snapshot.repository, id = %snapshot.id, %error, "a snapshot stays for now")
        }
    }
}

async fn delete(
    opensearch: &OpenSearch,
    repository: &str,
    id: &str,
) -> Result<(), OpenSearchError> {
    match opensearch
        .delete::<Value>(&snapshot_path(repository, id), None)
        .await
    {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
struct Found {
    snapshots: Vec<Made>,
}

#[derive(Deserialize)]
struct Made {
    state: String,
    reason: Option<String>,
    #[serde(default)]
    failures: Vec<Value>,
}
