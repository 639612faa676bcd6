//! How fast the leader is while it is followed, and how fast the follower has everything; with
//! several loads.

use anyhow::Result;

use super::Size;
use super::round::{Outcome, Plan};
use crate::arena::{Arena, Cores};
use crate::plot::Plot;
use crate::report::Section;
use crate::usage::{CPU_HEADER, PAIR, Usage, cpu_columns, cpu_of_pair};
use crate::workload::{BULK, Ids, Workload};

fn plan(name: &'static str, load: Workload, rounds: usize) -> Plan {
    Plan {
        name,
        indices: 1,
        shards: 2,
        before: None,
        load,
        external: None,
        rounds,
        cores: Cores::Shared,
    }
}

/// New documents in bulks of 10.
pub fn small_bulks(name: &'static str, documents: u64, rounds: usize) -> Plan {
    plan(
        name,
        Workload::logs_in_bulks(documents, 10, Ids::New),
        rounds,
    )
}

/// New documents, and in turns with it the same ones written to both clusters by plain clients.
pub fn beside_plain_clients(name: &'static str, documents: u64, rounds: usize) -> Plan {
    let external = Some(Workload::external(documents, BULK, 1));
    Plan {
        external,
        ..plan(name, Workload::logs(documents, Ids::New), rounds)
    }
}

/// Documents of 266 bytes, everything on the same two cores.
pub async fn shared_cores(arena: &Arena, size: Size) -> Result<Section> {
    let (small, large) = (size.pick(100_000, 50_000), size.pick(500_000, 100_000));
    let first = beside_plain_clients("short", small, size.rounds)
        .run(arena)
        .await?;
    let second = beside_plain_clients("long", large, size.rounds)
        .run(arena)
        .await?;
    let mut section = Section::new(
        "Written and followed, everything on the same two cores",
        &format!(
            "Documents of 266 bytes with new ids, in bulks of 1,000 by two writers, two shards. `short` has {small}
            documents, `long` {large}. Beside it, in turns, plain clients write the same documents to both clusters at once, two to
            each: what these cores take without any replication. CPU seconds and memory below are those of `long`."
        ),
    );
    section.table(&Outcome::HEADER, vec![first.row(), second.row()]);
    let floor = |outcome: &Outcome| {
        let (floor, finished) = (outcome.floor(), outcome.finished());
        let ratio = outcome.followed.ratio_to(&outcome.both);
        vec![
            outcome.name.to_owned(),
            floor.show(2),
            finished.show(2),
            ratio.show(2),
        ]
    };
    let header = [
        "load",
        "both clusters written, × leader's time alone",
        "all followed, × leader's time alone",
        "ratio",
    ];
    section.table(&header, vec![floor(&first), floor(&second)]);
    section.table(&Outcome::USAGE_HEADER, second.usage_rows());
    let times = |outcome: &Outcome| {
        vec![
            outcome.alone.median(),
            outcome.written.median(),
            outcome.followed.median(),
        ]
    };
    section.plots.push(Plot::Bars {
        file: "written-and-followed".to_owned(),
        title: "Seconds until written, and until all is followed (medians)".to_owned(),
        y: "seconds".to_owned(),
        names: ["leader alone", "leader, followed", "all followed"]
            .map(str::to_owned)
            .to_vec(),
        groups: vec![
            (format!("{small} documents"), times(&first)),
            (format!("{large} documents"), times(&second)),
        ],
    });
    section.plots.push(cpu_plot("cpu", &second));
    section.at_most(
        "short load, all followed: × leader's time alone",
        2.5,
        first.finished().median(),
        "",
    );
    section.at_most(
        "long load, all followed: × leader's time alone",
        1.4,
        second.finished().median(),
        "",
    );
    section.at_most(
        "both agents' CPU, of the servers'",
        15.0,
        second.agents_share().median() * 100.0,
        "%",
    );
    section.at_most(
        "leader agent's CPU, of the leader node's",
        10.0,
        second.leader_agent_share().median() * 100.0,
        "%",
    );
    section.at_most(
        "leader agent's peak RSS",
        64.0,
        second.peak("leader-agent-1"),
        " MB",
    );
    section.at_most(
        "follower agent's peak RSS",
        256.0,
        second.peak("follower-agent-1"),
        " MB",
    );
    Ok(section)
}

/// Leader's side and follower's side on a core each.
pub async fn split_cores(arena: &Arena, size: Size) -> Result<Section> {
    let load = Workload::logs(size.pick(300_000, 100_000), Ids::New);
    let outcome = Plan {
        cores: Cores::Split,
        ..plan("split", load, size.rounds)
    }
    .run(arena)
    .await?;
    let mut section = Section::new(
        "Leader's side and follower's side on a core each",
        "The same load. Leader node, leader agent and the writers run on one core; Kafka, follower agent and follower node on
        the other. The leader alone is measured on that one core too.",
    );
    section.table(&Outcome::HEADER, vec![outcome.row()]);
    section.table(&Outcome::USAGE_HEADER, outcome.usage_rows());
    section.at_least(
        "leader's speed, followed, of its own alone",
        85.0,
        outcome.kept().median() * 100.0,
        "%",
    );
    section.at_most(
        "all followed: × leader's time alone",
        1.2,
        outcome.finished().median(),
        "",
    );
    Ok(section)
}

/// Other loads.
pub async fn workloads(arena: &Arena, size: Size) -> Result<Section> {
    let rounds = size.rounds.min(3);
    let count = size.pick(200_000, 40_000);
    let hot = size.pick(1_000, 200);
    let plans = [
        plan("append-only", Workload::logs(count, Ids::ByServer), rounds),
        plan(
            "hot-documents",
            Workload::logs(count, Ids::OneOf(hot)),
            rounds,
        ),
        small_bulks("small-bulks", count / 4, rounds),
        plan(
            "large-documents",
            Workload::large(size.pick(2_000, 400)),
            rounds,
        ),
        Plan {
            indices: 10,
            shards: 10,
            ..plan("many-shards", Workload::logs(count, Ids::New), rounds)
        },
        Plan {
            before: Some(Workload::logs(count, Ids::New)),
            ..plan("deletes", Workload::deletes(count), rounds)
        },
    ];
    let mut outcomes = Vec::new();
    for plan in plans {
        outcomes.push(plan.run(arena).await?);
    }
    let mut section = Section::new(
        "Other loads",
        &format!(
            "`append-only`: {count} log documents whose ids the server chooses. `hot-documents`: {count} times one of {hot}
            documents written anew. `small-bulks`: {} log documents in bulks of 10. `large-documents`: 100 KB each. `many-shards`:
            {count} log documents over 10 indices of 10 shards. `deletes`: {count} documents deleted one by one.",
            count / 4
        ),
    );
    section.table(
        &Outcome::HEADER,
        outcomes.iter().map(Outcome::row).collect(),
    );
    let agents = outcomes.iter().map(|outcome| {
        let cpu = cpu_columns(&outcome.usage, outcome.operations);
        let peaks = ["leader-agent-1", "follower-agent-1"]
            .map(|process| format!("{:.0}", outcome.peak(process)));
        [outcome.name.to_owned()]
            .into_iter()
            .chain(cpu)
            .chain(peaks)
            .collect()
    });
    let header = [
        &["load"],
        &CPU_HEADER[..],
        &["leader agent, peak MB", "follower agent, peak MB"],
    ]
    .concat();
    section.table(&header, agents.collect());
    section.plots.push(Plot::Bars {
        file: "workloads".to_owned(),
        title: "Time in relation to the leader's alone (medians)".to_owned(),
        y: "× leader's time alone".to_owned(),
        names: ["leader, followed", "all followed"]
            .map(str::to_owned)
            .to_vec(),
        groups: outcomes
            .iter()
            .map(|outcome| {
                (
                    outcome.name.to_owned(),
                    vec![1.0 / outcome.kept().median(), outcome.finished().median()],
                )
            })
            .collect(),
    });
    if let Some(hot) = outcomes
        .iter()
        .find(|outcome| outcome.name == "hot-documents")
    {
        section.at_most(
            "hot documents: follower's index operations per operation of the leader",
            0.99,
            hot.writes.median(),
            "",
        );
    }
    Ok(section)
}

fn cpu_plot(file: &str, outcome: &Outcome) -> Plot {
    let medians = |rounds: &[Vec<Usage>]| cpu_of_pair(rounds).map(|samples| samples.median());
    let values = medians(&outcome.alone_usage)
        .into_iter()
        .zip(medians(&outcome.usage));
    let groups = PAIR
        .iter()
        .zip(values)
        .map(|(process, (alone, followed))| ((*process).to_owned(), vec![alone, followed]));
    Plot::Bars {
        file: file.to_owned(),
        title: format!("CPU seconds for {} documents (medians)", outcome.operations),
        y: "CPU seconds".to_owned(),
        names: ["leader alone", "followed to the end"]
            .map(str::to_owned)
            .to_vec(),
        groups: groups.collect(),
    }
}
