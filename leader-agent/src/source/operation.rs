//! Operations of a translog as Kafka has them.

use shardline_common::record::{Body, Operation, OperationKind, Record};

use crate::translog;

pub(crate) fn to_record(operation: translog::Operation, timestamp_ms: i64) -> Record {
    Record {
        seq_no: operation.seq_no,
        timestamp_ms,
        body: Body::Operation(to_operation(operation)),
    }
}

/// Converts an operation of a translog into the form that records have.
pub(super) fn to_operation(operation: translog::Operation) -> Operation {
    let kind = match operation.kind {
        translog::OperationKind::Index {
            id,
            source,
            routing,
            version,
            ..
        } => OperationKind::Index {
            id,
            source,
            routing,
            version,
        },
        translog::OperationKind::Delete { id, version } => OperationKind::Delete { id, version },
        translog::OperationKind::NoOp { .. } => OperationKind::NoOp,
    };
    Operation {
        primary_term: operation.primary_term,
        kind,
    }
}

/// Whether two operations under one sequence number are the same; one that a scan found has no
/// source.
pub(crate) fn is_same(one: &Operation, found: &Operation) -> bool {
    let is_same_kind = match (&one.kind, &found.kind) {
        (
            OperationKind::Index {
                id,
                routing,
                version,
                ..
            },
            OperationKind::Index {
                id: found_id,
                source,
                routing: found_routing,
                version: found_version,
            },
        ) if source.is_empty() => {
            (id, routing, version) == (found_id, found_routing, found_version)
        }
        (one, found) => one == found,
    };
    is_same_kind && one.primary_term == found.primary_term
}
