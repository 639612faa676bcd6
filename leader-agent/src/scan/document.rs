//! Documents that a scan found as the operations that made them what they are.

use shardline_common::record::{Operation, OperationKind};
use shardline_common::scan::Hit;

/// A document that cannot be copied.
#[derive(Debug, thiserror::Error)]
#[error("document {id} has no _source: an index with _source disabled cannot be copied")]
pub(crate) struct NoSource {
    id: String,
}

/// The operation that made a document what it is.
pub(crate) fn document(hit: Hit) -> Result<Operation, NoSource> {
    let Some(source) = hit.source else {
        return Err(NoSource { id: hit.id });
    };
    let kind = OperationKind::Index {
        id: hit.id,
        source,
        routing: hit.routing,
        version: hit.version,
    };
    Ok(Operation {
        primary_term: hit.primary_term,
        kind,
    })
}
