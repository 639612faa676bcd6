//! The contract of the control API: requests, answers, errors and settings, as users of the
//! OpenSearch plugin know them. Neither a server nor a client stands here.

pub mod auto_follow;
pub mod bulk;
pub mod dead_letters;
pub mod error;
pub mod names;
pub mod object_parser;
pub mod overview;
pub mod replication_settings;
pub mod request;
pub mod service;
pub mod settings;
pub mod stats;
pub mod suggest;
pub mod syntax_error;
pub mod units;
pub mod verify;

pub use error::ApiError;
pub use request::{PauseRequest, ResumeRequest, StartRequest, UpdateRequest, UseRoles};
pub use service::{ReplicationService, ReplicationStatus};
pub use settings::FlatSettings;

/// Path under which all routes of the control API lie.
pub const BASE: &str = "/_plugins/_replication/";
/// The header that says for whom the agents call: heard from their own user alone.
pub const ON_BEHALF_OF: &str = "x-shardline-on-behalf-of";
