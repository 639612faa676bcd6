//! Whether a shard still has the history that its partition holds. A restore, an older copy of its
//! data or a copy that is made primary by force gives it another one under the same index; what
//! Kafka has and what the shard has to add to it then do not belong together.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use shardline_common::control::{Entry, ShardHistory};
use shardline_common::record::{Body, Operation, OperationKind};
use shardline_common::scan::{Hit, ScanError, ShardScan, Stretch};
use shardline_common::shard_stats;
use shardline_common::types::SeqNo;
use tracing::warn;

use super::{Capture, CaptureError, Never};
use crate::scan::open_settled;
use crate::source::is_same;

/// How many of the last operations that Kafka has are looked for in the shard.
const TAIL_OPERATIONS_COMPARED_MAX: usize = 10_000;
/// How long the nodes may take to say which history a shard has, when a capture begins.
const HISTORY_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

impl Capture<'_> {
    /// Checks the history when a capture begins. That does not wait for other nodes of the cluster:
    /// the translog is beside the agent.
    pub(super) async fn begin_history(&mut self) -> Result<(), CaptureError> {
        let (index, shard) = (&self.shard.index, self.shard.shard);
        let checked = tokio::time::timeout(HISTORY_ANSWER_TIMEOUT, self.check_history()).await;
        let unknown = match checked {
            Ok(Err(CaptureError::OpenSearch(error))) => error.to_string(),
            Ok(checked) => return checked,
            Err(_) => "no answer in time".to_owned(),
        };
        warn!(%index, %shard, error = unknown, "which history the shard has is not known: a restored index would not be noticed");
        Ok(())
    }

    /// Compares the shard's history with the one that was noted, or notes it.
    async fn check_history(&mut self) -> Result<(), CaptureError> {
        let (context, shard) = (self.context, self.shard);
        let found = shard_stats::history(&context.opensearch, &shard.index, shard.shard).await?;
        let (history_uuid, now) = found.ok_or(CaptureError::NoPrimary)?;
        let (cluster_uuid, index_uuid) = (context.cluster.clone(), shard.uuid.clone());
        let history = ShardHistory {
            cluster_uuid,
            index_uuid,
            shard: shard.shard,
            history_uuid,
        };
        let noted = context.board.history(&history.key());
        if noted.as_ref() == Some(&history) {
            return Ok(());
        }
        let is_another = noted.is_some() && self.sent > SeqNo::NONE;
        let rewound = if is_another {
            self.rewind(now.global_checkpoint)
                .await
                .map(|never| match never {})
        } else {
            Ok(())
        };
        // Not before Kafka has the word of it.
        if let Ok(()) | Err(CaptureError::Rewound { .. }) = rewound {
            context.board.note_history(&history).await?;
        }
        rewound
    }

    /// Makes sure, before what a scan finds up to `to` is shipped behind Kafka's last operations,
    /// that the shard has had these.
    pub(super) async fn check_tail(&mut self, to: SeqNo) -> Result<(), CaptureError> {
        self.check_history().await?;
        let (log, topic, shard) = (&self.context.log, &self.shard.topic, self.shard.shard);
        let Some(reach) = log.reach(topic, shard).await? else {
            return Ok(());
        };
        let mut shipped = log.last_operations(topic, shard, &reach).await?;
        while shipped.len() > TAIL_OPERATIONS_COMPARED_MAX {
            shipped.pop_first();
        }
        let scan = open_settled(&self.context.opensearch, self.shard, to).await?;
        let has_others = has_others(&scan, &shipped).await;
        scan.close().await;
        if has_others? {
            match self.rewind(to).await? {}
        }
        Ok(())
    }

    /// Says in the log that the shard's history goes on from `to`, whatever the partition has.
    pub(super) async fn rewind(&mut self, to: SeqNo) -> Result<Never, CaptureError> {
        let from = self.sent;
        warn!(index = %self.shard.index, shard = %self.shard.shard, %from, %to,
              "the shard lost operations that Kafka has: followers copy the index anew");
        self.sent = to;
        self.send_and_wait(Body::Rewound { from }).await?;
        Err(CaptureError::Rewound { from, to })
    }
}

/// Whether the shard shows other operations under the sequence numbers of these.
async fn has_others(
    scan: &ShardScan<'_>,
    shipped: &BTreeMap<SeqNo, Operation>,
) -> Result<bool, ScanError> {
    let (Some((&from, _)), Some((&to, _))) = (shipped.first_key_value(), shipped.last_key_value())
    else {
        return Ok(false);
    };
    // An index made by shrinking may have several documents under one number.
    let (mut same, mut others) = (HashSet::new(), HashSet::new());
    let mut pages = scan.ids(Stretch { from, to: Some(to) });
    loop {
        let page = pages.next().await?;
        if page.is_empty() {
            return Ok(!others.is_subset(&same));
        }
        for hit in page {
            let seq_no = hit.seq_no;
            match shipped.get(&seq_no) {
                Some(shipped) if is_same(shipped, &shown(hit)) => same.insert(seq_no),
                Some(_) => others.insert(seq_no),
                None => false,
            };
        }
    }
}

fn shown(hit: Hit) -> Operation {
    let Hit {
        id,
        primary_term,
        version,
        routing,
        ..
    } = hit;
    Operation {
        primary_term,
        kind: OperationKind::Index {
            id,
            source: Bytes::new(),
            routing,
            version,
        },
    }
}
