//! The replication control API: routes, request bodies, answers and errors, as users of the
//! OpenSearch plugin know them.

pub mod auto_follow;
pub mod bulk;
pub mod calls;
pub mod dead_letters;
pub mod error;
pub mod filter;
pub mod names;
pub mod object_parser;
pub mod openapi;
pub mod query;
pub mod render;
pub mod request;
pub mod routes;
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
