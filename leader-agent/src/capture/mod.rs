//! One shard: ships it beside its primary, and holds it beside its other copies.

mod board;
mod context;
mod error;
mod fill;
mod history;
mod redeliver;
mod replica;
mod resync;
mod shard;
mod standing;
mod turns;

use shardline_common::types::{Offset, SeqNo};

pub use board::Board;
pub use context::Context;
use error::CaptureError;
pub use redeliver::{Asked, Asking, redelivery_channel};
pub use replica::hold_replica;
pub use shard::ship_shard;
use shard::{Capture, Never};
pub use standing::Standing;
pub use turns::FetchTurns;

/// How far Kafka has a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shipped {
    pub seq_no: SeqNo,
    /// The offset behind the record of that operation.
    pub offset: Offset,
}
