//! A load on the leader alone and the same load on a leader that is followed, in turns.

use std::collections::BTreeMap;

use anyhow::Result;
use shardline_tests::client::Client;
use tokio::try_join;

use crate::arena::{Arena, Cores, remove};
use crate::samples::Samples;
use crate::usage::{Meter, Usage, cpu_of, is_agent, is_server, peak_of};
use crate::workload::Workload;

pub struct Plan {
    pub name: &'static str,
    pub indices: usize,
    pub shards: u32,
    /// Written, and followed, before the clock starts.
    pub before: Option<Workload>,
    pub load: Workload,
    /// The same documents, as a plain client writes them into the follower cluster: what both
    /// clusters take at once without any replication is measured too.
    pub external: Option<Workload>,
    pub rounds: usize,
    pub cores: Cores,
}

/// Each sample is a round. Times in seconds.
#[derive(Default)]
pub struct Outcome {
    pub name: &'static str,
    pub operations: f64,
    /// The leader alone, followed by nobody.
    pub alone: Samples,
    /// Both clusters, each written to by plain clients at the same time.
    pub both: Samples,
    /// The leader, followed, up to its last answer.
    pub written: Samples,
    /// Until the follower had everything.
    pub followed: Samples,
    pub alone_usage: Vec<Vec<Usage>>,
    pub usage: Vec<Vec<Usage>>,
    /// Index operations of the follower for each of the leader's.
    pub writes: Samples,
}

impl Plan {
    pub async fn run(&self, arena: &Arena) -> Result<Outcome> {
        arena.pin(self.cores)?;
        let mut outcome = Outcome {
            name: self.name,
            operations: self.load.operations as f64,
            ..Outcome::default()
        };
        for round in 0..self.rounds {
            eprintln!("{}: round {} of {}", self.name, round + 1, self.rounds);
            self.alone(arena, &mut outcome).await?;
            if let Some(external) = &self.external {
                self.both(arena, external, &mut outcome).await?;
            }
            self.followed(arena, &mut outcome).await?;
            eprintln!("  {}", outcome.progress());
        }
        arena.pin(Cores::Shared)?;
        Ok(outcome)
    }

    async fn alone(&self, arena: &Arena, outcome: &mut Outcome) -> Result<()> {
        let indices = self.create(arena, &arena.leader, "alone").await?;
        if let Some(before) = &self.before {
            arena.to_leader.write(&indices, before).await?;
        }
        arena.settle().await?;
        let meter = Meter::start(arena.processes())?;
        let written = arena.to_leader.write(&indices, &self.load).await?;
        outcome.alone_usage.push(meter.stop()?);
        outcome.alone.push(written.as_secs_f64());
        for index in &indices {
            remove(&arena.leader, index).await?;
        }
        Ok(())
    }

    async fn both(&self, arena: &Arena, external: &Workload, outcome: &mut Outcome) -> Result<()> {
        let on_leader = self.create(arena, &arena.leader, "both").await?;
        let on_follower = self.create(arena, &arena.follower, "both").await?;
        arena.settle().await?;
        let leader = arena.to_leader.write(&on_leader, &self.load);
        let (leader, follower) =
            try_join!(leader, arena.to_follower.write(&on_follower, external))?;
        outcome.both.push(leader.max(follower).as_secs_f64());
        for (cluster, indices) in [(&arena.leader, on_leader), (&arena.follower, on_follower)] {
            for index in indices {
                remove(cluster, &index).await?;
            }
        }
        Ok(())
    }

    async fn followed(&self, arena: &Arena, outcome: &mut Outcome) -> Result<()> {
        let indices = self.create(arena, &arena.leader, "followed").await?;
        for index in &indices {
            arena.start_following(index, index).await?;
        }
        for index in &indices {
            arena.following(index).await?;
        }
        if let Some(before) = &self.before {
            arena.to_leader.write(&indices, before).await?;
            self.caught_up(arena, &indices).await?;
        }
        arena.settle().await?;
        let (operations, writes) = self.applied(arena, &indices).await?;
        let meter = Meter::start(arena.processes())?;
        let written = arena.to_leader.write(&indices, &self.load).await?;
        self.caught_up(arena, &indices).await?;
        outcome.followed.push(meter.elapsed().as_secs_f64());
        outcome.written.push(written.as_secs_f64());
        outcome.usage.push(meter.stop()?);
        let (operations_after, writes_after) = self.applied(arena, &indices).await?;
        outcome
            .writes
            .push((writes_after - writes) / (operations_after - operations));
        for index in &indices {
            arena.same_count(index, index).await?;
            arena.unfollow(index).await?;
            remove(&arena.leader, index).await?;
        }
        Ok(())
    }

    async fn create(&self, arena: &Arena, on: &Client, suffix: &str) -> Result<Vec<String>> {
        let indices: Vec<String> = (0..self.indices)
            .map(|n| format!("{}-{suffix}-{n}", self.name))
            .collect();
        for index in &indices {
            arena.create(on, index, self.shards).await?;
        }
        Ok(indices)
    }

    async fn caught_up(&self, arena: &Arena, indices: &[String]) -> Result<()> {
        for index in indices {
            arena.caught_up(index, index).await?;
        }
        Ok(())
    }

    /// Operations that the follower has, and index operations that it took for them.
    async fn applied(&self, arena: &Arena, indices: &[String]) -> Result<(f64, f64)> {
        let (mut operations, mut writes) = (0.0, 0.0);
        for index in indices {
            operations += arena
                .metric(
                    "follower-agent-1",
                    "shardline_follower_operations_total",
                    index,
                )
                .await?;
            writes += arena
                .metric("follower-agent-1", "shardline_follower_writes_total", index)
                .await?;
        }
        Ok((operations, writes))
    }
}

impl Outcome {
    pub fn per_second(&self, seconds: &Samples) -> Samples {
        seconds.map(|seconds| self.operations / seconds)
    }

    /// The leader's speed while it is followed, in relation to its own without a follower.
    pub fn kept(&self) -> Samples {
        self.alone.ratio_to(&self.written)
    }

    /// Time until all is followed, in relation to the leader's time alone.
    pub fn finished(&self) -> Samples {
        self.followed.ratio_to(&self.alone)
    }

    /// Time until plain clients have written to both clusters, in relation to the leader's alone.
    pub fn floor(&self) -> Samples {
        self.both.ratio_to(&self.alone)
    }

    /// Both agents' CPU time in relation to the servers'.
    pub fn agents_share(&self) -> Samples {
        self.usage
            .iter()
            .map(|usage| cpu_of(usage, is_agent) / cpu_of(usage, is_server))
            .collect()
    }

    /// The leader agent's CPU time in relation to the leader node's.
    pub fn leader_agent_share(&self) -> Samples {
        let one = |name: &'static str| move |other: &str| other == name;
        self.usage
            .iter()
            .map(|usage| cpu_of(usage, one("leader-agent-1")) / cpu_of(usage, one("leader-1")))
            .collect()
    }

    /// The highest peak of a process in any round, in MB.
    pub fn peak(&self, process: &str) -> f64 {
        self.usage
            .iter()
            .map(|usage| peak_of(usage, |name| name == process))
            .fold(0.0, f64::max)
    }

    pub fn row(&self) -> Vec<String> {
        vec![
            self.name.to_owned(),
            self.per_second(&self.alone).show(0),
            self.per_second(&self.written).show(0),
            self.kept().show(2),
            self.per_second(&self.followed).show(0),
            self.finished().show(2),
            self.writes.show(3),
        ]
    }

    pub const HEADER: [&'static str; 7] = [
        "load",
        "leader alone, operations/s",
        "leader followed, operations/s",
        "ratio",
        "all followed, operations/s",
        "all followed, × leader's time alone",
        "follower's index operations per operation",
    ];

    /// For each process: CPU seconds in a round without and with following, and the highest peak of
    /// memory.
    pub fn usage_rows(&self) -> Vec<Vec<String>> {
        let collect = |rounds: &[Vec<Usage>]| {
            let mut by_process: BTreeMap<String, (Samples, f64)> = BTreeMap::new();
            for usage in rounds.iter().flatten() {
                let entry = by_process.entry(usage.name.clone()).or_default();
                entry.0.push(usage.cpu_seconds);
                entry.1 = entry.1.max(usage.peak_mb);
            }
            by_process
        };
        let (alone, followed) = (collect(&self.alone_usage), collect(&self.usage));
        let rows = followed.iter().map(|(process, (cpu, peak))| {
            let before = alone
                .get(process)
                .map_or_else(|| "–".to_owned(), |(cpu, _)| cpu.show(2));
            vec![process.clone(), before, cpu.show(2), format!("{peak:.0}")]
        });
        rows.collect()
    }

    pub const USAGE_HEADER: [&'static str; 4] = [
        "process",
        "CPU seconds, leader alone",
        "CPU seconds, followed to the end",
        "peak RSS, MB",
    ];

    fn progress(&self) -> String {
        format!(
            "alone {} s, followed: written {} s, all {} s = {} ×; agents {} of the servers' CPU",
            self.alone,
            self.written,
            self.followed,
            self.finished(),
            self.agents_share()
        )
    }
}
