//! The OpenSearch node beside the agent: its cluster's state as it sees it, its indices and shards.

mod cluster;
mod server;
mod shard;
mod state_id;

pub(crate) use cluster::{
    ClusterView, IndexView, LocalNode, LocalState, fetch_metadata, local_state, primary_term,
    primary_terms,
};
pub(crate) use server::unsupported;
pub use shard::Shard;
pub use state_id::StateId;
