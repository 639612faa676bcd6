//! What is measured, one file for each question.

pub mod backlog;
pub mod broker_away;
pub mod catch_up;
pub mod fan_out;
pub mod idle_shards;
pub mod lag;
pub mod micro;
pub mod round;
pub mod speed;
pub mod verify;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub quick: bool,
    pub rounds: usize,
}

impl Size {
    /// `full` in a full run, `quick` in a quick one.
    pub fn pick<T>(self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}
