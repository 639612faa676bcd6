//! `make faults`: everything that is meant to go wrong on real servers, and a table of what became
//! of it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use serde_json::json;
use shardline_common::topic::replication_topic;
use shardline_dev::{AgentConfig, BasePorts, Ports, Signal, StackOptions, wait_until_ready};
use shardline_tests::faults::clock::Clock;
use shardline_tests::faults::disk::{Disk, enter_namespace};
use shardline_tests::faults::proxy::{Link, Proxy};
use shardline_tests::faults::{Outcome, Stream, trial};
use shardline_tests::load::Load;
use shardline_tests::retention::Topic;
use shardline_tests::world::World;
use shardline_tests::{folders, wait};

/// How long something is broken.
const BROKEN: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(120);
const LEADER_AGENT: &str = "leader-agent-1";
const FOLLOWER_AGENT: &str = "follower-agent-1";

#[derive(Parser)]
struct Arguments {
    /// Only faults with this in their names
    #[arg(long, default_value = "")]
    only: String,
    /// Write the table into this file, too
    #[arg(long)]
    output: Option<PathBuf>,
    /// Folder with the agents of an earlier build
    #[arg(long)]
    previous: Option<PathBuf>,
}

struct Trials {
    only: String,
    outcomes: Vec<Outcome>,
}

impl Trials {
    async fn run(
        &mut self,
        world: &World,
        name: &str,
        stream: Stream,
        fault: impl AsyncFnOnce(&World, &str) -> Result<()>,
    ) {
        if !name.contains(&self.only) {
            return;
        }
        let outcome = trial(world, self.outcomes.len(), name, stream, fault).await;
        println!("{outcome}");
        self.outcomes.push(outcome);
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    enter_namespace().context("full disks need a mount namespace: run this as root")?;
    tokio::runtime::Runtime::new()?.block_on(run(arguments))
}

async fn run(
    Arguments {
        only,
        output,
        previous,
    }: Arguments,
) -> Result<()> {
    let mut trials = Trials {
        only,
        outcomes: Vec::new(),
    };
    println!("{}", Outcome::HEADER);
    processes(&mut trials).await?;
    machines(&mut trials, previous.as_deref()).await?;
    links(&mut trials).await?;
    let rows: Vec<String> = trials.outcomes.iter().map(Outcome::to_string).collect();
    if let Some(output) = output {
        std::fs::write(
            &output,
            format!("{}\n{}\n", Outcome::HEADER, rows.join("\n")),
        )
        .with_context(|| format!("cannot write {}", output.display()))?;
    }
    let failed = trials
        .outcomes
        .iter()
        .filter(|outcome| !outcome.is_good())
        .count();
    ensure!(failed == 0, "{failed} of {} faults left traces", rows.len());
    Ok(())
}

/// Three brokers, two leader nodes with replicas.
async fn processes(trials: &mut Trials) -> Result<()> {
    let world = World::with(|options| {
        (options.brokers, options.leader_nodes) = (3, 2);
        options.heap_mb = 384;
        options.leader_overrides = vec![("cluster.routing.rebalance.enable".into(), "none".into())];
    })
    .await?;
    for name in [
        LEADER_AGENT,
        FOLLOWER_AGENT,
        "kafka-2",
        "leader-2",
        "follower-1",
    ] {
        trials
            .run(
                &world,
                &format!("SIGKILL {name}"),
                Stream::Whole,
                async |world, _| kill(world, &[name]).await,
            )
            .await;
        let stop = format!("SIGSTOP {name}");
        trials
            .run(&world, &stop, Stream::Whole, async |world, _| {
                freeze(world, name).await
            })
            .await;
    }
    let agents = ["leader-agent-1", "leader-agent-2", FOLLOWER_AGENT];
    trials
        .run(
            &world,
            "SIGKILL all agents",
            Stream::Whole,
            async |world, _| kill(world, &agents).await,
        )
        .await;
    let brokers = ["kafka-1", "kafka-2", "kafka-3"];
    trials
        .run(
            &world,
            "SIGKILL all brokers",
            Stream::Whole,
            async |world, _| kill(world, &brokers).await,
        )
        .await;
    trials
        .run(&world, "RocksDB lost", Stream::Whole, async |world, _| {
            checkpoints_lost(world).await
        })
        .await;
    trials
        .run(
            &world,
            "RocksDB rolled back",
            Stream::Whole,
            async |world, _| checkpoints_rolled_back(world).await,
        )
        .await;
    trials
        .run(
            &world,
            "RocksDB corrupted",
            Stream::Whole,
            async |world, _| checkpoints_corrupted(world).await,
        )
        .await;
    trials
        .run(
            &world,
            "topic truncated past a pause",
            Stream::Cut,
            topic_truncated,
        )
        .await;
    trials
        .run(&world, "topic deleted", Stream::Cut, topic_deleted)
        .await;
    trials
        .run(
            &world,
            "agents killed during a bootstrap",
            Stream::Whole,
            killed_in_bootstrap,
        )
        .await;
    world.stop().await
}

async fn kill(world: &World, names: &[&str]) -> Result<()> {
    let processes = names
        .iter()
        .map(|name| world.stack.process(name))
        .collect::<Result<Vec<_>>>()?;
    for process in &processes {
        process.kill().await?;
    }
    tokio::time::sleep(BROKEN).await;
    processes.iter().try_for_each(|process| process.spawn())?;
    wait_until_ready(&processes, PATIENCE).await
}

async fn freeze(world: &World, name: &str) -> Result<()> {
    let process = world.stack.process(name)?;
    process.signal(Signal::SIGSTOP)?;
    tokio::time::sleep(BROKEN).await;
    process.signal(Signal::SIGCONT)
}

fn checkpoints(world: &World) -> PathBuf {
    world.stack.run_dir().join(FOLLOWER_AGENT).join("data")
}

async fn checkpoints_lost(world: &World) -> Result<()> {
    world.stack.process(FOLLOWER_AGENT)?.kill().await?;
    std::fs::remove_dir_all(checkpoints(world))?;
    world.stack.restart(FOLLOWER_AGENT).await
}

async fn checkpoints_rolled_back(world: &World) -> Result<()> {
    let saved = tempfile::tempdir()?;
    world.stack.process(FOLLOWER_AGENT)?.kill().await?;
    folders::copy(&checkpoints(world), saved.path())?;
    world.stack.restart(FOLLOWER_AGENT).await?;
    tokio::time::sleep(BROKEN).await;
    world.stack.process(FOLLOWER_AGENT)?.kill().await?;
    std::fs::remove_dir_all(checkpoints(world))?;
    folders::copy(saved.path(), &checkpoints(world))?;
    world.stack.restart(FOLLOWER_AGENT).await
}

/// The agent refuses to start on what it cannot read; whoever runs it takes the folder away.
async fn checkpoints_corrupted(world: &World) -> Result<()> {
    let agent = world.stack.process(FOLLOWER_AGENT)?;
    agent.kill().await?;
    let mut spoilt = 0;
    let mut folders = vec![checkpoints(world)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let length = std::fs::metadata(&path)?.len();
                std::fs::write(&path, vec![0xa5; usize::try_from(length)?])?;
                spoilt += 1;
            }
        }
    }
    ensure!(spoilt > 0, "there was nothing to spoil");
    agent.spawn()?;
    ensure!(
        agent.wait_exit(PATIENCE).await,
        "the agent runs on checkpoints that it cannot read"
    );
    std::fs::remove_dir_all(checkpoints(world))?;
    world.stack.restart(FOLLOWER_AGENT).await
}

async fn topic_truncated(world: &World, index: &str) -> Result<()> {
    let topic = Topic::find(
        world.stack.kafka_bootstrap(),
        &format!("shardline.leader.{index}."),
    )
    .await?;
    let replication = format!("/_plugins/_replication/{index}");
    world
        .gateway
        .ok("POST", &format!("{replication}/_pause"), Some(&json!({})))
        .await?;
    let ends = topic.ends().await?;
    tokio::time::sleep(BROKEN).await;
    topic.trim_behind(&ends).await?;
    world
        .gateway
        .ok("POST", &format!("{replication}/_resume"), Some(&json!({})))
        .await?;
    Ok(())
}

async fn topic_deleted(world: &World, index: &str) -> Result<()> {
    let settings = world
        .leader
        .get(&format!("/{index}/_settings?flat_settings=true"))
        .await?;
    let uuid = settings[index]["settings"]["index.uuid"]
        .as_str()
        .context("no uuid")?;
    let topic = replication_topic("shardline", "leader", &index.into(), &uuid.into());
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", world.stack.kafka_bootstrap())
        .create()?;
    for deleted in admin
        .delete_topics(&[topic.as_str()], &AdminOptions::new())
        .await?
    {
        deleted.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
    }
    tokio::time::sleep(BROKEN).await;
    Ok(())
}

/// Of another index, with a million documents, that is written to meanwhile.
async fn killed_in_bootstrap(world: &World, index: &str) -> Result<()> {
    let large = format!("{index}-large");
    let bulk = format!("/{large}/_bulk");
    world
        .leader
        .ok(
            "PUT",
            &format!("/{large}"),
            Some(&shardline_tests::load::index_body(2)),
        )
        .await?;
    for first in (0..1_000_000).step_by(5_000) {
        // Named and routed as those of the load, which changes them and deletes some.
        let document = |n: u64| {
            let routing = if n.is_multiple_of(5) {
                format!(",\"routing\":\"r{}\"", n % 17)
            } else {
                String::new()
            };
            format!(
                "{{\"index\":{{\"_id\":\"d-{n}\"{routing}}}}}\n{{\"n\":{n},\"words\":\"one of many\"}}\n"
            )
        };
        world
            .leader
            .bulk(&bulk, (first..first + 5_000).map(document).collect())
            .await?;
    }
    // The translog is not to have it all: then there would be nothing to copy.
    world
        .leader
        .ok("POST", &format!("/{large}/_flush?force=true"), None)
        .await?;
    let recovered = async || -> Result<Option<u64>> {
        let status = wait::status(&world.gateway, &large).await?;
        Ok(status["bootstrap_details"]["documents_recovered"].as_u64())
    };
    let is_copied = AtomicBool::new(false);
    let killed = async {
        let mut more_than = 0;
        for agents in [&["leader-agent-1", "leader-agent-2"][..], &[FOLLOWER_AGENT]] {
            wait::until("a copy in the middle", PATIENCE, async || {
                let done = recovered().await?;
                Ok(if done.is_some_and(|done| done > more_than) {
                    Ok(())
                } else {
                    Err(format!("{done:?}"))
                })
            })
            .await?;
            kill(world, agents).await?;
            more_than = recovered().await?.unwrap_or_default();
        }
        wait::for_status(&world.gateway, &large, "SYNCING", 2 * PATIENCE).await?;
        is_copied.store(true, Relaxed);
        Ok::<_, anyhow::Error>(())
    };
    let written = async {
        let mut load = Load::new(99, "d");
        while !is_copied.load(Relaxed) {
            world.leader.bulk(&bulk, load.bulk(500)).await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    // The call to start it may be cut off with its agent.
    let followed = async {
        let _ = world.follow(&large, &large).await;
        std::future::pending::<()>().await
    };
    tokio::select! {
        done = async { tokio::try_join!(killed, written) } => done?,
        () = followed => unreachable!("it waits for ever"),
    };
    world.equal(&large, &large).await
}

/// One of everything, with disks that can be filled, and agents whose clock and build can be
/// changed.
async fn machines(trials: &mut Trials, previous: Option<&Path>) -> Result<()> {
    let (broker, leader, checkpoints) = (Disk::mount(512)?, Disk::mount(512)?, Disk::mount(64)?);
    let clock = Clock::new()?;
    let world = World::with(|options| {
        let folder = |disk: &Disk| disk.data().display().to_string();
        options.kafka_overrides = vec![("log.dirs".into(), folder(&broker))];
        options.leader_overrides = vec![("path.data".into(), folder(&leader))];
        options.follower_agent_config =
            AgentConfig::default().set_text("storage", "data_dir", &folder(&checkpoints));
        options.agent_environment = clock.environment();
    })
    .await?;
    trials
        .run(
            &world,
            "disk full: broker",
            Stream::Whole,
            async |world, _| {
                full(&broker).await?;
                // It stops when it cannot write.
                let kafka = world.stack.process("kafka-1")?;
                ensure!(
                    kafka.wait_exit(PATIENCE).await,
                    "the broker runs on a full disk"
                );
                world.stack.restart("kafka-1").await
            },
        )
        .await;
    trials
        .run(
            &world,
            "disk full: leader node and spool",
            Stream::Whole,
            async |world, _| {
                full(&leader).await?;
                world
                    .leader
                    .ok("POST", "/_cluster/reroute?retry_failed=true", None)
                    .await?;
                Ok(())
            },
        )
        .await;
    trials
        .run(
            &world,
            "disk full: RocksDB",
            Stream::Whole,
            async |world, _| {
                checkpoints.fill()?;
                tokio::time::sleep(BROKEN).await;
                // What it writes into has its space already; one that starts needs some.
                let agent = world.stack.process(FOLLOWER_AGENT)?;
                agent.kill().await?;
                agent.spawn()?;
                ensure!(
                    agent.wait_exit(PATIENCE).await,
                    "the agent runs without room for checkpoints"
                );
                checkpoints.free()?;
                world.stack.restart(FOLLOWER_AGENT).await
            },
        )
        .await;
    for (name, hours) in [
        ("clock of the agents 3 h ahead", 3),
        ("clock of the agents 3 h behind", -3),
    ] {
        trials
            .run(&world, name, Stream::Whole, async |_, _| {
                clock.set(hours)?;
                tokio::time::sleep(BROKEN).await;
                clock.set(0)
            })
            .await;
    }
    for (agent, program) in [
        (LEADER_AGENT, "leader-agent"),
        (FOLLOWER_AGENT, "follower-agent"),
    ] {
        trials
            .run(
                &world,
                &format!("earlier build of {agent}"),
                Stream::Whole,
                async |world, _| {
                    let previous = previous
                        .context("no earlier build: see --previous")?
                        .join(program);
                    let process = world.stack.process(agent)?;
                    process.terminate().await?;
                    process.spawn_as(&previous)?;
                    wait_until_ready(&[process], PATIENCE).await?;
                    tokio::time::sleep(BROKEN).await;
                    process.terminate().await?;
                    world.stack.restart(agent).await
                },
            )
            .await;
    }
    world.stop().await
}

async fn full(disk: &Disk) -> Result<()> {
    disk.fill()?;
    tokio::time::sleep(BROKEN).await;
    disk.free()
}

/// Links between one agent and one server, through proxies: one broker that is known by another
/// address to each agent.
struct Links {
    leader_kafka: Proxy,
    leader_opensearch: Proxy,
    follower_kafka: Proxy,
    follower_opensearch: Proxy,
}

async fn links(trials: &mut Trials) -> Result<()> {
    let base = free_ports()?;
    let (leader_port, follower_port) = (free_port()?, free_port()?);
    let links = Links {
        leader_kafka: Proxy::start(leader_port).await?,
        leader_opensearch: Proxy::start(base.leader_http).await?,
        follower_kafka: Proxy::start(follower_port).await?,
        follower_opensearch: Proxy::start(base.follower_http).await?,
    };
    let world =
        World::with(|options| through(options, base, (leader_port, follower_port), &links)).await?;
    for (place, proxy) in [
        ("leader agent to Kafka", &links.leader_kafka),
        ("leader agent to its node", &links.leader_opensearch),
        ("follower agent to Kafka", &links.follower_kafka),
        ("follower agent to its cluster", &links.follower_opensearch),
    ] {
        for (what, link) in [
            ("partition", Link::Cut),
            ("latency 50 ms", Link::Slow(Duration::from_millis(50))),
            ("loss 10 %", Link::Lossy),
            ("reset", Link::Reset),
        ] {
            let name = format!("{what}, {place}");
            trials
                .run(&world, &name, Stream::Whole, async |_, _| {
                    proxy.set(link);
                    tokio::time::sleep(BROKEN).await;
                    proxy.set(Link::Open);
                    Ok(())
                })
                .await;
        }
    }
    world.stop().await
}

fn through(
    options: &mut StackOptions,
    base: BasePorts,
    (leader, follower): (u16, u16),
    links: &Links,
) {
    let local = |port: u16| format!("127.0.0.1:{port}");
    let (kafka, controller) = (base.kafka, base.kafka_controller);
    let listeners = format!(
        "PLAINTEXT://{},CONTROLLER://{},LEADER://{},FOLLOWER://{}",
        local(kafka),
        local(controller),
        local(leader),
        local(follower)
    );
    let advertised = format!(
        "PLAINTEXT://{},LEADER://{},FOLLOWER://{}",
        local(kafka),
        local(links.leader_kafka.port),
        local(links.follower_kafka.port)
    );
    let protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LEADER:PLAINTEXT,FOLLOWER:PLAINTEXT";
    options.kafka_overrides = vec![
        ("listeners".into(), listeners),
        ("advertised.listeners".into(), advertised),
        ("listener.security.protocol.map".into(), protocols.into()),
        ("inter.broker.listener.name".into(), "PLAINTEXT".into()),
    ];
    let config = |kafka: &Proxy, opensearch: &Proxy| {
        AgentConfig::default()
            .set_text("kafka", "bootstrap_servers", &local(kafka.port))
            .set_text(
                "opensearch",
                "url",
                &format!("http://{}", local(opensearch.port)),
            )
    };
    options.leader_agent_config = config(&links.leader_kafka, &links.leader_opensearch);
    options.follower_agent_config = config(&links.follower_kafka, &links.follower_opensearch);
    options.ports = Ports::Fixed(base);
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?
        .local_addr()?
        .port())
}

fn free_ports() -> Result<BasePorts> {
    Ok(BasePorts {
        leader_http: free_port()?,
        leader_transport: free_port()?,
        follower_http: free_port()?,
        follower_transport: free_port()?,
        kafka: free_port()?,
        kafka_controller: free_port()?,
        leader_agent: free_port()?,
        follower_agent: free_port()?,
        gateway: free_port()?,
    })
}
