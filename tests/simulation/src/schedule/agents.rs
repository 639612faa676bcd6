//! Agents start and die, and learn what their node's copy has become.

use super::{Event, Schedule};
use crate::leader_agents::{LeaderAgent, Role};

impl Schedule {
    /// Agents are started, or learn what their node's copy has become.
    pub(super) fn assign_roles(&mut self, event: Event) {
        if !self.is_captured {
            return;
        }
        let node = {
            let mut world = self.world.lock();
            let copies = world.plan.copies;
            world.rng.usize(0..copies)
        };
        match (event, &self.agents[node]) {
            (Event::StartAgent, None) => self.start_agent(node),
            (Event::Role, Some(agent)) => {
                let role = self.role_of(node);
                if role.is_some_and(|role| role != agent.role) {
                    self.start_agent(node);
                } else if role.is_some() {
                    agent.hears_of_cluster();
                }
            }
            _ => {}
        }
    }

    /// `None` while the node is not part of the cluster.
    pub(super) fn role_of(&self, node: usize) -> Option<Role> {
        let world = self.world.lock();
        let role = if world.group.primary == node {
            Role::Ships
        } else {
            Role::Holds
        };
        world.group.copies[node].is_up.then_some(role)
    }

    pub(super) fn start_agent(&mut self, node: usize) {
        let role = self.role_of(node).unwrap_or(Role::Holds);
        self.stop_agent(node);
        self.world
            .lock()
            .note(|| format!("leader agent {node} starts: {role:?}"));
        self.agents[node] = Some(LeaderAgent::start(&self.world, node, role));
    }

    fn stop_agent(&mut self, node: usize) {
        if let Some(agent) = self.agents[node].take() {
            let producer = agent.producer;
            drop(agent);
            self.world.lock().orphan(producer);
        }
    }

    pub(super) fn kill_leader_agent(&mut self) {
        let node = {
            let mut world = self.world.lock();
            let copies = world.plan.copies;
            world.rng.usize(0..copies)
        };
        if self.agents[node].is_some() {
            self.faults += 1;
            self.world
                .lock()
                .note(|| format!("leader agent {node} is killed"));
            self.stop_agent(node);
        }
    }

    pub(super) fn kill_follower_agent(&mut self) {
        if !self.follower.is_running() {
            return;
        }
        self.faults += 1;
        self.follower.crash();
        let mut world = self.world.lock();
        let loses = world.plan.checkpoints_get_lost && world.rng.bool();
        world.note(|| {
            format!(
                "follower agent is killed{}",
                if loses {
                    ", its checkpoints are lost"
                } else {
                    ""
                }
            )
        });
        drop(world);
        if loses {
            self.follower.lose_checkpoints();
        }
    }
}
