//! The life of a followed index as a state machine. Pure: it decides, others carry out.
//!
//! `running ⇄ paused`, `failed`, and gone. Whether a running index is bootstrapping or syncing
//! follows from its progress.

use serde_json::{Map, Value};
use shardline_common::control::{
    Checkpoint, IndexCopy, ReplicationRoles, Subscription, SubscriptionState,
};
use shardline_common::types::Epoch;

/// The reason that stands in a status when nobody gave another.
pub(crate) const USER_INITIATED: &str = "User initiated";

/// The reason in the status of an index whose `_stop` has not come to its end.
pub(crate) const STOPPING: &str = "_stop was called and did not come to its end: call it again";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// By a user.
    Pause {
        reason: Option<String>,
    },
    Resume,
    /// By the agent: ends a pause for this reason, and no other.
    Reopen {
        reason: String,
    },
    /// Pauses it for good: what following did is about to be undone.
    Halt,
    Stop,
    /// By the agent, because it cannot go on.
    AutoPause {
        reason: String,
    },
    /// Copies the index anew, as bootstrap `id`.
    Bootstrap {
        id: String,
        /// Whether the follower index holds nothing that was there before it.
        is_partial: bool,
    },
    /// The copy is complete, and the stream goes on from here.
    Bootstrapped {
        from: Vec<Checkpoint>,
    },
    /// The same of a copy from a snapshot repository, whose documents this epoch outranks.
    Restored {
        from: Vec<Checkpoint>,
        epoch: Epoch,
    },
    /// The follower index is made.
    Made {
        copy: IndexCopy,
    },
    /// Other settings win over the leader's.
    Update {
        settings: Map<String, Value>,
    },
    /// It is followed under these roles from now on.
    UseRoles(ReplicationRoles),
}

/// Why a command is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotInProgress,
    AlreadyPaused,
    AlreadyRunning,
    Failed,
    Bootstrapping,
}

/// The state after a command: `None` means that the index is no longer followed.
pub(crate) fn apply(
    current: Option<&Subscription>,
    command: Command,
) -> Result<Option<Subscription>, Refusal> {
    let Some(current) = current else {
        return Err(Refusal::NotInProgress);
    };
    let mut next = current.clone();
    match (command, current.state) {
        (Command::Stop, _) => return Ok(None),
        (Command::Halt, _) => {
            next.state = SubscriptionState::Paused;
            next.reason = STOPPING.to_owned();
        }
        (Command::Pause { .. }, SubscriptionState::Paused) => return Err(Refusal::AlreadyPaused),
        (Command::Pause { .. }, SubscriptionState::Failed) => return Err(Refusal::Failed),
        (Command::Pause { .. }, SubscriptionState::Running) if current.bootstrap.is_some() => {
            return Err(Refusal::Bootstrapping);
        }
        (Command::Pause { reason }, SubscriptionState::Running) => {
            next.state = SubscriptionState::Paused;
            next.reason = reason.unwrap_or_else(|| USER_INITIATED.to_owned());
        }
        (Command::AutoPause { reason }, SubscriptionState::Running) => {
            next.state = SubscriptionState::Paused;
            next.reason = reason;
        }
        // Something else was faster: its word stands.
        (Command::AutoPause { .. }, _) => {}
        (Command::Resume, SubscriptionState::Paused) => {
            next.state = SubscriptionState::Running;
            next.reason = USER_INITIATED.to_owned();
        }
        (Command::Resume, _) => return Err(Refusal::AlreadyRunning),
        (Command::Reopen { reason }, SubscriptionState::Paused) if current.reason == reason => {
            next.state = SubscriptionState::Running;
            next.reason = USER_INITIATED.to_owned();
        }
        // Something else was faster: its word stands.
        (Command::Reopen { .. }, _) => {}
        // A new epoch outranks whatever the index holds, and writes of an earlier attempt that are
        // still under way.
        (Command::Bootstrap { id, is_partial }, _) => {
            // What an earlier attempt brought makes nothing whole.
            next.is_partial = is_partial || current.is_partial;
            next.bootstrap = Some(id);
            next.epoch.0 += 1;
        }
        (Command::Bootstrapped { from }, _) => {
            next.is_partial = false;
            if let Some(id) = next.bootstrap.take() {
                next.copy = Some(copied(id, from, false));
            }
        }
        (Command::Restored { from, epoch }, _) => {
            if let Some(id) = next.bootstrap.take() {
                next.is_partial = false;
                next.copy = Some(copied(id, from, true));
                next.epoch = next.epoch.max(epoch);
            }
        }
        (Command::Made { copy }, _) => next.copy = Some(copy),
        (Command::Update { settings }, _) => next.settings = settings,
        (Command::UseRoles(roles), _) => next.roles = Some(roles),
    }
    Ok(Some(next))
}

fn copied(id: String, from: Vec<Checkpoint>, is_restored: bool) -> IndexCopy {
    IndexCopy {
        id,
        from,
        is_restored,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn running() -> Subscription {
        Subscription {
            id: "s".into(),
            follower_cluster: "fc".into(),
            follower_index: "f".into(),
            leader_alias: "a".into(),
            leader_cluster: "lc".into(),
            leader_index: "l".into(),
            leader_uuid: "u".into(),
            state: SubscriptionState::Running,
            reason: USER_INITIATED.into(),
            epoch: Epoch(0),
            settings: serde_json::Map::new(),
            bootstrap: None,
            is_partial: false,
            repository: None,
            copy: None,
            roles: None,
        }
    }

    fn commands() -> impl Strategy<Value = Command> {
        prop_oneof![
            prop::option::of("[a-z]{0,5}").prop_map(|reason| Command::Pause { reason }),
            Just(Command::Resume),
            "[a-z]{1,5}".prop_map(|reason| Command::Reopen { reason }),
            Just(Command::Halt),
            Just(Command::Stop),
            "[a-z]{1,5}".prop_map(|reason| Command::AutoPause { reason }),
            ("[a-z]{1,5}", any::<bool>())
                .prop_map(|(id, is_partial)| Command::Bootstrap { id, is_partial }),
            Just(Command::Bootstrapped { from: Vec::new() }),
            (0..9u32).prop_map(|epoch| Command::Restored {
                from: Vec::new(),
                epoch: Epoch(epoch)
            }),
            "[a-z]{1,5}".prop_map(|id| Command::Made {
                copy: IndexCopy {
                    id,
                    from: Vec::new(),
                    is_restored: false
                }
            }),
            Just(Command::Update {
                settings: Map::new()
            }),
            "[a-z]{1,5}".prop_map(|role| Command::UseRoles(ReplicationRoles {
                user: None,
                leader_cluster_role: role.clone(),
                follower_cluster_role: role,
            })),
        ]
    }

    #[test]
    fn a_paused_index_resumes_with_the_default_reason() {
        let paused = apply(
            Some(&running()),
            Command::Pause {
                reason: Some("maintenance".into()),
            },
        )
        .unwrap()
        .unwrap();
        assert_eq!(
            (paused.state, paused.reason.as_str()),
            (SubscriptionState::Paused, "maintenance")
        );
        assert_eq!(
            apply(Some(&paused), Command::Pause { reason: None }),
            Err(Refusal::AlreadyPaused)
        );
        assert_eq!(
            apply(Some(&paused), Command::Resume).unwrap().unwrap(),
            running()
        );
    }

    #[test]
    fn what_a_broken_off_copy_left_is_not_taken_for_a_whole_index() {
        let step =
            |current: &Subscription, command| apply(Some(current), command).unwrap().unwrap();
        let first = step(
            &running(),
            Command::Bootstrap {
                id: "a".into(),
                is_partial: true,
            },
        );
        let second = step(
            &first,
            Command::Bootstrap {
                id: "b".into(),
                is_partial: false,
            },
        );
        assert!(first.is_partial && second.is_partial);
        let whole = step(&second, Command::Bootstrapped { from: Vec::new() });
        assert!(!whole.is_partial);
        assert!(
            !step(
                &whole,
                Command::Bootstrap {
                    id: "c".into(),
                    is_partial: false
                }
            )
            .is_partial
        );
    }

    proptest! {
        /// Only a user's `stop` ends a subscription; only a user's `resume`, or the end of what the
        /// pause was for, leaves a pause; and identity never changes.
        #[test]
        fn nothing_but_the_user_ends_or_resumes(steps in prop::collection::vec(commands(), 0..40)) {
            let mut current = Some(running());
            for command in steps {
                let before = current.clone();
                match apply(before.as_ref(), command.clone()) {
                    Ok(next) => current = next,
                    Err(_) => continue,
                }
                match (&before, &current) {
                    (Some(_), None) => prop_assert_eq!(&command, &Command::Stop),
                    (Some(before), Some(after)) => {
                        prop_assert_eq!(&before.id, &after.id);
                        prop_assert!(before.epoch <= after.epoch);
                        let was_paused = before.state == SubscriptionState::Paused;
                        if was_paused && after.state == SubscriptionState::Running {
                            let reason = before.reason.clone();
                            let reopen = Command::Reopen { reason };
                            prop_assert!(command == Command::Resume || command == reopen);
                        }
                    }
                    (None, _) => prop_assert!(false, "a command brought a stopped index back"),
                }
            }
        }
    }
}
