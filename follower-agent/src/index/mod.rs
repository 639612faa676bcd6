//! One followed index: its task on this agent, its copies, and the follower index itself.

mod admin;
mod context;
mod copying;
mod followed_copy;
mod letter_box;
mod observe;
mod phase;
mod restore;
mod settings;
mod shard_task;
mod snapshot_requests;
mod standstill;
mod state;
mod task;

pub use self::admin::{IndexAdmin, IndexLoad, check_settings, not_to_change, not_to_override};
pub use self::context::{AgentContext, TransitionError};
pub use self::letter_box::{DeadLetter, LetterBox};
pub use self::phase::{Phase, Waits};
pub use self::settings::ControlSettings;
pub use self::snapshot_requests::SnapshotRequests;
pub use self::state::{Command, Refusal, STOPPING, USER_INITIATED};
pub use self::task::{End, IndexTask};
