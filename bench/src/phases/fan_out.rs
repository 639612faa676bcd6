//! What a further follower costs the leader.

use anyhow::Result;

use super::Size;
use crate::arena::{Arena, Cores, remove};
use crate::plot::Plot;
use crate::report::Section;
use crate::samples::Samples;
use crate::usage::{Meter, cpu_of};
use crate::workload::{Ids, Workload};

const MOST: usize = 5;
const WARM_UP: usize = 3;
/// One load differs from the next by more than the limit.
const LEAST_ROUNDS: usize = 3;
const LEADER_NODE: &str = "leader-1";

pub async fn run(arena: &Arena, size: Size) -> Result<Section> {
    let load = Workload::logs(size.pick(200_000, 50_000), Ids::New);
    let mut node = vec![Samples::default(); MOST];
    let mut agent = vec![Samples::default(); MOST];
    arena.pin(Cores::Split)?;
    // The nodes get faster from load to load, most in the first ones.
    for _ in 0..WARM_UP {
        shipped_to(arena, &load, 1).await?;
    }
    let rounds = size.rounds.max(size.pick(LEAST_ROUNDS, 1));
    for round in 0..rounds {
        // Every number of followers has a turn early and one late.
        for followers in (1..=MOST).chain((1..=MOST).rev()) {
            let (node_cpu, agent_cpu) = shipped_to(arena, &load, followers).await?;
            let per_document = 1e6 / load.operations as f64;
            node[followers - 1].push(node_cpu * per_document);
            agent[followers - 1].push(agent_cpu * per_document);
        }
        let both: Vec<String> = node
            .iter()
            .zip(&agent)
            .map(|(n, a)| format!("{:.1}+{:.2}", n.median(), a.median()))
            .collect();
        eprintln!(
            "fan-out: round {} of {}: {} µs a document",
            round + 1,
            rounds,
            both.join(", ")
        );
    }
    arena.pin(Cores::Shared)?;
    let mut section = Section::new(
        "One to five followers",
        &format!(
            "One index of two shards followed by one to five follower indices, each with a consumer of its own; {} documents of
            266 bytes. CPU time of leader node and leader agent from the first request until Kafka has everything and the node
            is done with merging. Leader's side and follower's side on a core each. A round goes from one follower to five and
            back; these are {rounds}.",
            load.operations
        ),
    );
    let row = |followers: usize| {
        let of = |samples: &[Samples]| {
            (
                samples[followers - 1].show(2),
                samples[followers - 1].median() / samples[0].median(),
            )
        };
        let ((node, node_ratio), (agent, agent_ratio)) = (of(&node), of(&agent));
        vec![
            followers.to_string(),
            node,
            format!("{node_ratio:.3}"),
            agent,
            format!("{agent_ratio:.3}"),
        ]
    };
    let header = [
        "followers",
        "leader node, µs a document",
        "ratio to one follower",
        "leader agent, µs a document",
        "ratio",
    ];
    section.table(&header, (1..=MOST).map(row).collect());
    let together: Vec<f64> = node
        .iter()
        .zip(&agent)
        .map(|(node, agent)| node.median() + agent.median())
        .collect();
    let points = |samples: &[Samples]| {
        (1..=MOST)
            .map(|n| (n as f64, samples[n - 1].median()))
            .collect()
    };
    section.plots.push(Plot::Lines {
        file: "fan-out".to_owned(),
        title: "CPU time on the leader's side by number of followers".to_owned(),
        x: "followers".to_owned(),
        y: "µs a document".to_owned(),
        series: vec![
            ("leader node".to_owned(), points(&node)),
            ("leader agent".to_owned(), points(&agent)),
        ],
    });
    let furthest = together
        .iter()
        .map(|cpu| (cpu / together[0] - 1.0).abs())
        .fold(0.0, f64::max);
    section.at_most(
        "leader's side, one to five followers: furthest from one follower's",
        5.0,
        furthest * 100.0,
        "%",
    );
    Ok(section)
}

/// CPU seconds of leader node and leader agent for the load, what the node does with it later
/// included.
async fn shipped_to(arena: &Arena, load: &Workload, followers: usize) -> Result<(f64, f64)> {
    let index = "fan-out";
    let copies: Vec<String> = (1..=followers).map(|n| format!("{index}-{n}")).collect();
    arena.create(&arena.leader, index, 2).await?;
    for copy in &copies {
        arena.follow(index, copy).await?;
    }
    arena.settle().await?;
    let meter = Meter::start(arena.processes())?;
    arena.to_leader.write(&[index.to_owned()], load).await?;
    arena.shipped(index).await?;
    arena.settle_those(|name| name == LEADER_NODE).await?;
    let usage = meter.stop()?;
    for copy in &copies {
        arena.caught_up(index, copy).await?;
        arena.same_count(index, copy).await?;
        arena.unfollow(copy).await?;
    }
    remove(&arena.leader, index).await?;
    Ok((
        cpu_of(&usage, |name| name == LEADER_NODE),
        cpu_of(&usage, |name| name == "leader-agent-1"),
    ))
}
