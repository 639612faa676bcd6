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
    const ALL: [Self; 6] = [
        Self::TwoOwners,
        Self::EndlessLease,
        Self::MissingIsDeleted,
        Self::ComplyTooEarly,
        Self::LostEntries,
        Self::LostNonce,
    ];

    pub fn named(name: &str) -> Option<Self> {
        let is_it = |one: &Self| format!("{one:?}") == name;
        Self::ALL.into_iter().find(is_it)
    }

    /// What the oracle says of it; whatever else may follow from it proves less.
    pub fn is_told_by(self, violation: &str) -> bool {
        let words: &[&str] = match self {
            Self::TwoOwners | Self::EndlessLease => &[
                "has no slot of it",
                "has not its slot",
                "another copy begins under the same epoch",
                "another copy is followed, and none was under way",
            ],
            Self::MissingIsDeleted | Self::LostEntries => &[
                "its leader index is gone, which is there",
                "its leader index is there",
            ],
            Self::ComplyTooEarly => &["after a user was told that nothing does"],
            Self::LostNonce => &["no leader agent of the cluster answered"],
        };
        words.iter().any(|words| violation.contains(words))
    }

    /// What such a schedule would notice for other reasons is not to be taken for the sabotage.
    pub fn prepare(self, plan: &mut Plan) {
        plan.agents = plan.agents.max(2);
        plan.topics_get_lost = false;
        match self {
            Self::TwoOwners => {}
            // Calls and writes are for one index, of which an agent hears late.
            Self::ComplyTooEarly => {
                (plan.agents, plan.indices, plan.shards) = (3, 1, 2);
                plan.kafka_is_slow = true;
            }
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
