//! Ways to break what keeps the control plane true, each around the real code: the oracle has to
//! notice every one.

use super::plan::Plan;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Every agent takes all slots, whatever the group says.
    TwoOwners,
    /// Kafka takes commits of an agent whose slots it has given to others: the lease goes on.
    EndlessLease,
    /// The leader agent is shown a cluster state that lacks an index which is there.
    MissingIsDeleted,
    /// Agents say that they comply with the control topic before they do.
    ComplyTooEarly,
    /// The leaders' control topic loses its entries, and an agent that takes what is missing for
    /// deleted removes them.
    LostEntries,
    /// Answers to refresh requests get lost.
    LostNonce,
}

impl Sabotage {
    /// What such a schedule would notice for other reasons is not to be taken for the sabotage.
    pub fn prepare(self, plan: &mut Plan) {
        plan.agents = plan.agents.max(2);
        plan.topics_get_lost = false;
        match self {
            Self::TwoOwners | Self::ComplyTooEarly => {}
            Self::EndlessLease => plan.sessions_get_lost = true,
            Self::MissingIsDeleted => plan.indices_are_deleted = false,
            Self::LostNonce => {}
            Self::LostEntries => {
                plan.indices_are_deleted = false;
                plan.topics_get_lost = true;
                plan.agents_restart = true;
            }
        }
    }
}
