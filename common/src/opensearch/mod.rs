//! OpenSearch's REST API: the client, scans of a shard, statistics of shards, and the digests by
//! which two copies of a shard are compared.

mod client;
pub mod digests;
mod point_in_time;
mod repository;
pub mod scan;
pub mod shard_stats;

pub(crate) use client::innermost;
pub use client::{
    OpenSearch, OpenSearchError, Request, StateOf, Transport, path_segment, proxy_client,
};
pub use point_in_time::until_all_closed;
pub use repository::{is_final, snapshot_path, verification_path};
