//! One followed index: its task on this agent, its copies, and the follower index itself.

mod admin;
mod aliases;
mod context;
mod copy_standstill;
mod copying;
mod external_versions;
mod followed_copy;
mod leniency;
mod letter_box;
mod limits;
mod observe;
mod phase;
mod promotion;
mod relaxed;
mod restore;
mod settings;
mod shard_task;
mod snapshot_requests;
mod standstill;
mod state;
mod task;
mod templates;

pub use self::admin::IndexAdmin;
pub(crate) use self::admin::{IndexLoad, check_settings, not_to_change, not_to_override};
pub(crate) use self::context::{AgentContext, TransitionError};
pub(crate) use self::leniency::give_back_mapping;
pub(crate) use self::letter_box::{DeadLetter, LetterBox};
pub(crate) use self::phase::{Phase, Waits};
pub(crate) use self::promotion::promote;
pub(crate) use self::settings::ControlSettings;
pub(crate) use self::snapshot_requests::SnapshotRequests;
pub(crate) use self::state::{Command, Refusal, STOPPING, USER_INITIATED};
pub(crate) use self::task::{End, IndexTask};
pub(crate) use self::templates::tidy as tidy_templates;
