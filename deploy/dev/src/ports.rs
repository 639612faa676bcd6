//! Which port every process listens on: fixed ones for `up`, free ones for tests.

use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, bail};

/// How ports are chosen.
#[derive(Clone, Debug)]
pub enum Ports {
    /// Counted up from these.
    Fixed(BasePorts),
    /// Whatever is free; no two stacks on this machine get the same ones.
    Free,
}

/// The first port of each kind. Further processes of the kind: leader nodes +20, +30, … (9221,
/// 9231), follower nodes +1, +2, … (9211, 9212), brokers +100, +200, … (9192, 9292), agents' admin
/// ports +10, +20, … (9611, 9612), gateways +50, +100, … (9250, 9300).
#[derive(Clone, Debug)]
pub struct BasePorts {
    pub leader_http: u16,
    pub leader_transport: u16,
    pub follower_http: u16,
    pub follower_transport: u16,
    pub kafka: u16,
    pub kafka_controller: u16,
    pub leader_agent: u16,
    pub follower_agent: u16,
    pub gateway: u16,
}

impl Default for BasePorts {
    fn default() -> Self {
        Self {
            leader_http: 9201,
            leader_transport: 9301,
            follower_http: 9210,
            follower_transport: 9310,
            kafka: 9092,
            kafka_controller: 9093,
            leader_agent: 9601,
            follower_agent: 9602,
            gateway: 9200,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePorts {
    pub http: u16,
    pub transport: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerPorts {
    pub client: u16,
    pub controller: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentPorts {
    pub admin: u16,
    pub gateway: u16,
}

/// How many processes of each kind a stack has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub leader_nodes: usize,
    pub follower_nodes: usize,
    pub brokers: usize,
    pub follower_agents: usize,
}

/// The ports of every process of a stack.
#[derive(Debug)]
pub struct PortPlan {
    pub leader: Vec<NodePorts>,
    pub follower: Vec<NodePorts>,
    pub brokers: Vec<BrokerPorts>,
    /// Admin ports, one agent beside each leader node.
    pub leader_agents: Vec<u16>,
    pub follower_agents: Vec<AgentPorts>,
    /// Held for the plan's lifetime, so that no other stack picks the same free ports.
    _leases: Vec<File>,
}

impl PortPlan {
    pub(crate) fn new(ports: &Ports, counts: Counts) -> Result<Self> {
        match ports {
            Ports::Fixed(base) => Self::fixed(base, counts),
            Ports::Free => Self::free(counts),
        }
    }

    fn fixed(base: &BasePorts, counts: Counts) -> Result<Self> {
        let leader_step = |index: usize| if index == 0 { 0 } else { 10 * (index + 1) };
        let plan = Self {
            leader: collect(counts.leader_nodes, |i| {
                let step = leader_step(i);
                Ok(NodePorts {
                    http: add(base.leader_http, step)?,
                    transport: add(base.leader_transport, step)?,
                })
            })?,
            follower: collect(counts.follower_nodes, |i| {
                Ok(NodePorts {
                    http: add(base.follower_http, i)?,
                    transport: add(base.follower_transport, i)?,
                })
            })?,
            brokers: collect(counts.brokers, |i| {
                let step = 100 * i;
                Ok(BrokerPorts {
                    client: add(base.kafka, step)?,
                    controller: add(base.kafka_controller, step)?,
                })
            })?,
            leader_agents: collect(counts.leader_nodes, |i| add(base.leader_agent, 10 * i))?,
            follower_agents: collect(counts.follower_agents, |i| {
                Ok(AgentPorts {
                    admin: add(base.follower_agent, 10 * i)?,
                    gateway: add(base.gateway, 50 * i)?,
                })
            })?,
            _leases: Vec::new(),
        };
        let mut seen = HashSet::new();
        for (port, purpose) in plan.all() {
            if !seen.insert(port) {
                bail!("port {port} is planned twice, once as {purpose}: choose other ports");
            }
        }
        Ok(plan)
    }

    fn free(counts: Counts) -> Result<Self> {
        let mut picker = FreePorts::new();
        Ok(Self {
            leader: collect(counts.leader_nodes, |_| {
                Ok(NodePorts {
                    http: picker.pick()?,
                    transport: picker.pick()?,
                })
            })?,
            follower: collect(counts.follower_nodes, |_| {
                Ok(NodePorts {
                    http: picker.pick()?,
                    transport: picker.pick()?,
                })
            })?,
            brokers: collect(counts.brokers, |_| {
                Ok(BrokerPorts {
                    client: picker.pick()?,
                    controller: picker.pick()?,
                })
            })?,
            leader_agents: collect(counts.leader_nodes, |_| picker.pick())?,
            follower_agents: collect(counts.follower_agents, |_| {
                Ok(AgentPorts {
                    admin: picker.pick()?,
                    gateway: picker.pick()?,
                })
            })?,
            _leases: picker.leases,
        })
    }

    /// Fails, naming port and purpose, when something else listens on one of the ports.
    pub(crate) fn check_unused(&self) -> Result<()> {
        for (port, purpose) in self.all() {
            if !is_unused(port) {
                bail!(
                    "port {port} ({purpose}) is in use by another program: stop it or choose another port"
                );
            }
        }
        Ok(())
    }

    fn all(&self) -> Vec<(u16, &'static str)> {
        let leader = self
            .leader
            .iter()
            .flat_map(|p| [(p.http, "leader HTTP"), (p.transport, "leader transport")]);
        let follower = self.follower.iter().flat_map(|p| {
            [
                (p.http, "follower HTTP"),
                (p.transport, "follower transport"),
            ]
        });
        let brokers = self
            .brokers
            .iter()
            .flat_map(|p| [(p.client, "Kafka"), (p.controller, "Kafka controller")]);
        let leader_agents = self
            .leader_agents
            .iter()
            .map(|&port| (port, "leader agent admin"));
        let follower_agents = self
            .follower_agents
            .iter()
            .flat_map(|p| [(p.admin, "follower agent admin"), (p.gateway, "gateway")]);
        leader
            .chain(follower)
            .chain(brokers)
            .chain(leader_agents)
            .chain(follower_agents)
            .collect()
    }
}

fn collect<T>(count: usize, make: impl FnMut(usize) -> Result<T>) -> Result<Vec<T>> {
    (0..count).map(make).collect()
}

fn add(base: u16, step: usize) -> Result<u16> {
    u16::try_from(step)
        .ok()
        .and_then(|step| base.checked_add(step))
        .with_context(|| format!("no port {step} above {base}: choose a lower one"))
}

fn is_unused(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Picks from below the ports that the kernel gives to outgoing connections, or one of those could
/// take a server's port while that server is down for a restart. A locked file per port keeps
/// parallel stacks apart.
struct FreePorts {
    next: u16,
    leases: Vec<File>,
}

const FREE_PORTS: Range<u16> = 12_000..32_000;

impl FreePorts {
    fn new() -> Self {
        let span = u64::from(FREE_PORTS.end - FREE_PORTS.start);
        let offset = RandomState::new().build_hasher().finish() % span;
        Self {
            next: FREE_PORTS.start + offset as u16,
            leases: Vec::new(),
        }
    }

    fn pick(&mut self) -> Result<u16> {
        let user = std::fs::metadata("/proc/self")
            .context("cannot find out this user's number")?
            .uid();
        let folder = std::env::temp_dir().join(format!("shardline-ports-{user}"));
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        for _ in FREE_PORTS {
            let port = self.next;
            self.next = if port + 1 == FREE_PORTS.end {
                FREE_PORTS.start
            } else {
                port + 1
            };
            let path = folder.join(port.to_string());
            let lease =
                File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
            match lease.try_lock() {
                Ok(()) if is_unused(port) => {
                    self.leases.push(lease);
                    return Ok(port);
                }
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
        bail!(
            "no free port between {} and {}",
            FREE_PORTS.start,
            FREE_PORTS.end
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIG: Counts = Counts {
        leader_nodes: 3,
        follower_nodes: 2,
        brokers: 3,
        follower_agents: 2,
    };

    #[test]
    fn default_ports_are_the_documented_ones() {
        let plan = PortPlan::new(&Ports::Fixed(BasePorts::default()), BIG).unwrap();
        assert_eq!(
            plan.leader.iter().map(|p| p.http).collect::<Vec<_>>(),
            [9201, 9221, 9231]
        );
        assert_eq!(
            plan.leader.iter().map(|p| p.transport).collect::<Vec<_>>(),
            [9301, 9321, 9331]
        );
        assert_eq!(
            plan.follower[1],
            NodePorts {
                http: 9211,
                transport: 9311
            }
        );
        assert_eq!(
            plan.brokers[2],
            BrokerPorts {
                client: 9292,
                controller: 9293
            }
        );
        assert_eq!(plan.leader_agents, [9601, 9611, 9621]);
        assert_eq!(
            plan.follower_agents[1],
            AgentPorts {
                admin: 9612,
                gateway: 9250
            }
        );
    }

    #[test]
    fn ports_that_collide_or_overflow_are_refused() {
        let collide = BasePorts {
            gateway: 9201,
            ..BasePorts::default()
        };
        let error = PortPlan::new(&Ports::Fixed(collide), BIG)
            .unwrap_err()
            .to_string();
        assert!(error.contains("9201"), "{error}");
        let overflow = BasePorts {
            kafka: 65_500,
            ..BasePorts::default()
        };
        assert!(PortPlan::new(&Ports::Fixed(overflow), BIG).is_err());
    }

    #[test]
    fn free_ports_are_distinct_and_not_given_twice() {
        let first = PortPlan::new(&Ports::Free, BIG).unwrap();
        let second = PortPlan::new(&Ports::Free, BIG).unwrap();
        let ports: Vec<u16> = first
            .all()
            .into_iter()
            .chain(second.all())
            .map(|(port, _)| port)
            .collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
    }

    #[test]
    fn a_port_in_use_is_named() {
        let plan = PortPlan::new(&Ports::Free, BIG).unwrap();
        plan.check_unused().unwrap();
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, plan.leader[0].http)).unwrap();
        let error = plan.check_unused().unwrap_err().to_string();
        assert!(error.contains("leader HTTP"), "{error}");
    }
}
